//! Which commands and queries take long: those about many keys, or about much history.

use raft_node::Step;

use super::KvMachine;
use crate::command::{Command, Query};
use crate::operation::{KeyRange, Operation};
use crate::txn::{Txn, TxnOperation};

/// A step about more keys, or versions, than this takes long. Chosen, not measured.
pub(super) const MANY: u64 = 5_000;

/// Whether a step takes long. In a small store nothing does, and that is all that is looked at.
pub(super) fn takes_long(machine: &KvMachine, step: Step<'_>) -> bool {
    if machine.store.key_count() + machine.store.history_len() <= MANY {
        return false;
    }
    match step {
        Step::Command(command) => match Command::decode(command) {
            Ok(Command::Write { operation, .. }) => operation_takes_long(machine, &operation),
            Ok(Command::Txn { txn, .. }) => txn_takes_long(machine, &txn),
            Ok(Command::Register { .. } | Command::KeepAlive { .. } | Command::Tick { .. })
            | Err(_) => false,
        },
        Step::Query(query) => match Query::decode(query) {
            Ok(Query::Range(query)) => has_many(machine, &query.range),
            Ok(Query::Status) | Err(_) => false,
        },
    }
}

fn operation_takes_long(machine: &KvMachine, operation: &Operation<'_>) -> bool {
    match operation {
        Operation::Put { .. } | Operation::Append { .. } | Operation::CompareAndSwap { .. } => {
            false
        }
        Operation::Delete { range } => has_many(machine, range),
        Operation::Compact { .. } => machine.store.history_len() > MANY,
    }
}

fn txn_takes_long(machine: &KvMachine, txn: &Txn<'_>) -> bool {
    let operation_has_many = |operation: &TxnOperation<'_>| match operation {
        TxnOperation::Put { .. } => false,
        TxnOperation::Delete { range, .. } => has_many(machine, range),
        TxnOperation::Range(query) => has_many(machine, &query.range),
    };
    let mut compares = txn.compares.iter();
    compares.any(|compare| has_many(machine, &compare.range))
        || txn.then.iter().any(operation_has_many)
        || txn.otherwise.iter().any(operation_has_many)
}

/// Whether a range holds many keys; looks at no more of them than that takes.
fn has_many(machine: &KvMachine, range: &KeyRange<'_>) -> bool {
    match range {
        KeyRange::One(_) => false,
        KeyRange::Interval { .. } | KeyRange::From(_) | KeyRange::Prefix(_) => {
            // A small number. What only an older revision shows is not counted.
            machine.store.holds_more_than(range, MANY as usize)
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use raft_proto::{LogIndex, Term};

    use super::*;
    use crate::operation::{RangeQuery, Revision};
    use crate::txn::Previous;

    fn store_of(keys: u64) -> KvMachine {
        let mut machine = KvMachine::default();
        for number in 0..keys {
            let key = format!("many/{number:06}");
            let operation = Operation::Put {
                key: key.as_bytes(),
                value: b"v",
            };
            apply(&mut machine, operation);
        }
        let few = Operation::Put {
            key: b"few/1",
            value: b"v",
        };
        apply(&mut machine, few);
        machine
    }

    fn apply(machine: &mut KvMachine, operation: Operation<'_>) {
        let index = LogIndex(machine.applied_index.0 + 1);
        machine.apply(index, Term(1), &command(operation));
    }

    fn command(operation: Operation<'_>) -> Bytes {
        let origin = None;
        Command::Write { origin, operation }.encode().to_bytes()
    }

    fn query_is_long(machine: &KvMachine, range: KeyRange<'_>) -> bool {
        let query = Query::Range(RangeQuery::new(range)).to_bytes();
        takes_long(machine, Step::Query(&query))
    }

    #[test]
    fn what_is_about_many_keys_takes_long() {
        let machine = store_of(MANY + 1);
        assert!(query_is_long(&machine, KeyRange::Prefix(b"many/")));
        assert!(!query_is_long(&machine, KeyRange::Prefix(b"few/")));
        assert!(!query_is_long(&machine, KeyRange::One(b"many/000001")));
        assert!(!query_is_long(&machine, KeyRange::Prefix(b"many/0000")));
        let range = KeyRange::From(b"");
        let delete = command(Operation::Delete { range });
        assert!(takes_long(&machine, Step::Command(&delete)));
        let put = command(Operation::Put {
            key: b"many/000001",
            value: b"w",
        });
        assert!(!takes_long(&machine, Step::Command(&put)));
        let txn = Txn::unconditional(TxnOperation::Delete {
            range,
            previous: Previous::Omitted,
        });
        let txn = Command::Txn { origin: None, txn }.encode().to_bytes();
        assert!(takes_long(&machine, Step::Command(&txn)));
        let small = store_of(MANY / 2);
        assert!(!query_is_long(&small, KeyRange::Prefix(b"")));
    }

    #[test]
    fn dropping_much_history_takes_long() {
        let mut machine = store_of(1);
        for _ in 0..MANY + 2 {
            let operation = Operation::Put {
                key: b"k",
                value: b"v",
            };
            apply(&mut machine, operation);
        }
        let revision = Revision(MANY);
        let compact = command(Operation::Compact { revision });
        assert!(takes_long(&machine, Step::Command(&compact)));
        assert!(!query_is_long(&machine, KeyRange::Prefix(b"")));
    }
}
