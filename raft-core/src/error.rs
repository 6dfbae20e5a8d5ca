//! One small error enum per operation.

use raft_proto::{LogIndex, NodeId};
use thiserror::Error;

use crate::config::ConfigError;

/// Why a core cannot start.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CoreError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The recovered log is shorter or longer than it claims.
    #[error(
        "the recovered log spans {expected} entries but has {found} entry sizes; the log was \
         read wrongly"
    )]
    SizesMismatch {
        /// Entries from the first to the last.
        expected: u64,
        /// Sizes given.
        found: u64,
    },
    /// The term runs do not describe the log.
    #[error("the recovered term runs do not cover the log from {first} to {last} in order")]
    TermRunsMismatch {
        /// First index of the log.
        first: LogIndex,
        /// Last index of the log.
        last: LogIndex,
    },
    /// The log starts behind a gap after the snapshot.
    #[error("the recovered log starts at {first}, which leaves a gap after the snapshot")]
    Gap {
        /// First index of the log.
        first: LogIndex,
    },
    /// An entry's term exceeds the hard state's: the hard state is older than the log.
    #[error("the recovered log ends in a term later than the recovered hard state's")]
    HardStateBehindLog,
    /// Memberships are out of order, beyond the log, or missing although there is a log.
    #[error("the recovered memberships do not belong to the recovered log")]
    MembershipsMismatch,
    /// The holes are not within the log behind the snapshot, or not in order.
    #[error("the recovered holes do not lie in the recovered log: {first} to {last}")]
    HolesMismatch {
        /// First index of the first wrong one.
        first: LogIndex,
        /// Its last index.
        last: LogIndex,
    },
}

/// Why a proposal was not appended. Nothing has happened: it can be retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProposeError {
    /// Another node leads, or none is known to.
    #[error("this node does not lead")]
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// Too much is waiting to be committed, or for this node's disk.
    #[error(
        "{waiting_bytes} bytes wait to be committed or for the disk and the limit is \
         {limit_bytes}; retry later"
    )]
    Overloaded {
        /// What entries count as that are not committed, or not durable on this node, in bytes.
        waiting_bytes: u64,
        /// [`crate::Config::max_uncommitted_bytes`].
        limit_bytes: u64,
    },
    /// Leadership is being handed to another node.
    #[error("leadership is being transferred to {to}; retry there")]
    Transferring {
        /// The node that takes over.
        to: NodeId,
    },
    /// The proposal can never be accepted.
    #[error("a proposal of {bytes} bytes exceeds the limit of {limit_bytes} bytes")]
    TooLarge {
        /// Its payload bytes.
        bytes: u32,
        /// [`crate::Config::max_entry_bytes`].
        limit_bytes: u32,
    },
    /// This node's disk takes no more entries.
    #[error("the disk of this node is full or stalled; retry at another node")]
    DiskUnavailable,
    /// This node stopped.
    #[error("this node has stopped because its disk failed")]
    Halted,
}

/// Why a read was not accepted. It can be retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReadIndexError {
    /// No leader is known.
    #[error("no leader is known")]
    NoLeader,
    /// Too many reads are waiting.
    #[error("{0} reads are waiting for confirmation already; retry later")]
    Overloaded(usize),
    /// This node stopped.
    #[error("this node has stopped because its disk failed")]
    Halted,
}

/// Why a leadership transfer did not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TransferError {
    /// Another node leads, or none is known to.
    #[error("this node does not lead")]
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// A transfer is under way.
    #[error("leadership is already being transferred to {0}")]
    InProgress(NodeId),
    /// The target leads already.
    #[error("{0} leads already")]
    AlreadyLeader(NodeId),
    /// The target cannot lead.
    #[error("{0} is not a voter of this cluster")]
    NotAVoter(NodeId),
    /// The target has lost parts of its log.
    #[error("{0} has lost parts of its log and cannot lead before it has recovered")]
    Uncounted(NodeId),
    /// This node stopped.
    #[error("this node has stopped because its disk failed")]
    Halted,
}
