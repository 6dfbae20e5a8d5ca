//! One chain of committed entries: whatever any node ever takes for committed at an index is the same
//! entry (it follows from Leader Completeness and Log Matching, §5.4.3), and what a snapshot, a
//! compaction or an installation rests on is part of it (§7).

use raft_proto::{LogIndex, LogPosition, NodeId, Term};

use super::facts::Facts;
use super::violation::Violation;

/// An entry of the chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Committed {
    pub(super) term: Term,
    /// The term of the node that was first seen to take it for committed.
    pub(super) seen_in: Term,
}

/// Whether the chain has an index already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Yes,
    No,
}

/// A node takes an entry of this term for committed.
pub(super) fn check(
    facts: &Facts,
    node: NodeId,
    index: LogIndex,
    term: Term,
) -> Result<Known, Violation> {
    match facts.committed_term(index) {
        None => Ok(Known::No),
        Some(committed) if committed == term => Ok(Known::Yes),
        Some(_) => Err(Violation::CommitMismatch { node, index }),
    }
}

/// The chain grows by this entry.
pub(super) fn extend(facts: &mut Facts, index: LogIndex, term: Term, seen_in: Term) {
    facts.chain.push(Committed { term, seen_in });
    let end = facts.chain.len() as u64;
    assert_eq!(end, index.0, "commits are seen in order");
}

/// Something of a node rests on this position.
pub(super) fn check_part(
    facts: &Facts,
    node: NodeId,
    position: LogPosition,
) -> Result<(), Violation> {
    let LogPosition { index, term } = position;
    if facts.committed_term(index) == Some(term) {
        Ok(())
    } else {
        Err(Violation::NotCommitted { node, index })
    }
}

#[cfg(test)]
mod tests {
    use raft_core::Role;

    use super::super::testing::{World, append, at, entry};
    use super::*;

    #[test]
    fn another_entry_at_a_committed_index_is_refused() {
        let mut world = World::three_committed();
        world.observe(2, Role::Follower, 2, 3, &[1, 2, 2]).unwrap();
        let more = [entry(2, 1, "x"), entry(3, 3, "y")];
        world.durable(3, &append(&more)).unwrap();
        let error = world.observe(3, Role::Follower, 3, 2, &[1, 1, 3]);
        let error = error.unwrap_err();
        assert!(matches!(error, Violation::CommitMismatch { .. }), "{error}");
    }

    #[test]
    fn a_snapshot_of_something_else_is_refused() {
        let mut world = World::three_committed();
        for end in [at(2, 1), at(4, 2)] {
            let error = world.checker.snapshot_stored(NodeId(1), end).unwrap_err();
            assert!(matches!(error, Violation::NotCommitted { .. }), "{error}");
        }
    }
}
