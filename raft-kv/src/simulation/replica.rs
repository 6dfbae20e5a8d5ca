//! A replica that compares its state with that of every other, entry by entry, and holds no more
//! for sessions than the limits say.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use raft_node::{Applied, StateMachine, Step};

use crate::machine::KvMachine;

/// The state hash of the service by applied index, as the first replica had it that got there.
///
/// Shared by all replicas of a world; the lock is for their type only, one thread runs them all.
#[derive(Clone, Default)]
pub(super) struct Hashes(Arc<Mutex<BTreeMap<u64, u64>>>);

impl Hashes {
    /// # Panics
    /// If another replica had another state there: replicas must not diverge.
    fn compare(&self, index: u64, hash: u64, how: &str) {
        let mut hashes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = *hashes.entry(index).or_insert(hash);
        assert!(
            first == hash,
            "state hash: a replica that {how} index {index} has {hash:016x}, another one had \
             {first:016x}"
        );
    }
}

/// The real state machine, watched.
pub(super) struct Replica {
    machine: KvMachine,
    hashes: Hashes,
}

impl Replica {
    pub(super) fn new(hashes: Hashes) -> Self {
        Self {
            machine: KvMachine::default(),
            hashes,
        }
    }
}

impl StateMachine for Replica {
    fn apply(&mut self, applied: Applied<'_>) -> Bytes {
        let reply = StateMachine::apply(&mut self.machine, applied);
        self.machine.check_memory();
        let hash = self.machine.hash();
        self.hashes.compare(applied.index.0, hash, "has applied");
        reply
    }

    fn query(&mut self, query: &Bytes) -> Bytes {
        StateMachine::query(&mut self.machine, query)
    }

    fn takes_long(&self, step: Step<'_>) -> bool {
        self.machine.takes_long(step)
    }

    fn state_hash(&self) -> Option<u64> {
        StateMachine::state_hash(&self.machine)
    }

    fn begin_snapshot(&mut self) {
        StateMachine::begin_snapshot(&mut self.machine);
    }

    fn snapshot_part(&mut self, max_bytes: usize) -> Option<Bytes> {
        StateMachine::snapshot_part(&mut self.machine, max_bytes)
    }

    fn end_snapshot(&mut self) {
        StateMachine::end_snapshot(&mut self.machine);
    }

    fn restore(&mut self, source: &mut dyn Read) -> io::Result<()> {
        StateMachine::restore(&mut self.machine, source)?;
        self.machine.check_memory();
        let status = self.machine.status();
        // Of an empty state nobody has a hash to compare with.
        if status.applied_index > 0 {
            self.hashes
                .compare(status.applied_index, status.hash, "was restored at");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "state hash")]
    fn replicas_that_differ_are_found() {
        let hashes = Hashes::default();
        hashes.compare(7, 1, "has applied");
        hashes.compare(8, 2, "has applied");
        hashes.compare(7, 1, "was restored at");
        hashes.compare(8, 3, "was restored at");
    }
}
