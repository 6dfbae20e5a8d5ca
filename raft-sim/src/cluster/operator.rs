//! What an operator does: changes the membership, lets nodes join, clears disks.
//!
//! A node that joins waits until a running member whose log names it can reach it, and is handed the
//! cluster's first entry, as by [`raft_node::formation`]. Who is connected with whom is decided by
//! the rules of [`raft_node::admission`], on the memberships in the nodes' logs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft_node::admission::{Admission, Standing, Vantage};
use raft_node::driver::{ChangeWaiter, Input};
use raft_node::{ChangeError, ChangeSafety, MembershipChange};
use raft_proto::{Hello, Member, Membership, NodeId};

use super::Cluster;
use super::node::{Process, ProcessId};

/// How often the first entry is offered again to a node that could not be reached, in milliseconds.
const HAND_OUT_RETRY_MS: u64 = 250;
/// How long the first entry takes to the node and onto its disk, in milliseconds.
const HAND_OUT_MS: u64 = 5;

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

/// How far a node has come that belongs to no cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Newcomer {
    /// It does not run.
    Off,
    /// It waits for the first entry.
    Waiting,
    /// A member is about to hand it out.
    Reached,
}

/// Nodes whose disks are empty.
#[derive(Default)]
pub(super) struct Newcomers(BTreeMap<NodeId, Newcomer>);

impl Newcomers {
    pub(super) fn add(&mut self, node: NodeId) {
        self.0.insert(node, Newcomer::Off);
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

    /// Starts a node whose disk is empty; it waits for a member to hand it the first entry.
    ///
    /// # Panics
    /// If it belongs to the cluster already.
    pub fn join(&mut self, node: NodeId) {
        assert!(!self.is_formed(node), "{node} belongs to the cluster");
        self.newcomers.0.insert(node, Newcomer::Waiting);
        self.record(node, "waits to join", "", &[]);
        for member in self.node_ids() {
            let Some(process) = self.nodes.get(&member).and_then(|n| n.process.as_ref()) else {
                continue;
            };
            let (id, membership) = (process.id, process.driver.core().membership().clone());
            self.hand_out(id, &membership);
        }
    }

    /// Clears the disk of a node that is no member any more; its process must have ended.
    ///
    /// # Panics
    /// If it runs.
    pub fn wipe(&mut self, node: NodeId) {
        assert!(!self.is_running(node), "{node} uses its disk");
        if let Some(entry) = self.nodes.get_mut(&node) {
            entry.disk.wipe();
            entry.wiped_after = entry.life;
            self.newcomers.add(node);
            self.checker.wiped(node);
            self.forget_applied(node);
            self.record(node, "is wiped", "", &[]);
        }
    }

    /// Whether a node's disk holds the beginning of the cluster's log, so that it can be restarted.
    #[must_use]
    pub fn is_formed(&self, node: NodeId) -> bool {
        !self.newcomers.0.contains_key(&node)
    }

    /// The membership in force by the log of a running node, and whether it is known there to be
    /// committed.
    #[must_use]
    pub fn membership(&self, node: NodeId) -> Option<(&Membership, bool)> {
        let core = self.core(node)?;
        let is_committed = core.membership_index() <= core.commit_index();
        Some((core.membership(), is_committed))
    }

    /// A node's log says who the members are.
    pub(super) fn membership_changed(&mut self, id: ProcessId, membership: &Membership) {
        self.hand_out(id, membership);
        self.refresh_connections();
    }

    /// Has the first entry brought to nodes that wait for it and are named.
    fn hand_out(&mut self, from: ProcessId, membership: &Membership) {
        let mut named = BTreeSet::new();
        for (node, newcomer) in &mut self.newcomers.0 {
            let member = membership.members.get(node);
            let is_named = member.is_some_and(|member| member.incarnation.is_none());
            if is_named && *newcomer == Newcomer::Waiting {
                *newcomer = Newcomer::Reached;
                named.insert(*node);
            }
        }
        for node in named {
            self.act_after_ms(HAND_OUT_MS, move |cluster| cluster.adopt(node, from));
        }
    }

    fn adopt(&mut self, node: NodeId, from: ProcessId) {
        if self.newcomers.0.get(&node) != Some(&Newcomer::Reached) {
            return;
        }
        let is_open =
            self.network.is_open(from.node, node) && self.network.is_open(node, from.node);
        if is_open && self.process(from).is_some() {
            self.newcomers.0.remove(&node);
            self.form(node);
            self.record(
                node,
                "is handed the first entry",
                "",
                &[("by", from.node.0)],
            );
            return self.restart(node);
        }
        self.newcomers.0.insert(node, Newcomer::Waiting);
        self.act_after_ms(HAND_OUT_RETRY_MS, move |cluster| {
            if cluster.newcomers.0.get(&node) == Some(&Newcomer::Waiting) {
                cluster.join(node);
            }
        });
    }

    /// Whether two running nodes let each other in.
    pub(super) fn admit_each_other(&self, one: NodeId, other: NodeId) -> bool {
        let process = |node| self.nodes.get(&node).and_then(|n| n.process.as_ref());
        let (Some(one), Some(other)) = (process(one), process(other)) else {
            return true;
        };
        self.admits(one, other) && self.admits(other, one)
    }

    fn admits(&self, host: &Process, guest: &Process) -> bool {
        let membership = host.driver.core().membership();
        let hello = Hello {
            cluster: Some(self.cluster_id),
            node: guest.id.node,
            incarnation: guest.incarnation,
            boot: guest.boot,
            receiver: host.id.node,
            versions: raft_proto::Versions::CURRENT,
        };
        let standing = Standing::Formed {
            cluster: self.cluster_id,
            membership,
            vantage: Vantage::of(membership, host.id.node, host.incarnation),
        };
        Admission::recheck(&hello, standing).is_none()
    }

    /// Whether what one process sent to another does not arrive because they are not connected any
    /// more, or not yet: one of them does not admit the other, the sender's disk was cleared since,
    /// or the receiver has not noticed that it was cleared before.
    pub(super) fn is_refused(&self, from: ProcessId, to: ProcessId) -> bool {
        let wiped_after = self
            .nodes
            .get(&from.node)
            .map_or(0, |node| node.wiped_after);
        let is_old = from.life <= wiped_after
            || (self.connections).has_met_one_of(to.node, from.node, wiped_after);
        is_old || !self.admit_each_other(from.node, to.node)
    }
}
