//! What can become of a proposal, a read or a transfer, and why a node stops.

use std::sync::Arc;

use raft_proto::{ClusterId, LogIndex, LogPosition, NodeId, Term};
use thiserror::Error;

use crate::refusals::RefusedBy;

/// The leader, as far as this node knows, and where it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderHint {
    /// The leader's id.
    pub id: NodeId,
    /// Its address, `host:port`, if the membership names it.
    pub address: Option<String>,
}

/// Why a proposal has no reply of the state machine.
///
/// Only [`ProposeError::Unknown`] leaves open whether the command was, or will be, applied; after
/// every other variant it certainly was not and will not be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProposeError {
    /// Another node leads, or none.
    #[error("this node does not lead{}", hint(.leader))]
    NotLeader {
        /// Where to try instead.
        leader: Option<LeaderHint>,
    },
    /// Another leader's entry was committed in its place.
    #[error("the command lost its place in the log to the leader of term {}", .by.0)]
    Superseded {
        /// The term of the entry that was committed instead.
        by: Term,
    },
    /// The node cannot tell (it stopped, or the deadline passed): the command may or may not take
    /// effect, now or later.
    #[error("the outcome is unknown: the command may or may not have been applied")]
    Unknown,
    /// The leader's disk is full or stalled, so it takes no writes.
    #[error("the disk of this node is full or stalled; retry at another node")]
    DiskUnavailable,
    /// Too much is waiting already; retry after a pause.
    #[error("overloaded: too many commands are waiting, retry after a pause")]
    Overloaded,
    /// The command exceeds the limit.
    #[error("a command of {bytes} bytes exceeds the limit of {limit} bytes")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The configured limit.
        limit: usize,
    },
    /// The node was shut down before it took the command.
    #[error("the node was shut down")]
    ShutDown,
}

/// Why a read was not answered. Reads change nothing, so all of these can be retried.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReadError {
    /// No leader could confirm that the answer would be current.
    #[error("no leader could confirm the read{}", hint(.leader))]
    NotConfirmed {
        /// Where to try instead.
        leader: Option<LeaderHint>,
    },
    /// Too many reads are waiting already; retry after a pause.
    #[error("overloaded: too many reads are waiting, retry after a pause")]
    Overloaded,
    /// The state machine is being replaced by a snapshot of a peer.
    #[error(
        "the node's state is being replaced by a snapshot; retry at another node, or here once that is done"
    )]
    Restoring,
    /// The deadline passed first.
    #[error("the read was not confirmed within its deadline")]
    TimedOut,
    /// The node was shut down.
    #[error("the node was shut down")]
    ShutDown,
}

/// Why leadership was not handed over.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TransferError {
    /// Another node leads, or none.
    #[error("this node does not lead{}", hint(.leader))]
    NotLeader {
        /// Where to try instead.
        leader: Option<LeaderHint>,
    },
    /// The target cannot lead.
    #[error("node {0} is not a voter of this cluster, so it cannot lead")]
    NotAVoter(NodeId),
    /// Another transfer is under way.
    #[error("a transfer to node {0} is under way")]
    InProgress(NodeId),
    /// The target has lost parts of its log.
    #[error("node {0} has lost parts of its log and cannot lead before it has recovered")]
    Uncounted(NodeId),
    /// Another node won the election.
    #[error("node {0} was elected instead")]
    OtherLeader(NodeId),
    /// The target left the cluster, or this node stopped leading on the way.
    #[error("the transfer to node {0} was given up")]
    Aborted(NodeId),
    /// The target did not take over in time; this node leads on.
    #[error("node {0} did not take over within an election timeout; leadership stays")]
    TimedOut(NodeId),
    /// The node was shut down.
    #[error("the node was shut down")]
    ShutDown,
}

/// Why a snapshot was not taken or read.
#[derive(Clone, Debug, Error)]
pub enum SnapshotError {
    /// There is nothing to cover yet.
    #[error(
        "nothing is applied yet that a snapshot could cover; retry once the node has caught up"
    )]
    NothingApplied,
    /// The file could not be written or read.
    #[error("the snapshot failed: {0}")]
    Failed(Arc<dyn std::error::Error + Send + Sync>),
    /// The node takes no part in a group yet.
    #[error("the node is still starting; retry once it runs")]
    NotRunning,
    /// The node was shut down.
    #[error("the node was shut down")]
    ShutDown,
}

/// Why a node stopped by itself. Nothing it acknowledged is lost by that.
#[derive(Clone, Debug, Error)]
pub enum FatalError {
    /// The log cannot be opened.
    #[error("cannot open the log: {0}")]
    OpenLog(Arc<raft_log::OpenError>),
    /// The log of a node that belongs to a cluster is gone.
    #[error(
        "the log of node {node} is gone although the node belongs to cluster {cluster}: it has \
         forgotten votes and entries that it answered for, and must not take part; put its log \
         directory back, or clear the data directory and re-admit the node with `raft-kv member \
         remove {id}` and `raft-kv member add {id}=ADDRESS`", id = .node.0
    )]
    LostLog {
        /// The node.
        node: NodeId,
        /// Its cluster.
        cluster: ClusterId,
    },
    /// Committed entries may be lost for good.
    #[error(
        "entries {first} to {last} are damaged on this node, and no member has them any more: they \
         may have been committed. Bring back a member, or a copy of its data directory, that has \
         them; otherwise begin a new cluster from the newest snapshot with `raft-kv restore`"
    )]
    LostContent {
        /// The first of them.
        first: LogIndex,
        /// The last of them.
        last: LogIndex,
    },
    /// The log's end is damaged, and there is no other voter to learn it from.
    #[error(
        "the end of the log, or the newest vote, is unknown ({reason}), and this node has no other \
         voters to learn it from: entries after {last} may be lost; restore the node's data \
         directory from a copy"
    )]
    UnknownEnd {
        /// What is damaged.
        reason: raft_log::UnknownEnd,
        /// The end of what is known.
        last: LogIndex,
    },
    /// A write or fsync failed: what the disk holds is unknown, so nothing more is acknowledged.
    #[error("the log failed: {0}; restart the node once its disk is healthy")]
    Log(Arc<raft_log::LogError>),
    /// An entry that should be on disk cannot be read.
    #[error("cannot read the log: {0}")]
    ReadLog(Arc<raft_log::ReadError>),
    /// A stored snapshot cannot be read, and the log before it is compacted.
    #[error("cannot open the snapshots: {0}")]
    Snapshots(Arc<raft_log::SnapshotError>),
    /// The log begins after an entry that no snapshot covers.
    #[error(
        "the log begins after {mark}, and the newest snapshot {}: what was before is gone; put \
         the snapshot's file back into the data directory, or clear the directory and re-admit the \
         node with `raft-kv member remove` and `raft-kv member add`", newest_snapshot(.newest)
    )]
    MissingSnapshot {
        /// The last entry that is not in the log.
        mark: LogPosition,
        /// The end of the newest snapshot, if there is one.
        newest: Option<LogPosition>,
    },
    /// The state machine does not take the snapshot, so its state is unknown.
    #[error(
        "the state machine cannot be restored from the snapshot up to {position}: {error}; restart \
         the node with the version that wrote it, or replace the node"
    )]
    Restore {
        /// The end of the snapshot.
        position: LogPosition,
        /// What the state machine said.
        error: Arc<std::io::Error>,
    },
    /// The data directory cannot be read or written.
    #[error("the data directory failed: {0}")]
    Directory(Arc<raft_log::DirError>),
    /// The directory was being restored from a snapshot, and that did not come to its end.
    #[error("{0}")]
    UnfinishedRestore(Arc<crate::restore::RestoreError>),
    /// The cluster cannot be formed with this node.
    #[error("{0}")]
    Formation(String),
    /// The transport cannot start.
    #[error("cannot start the transport: {0}")]
    Transport(String),
    /// The other members refuse this node, and nothing that they learn will change that.
    #[error("{}", refused_text(.0))]
    Refused(Vec<RefusedBy>),
    /// The recovered state makes no sense to the consensus core.
    #[error("cannot start consensus: {0}")]
    Core(String),
    /// A thread of the node cannot be started, or ended unexpectedly.
    #[error("the node's {0} thread failed")]
    Thread(&'static str),
}

/// Who refuses, and what the first of them means; the others mostly say the same.
fn refused_text(by: &[RefusedBy]) -> String {
    let peers: Vec<String> = by.iter().map(|one| one.peer.to_string()).collect();
    let why = by.first().map_or("", |first| &first.explanation);
    format!(
        "this node can take no further part in its cluster: refused for good by {}. {why}",
        peers.join(", ")
    )
}

/// How a message goes on about the leader.
pub(crate) fn newest_snapshot(newest: &Option<LogPosition>) -> String {
    match newest {
        Some(position) => format!("ends at {position}"),
        None => "is missing".to_owned(),
    }
}

pub(crate) fn hint(leader: &Option<LeaderHint>) -> String {
    match leader {
        Some(LeaderHint {
            id,
            address: Some(address),
        }) => {
            format!("; node {id} at {address} does")
        }
        Some(LeaderHint { id, address: None }) => format!("; node {id} does"),
        None => "; no leader is known at the moment".to_owned(),
    }
}
