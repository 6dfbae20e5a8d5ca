//! State Machine Safety: if a server has applied an entry at a given index, no other server will ever
//! apply a different one for the same index (Figure 3, §5.4.3; thesis §3.6.3), and each applies all
//! of them in the order of the log (§5.3).

use raft_proto::{Entry, LogPosition, NodeId};

use super::facts::Facts;
use super::violation::Violation;

/// A node applies an entry: the one committed at the next index.
pub(super) fn applied(facts: &mut Facts, node: NodeId, entry: &Entry) -> Result<(), Violation> {
    let index = entry.index;
    let is_committed = facts.committed_term(index) == Some(entry.term);
    let is_as_committed = is_committed && facts.entries.is_known(entry);
    let known = facts.node(node);
    if index != known.applied.next() || !is_as_committed {
        return Err(Violation::AppliedWrongly { node, index });
    }
    known.applied = index;
    Ok(())
}

/// A node's state machine is replaced by that of a snapshot: never by an older one.
pub(super) fn restored(facts: &mut Facts, node: NodeId, end: LogPosition) -> Result<(), Violation> {
    let known = facts.node(node);
    if end.index < known.applied {
        return Err(Violation::WentBack {
            node,
            what: "state machine",
            from: known.applied.0,
            to: end.index.0,
        });
    }
    known.applied = end.index;
    Ok(())
}

#[cfg(test)]
mod tests {
    use raft_core::Role;

    use super::super::testing::{World, append, at, entry};
    use super::*;

    #[test]
    fn entries_are_applied_in_order_and_as_committed() {
        let mut world = World::new();
        world.observe(1, Role::Follower, 2, 1, &[1]).unwrap();
        let applied = |world: &mut World, entry| world.checker.applied(NodeId(1), &entry);
        assert!(applied(&mut world, entry(2, 2, "b")).is_err());
        assert!(applied(&mut world, entry(1, 1, "x")).is_err());
        applied(&mut world, entry(1, 1, "a")).unwrap();
        let again = applied(&mut world, entry(1, 1, "a"));
        assert!(matches!(again, Err(Violation::AppliedWrongly { .. })));
    }

    #[test]
    fn what_survived_a_crash_may_be_committed_and_applied() {
        let mut world = World::new();
        let write = append(&[entry(2, 2, "b")]);
        world.crash_and_keep(&[1, 2], &write, &[1, 2]);
        world.observe(1, Role::Leader, 3, 2, &[1, 2]).unwrap();
        for applied in [entry(1, 1, "a"), entry(2, 2, "b")] {
            world.checker.applied(NodeId(1), &applied).unwrap();
        }
    }

    #[test]
    fn a_state_machine_never_becomes_an_older_one() {
        let mut world = World::three_committed();
        world.checker.restored(NodeId(1), at(3, 2)).unwrap();
        let back = world.checker.restored(NodeId(1), at(2, 2)).unwrap_err();
        assert!(matches!(back, Violation::WentBack { .. }), "{back}");
    }
}
