//! What clients asked and were told, and whether it keeps what the service promises.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use raft_sim::campaign::Judgement;
use raft_sim::checker::exactly_once::{self, Repeats};
use raft_sim::checker::linearizability::{Bound, Operation, judge};
use raft_sim::{Cluster, Time};

use super::model::{Ask, Groups, Told};
use crate::command::Command;

/// Of the search for an order, per group; beyond it it is given up.
const BOUND: Bound<'static> = Bound::Steps(2_000_000);

/// How a call ended, as the client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Answered(Time, Told),
    /// It certainly has no effect.
    Refused,
    /// It certainly has no effect, but an attempt may be in the log: its session had no room for
    /// another reply.
    NoRoom,
    /// It may have an effect, now or later.
    Unknown,
}

/// A call.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) client: u64,
    pub(super) ask: Ask,
    /// What was sent, every time the same; `None` for a read.
    pub(super) command: Option<Bytes>,
    pub(super) called: Time,
    pub(super) ended: Ended,
}

#[derive(Default)]
struct Record {
    calls: Vec<Call>,
    /// Calls outside of the model: sessions, ticks, compactions.
    others: u64,
    /// The first answer that no promise allows.
    broken: Option<String>,
}

/// The history of all clients of a run.
#[derive(Clone, Default)]
pub(super) struct History(Rc<RefCell<Record>>);

impl History {
    pub(super) fn add(&self, call: Call) {
        self.0.borrow_mut().calls.push(call);
    }

    pub(super) fn count_other(&self) {
        self.0.borrow_mut().others += 1;
    }

    /// An answer that no promise allows.
    pub(super) fn broken(&self, what: String) {
        self.0.borrow_mut().broken.get_or_insert(what);
    }

    /// Whether every promise was kept.
    ///
    /// # Errors
    /// The first that was not.
    pub(super) fn judge(&self, cluster: &Cluster) -> Result<Judgement, String> {
        let record = self.0.borrow();
        if let Some(broken) = &record.broken {
            return Err(broken.clone());
        }
        let mut logged: BTreeMap<&Bytes, u64> = BTreeMap::new();
        for applied in cluster.applied_commands() {
            *logged.entry(&applied.command).or_default() += 1;
        }
        for call in &record.calls {
            check_outcome(call, &logged)?;
        }
        let is_write = |call: &&Call| call.command.is_some();
        let acknowledged = record.calls.iter().filter(is_write);
        let acknowledged = acknowledged.filter_map(|call| match &call.ended {
            Ended::Answered(at, _) => Some(*at),
            Ended::Refused | Ended::NoRoom | Ended::Unknown => None,
        });
        let operations = operations(&record.calls, &logged);
        Ok(Judgement {
            operations: record.calls.len() as u64 + record.others,
            acknowledged: acknowledged.collect(),
            is_undecided: judge(&Groups, &operations, BOUND)?.is_undecided(),
        })
    }
}

/// Compares what a client was told with what is in the log.
fn check_outcome(call: &Call, logged: &BTreeMap<&Bytes, u64>) -> Result<(), String> {
    let Some(command) = &call.command else {
        return Ok(());
    };
    let told = match &call.ended {
        Ended::Answered(..) => exactly_once::Told::Acknowledged,
        Ended::Refused => exactly_once::Told::Refused,
        // Being in the log is not having an effect; what is read later shows that.
        Ended::NoRoom | Ended::Unknown => exactly_once::Told::Unknown,
    };
    let repeats = if has_session(command) {
        Repeats::CountOnce
    } else {
        Repeats::Never
    };
    let times = logged.get(command).copied().unwrap_or_default();
    let checked = exactly_once::check(told, repeats, times);
    checked.map_err(|broken| format!("{broken}: {call:?}"))
}

fn has_session(command: &[u8]) -> bool {
    match Command::decode(command) {
        Ok(Command::Write { origin, .. } | Command::Txn { origin, .. }) => origin.is_some(),
        Ok(Command::Register { .. } | Command::KeepAlive { .. } | Command::Tick { .. }) => true,
        Err(error) => panic!("a command as sent: {error}"),
    }
}

/// What the linearizability checker gets: not what certainly had no effect, which is what was
/// refused, and what nobody knows the outcome of and the log does not have.
fn operations(calls: &[Call], logged: &BTreeMap<&Bytes, u64>) -> Vec<Operation<Ask, Told>> {
    let operation = |call: &Call| {
        let answered = match &call.ended {
            Ended::Answered(at, told) => Some((*at, told.clone())),
            Ended::Unknown
                if call
                    .command
                    .as_ref()
                    .is_some_and(|c| logged.contains_key(c)) =>
            {
                None
            }
            Ended::Unknown | Ended::Refused | Ended::NoRoom => return None,
        };
        Some(Operation {
            client: call.client,
            input: call.ask.clone(),
            called: call.called,
            answered,
        })
    };
    calls.iter().filter_map(operation).collect()
}
