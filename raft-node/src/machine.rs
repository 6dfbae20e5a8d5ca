//! The state machine that a group replicates: what a user of this crate writes.

use bytes::Bytes;
use raft_proto::{LogIndex, Term};

/// A committed command, in the one order that all nodes see.
#[derive(Clone, Copy, Debug)]
pub struct Applied<'a> {
    /// Where the command stands in the log; grows, with gaps where Raft's own entries stand.
    pub index: LogIndex,
    /// The term of the leader that proposed it.
    pub term: Term,
    /// The command as it was proposed.
    pub command: &'a Bytes,
}

/// Replicated state. Raft calls it from one thread at a time, in log order, on every node.
///
/// `apply` must be deterministic: the same commands give the same state and replies everywhere,
/// so it may not use clocks, randomness, or the iteration order of a hash map.
pub trait StateMachine: Send + 'static {
    /// Applies a committed command, exactly once and in order, and returns the reply for its
    /// proposer. The reply is dropped on nodes that nobody waits at.
    ///
    /// A payload is a slice of a larger network or disk buffer: copy what is kept for long.
    fn apply(&mut self, applied: Applied<'_>) -> Bytes;

    /// Answers a query from the current state, without changing it.
    fn query(&mut self, query: &Bytes) -> Bytes;
}
