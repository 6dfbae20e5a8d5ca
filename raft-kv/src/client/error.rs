//! Why a call of the client has no result.

use std::time::Duration;

use raft_net::{ConnectError, NetError};
use thiserror::Error;

use super::call::{CallError, Problem};
use crate::codec::DecodeError;
use crate::limits::LimitError;
use crate::protocol::ServerRefusal;
use crate::reply::Refusal;

/// Why a call of the client has no result.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The client cannot be set up: certificates, sockets.
    #[error(transparent)]
    Setup(#[from] NetError),
    /// No endpoint was given.
    #[error("no endpoint was given; name at least one as host:port")]
    NoEndpoint,
    /// A key or value exceeds a limit; nothing was sent.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The state machine refused; nothing has changed.
    #[error(transparent)]
    Rejected(#[from] Refusal),
    /// The call was refused, timed out, or its outcome is unknown.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The server answers in a way this client does not understand.
    #[error("cannot understand the server: {0}")]
    Malformed(#[from] DecodeError),
    /// A node that was asked for a snapshot does not get on with it.
    #[error(
        "{address} has made no progress with the snapshot for {} s; look at its disk and its log, or ask another node",
        .patience.as_secs()
    )]
    SnapshotStalled {
        /// The node.
        address: String,
        /// How long it was waited for.
        patience: Duration,
    },
    /// The server's answer does not belong to the request.
    #[error("the server's answer does not belong to the request")]
    Mismatched,
}

impl ClientError {
    /// Whether the write may have been carried out, or may yet be.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        match self {
            Self::Call(CallError::Unknown(_)) => true,
            Self::Call(
                CallError::Refused(_) | CallError::TimedOut { .. } | CallError::Unreachable(_),
            )
            | Self::Setup(_)
            | Self::NoEndpoint
            | Self::Limit(_)
            | Self::Rejected(_)
            | Self::Malformed(_)
            | Self::SnapshotStalled { .. }
            | Self::Mismatched => false,
        }
    }

    /// Whether the snapshot that was being read has been removed by its node; ask for a new one.
    #[must_use]
    pub const fn is_snapshot_gone(&self) -> bool {
        matches!(
            self,
            Self::Call(CallError::Refused(Problem::Refused(
                ServerRefusal::SnapshotGone
            )))
        )
    }

    /// The error of a write whose session is gone: whether an earlier attempt was carried out is
    /// not known, and it is never made again under another session.
    pub(super) const fn session_expired() -> Self {
        Self::Call(CallError::Unknown(Problem::SessionExpired))
    }
}

/// Whether trying again cannot help, because one side's certificate or version does not suit the
/// other.
pub(super) const fn is_permanent(error: &ConnectError) -> bool {
    match error {
        ConnectError::TheirCertificate { .. }
        | ConnectError::OurCertificate(_)
        | ConnectError::NoCommonProtocol
        | ConnectError::Identity(_)
        | ConnectError::NotANode { .. } => true,
        ConnectError::Resolve { .. }
        | ConnectError::Start(_)
        | ConnectError::RefusedByUs(_)
        | ConnectError::RefusedByThem(_)
        | ConnectError::ClosedByPeer(_)
        | ConnectError::ClosedByUs(_)
        | ConnectError::Malformed(_)
        | ConnectError::TimedOut
        | ConnectError::Lost(_) => false,
    }
}
