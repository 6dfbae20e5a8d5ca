//! The client protocol: the kinds of requests and responses, and their bodies.
//!
//! Frames, request ids and streams are `raft-net`'s; here is what they carry. A write's body is
//! the [command](crate::command) itself and a read's body the query itself; an answer's body is
//! the [reply](crate::reply) of the state machine. A server passes all of these through without
//! copying them. All other bodies are a version byte followed by one serialised value.

mod members;
mod replicas;
mod snapshot;

use bytes::Bytes;
use raft_proto::NodeId;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::members::{MemberChange, MemberInfo, MemberList, MemberRole, RemovalSafety};
pub use self::replicas::{ReplicaDifference, ReplicasCompared};
pub use self::snapshot::{
    MAX_SNAPSHOT_PART_BYTES, ReadSnapshotRequest, SnapshotOffer, SnapshotPart,
};
use crate::codec::{self, DecodeError};
use crate::limits::{
    MAX_KEY_BYTES, MAX_OPERATION_BYTES, MAX_TXN_OPERATIONS, MAX_VALUE_BYTES, TxnList, shown_key,
};
use crate::operation::Revision;
use crate::session::{Sequence, SessionId};

/// The version of bodies that this build writes and reads.
pub const PROTOCOL_VERSION: u8 = 1;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RequestKind {
    /// Carry out a write; the body is a command.
    Write = 128,
    /// Read linearizably; the body is a query.
    Read = 129,
    /// Read what this node has applied; the body is a query.
    ReadLocal = 130,
    /// Register a session; the body is a [`RegisterRequest`].
    Register = 131,
    /// Keep a session alive; the body is a [`KeepAliveRequest`].
    KeepAlive = 132,
    /// Tell how this node is; the body is empty.
    Status = 133,
    /// Hand leadership to another node; the body is a [`TransferRequest`].
    Transfer = 134,
    /// Tell who belongs to the cluster; the body is empty.
    Members = 135,
    /// Change who belongs to the cluster; the body is a [`MemberChange`].
    ChangeMembers = 136,
    /// Make a snapshot on this node; the body is empty.
    TakeSnapshot = 137,
    /// Send a part of a snapshot; the body is a [`ReadSnapshotRequest`].
    ReadSnapshot = 138,
    /// Have the replicas compared; the body is empty.
    CompareReplicas = 139,
}

impl RequestKind {
    /// The kind with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            128 => Self::Write,
            129 => Self::Read,
            130 => Self::ReadLocal,
            131 => Self::Register,
            132 => Self::KeepAlive,
            133 => Self::Status,
            134 => Self::Transfer,
            135 => Self::Members,
            136 => Self::ChangeMembers,
            137 => Self::TakeSnapshot,
            138 => Self::ReadSnapshot,
            139 => Self::CompareReplicas,
            _ => return None,
        })
    }
}

/// What a response says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ResponseKind {
    /// The state machine's reply; the body is a [`crate::reply::Reply`].
    Answer = 192,
    /// The node's status; the body is a [`NodeStatus`].
    Status = 193,
    /// Done; the body is empty.
    Done = 194,
    /// Another node leads; the body is a [`Redirect`].
    Redirect = 195,
    /// Nothing was done; the body is a [`ServerRefusal`].
    Refused = 196,
    /// The write may or may not have been carried out; the body is empty.
    Unknown = 197,
    /// The members, after the change if one was asked for; the body is a [`MemberList`].
    Members = 198,
    /// A snapshot is ready; the body is a [`SnapshotOffer`].
    Snapshot = 199,
    /// A part of a snapshot; the body is a [`SnapshotPart`].
    SnapshotPart = 200,
    /// Replicas were compared; the body is a [`ReplicasCompared`].
    Compared = 201,
}

impl ResponseKind {
    /// The kind with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            192 => Self::Answer,
            193 => Self::Status,
            194 => Self::Done,
            195 => Self::Redirect,
            196 => Self::Refused,
            197 => Self::Unknown,
            198 => Self::Members,
            199 => Self::Snapshot,
            200 => Self::SnapshotPart,
            201 => Self::Compared,
            _ => return None,
        })
    }
}

/// Body of [`RequestKind::Register`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterRequest {
    /// Time-to-live, in milliseconds.
    pub ttl_ms: u64,
}

/// Body of [`RequestKind::KeepAlive`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepAliveRequest {
    /// The session.
    pub session: SessionId,
    /// All writes up to this number are finished for the client.
    pub acknowledged: Sequence,
}

/// Body of [`RequestKind::Transfer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferRequest {
    /// The next leader.
    pub to: NodeId,
}

/// Body of [`ResponseKind::Redirect`]: this node does not lead, and has done nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// The leader this node knows of.
    pub leader: Option<NodeId>,
    /// The leader's address, `host:port`.
    pub address: Option<String>,
}

/// Why a server has not done what was asked. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
pub enum ServerRefusal {
    /// Too much is waiting already.
    #[error("the server is overloaded; retry after a pause")]
    Overloaded,
    /// The leader's disk is full or stalled.
    #[error("the leader's disk is full or stalled, so it takes no writes; free space and retry")]
    DiskUnavailable,
    /// The node forms its cluster or opens its log.
    #[error("the node is not ready: it waits for {}", .waiting_for.join(", "))]
    NotReady {
        /// Who or what it waits for.
        waiting_for: Vec<String>,
    },
    /// The node is shutting down or has failed.
    #[error("the node has stopped")]
    Stopped,
    /// The read could not be confirmed in time.
    #[error("no leader could confirm the read in time")]
    ReadNotConfirmed,
    /// The command lost its place in the log to a new leader's.
    #[error("the command was superseded by a new leader's; it was not carried out")]
    Superseded,
    /// The whole request is too large.
    #[error("a request of {bytes} bytes exceeds the limit of {limit} bytes")]
    TooLarge {
        /// Its length.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A key has no byte.
    #[error("the key is empty; a key has at least one byte")]
    EmptyKey,
    /// A key is too long.
    #[error("the key has {bytes} bytes; the limit is {MAX_KEY_BYTES} bytes (64 KiB)")]
    KeyTooLong {
        /// Its length.
        bytes: u64,
    },
    /// A value is too long.
    #[error("the value has {bytes} bytes; the limit is {MAX_VALUE_BYTES} bytes (8 MiB)")]
    ValueTooLong {
        /// Its length.
        bytes: u64,
    },
    /// The request is of a kind this server does not know.
    #[error("the server does not know requests of kind {kind}; it may be older than the client")]
    UnknownKind {
        /// The kind.
        kind: u8,
    },
    /// The body is of a version this server does not know.
    #[error("the request has format version {version}, which the server does not know")]
    UnsupportedVersion {
        /// The version.
        version: u8,
    },
    /// The body makes no sense.
    #[error("the server finds the request malformed")]
    Malformed,
    /// Leadership was not handed over.
    #[error("leadership was not handed over: {reason}")]
    NotTransferred {
        /// Why.
        reason: String,
    },
    /// A list of a transaction is too long.
    #[error(
        "the transaction's {list} has {entries} entries; the limit is {MAX_TXN_OPERATIONS} in each list"
    )]
    TooManyOperations {
        /// Which list.
        list: TxnList,
        /// Its length.
        entries: u64,
    },
    /// A list of a transaction changes a key twice.
    #[error(
        "the transaction's {list} puts the key {} twice, or puts and deletes it; change it once",
        shown_key(.key)
    )]
    DuplicateKey {
        /// Which list.
        list: TxnList,
        /// The key.
        key: Vec<u8>,
    },
    /// The leader is new and has not committed anything yet.
    #[error("the leader has just been elected and takes no change of members yet; retry soon")]
    LeaderNotReady,
    /// The members were not changed.
    #[error("the members were not changed: {reason}")]
    MembersNotChanged {
        /// Why.
        reason: String,
    },
    /// No snapshot was made.
    #[error("no snapshot was made: {reason}")]
    NoSnapshot {
        /// Why.
        reason: String,
    },
    /// The snapshot is not there any more.
    #[error("the node does not hold this snapshot any more; ask for a new one")]
    SnapshotGone,
    /// The node's store is being replaced by a snapshot.
    #[error(
        "the node's store is being replaced by a snapshot; ask another node, or wait until that is done"
    )]
    Restoring,
}

impl ServerRefusal {
    /// Whether the same request may succeed later or elsewhere.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Overloaded
            | Self::DiskUnavailable
            | Self::NotReady { .. }
            | Self::Stopped
            | Self::ReadNotConfirmed
            | Self::LeaderNotReady
            | Self::Restoring
            | Self::Superseded => true,
            Self::TooLarge { .. }
            | Self::EmptyKey
            | Self::KeyTooLong { .. }
            | Self::ValueTooLong { .. }
            | Self::UnknownKind { .. }
            | Self::UnsupportedVersion { .. }
            | Self::Malformed
            | Self::NotTransferred { .. }
            | Self::TooManyOperations { .. }
            | Self::DuplicateKey { .. }
            | Self::MembersNotChanged { .. }
            | Self::NoSnapshot { .. }
            | Self::SnapshotGone => false,
        }
    }
}

impl From<crate::limits::LimitError> for ServerRefusal {
    fn from(error: crate::limits::LimitError) -> Self {
        use crate::limits::LimitError;
        match error {
            LimitError::EmptyKey => Self::EmptyKey,
            LimitError::KeyTooLong(bytes) => Self::KeyTooLong {
                bytes: bytes as u64,
            },
            LimitError::ValueTooLong(bytes) => Self::ValueTooLong {
                bytes: bytes as u64,
            },
            LimitError::TooLongTogether(bytes) => Self::TooLarge {
                bytes: bytes as u64,
                limit: MAX_OPERATION_BYTES as u64,
            },
            LimitError::TooManyOperations { list, entries } => Self::TooManyOperations {
                list,
                entries: entries as u64,
            },
            LimitError::DuplicateKey { list, key } => Self::DuplicateKey { list, key },
        }
    }
}

impl From<DecodeError> for ServerRefusal {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::UnsupportedVersion { found, .. } => {
                Self::UnsupportedVersion { version: found }
            }
            DecodeError::Empty | DecodeError::Malformed | DecodeError::PayloadLength { .. } => {
                Self::Malformed
            }
        }
    }
}

/// Body of [`ResponseKind::Status`]: how one node sees itself and its cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node.
    pub id: NodeId,
    /// The cluster's id, in hexadecimal; empty while the node belongs to none.
    pub cluster: String,
    /// `leader`, `follower`, `candidate`, `pre-candidate`, `learner`, `forming` or `stopped`.
    pub role: String,
    /// Who or what a forming node waits for.
    pub waiting_for: Vec<String>,
    /// What an operator should know about it, in sentences: who refuses it, what it is busy with.
    pub notes: Vec<String>,
    /// The node's term.
    pub term: u64,
    /// The leader it follows, itself included.
    pub leader: Option<NodeId>,
    /// Everything up to here is committed, as far as it knows.
    pub commit_index: u64,
    /// Everything up to here is in its store.
    pub applied_index: u64,
    /// The end of its log.
    pub last_index: u64,
    /// The last entry that its snapshot covers; 0 if it has none.
    pub snapshot_index: u64,
    /// The snapshot that it takes at the moment.
    pub saving: Option<SavingStatus>,
    /// Whether its store is being replaced by a snapshot; what follows about the store is 0 then.
    pub is_restoring: bool,
    /// What its log takes on disk, in bytes.
    pub log_bytes: u64,
    /// The store's revision.
    pub revision: Revision,
    /// The hash of its replicated state.
    pub hash: u64,
    /// Live keys.
    pub keys: u64,
    /// Bytes of live keys and values.
    pub data_bytes: u64,
    /// Sessions.
    pub sessions: u64,
    /// Every member but this node.
    pub peers: Vec<PeerStatus>,
}

/// How far a snapshot is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavingStatus {
    /// The last entry that it covers.
    pub index: u64,
    /// Bytes of the state taken so far.
    pub bytes: u64,
}

/// What a node knows about another member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The member.
    pub id: NodeId,
    /// Its address, `host:port`.
    pub address: String,
    /// `voter` or `learner`.
    pub role: String,
    /// On the leader: how the member is being replicated to.
    pub state: Option<String>,
    /// On the leader: the member durably holds the log up to here.
    pub match_index: Option<u64>,
    /// On the leader: how long nothing was heard of the member, in milliseconds.
    pub silent_ms: Option<u64>,
}

/// The bytes of a body that is a version byte and one value.
#[must_use]
pub fn to_body<T: Serialize>(value: &T) -> Bytes {
    let mut bytes = vec![PROTOCOL_VERSION];
    codec::encode(value, &mut bytes);
    bytes.into()
}

/// Reads a body that is a version byte and one value.
///
/// # Errors
/// [`DecodeError`].
pub fn from_body<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, DecodeError> {
    codec::decode_exact(codec::check_version(body, PROTOCOL_VERSION)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_keep_their_numbers() {
        for number in 0..=u8::MAX {
            if let Some(kind) = RequestKind::from_number(number) {
                assert_eq!(kind as u8, number);
            }
            if let Some(kind) = ResponseKind::from_number(number) {
                assert_eq!(kind as u8, number);
            }
        }
        assert_eq!(RequestKind::from_number(127), None);
        assert_eq!(ResponseKind::from_number(134), None);
    }

    #[test]
    fn bodies_keep_their_bytes() {
        let session = SessionId(300);
        let acknowledged = Sequence(4);
        let keep_alive = KeepAliveRequest {
            session,
            acknowledged,
        };
        assert_eq!(&to_body(&keep_alive)[..], [1, 251, 44, 1, 4]);
        assert_eq!(from_body(&to_body(&keep_alive)), Ok(keep_alive));
        assert_eq!(&to_body(&RegisterRequest { ttl_ms: 7 })[..], [1, 7]);
        assert_eq!(&to_body(&TransferRequest { to: NodeId(3) })[..], [1, 3]);
        let redirect = Redirect {
            leader: Some(NodeId(2)),
            address: Some("h:1".to_owned()),
        };
        assert_eq!(&to_body(&redirect)[..], b"\x01\x01\x02\x01\x03h:1");
        assert_eq!(&to_body(&ServerRefusal::Superseded)[..], [1, 5]);
        let compared = ReplicasCompared {
            entry: 300,
            entries: Some((2, 9)),
            reported: vec![NodeId(1), NodeId(2)],
            silent: vec![NodeId(3)],
            differences: vec![ReplicaDifference {
                entries: None,
                nodes: vec![NodeId(2)],
                is_named: true,
                text: "t".to_owned(),
            }],
        };
        let bytes = [
            1, 251, 44, 1, 1, 2, 9, 2, 1, 2, 1, 3, 1, 0, 1, 2, 1, 1, b't',
        ];
        assert_eq!(&to_body(&compared)[..], bytes);
        assert_eq!(from_body(&bytes), Ok(compared));
    }

    #[test]
    fn cut_and_foreign_bodies_are_refused() {
        let body = to_body(&ServerRefusal::NotReady {
            waiting_for: vec!["n2".to_owned()],
        });
        for cut in 0..body.len() {
            assert!(from_body::<ServerRefusal>(&body[..cut]).is_err());
        }
        let mut newer = body.to_vec();
        newer[0] = 9;
        assert!(matches!(
            from_body::<ServerRefusal>(&newer),
            Err(DecodeError::UnsupportedVersion { found: 9, .. })
        ));
    }
}
