//! The state that belongs to a role and ends with it (Figure 2, "volatile state").

use std::collections::BTreeMap;

use raft_proto::{LogIndex, NodeId, Term};

use crate::catch_up::CatchUp;
use crate::output::Role;
use crate::progress::Progress;
use crate::recount::Recount;
use crate::time::{PersistId, Time};

/// The role of a node, with what only that role has.
#[derive(Clone, Debug)]
pub(crate) enum RoleState {
    Follower,
    PreCandidate(Campaign),
    Candidate(Campaign),
    Leader(Box<Leader>),
}

impl RoleState {
    pub(crate) const fn role(&self) -> Role {
        match self {
            Self::Follower => Role::Follower,
            Self::PreCandidate(_) => Role::PreCandidate,
            Self::Candidate(_) => Role::Candidate,
            Self::Leader(_) => Role::Leader,
        }
    }
}

/// Answers to a (pre-)election, by node. They are counted against the membership in force each
/// time, so that they need not be counted again when it changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Campaign {
    pub(crate) answers: BTreeMap<NodeId, bool>,
}

/// What only a leader knows.
#[derive(Clone, Debug)]
pub(crate) struct Leader {
    /// Index of the empty entry at the start of its term (§8): from it on, entries may be
    /// committed by counting (§5.4.2), and once it is committed, reads may be served.
    pub(crate) first_index: LogIndex,
    /// Since when none of the entries that wait is committed, or the disk hangs; as of the last
    /// heartbeat if nothing waits.
    pub(crate) commits_since: Time,
    /// Every other member.
    pub(crate) peers: BTreeMap<NodeId, Progress>,
    /// The peer after which the next append is looked for, so that none is starved.
    pub(crate) cursor: NodeId,
    /// The sequence of the latest append. Counted over all peers: a peer that leaves and comes
    /// back in one term must not find its old answers taken for new ones.
    pub(crate) last_sequence: u64,
    /// The latest confirmation round; each broadcast of heartbeats is a new one.
    pub(crate) round: u64,
    /// What entries after the commit index count as, in bytes.
    pub(crate) uncommitted_bytes: u64,
    /// What entries count as that are not durable here, in bytes: others may commit them.
    pub(crate) unsynced_bytes: u64,
    /// The larger of both when its term began.
    pub(crate) inherited_bytes: u64,
    /// How fast each learner follows.
    pub(crate) catch_ups: BTreeMap<NodeId, CatchUp>,
    /// What makes uncounted peers count again.
    pub(crate) recounts: BTreeMap<NodeId, Recount>,
    /// No learner is promoted before.
    pub(crate) next_promotion: Time,
}

/// What happens once a persist is durable: nothing that promises durability happens before.
#[derive(Clone, Debug)]
pub(crate) struct Withheld {
    pub(crate) after: PersistId,
    pub(crate) rests_on: RestsOn,
    pub(crate) promise: Promise,
}

/// What of its persist a promise needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RestsOn {
    /// Term and vote, which may be durable ahead of the rest.
    HardState,
    /// All of it, and all that comes before.
    Everything,
}

/// A statement that relies on something durable.
#[derive(Clone, Debug)]
pub(crate) enum Promise {
    /// A message of this node's term.
    Message {
        to: NodeId,
        message: raft_proto::Message,
    },
    /// The acknowledgement of an append that ends at `last`.
    Acknowledgement {
        to: NodeId,
        term: Term,
        sequence: u64,
        last: LogIndex,
    },
    /// This node counts again, and tells the leader.
    Recount {
        to: NodeId,
        message: raft_proto::Message,
    },
    /// This node's vote for itself.
    OwnVote { term: Term },
}
