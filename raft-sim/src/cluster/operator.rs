//! What an operator does: changes the membership, clears disks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft_node::driver::{ChangeWaiter, Input};
use raft_node::{ChangeError, ChangeSafety, MembershipChange};
use raft_proto::{Member, Membership, NodeId};

use super::Cluster;
use crate::marks::Mark;

type Outcome = Result<Membership, ChangeError>;

/// A change of membership that was asked for.
#[derive(Clone, Debug, Default)]
pub struct PendingChange(Arc<Mutex<Option<Outcome>>>);

impl PendingChange {
    /// What became of it; `None` while that is not known.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Outcome>> {
        // Every change is one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cluster {
    /// Asks a node to change the membership. A node that does not run never answers.
    pub fn change_membership(
        &mut self,
        node: NodeId,
        changes: Vec<MembershipChange>,
        safety: ChangeSafety,
    ) -> PendingChange {
        let pending = PendingChange::default();
        let process = self.nodes.get(&node).and_then(|n| n.process.as_ref());
        if let Some(id) = process.map(|process| process.id) {
            let decided = pending.clone();
            let waiter = ChangeWaiter::new(move |outcome| *decided.lock() = Some(outcome));
            let input = Input::ChangeMembership {
                changes,
                safety,
                waiter,
            };
            self.record(node, "is asked to change", "the membership", &[]);
            self.give(id, input);
        }
        pending
    }

    /// How `member add` names a node: by its address, its incarnation left open.
    #[must_use]
    pub fn open_member(&self, node: NodeId) -> Member {
        Member {
            incarnation: None,
            address: format!("{node}.sim:7000"),
        }
    }

    /// Clears the disk of a node; its process must have ended. If it is a member, peers refuse it
    /// from then on.
    ///
    /// # Panics
    /// If it runs.
    pub fn wipe(&mut self, node: NodeId) {
        assert!(!self.is_running(node), "{node} uses its disk");
        if let Some(entry) = self.nodes.get_mut(&node) {
            entry.disk.wipe();
            entry.wiped_after = entry.life;
            entry.trouble.is_damaged = false;
            self.newcomers.add(node);
            self.acquaintances.forget(node);
            self.checker.wiped(node);
            self.forget_applied(node);
            self.record(node, "is wiped", "", &[]);
        }
    }

    /// Whether a node's disk may be cleared although it is a member: enough others are sound.
    pub(crate) fn may_wipe(&self, node: NodeId) -> bool {
        self.is_formed(node) && !self.atlas.is_victim(node) && self.atlas.allows(node)
    }

    pub(crate) fn note_wiped(&mut self, node: NodeId) {
        self.atlas.note_wiped(node);
        self.tally.fault("wipe");
    }

    /// A node that was wiped is a voter again: says whether it has everything that is committed, and
    /// so counts as sound again.
    pub(crate) fn note_recovered(&mut self, node: NodeId) -> bool {
        let has_all = self.is_formed(node) && self.checker.holds_all(node);
        if has_all {
            self.atlas.note_filled(node);
        }
        has_all
    }

    /// A rare state was reached.
    pub(crate) fn note_reached(&mut self, mark: Mark) {
        self.tally.mark(mark);
    }

    /// Whether a node's disk holds the beginning of the cluster's log, so that it can be restarted.
    #[must_use]
    pub fn is_formed(&self, node: NodeId) -> bool {
        !self.newcomers.contains(node)
    }

    /// The membership in force by the log of a running node, and whether it is known there to be
    /// committed.
    #[must_use]
    pub fn membership(&self, node: NodeId) -> Option<(&Membership, bool)> {
        let core = self.core(node)?;
        let is_committed = core.membership_index() <= core.commit_index();
        Some((core.membership(), is_committed))
    }
}
