//! An authenticated QUIC transport for Raft: mutual TLS, a stream per class of traffic, bounded queues.
#![forbid(unsafe_code)]

mod accept;
pub mod client;
mod config;
mod dial;
mod error;
mod framing;
mod handler;
mod hello;
mod identity;
mod link;
mod listener;
mod peer;
mod queue;
mod quic;
mod request;
mod stats;
mod tls;
mod transport;

pub use config::{LocalIdentity, NetConfig, NetLimits, NetTiming, QueueLimits};
pub use error::{
    CertificateProblem, CloseCode, ConnectError, IdentityError, NetError, ProtocolError, SendError,
};
pub use handler::{ClientHandler, PeerHandler};
pub use identity::{CertifiedName, certified_name, client_name, node_name};
pub use listener::ClientConnection;
pub use stats::{NetStats, PeerStats};
pub use tls::{BULK_PROTOCOL, CLIENT_PROTOCOL, PEER_PROTOCOL, TlsFiles, TlsIdentity};
pub use transport::QuicTransport;
