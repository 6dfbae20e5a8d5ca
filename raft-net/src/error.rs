//! Everything that can go wrong, as one small enum per operation.

use std::io;
use std::path::PathBuf;

use quinn::{ConnectionError, VarInt};
use raft_proto::{CodecError, FrameError, NodeId, Refusal};
use rustls::AlertDescription;
use thiserror::Error;

use crate::refusal::RefusalText;

/// Why a transport or a client endpoint could not be set up.
#[derive(Debug, Error)]
pub enum NetError {
    /// A PEM file cannot be read.
    #[error("cannot read {path}: {reason}")]
    TlsFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A PEM text holds nothing of the kind that is needed.
    #[error("no {what} found in the PEM text: {reason}")]
    Pem {
        /// What was looked for.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Certificate, key and CA do not fit together.
    #[error("the TLS files do not fit together: {0}")]
    Tls(rustls::Error),
    /// The CA file's certificates cannot be used as trust anchors.
    #[error("the CA certificates cannot be used to check other certificates: {0}")]
    Authorities(String),
    /// Our own certificate would be refused by everybody.
    #[error(
        "our own certificate would be refused as {name}'s: {problem} ({detail}); issue a new one"
    )]
    OwnCertificate {
        /// Whom it has to certify.
        name: String,
        /// What is wrong with it.
        problem: CertificateProblem,
        /// The verifier's words.
        detail: String,
    },
    /// A cluster name that cannot be part of a certificate.
    #[error(
        "cluster name {0:?} is not made of lower-case letters, digits and hyphens (at most 63 of them)"
    )]
    ClusterName(String),
    /// A setting that cannot work.
    #[error("{setting} cannot work: {reason}")]
    Setting {
        /// The field.
        setting: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// The operating system refused a socket operation.
    #[error("cannot use the UDP socket: {0}")]
    Socket(#[from] io::Error),
}

/// Why a message was not queued. Raft repairs whatever is lost, so none of these needs a retry.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SendError {
    /// The queue of this peer and class is full; the message was dropped and counted.
    #[error("the send queue to {0} is full")]
    QueueFull(NodeId),
    /// No connection to the peer at the moment.
    #[error("not connected to {0}")]
    NotConnected(NodeId),
    /// The peer was never named and never connected.
    #[error("no address is known for {0}")]
    UnknownPeer(NodeId),
    /// The frame exceeds what receivers accept.
    #[error("a frame of {found} bytes exceeds the limit of {limit} bytes")]
    TooLarge {
        /// Bytes of the frame.
        found: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The message could not be encoded.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The transport was shut down.
    #[error("the transport is shut down")]
    ShutDown,
}

/// Why a certificate's name says nothing about a member of this cluster.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// The certificate cannot be parsed.
    #[error("the certificate cannot be parsed")]
    Malformed,
    /// No DNS name of the certificate belongs to this cluster.
    #[error("the certificate names nobody in cluster {cluster}")]
    OtherCluster {
        /// The cluster whose names were looked for.
        cluster: String,
    },
    /// The certificate names several identities.
    #[error("the certificate names more than one node or client of cluster {cluster}")]
    Ambiguous {
        /// The cluster whose names were looked for.
        cluster: String,
    },
    /// The connection has no certificate.
    #[error("the connection came without a certificate")]
    Missing,
}

/// What is wrong with a certificate, as the TLS alert puts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CertificateProblem {
    /// It is not signed by a trusted authority (or by one that merely has the same name).
    #[error("it is not signed by the cluster's certificate authority")]
    UnknownAuthority,
    /// It has expired or is not valid yet.
    #[error("it has expired or is not valid yet")]
    Expired,
    /// None was presented.
    #[error("none was presented")]
    Missing,
    /// It does not certify the name that was dialled, or is malformed.
    #[error("it does not certify the expected name or cannot be used for this")]
    WrongNameOrUse,
    /// Another TLS alert.
    #[error("TLS alert {0}")]
    Alert(u8),
}

/// Bytes that no correct peer sends. The connection is closed; nothing else is affected.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProtocolError {
    /// The stream is not made of frames.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame's body is not a message.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The stream ended inside a frame.
    #[error("the stream ended with {0} bytes of an unfinished frame")]
    Truncated(usize),
    /// The first message was no hello.
    #[error("expected {expected}, got {found}")]
    UnexpectedMessage {
        /// What should have come.
        expected: &'static str,
        /// What came.
        found: &'static str,
    },
    /// A message on the stream of another class.
    #[error("{message} does not belong on the {stream:?} stream")]
    WrongStream {
        /// The message.
        message: &'static str,
        /// The stream it came on.
        stream: raft_proto::Class,
    },
    /// A client frame without a request id.
    #[error("a client frame's head of {0} bytes has no room for a request id")]
    NoRequestId(u32),
    /// A stream ended that must not.
    #[error("the peer ended its {0} stream")]
    StreamEnded(&'static str),
}

/// Why a connection is closed, as told to the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CloseCode {
    /// The endpoint is shutting down.
    #[error("it is shutting down")]
    ShutDown,
    /// Another connection of the same pair took its place.
    #[error("another connection took its place")]
    Replaced,
    /// The hello was refused.
    #[error("the hello was refused")]
    Refused,
    /// The certificate is no node's, or no client's, of this cluster.
    #[error("the certificate does not entitle to this protocol")]
    WrongCertificate,
    /// Bytes that no correct peer sends.
    #[error("malformed data was received")]
    Malformed,
    /// Queued bytes made no progress.
    #[error("data made no progress")]
    Stalled,
    /// The peer is no longer a member.
    #[error("the peer was removed")]
    Removed,
    /// Nothing was sent for a while.
    #[error("the connection was idle")]
    Idle,
    /// Too many connections, or too many unread responses.
    #[error("it is overloaded")]
    Overloaded,
    /// A code of another version.
    #[error("of a reason with the unknown number {0}")]
    Unknown(u64),
}

impl CloseCode {
    pub(crate) fn number(self) -> VarInt {
        VarInt::from_u32(match self {
            Self::ShutDown => 0,
            Self::Replaced => 1,
            Self::Refused => 2,
            Self::WrongCertificate => 3,
            Self::Malformed => 4,
            Self::Stalled => 5,
            Self::Removed => 6,
            Self::Idle => 7,
            Self::Overloaded => 8,
            Self::Unknown(number) => return VarInt::from_u64(number).unwrap_or(VarInt::MAX),
        })
    }

    pub(crate) fn from_number(number: u64) -> Self {
        match number {
            0 => Self::ShutDown,
            1 => Self::Replaced,
            2 => Self::Refused,
            3 => Self::WrongCertificate,
            4 => Self::Malformed,
            5 => Self::Stalled,
            6 => Self::Removed,
            7 => Self::Idle,
            8 => Self::Overloaded,
            unknown => Self::Unknown(unknown),
        }
    }
}

/// Why a connection does not come about or has ended.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConnectError {
    /// The host name does not resolve.
    #[error("cannot resolve {address}: {reason}")]
    Resolve {
        /// Host and port.
        address: String,
        /// What the resolver says.
        reason: String,
    },
    /// The connection could not even be started.
    #[error("cannot start a connection: {0}")]
    Start(String),
    /// Their certificate did not pass our check.
    #[error("the other side's certificate is refused: {problem} ({detail})")]
    TheirCertificate {
        /// What is wrong with it.
        problem: CertificateProblem,
        /// The verifier's words.
        detail: String,
    },
    /// Our certificate did not pass their check.
    #[error("the other side refuses our certificate: {0}")]
    OurCertificate(CertificateProblem),
    /// The two sides speak no common protocol version.
    #[error("no common protocol version")]
    NoCommonProtocol,
    /// The certificate is valid, but names no node or client of this cluster.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A client certificate on the peer protocol.
    #[error("the certificate of client {client:?} does not entitle to the peer protocol")]
    NotANode {
        /// The certified client.
        client: String,
    },
    /// We refused their hello.
    #[error("we refuse it, and tell it: {}", RefusalText(.0))]
    RefusedByUs(Refusal),
    /// They refused our hello.
    #[error("the other side refuses us: {}", RefusalText(.0))]
    RefusedByThem(Refusal),
    /// The other side closed the connection.
    #[error("the other side closed the connection because {0}")]
    ClosedByPeer(CloseCode),
    /// We closed the connection.
    #[error("closed because {0}")]
    ClosedByUs(CloseCode),
    /// The other side sent what no correct peer sends.
    #[error("malformed data: {0}")]
    Malformed(#[from] ProtocolError),
    /// No answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// The connection broke.
    #[error("connection lost: {0}")]
    Lost(String),
}

impl From<ConnectionError> for ConnectError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::TransportError(e) => {
                let detail = e.reason.clone();
                match alert_of(e.code.into()) {
                    Some(NO_APPLICATION_PROTOCOL) => Self::NoCommonProtocol,
                    Some(alert) => Self::TheirCertificate {
                        problem: problem_of(alert),
                        detail,
                    },
                    None => Self::Lost(e.to_string()),
                }
            }
            ConnectionError::ConnectionClosed(close) => match alert_of(close.error_code.into()) {
                Some(NO_APPLICATION_PROTOCOL) => Self::NoCommonProtocol,
                Some(alert) => Self::OurCertificate(problem_of(alert)),
                None => Self::Lost(close.to_string()),
            },
            ConnectionError::ApplicationClosed(close) => {
                Self::ClosedByPeer(CloseCode::from_number(close.error_code.into_inner()))
            }
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::LocallyClosed => Self::ClosedByUs(CloseCode::ShutDown),
            ConnectionError::VersionMismatch
            | ConnectionError::Reset
            | ConnectionError::CidsExhausted => Self::Lost(error.to_string()),
        }
    }
}

/// RFC 7301's alert for a failed negotiation.
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// QUIC carries TLS alerts as error codes 0x100 to 0x1ff (RFC 9001 §4.8).
fn alert_of(code: u64) -> Option<u8> {
    (code & !0xff == 0x100).then_some((code & 0xff) as u8)
}

/// What is wrong with a certificate that one of rustls's verifiers has refused.
pub(crate) fn problem_in(error: &rustls::Error) -> CertificateProblem {
    if let rustls::Error::InvalidCertificate(reason) = error {
        problem_of(AlertDescription::from(reason.clone()).into())
    } else if *error == rustls::Error::NoCertificatesPresented {
        CertificateProblem::Missing
    } else {
        CertificateProblem::WrongNameOrUse
    }
}

/// The alerts of RFC 8446 §6.2 that concern certificates. An authority of the same name with
/// another key shows as `decrypt_error` (51): the signature does not verify.
fn problem_of(alert: u8) -> CertificateProblem {
    match alert {
        42 | 43 | 46 => CertificateProblem::WrongNameOrUse,
        45 => CertificateProblem::Expired,
        48 | 51 => CertificateProblem::UnknownAuthority,
        116 => CertificateProblem::Missing,
        other => CertificateProblem::Alert(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_codes_survive_the_wire() {
        for number in 0..12 {
            let code = CloseCode::from_number(number);
            assert_eq!(code.number().into_inner(), number);
        }
    }

    #[test]
    fn only_crypto_errors_are_alerts() {
        assert_eq!(alert_of(0x130), Some(48));
        assert_eq!(alert_of(0x30), None);
        assert_eq!(alert_of(0x230), None);
    }
}
