//! What a scenario can see of the world: roles, terms, logs applied.

use bytes::Bytes;
use raft_core::{RaftCore, Role};
use raft_node::ComparisonStatus;
use raft_node::driver::RepairCounts;
use raft_proto::{Entry, EntryKind, LogIndex, LogPosition, NodeId, Term};

use super::Cluster;

/// A command in the one chain of committed entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedCommand {
    /// Where it stands in the log.
    pub position: LogPosition,
    /// Its bytes, as proposed.
    pub command: Bytes,
}

/// What was applied: one chain, which the checker keeps equal on all nodes, and how far each
/// node's present process has come in it.
#[derive(Default)]
pub(super) struct AppliedLog {
    /// By index, from 1 on; `None` for Raft's own entries.
    chain: Vec<Option<AppliedCommand>>,
    through: std::collections::BTreeMap<NodeId, LogIndex>,
}

impl Cluster {
    /// The ids of all nodes, in order.
    #[must_use]
    pub fn node_ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    /// The consensus core of a running node.
    #[must_use]
    pub fn core(&self, node: NodeId) -> Option<&RaftCore> {
        let process = self.nodes.get(&node)?.process.as_ref()?;
        Some(process.driver.core())
    }

    /// A running node's term and whether it takes itself for the leader: `GetState` of MIT 6.824.
    #[must_use]
    pub fn state(&self, node: NodeId) -> Option<(Term, Role)> {
        let core = self.core(node)?;
        Some((core.term(), core.role()))
    }

    /// The node that leads the latest term in which a connected, running node leads.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        let connected = self.nodes.keys().filter(|id| self.is_connected(**id));
        let leaders = connected.filter_map(|id| match self.state(*id)? {
            (term, Role::Leader) => Some((term, *id)),
            (_, Role::Follower | Role::PreCandidate | Role::Candidate) => None,
        });
        leaders.max().map(|(_, id)| id)
    }

    /// The leader, unless somebody led a later term: then it does not know yet what was committed
    /// since.
    #[must_use]
    pub fn latest_leader(&self) -> Option<NodeId> {
        self.leader()
            .filter(|leader| Some(*leader) == self.checker.latest_leader())
    }

    /// How far a node's present process has applied the log.
    #[must_use]
    pub fn applied_index(&self, node: NodeId) -> LogIndex {
        self.applied.through.get(&node).copied().unwrap_or_default()
    }

    /// How many nodes have applied the entry at this index.
    #[must_use]
    pub fn applied_by(&self, index: LogIndex) -> usize {
        let nodes = self.nodes.keys();
        nodes
            .filter(|node| self.applied_index(**node) >= index)
            .count()
    }

    /// The command that was applied at this index; `None` if nothing was yet, or an entry of
    /// Raft's own.
    #[must_use]
    pub fn applied_command(&self, index: LogIndex) -> Option<&AppliedCommand> {
        let at = usize::try_from(index.0.checked_sub(1)?).ok()?;
        self.applied.chain.get(at)?.as_ref()
    }

    /// All commands that any node has applied, in order.
    pub fn applied_commands(&self) -> impl DoubleEndedIterator<Item = &AppliedCommand> {
        self.applied.chain.iter().flatten()
    }

    /// The end of what any node has applied.
    #[must_use]
    pub fn last_applied(&self) -> LogIndex {
        LogIndex(self.applied.chain.len() as u64)
    }

    /// Everything up to here is known to be committed, by some node at some time.
    #[must_use]
    pub fn committed(&self) -> LogIndex {
        self.checker.committed()
    }

    /// Which process of a node this is, and what it has lost to its disk and got back.
    pub(crate) fn repair_counts(&self, node: NodeId) -> Option<(u64, RepairCounts)> {
        let process = self.nodes.get(&node)?.process.as_ref()?;
        Some((process.id.life, process.driver.repair_counts()))
    }

    /// Counts what became of damage.
    pub(crate) fn count_repairs(&mut self, what: &'static str, count: u64) {
        self.tally.repairs(what, count);
    }

    /// What a running node knows of the comparison of replicas.
    #[must_use]
    pub fn comparison(&self, node: NodeId) -> Option<ComparisonStatus> {
        let process = self.nodes.get(&node)?.process.as_ref()?;
        Some(process.driver.comparison())
    }

    pub(super) fn note_applied(&mut self, node: NodeId, entries: Vec<Entry>) {
        for entry in entries {
            self.applied.through.insert(node, entry.index);
            if entry.index > self.last_applied() {
                let position = entry.position();
                self.applied.chain.push(match entry.kind {
                    EntryKind::Command => Some(AppliedCommand {
                        position,
                        command: entry.payload,
                    }),
                    EntryKind::Noop | EntryKind::Membership => None,
                });
            }
        }
    }

    /// A node's state machine is that of a snapshot.
    pub(super) fn note_restored(&mut self, node: NodeId, end: LogPosition) {
        self.applied.through.insert(node, end.index);
    }

    pub(super) fn forget_applied(&mut self, node: NodeId) {
        self.applied.through.remove(&node);
        self.shown.remove(&node);
    }
}

pub(super) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Follower => "follower",
        Role::PreCandidate => "pre-candidate",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
    }
}
