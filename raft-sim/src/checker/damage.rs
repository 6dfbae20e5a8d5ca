//! What a node may lose without breaking a promise: disks that are cleared, copies of directories,
//! and writes that never reached the medium. The fault atlas decides how often (thesis §3.8: a
//! cluster keeps what it has acknowledged as long as a majority of the copies is sound).

use raft_proto::{HardState, LogIndex, LogPosition, Membership, NodeId};

use super::commit_quorum::is_joint_quorum;
use super::facts::NodeFacts;
use super::image::{Image, StartView, terms_of};
use super::safety::SafetyChecker;

impl SafetyChecker {
    /// Everything on a node's disk is gone, and with it what it promised. Only one that is no
    /// member any more may come back like that. What it had acknowledged may still be counted.
    pub fn wiped(&mut self, node: NodeId) {
        if let Some(facts) = self.facts.nodes.remove(&node) {
            self.facts.former.push((node, facts.image.terms));
        }
    }

    /// A process starts on a copy of a node's directory, under an id of its own: it may have
    /// anything.
    pub fn copied(&mut self, node: NodeId, view: &StartView) {
        let mut terms = terms_of(&self.facts.chain, view.mark);
        terms.extend(&view.terms);
        let restored = view.snapshot.map_or(LogIndex::ZERO, |at| at.index);
        *self.facts.node(node) = NodeFacts {
            image: Image {
                hard_state: view.hard_state,
                mark: view.mark,
                terms,
            },
            // It may have been damaged before it was copied; the log begins behind it all the same.
            snapshot: restored.max(view.mark),
            applied: restored,
            ..NodeFacts::default()
        };
    }

    /// Whether a quorum without this node holds an entry, durably.
    #[must_use]
    pub fn is_held_without(
        &self,
        node: NodeId,
        position: LogPosition,
        membership: &Membership,
    ) -> bool {
        let mut holders = self.facts.holders(position.index, position.term);
        holders.remove(&node);
        is_joint_quorum(membership, &holders)
    }

    /// Whether an entry is known to be committed.
    #[must_use]
    pub fn is_committed(&self, position: LogPosition) -> bool {
        self.facts.committed_term(position.index) == Some(position.term)
    }

    /// A node's durable term and vote.
    #[must_use]
    pub fn hard_state(&self, node: NodeId) -> HardState {
        let facts = self.facts.nodes.get(&node);
        facts.map_or_else(HardState::default, |facts| facts.image.hard_state)
    }

    /// Whether a node holds everything that is known to be committed, durably.
    #[must_use]
    pub fn holds_all(&self, node: NodeId) -> bool {
        let facts = self.facts.nodes.get(&node);
        let held = facts.map_or(0, |facts| facts.image.terms.len());
        held >= self.facts.chain.len()
    }

    /// A node's medium does not have the entries from `first` on that it took for durable. It may
    /// start without them; if it writes more behind them, it must notice that they are missing.
    pub fn may_lose(&mut self, node: NodeId, first: LogIndex) {
        self.facts.node(node).lost_from = Some(first);
    }

    /// The first entry that a node's medium does not have although it was synced, if any.
    #[must_use]
    pub fn lost_from(&self, node: NodeId) -> Option<LogIndex> {
        self.facts.nodes.get(&node)?.lost_from
    }
}

impl NodeFacts {
    /// What the node had, less what its medium lost, if it lost something.
    pub(super) fn without_what_is_lost(&self) -> Option<Image> {
        let first = self.lost_from?;
        let mut left = self.image.clone();
        left.terms.truncate(first.0 as usize - 1);
        Some(left)
    }
}

#[cfg(test)]
mod tests {
    use raft_core::Role;
    use raft_proto::Term;

    use super::super::testing::{World, append, at, entry, start};
    use super::super::violation::Violation;
    use super::*;

    fn found(terms: &[u64]) -> StartView {
        let terms = terms.iter().copied().map(Term).collect();
        start(HardState::default(), terms)
    }

    #[test]
    fn what_was_lost_may_be_missing_and_nothing_else() {
        for (lost, terms, is_fine) in [
            (None, &[1][..], false),
            (Some(2), &[1], true),
            (Some(3), &[1], false),
            (Some(2), &[], false),
        ] {
            let mut world = World::new();
            world.durable(1, &append(&[entry(2, 1, "b")])).unwrap();
            if let Some(first) = lost {
                world.checker.may_lose(NodeId(1), LogIndex(first));
            }
            let started = world.checker.started(NodeId(1), &found(terms));
            assert_eq!(started.is_ok(), is_fine, "{lost:?} {terms:?}");
        }
    }

    #[test]
    fn a_loss_must_be_noticed_once_something_is_written_behind_it() {
        let mut world = World::new();
        world.durable(1, &append(&[entry(2, 1, "b")])).unwrap();
        world.checker.may_lose(NodeId(1), LogIndex(2));
        world.durable(1, &append(&[entry(3, 1, "c")])).unwrap();
        let started = world.checker.started(NodeId(1), &found(&[1]));
        assert!(matches!(started, Err(Violation::LostDurable { .. })));
    }

    #[test]
    fn a_copy_that_was_cleared_counts_for_what_it_held() {
        let mut world = World::new();
        for node in [1, 2] {
            world.durable(node, &append(&[entry(2, 2, "b")])).unwrap();
        }
        let membership = world.membership.clone();
        let position = at(2, 2);
        world.checker.wiped(NodeId(2));
        let checker = &world.checker;
        assert!(!checker.is_held_without(NodeId(1), position, &membership));
        assert!(!checker.is_committed(position));
        world.observe(1, Role::Leader, 2, 2, &[1, 2]).unwrap();
        assert!(world.checker.is_committed(position));
        assert!(!world.checker.holds_all(NodeId(2)));
        assert_eq!(world.checker.hard_state(NodeId(2)).term, Term::ZERO);
    }
}
