//! What must hold of snapshots: log mark ≤ snapshot ≤ applied ≤ committed ≤ end of the log, and equal
//! states after equal entries.

use raft_proto::{LogIndex, LogPosition, NodeId};

use super::image::LogChange;
use super::safety::{NodeView, SafetyChecker};
use super::violation::Violation;

impl SafetyChecker {
    pub(super) fn compacted(
        &mut self,
        node: NodeId,
        position: LogPosition,
    ) -> Result<(), Violation> {
        self.check_committed(node, position)?;
        self.check_covered(node, position.index)?;
        let facts = self.nodes.entry(node).or_default();
        facts
            .image
            .apply(&self.chain, &LogChange::Compact(position));
        Ok(())
    }

    /// A snapshot of a node became durable: one that it has taken, or one that it has received.
    ///
    /// # Errors
    /// [`Violation::NotCommitted`].
    pub fn snapshot_stored(&mut self, node: NodeId, end: LogPosition) -> Result<(), Violation> {
        self.check_committed(node, end)?;
        let facts = self.nodes.entry(node).or_default();
        facts.snapshot = facts.snapshot.max(end.index);
        Ok(())
    }

    /// A node's state machine was replaced by the snapshot that ends here.
    ///
    /// # Errors
    /// [`Violation::NotCommitted`], [`Violation::WentBack`].
    pub fn restored(&mut self, node: NodeId, end: LogPosition) -> Result<(), Violation> {
        self.check_committed(node, end)?;
        let facts = self.nodes.entry(node).or_default();
        if end.index < facts.applied {
            let (from, to) = (facts.applied.0, end.index.0);
            let what = "state machine";
            return Err(Violation::WentBack {
                node,
                what,
                from,
                to,
            });
        }
        facts.applied = end.index;
        Ok(())
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
        if *self.states.entry(index).or_insert(hash) == hash {
            Ok(())
        } else {
            Err(Violation::StateDiverged { node, index })
        }
    }

    pub(super) fn check_committed(
        &self,
        node: NodeId,
        position: LogPosition,
    ) -> Result<(), Violation> {
        let LogPosition { index, term } = position;
        let committed = self.chain.get(index.0 as usize - 1);
        if committed.is_some_and(|committed| committed.term == term) {
            Ok(())
        } else {
            Err(Violation::NotCommitted { node, index })
        }
    }

    pub(super) fn check_covered(&self, node: NodeId, index: LogIndex) -> Result<(), Violation> {
        let snapshot = self.nodes.get(&node).map(|facts| facts.snapshot);
        if snapshot.is_some_and(|snapshot| index <= snapshot) {
            Ok(())
        } else {
            Err(Violation::Uncovered { node, index })
        }
    }

    /// Log base ≤ snapshot, applied ≤ committed. That what is committed is in the log is checked
    /// with the progress.
    pub(super) fn check_order(&self, view: &NodeView<'_>) -> Result<(), Violation> {
        if view.base_index > LogIndex::ZERO {
            self.check_covered(view.id, view.base_index)?;
        }
        if view.applied_index > view.commit_index {
            return Err(Violation::AppliedWrongly {
                node: view.id,
                index: view.applied_index,
            });
        }
        Ok(())
    }
}
