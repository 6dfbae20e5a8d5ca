//! What the checker sees of a running node, and remembers of it until the next look.

use raft_core::Role;
use raft_node::driver::Held;
use raft_proto::{LogIndex, Membership, NodeId, Term};

/// What a node shows of itself at one moment.
pub struct NodeView<'a> {
    /// The node.
    pub id: NodeId,
    /// Its role.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// The entry before the first one in its log, by its own account.
    pub base_index: LogIndex,
    /// What it takes for applied.
    pub applied_index: LogIndex,
    /// What it takes for committed.
    pub commit_index: LogIndex,
    /// The end of its log.
    pub last_index: LogIndex,
    /// The term of one of its entries; `None` if a snapshot covers it, or it has none there.
    pub term_at: &'a dyn Fn(LogIndex) -> Option<Term>,
    /// The members in force at its log's end.
    pub membership: &'a Membership,
    /// Where its log says so.
    pub membership_index: LogIndex,
    /// How many memberships its log holds after an index.
    pub memberships_after: &'a dyn Fn(LogIndex) -> usize,
    /// The fullest of its windows of appends on the way, if it leads.
    pub window: Option<Window>,
    /// What else it holds in memory.
    pub held: &'a [Held],
}

/// Appends on the way to one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// How many.
    pub messages: usize,
    /// How many there may be.
    pub limit_messages: usize,
    /// Their payload, in bytes.
    pub bytes: u64,
    /// How much there may be, the last one included, in bytes.
    pub limit_bytes: u64,
}

/// What was seen of a node last, within its present boot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) term: Term,
    pub(super) role: Role,
    pub(super) applied_index: LogIndex,
    pub(super) commit_index: LogIndex,
    pub(super) last_index: LogIndex,
    pub(super) last_term: Option<Term>,
}

impl Seen {
    pub(super) fn of(view: &NodeView<'_>) -> Self {
        Self {
            term: view.term,
            role: view.role,
            applied_index: view.applied_index,
            commit_index: view.commit_index,
            last_index: view.last_index,
            last_term: (view.term_at)(view.last_index),
        }
    }

    /// Whether it led the same term then.
    pub(super) fn led(&self, term: Term) -> bool {
        self.role == Role::Leader && self.term == term
    }
}
