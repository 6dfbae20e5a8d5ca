//! Operations of the model as the service's own commands and queries, and its replies back.

use bytes::Bytes;

use super::model::{Ask, Expect, KEYS, Key, Pair, Pairs, Seen, Told};
use crate::command::{Command, Query};
use crate::operation::{Expected, KeyRange, Operation, RangeQuery, Revision};
use crate::reply::{Branch, KeyValue, OperationResult, Outcome, Reply};
use crate::session::Origin;
use crate::txn::{Compare, CompareTarget, Previous, Relation, Txn, TxnOperation};

/// All keys of a group start with its name.
fn group_name(group: u8) -> Vec<u8> {
    vec![b'g', group]
}

fn key_name(key: Key) -> Vec<u8> {
    let mut name = group_name(key.group);
    name.push(key.slot as u8);
    name
}

/// The query of an operation that only reads.
pub(super) fn query(ask: &Ask) -> Option<Bytes> {
    let (key, group);
    let range = match ask {
        Ask::Get(asked) => {
            key = key_name(*asked);
            KeyRange::One(&key)
        }
        Ask::List(asked) => {
            group = group_name(*asked);
            KeyRange::Prefix(&group)
        }
        Ask::Put(..)
        | Ask::Append(..)
        | Ask::Swap(..)
        | Ask::Delete(_)
        | Ask::Clear(_)
        | Ask::PutAllIf(..) => return None,
    };
    Some(Query::Range(RangeQuery::new(range)).to_bytes())
}

/// The command of an operation that may change something. What is expected is named by its
/// revision, or by its value.
pub(super) fn command(ask: &Ask, origin: Option<Origin>, by_revision: bool) -> Bytes {
    let write = |operation| Command::Write { origin, operation }.encode().to_bytes();
    match ask {
        Ask::Put(key, value) => write(Operation::Put {
            key: &key_name(*key),
            value,
        }),
        Ask::Append(key, value) => write(Operation::Append {
            key: &key_name(*key),
            value,
        }),
        Ask::Swap(key, expect, value) => write(Operation::CompareAndSwap {
            key: &key_name(*key),
            expected: match expect {
                Expect::Absent => Expected::Absent,
                Expect::Pair(pair) if by_revision => Expected::ModRevision(Revision(pair.modified)),
                Expect::Pair(pair) => Expected::Value(&pair.value),
            },
            value,
        }),
        Ask::Delete(key) => write(Operation::Delete {
            range: KeyRange::One(&key_name(*key)),
        }),
        Ask::Clear(group) => write(Operation::Delete {
            range: KeyRange::Prefix(&group_name(*group)),
        }),
        Ask::PutAllIf(group, expect, value) => {
            put_all_if(*group, expect, value, origin, by_revision)
        }
        Ask::Get(_) | Ask::List(_) => panic!("{ask:?} is a query"),
    }
}

fn put_all_if(
    group: u8,
    expect: &Expect,
    value: &[u8],
    origin: Option<Origin>,
    by_revision: bool,
) -> Bytes {
    let names: Vec<_> = (0..KEYS)
        .map(|slot| key_name(Key { group, slot }))
        .collect();
    let all = group_name(group);
    let compare = Compare {
        range: KeyRange::One(&names[0]),
        relation: Relation::Equal,
        target: match expect {
            Expect::Absent => CompareTarget::Version(0),
            Expect::Pair(pair) if by_revision => {
                CompareTarget::ModRevision(Revision(pair.modified))
            }
            Expect::Pair(pair) => CompareTarget::Value(&pair.value),
        },
    };
    let put = |key| TxnOperation::Put {
        key,
        value,
        previous: Previous::Omitted,
    };
    let txn = Txn {
        compares: vec![compare],
        then: names.iter().map(|name| put(name)).collect(),
        otherwise: vec![TxnOperation::Range(RangeQuery::new(KeyRange::Prefix(&all)))],
    };
    Command::Txn { origin, txn }.encode().to_bytes()
}

/// What a reply says; `None` if it is none to this operation.
pub(super) fn told(ask: &Ask, reply: &Reply) -> Option<Told> {
    let (revision, seen) = match (ask, reply) {
        (Ask::Get(key), Reply::Range(found)) => {
            let pairs = pairs(key.group, &found.pairs)?;
            let others = pairs.iter().flatten().count() - usize::from(pairs[key.slot].is_some());
            if others > 0 {
                return None;
            }
            (found.revision, Seen::One(pairs[key.slot].clone()))
        }
        (Ask::List(group), Reply::Range(found)) => {
            (found.revision, Seen::All(pairs(*group, &found.pairs)?))
        }
        (
            Ask::Put(..) | Ask::Append(..) | Ask::Swap(..) | Ask::Delete(_) | Ask::Clear(_),
            Reply::Write(written),
        ) => {
            let seen = match written.outcome {
                Outcome::Written => Seen::Written,
                Outcome::Different => Seen::Different,
                Outcome::Deleted { keys } => Seen::Deleted(keys),
                Outcome::Compacted => return None,
            };
            (written.revision, seen)
        }
        (Ask::PutAllIf(group, ..), Reply::Txn(done)) => {
            let seen = match (done.branch, &done.results[..]) {
                (Branch::Then, _) => Seen::PutAll,
                (Branch::Otherwise, [OperationResult::Range(found)]) => {
                    Seen::All(pairs(*group, &found.pairs)?)
                }
                (Branch::Otherwise, _) => return None,
            };
            (done.revision, seen)
        }
        _ => return None,
    };
    let revision = revision.0;
    Some(Told { revision, seen })
}

/// `None` if there is a pair of another group.
fn pairs(group: u8, found: &[KeyValue]) -> Option<Pairs> {
    let mut pairs = Pairs::default();
    for pair in found {
        let slot = (0..KEYS).find(|slot| key_name(Key { group, slot: *slot }) == pair.key)?;
        pairs[slot] = Some(Pair {
            value: pair.value.to_vec(),
            modified: pair.mod_revision.0,
        });
    }
    Some(pairs)
}
