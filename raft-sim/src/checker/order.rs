//! Purged ≤ snapshot ≤ applied ≤ committed ≤ last (§7; thesis §5.1): a log is given up only behind a
//! durable snapshot, snapshots hold applied entries, what is applied is committed, and what is
//! committed is in the log.

use raft_proto::{LogIndex, NodeId};

use super::facts::Facts;
use super::view::NodeView;
use super::violation::Violation;

/// Looks at a running node. That a snapshot covers applied entries follows from its being part of the
/// chain of committed ones, when it was taken from applied ones; see `commit_chain` and `state_hash`.
pub(super) fn check(facts: &Facts, view: &NodeView<'_>) -> Result<(), Violation> {
    if view.commit_index > view.last_index {
        return Err(Violation::CommitBeyondLog {
            node: view.id,
            commit_index: view.commit_index,
            last_index: view.last_index,
        });
    }
    if view.applied_index > view.commit_index {
        return Err(Violation::AppliedWrongly {
            node: view.id,
            index: view.applied_index,
        });
    }
    if view.base_index > LogIndex::ZERO {
        check_covered(facts, view.id, view.base_index)?;
    }
    Ok(())
}

/// Everything up to this index is gone from a node's log, or about to be.
pub(super) fn check_covered(facts: &Facts, node: NodeId, index: LogIndex) -> Result<(), Violation> {
    let snapshot = facts.nodes.get(&node).map(|known| known.snapshot);
    if snapshot.is_some_and(|snapshot| index <= snapshot) {
        Ok(())
    } else {
        Err(Violation::Uncovered { node, index })
    }
}

#[cfg(test)]
mod tests {
    use raft_core::Role;

    use super::super::image::LogChange;
    use super::super::testing::{World, at};
    use super::*;

    #[test]
    fn a_commit_beyond_the_log_and_an_application_beyond_the_commit_are_refused() {
        let mut world = World::new();
        let error = world.observe(1, Role::Follower, 2, 2, &[1]).unwrap_err();
        assert!(matches!(error, Violation::CommitBeyondLog { .. }));
        world.applied_index = 1;
        let error = world.observe(1, Role::Follower, 2, 0, &[1]).unwrap_err();
        assert!(matches!(error, Violation::AppliedWrongly { .. }));
    }

    #[test]
    fn a_log_is_given_up_only_behind_a_durable_snapshot() {
        let mut world = World::three_committed();
        let compact = LogChange::Compact(at(2, 2));
        let early = world.checker.durable(NodeId(1), &compact).unwrap_err();
        assert!(matches!(early, Violation::Uncovered { .. }), "{early}");
        world.base_index = 2;
        let seen = world.observe(1, Role::Leader, 2, 3, &[1, 2, 2]);
        assert!(matches!(seen, Err(Violation::Uncovered { .. })), "{seen:?}");
        world.checker.snapshot_stored(NodeId(1), at(3, 2)).unwrap();
        world.checker.durable(NodeId(1), &compact).unwrap();
        world.observe(1, Role::Leader, 2, 3, &[1, 2, 2]).unwrap();
    }
}
