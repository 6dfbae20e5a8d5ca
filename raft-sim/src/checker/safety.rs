//! The safety checker: hears what every node does, and asks each invariant about it.
//!
//! It sees every node's role, term and log through [`NodeView`], every write that became durable, every
//! message and every entry that was applied. It shares no code with the core, so that the same
//! mistake is not made twice.

use raft_proto::{Entry, LogIndex, LogPosition, Message, NodeId};

use super::commit_chain::{self, Known};
use super::election_safety::ElectionSafety;
use super::facts::Facts;
use super::image::{LogChange, StartView};
use super::promises::Promises;
use super::state_hash::StateHashes;
use super::view::{NodeView, Seen};
use super::violation::Violation;
use super::{
    commit_quorum, configuration, durability, hard_state, leader_append_only, leader_completeness,
    memory, monotonic, one_change, order, state_machine_safety,
};

/// See the module's page.
#[derive(Default)]
pub struct SafetyChecker {
    pub(super) facts: Facts,
    elections: ElectionSafety,
    promises: Promises,
    hashes: StateHashes,
}

impl SafetyChecker {
    /// A checker that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A node starts with what it found on its disk.
    ///
    /// # Errors
    /// [`Violation::LostDurable`] if it is not what the node had made durable before,
    /// [`Violation::NotCommitted`] if it rests on a snapshot of something else,
    /// [`Violation::LogMismatch`].
    pub fn started(&mut self, node: NodeId, view: &StartView) -> Result<(), Violation> {
        if let Some(position) = view.snapshot {
            commit_chain::check_part(&self.facts, node, position)?;
        }
        durability::started(&mut self.facts, node, view)
    }

    /// A node stopped while these changes were under way: each may have become durable or not.
    pub fn stopped(&mut self, node: NodeId, in_flight: Vec<LogChange>) {
        self.facts.node(node).in_flight = in_flight;
    }

    /// A change of a log became durable.
    ///
    /// # Errors
    /// [`Violation::TruncatedCommitted`], [`Violation::VotedTwice`], [`Violation::WentBack`],
    /// [`Violation::LogMismatch`], [`Violation::NotCommitted`], [`Violation::Uncovered`].
    pub fn durable(&mut self, node: NodeId, change: &LogChange) -> Result<(), Violation> {
        let gone = match change {
            LogChange::Compact(position) => Some(*position),
            LogChange::Write { install, .. } => *install,
        };
        if let Some(position) = gone {
            commit_chain::check_part(&self.facts, node, position)?;
            order::check_covered(&self.facts, node, position.index)?;
        }
        durability::check_removal(&self.facts, node, change)?;
        let Facts {
            entries,
            chain,
            nodes,
            ..
        } = &mut self.facts;
        let known = nodes.entry(node).or_default();
        known.lost_from = None;
        let image = &mut known.image;
        if let LogChange::Write { write, .. } = change {
            hard_state::check(node, image.hard_state, write)?;
        }
        image.apply(chain, change);
        if let LogChange::Write { write, .. } = change {
            for entry in &write.refill {
                entries.learn(node, entry, &image.terms)?;
            }
        }
        for entry in super::image::entries_of(change) {
            entries.learn(node, entry, &image.terms)?;
        }
        Ok(())
    }

    /// Who led the latest term that anybody led.
    #[must_use]
    pub fn latest_leader(&self) -> Option<NodeId> {
        self.elections.latest()
    }

    /// A node applies an entry.
    ///
    /// # Errors
    /// [`Violation::AppliedWrongly`].
    pub fn applied(&mut self, node: NodeId, entry: &Entry) -> Result<(), Violation> {
        state_machine_safety::applied(&mut self.facts, node, entry)
    }

    /// The hash of what a node's state machine replied to the command at an index.
    ///
    /// # Errors
    /// [`Violation::RepliesDiverged`] if another one was seen there.
    pub fn replied(&mut self, node: NodeId, index: LogIndex, hash: u64) -> Result<(), Violation> {
        self.hashes.reply(node, index, hash)
    }

    /// The hash of a node's state after it has applied everything up to `index`.
    ///
    /// # Errors
    /// [`Violation::StateDiverged`] if another node, or this one before, had another state there.
    pub fn state_seen(
        &mut self,
        node: NodeId,
        index: LogIndex,
        hash: u64,
    ) -> Result<(), Violation> {
        self.hashes.state(node, index, hash)
    }

    /// A node sends a message.
    ///
    /// # Errors
    /// [`Violation::PromisedTooEarly`].
    pub fn sent(&mut self, node: NodeId, to: NodeId, message: &Message) -> Result<(), Violation> {
        let image = &self.facts.node(node).image;
        let (hard_state, terms) = (image.hard_state, &image.terms);
        if self.promises.is_kept(node, to, message, hard_state, terms) {
            return Ok(());
        }
        let message = message.name();
        Err(Violation::PromisedTooEarly { node, to, message })
    }

    /// A snapshot of a node became durable: one that it has taken, or one that it has received.
    ///
    /// # Errors
    /// [`Violation::NotCommitted`].
    pub fn snapshot_stored(&mut self, node: NodeId, end: LogPosition) -> Result<(), Violation> {
        commit_chain::check_part(&self.facts, node, end)?;
        let known = self.facts.node(node);
        known.snapshot = known.snapshot.max(end.index);
        Ok(())
    }

    /// A node's state machine was replaced by the snapshot that ends here.
    ///
    /// # Errors
    /// [`Violation::NotCommitted`], [`Violation::WentBack`].
    pub fn restored(&mut self, node: NodeId, end: LogPosition) -> Result<(), Violation> {
        commit_chain::check_part(&self.facts, node, end)?;
        state_machine_safety::restored(&mut self.facts, node, end)
    }

    /// Looks at a node after it has done something.
    ///
    /// # Errors
    /// Any [`Violation`] that can be seen on a running node.
    pub fn observe(&mut self, view: &NodeView<'_>) -> Result<(), Violation> {
        let seen = self.facts.node(view.id).seen;
        order::check(&self.facts, view)?;
        monotonic::check(view, seen)?;
        self.elections.check(view)?;
        leader_append_only::check(view, seen)?;
        leader_completeness::check(&self.facts, view, seen)?;
        commit_quorum::check_counting(&self.facts, view, seen)?;
        self.check_commits(view, seen)?;
        one_change::check(&self.facts, view)?;
        configuration::check(&self.facts, view)?;
        memory::check(view)?;
        configuration::remember(&mut self.facts, view);
        self.facts.node(view.id).seen = Some(Seen::of(view));
        Ok(())
    }

    /// Looks at what a node takes for committed since it was seen last.
    fn check_commits(&mut self, view: &NodeView<'_>, seen: Option<Seen>) -> Result<(), Violation> {
        let checked = seen.map_or(0, |seen| seen.commit_index.0);
        for index in (checked + 1..=view.commit_index.0).map(LogIndex) {
            // What a snapshot covers was checked when it was committed.
            let Some(term) = (view.term_at)(index) else {
                continue;
            };
            match commit_chain::check(&self.facts, view.id, index, term)? {
                Known::Yes => {}
                Known::No => {
                    commit_quorum::check(&self.facts, view, index, term)?;
                    commit_chain::extend(&mut self.facts, index, term, view.term);
                }
            }
        }
        Ok(())
    }

    /// How many entries are known to be committed.
    #[must_use]
    pub fn committed(&self) -> LogIndex {
        LogIndex(self.facts.chain.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use raft_core::Role;

    use super::super::testing::{World, append, entry};
    use super::*;

    #[test]
    fn an_orderly_history_is_accepted() {
        let mut world = World::new();
        world.observe(1, Role::Leader, 2, 1, &[1]).unwrap();
        for node in [1, 2] {
            world.durable(node, &append(&[entry(2, 2, "b")])).unwrap();
        }
        world.observe(1, Role::Leader, 2, 2, &[1, 2]).unwrap();
        let both = [entry(1, 1, "a"), entry(2, 2, "b")];
        for applied in &both {
            world.checker.applied(NodeId(1), applied).unwrap();
        }
        world.observe(2, Role::Leader, 3, 2, &[1, 2]).unwrap();
        assert_eq!(world.checker.committed(), LogIndex(2));
    }
}
