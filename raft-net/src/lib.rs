//! An authenticated QUIC transport for Raft: mutual TLS, a stream per class of traffic, bounded queues.
//!
//! A [`QuicTransport`] moves [`raft_proto::Message`]s between the nodes of a cluster and serves
//! clients, all on one UDP socket. It decides nothing about consensus: messages may be lost,
//! repeated connections may reorder them, and Raft repairs both.
//!
//! # Who may talk
//!
//! Every connection is mutually authenticated with TLS 1.3 against the cluster's own certificate
//! authority. A node's certificate carries the DNS name `n<ID>.<cluster>` ([`node_name`]) and
//! whatever addresses clients dial; a client's carries `client.<cluster>` ([`client_name`]). The
//! dialling side asks rustls for the name of the node it wants; the accepting side reads the name
//! from the certificate that rustls has verified. Then both say hello (cluster, node, incarnation,
//! boot), compare it with the certificate, and ask [`PeerHandler::admit`]. Whoever is turned away
//! is told why. Sessions are never resumed and nothing is sent before the handshake is complete.
//!
//! # How traffic is cut
//!
//! ```text
//!               raft/1 (one per pair, either side dials)
//!   node A  ===== control stream: votes, heartbeats, read rounds =====  node B
//!           ===== append stream: entries, acknowledgements       =====
//!
//!               raft-bulk/1 (one per direction, dialled by the sender on demand)
//!           ----- snapshots, repair: 128 KiB of credit ------------->
//!
//!               raft-kv/1 (clients)
//!   client  ===== one stream: requests and responses with ids    =====  node
//! ```
//!
//! quinn's send window is shared by all streams of a connection, so bulk traffic has connections
//! of its own. Its credit is that connection's send window: at most 128 KiB
//! ([`NetLimits::bulk_credit_bytes`]) are under way without an acknowledgement, so a heartbeat
//! never waits behind more than that.
//!
//! Each peer has a bounded queue per class. A full queue drops the message and counts it. A writer
//! takes everything that waits and writes it at once, so batches form by themselves under load and
//! nothing waits for them when there is none. Small payloads are copied next to their neighbours,
//! large ones are handed to quinn as they are.
//!
//! # Which connection stays
//!
//! Either node dials when there is no connection. A newer boot of a peer replaces its older
//! connection at once. Of two connections between the same boots the node of lower id keeps the
//! newer and finishes the other in order, so nothing under way is lost.
//!
//! # Invariants
//!
//! * A message is delivered only under the id that the sender's certificate names.
//! * [`PeerHandler::on_peer_up`] comes before a boot's first message; up and down alternate.
//! * Nothing a peer or client sends makes this crate panic or allocate beyond its limits;
//!   malformed bytes end the connection that they came on.
//! * No lock is held across an await, nothing polls, and sending never waits.
//!
//! # Example
//!
//! Two nodes and a heartbeat; certificates are made on the spot.
//!
//! ```
//! use std::net::UdpSocket;
//! use std::sync::Arc;
//!
//! use raft_net::{LocalIdentity, NetConfig, PeerHandler, QuicTransport, TlsIdentity, node_name};
//! use raft_proto::*;
//! use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
//!
//! struct Node {
//!     up: UnboundedSender<NodeId>,
//!     received: UnboundedSender<Message>,
//! }
//!
//! impl PeerHandler for Node {
//!     fn cluster(&self) -> Option<ClusterId> { None }
//!     fn admit(&self, _: &Hello) -> Result<(), Refusal> { Ok(()) }
//!     fn on_message(&self, _from: NodeId, _uncounted: bool, _: GroupId, message: Message) {
//!         let _ = self.received.send(message);
//!     }
//!     fn on_peer_up(&self, peer: NodeId, _: Incarnation, _: Boot) { let _ = self.up.send(peer); }
//!     fn on_peer_down(&self, _: NodeId) {}
//!     fn on_refused(&self, _: NodeId, _: &Refusal) {}
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let ca_key = rcgen::KeyPair::generate()?;
//! let mut ca = rcgen::CertificateParams::new(vec![])?;
//! ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
//! let ca_pem = ca.self_signed(&ca_key)?.pem();
//! let issuer = rcgen::Issuer::new(ca, ca_key);
//!
//! let (up, mut ups) = unbounded_channel();
//! let (received, mut inbox) = unbounded_channel();
//! let mut transports = Vec::new();
//! for node in [NodeId(1), NodeId(2)] {
//!     let key = rcgen::KeyPair::generate()?;
//!     let names = vec![node_name(node, "demo"), "127.0.0.1".into()];
//!     let certificate = rcgen::CertificateParams::new(names)?.signed_by(&key, &issuer)?;
//!     let tls = TlsIdentity::from_pem(&certificate.pem(), &key.serialize_pem(), &ca_pem)?;
//!     let local = LocalIdentity {
//!         node,
//!         incarnation: Incarnation(node.0),
//!         boot: Boot { counter: 1, nonce: 7 },
//!     };
//!     let handler = Arc::new(Node { up: up.clone(), received: received.clone() });
//!     let socket = UdpSocket::bind("127.0.0.1:0")?;
//!     let config = NetConfig::new(local, "demo", tls);
//!     transports.push(QuicTransport::bind(socket, config, handler, None)?);
//! }
//! let second = transports[1].local_addr()?.to_string();
//! transports[0].set_peers(&[(NodeId(2), second)]);
//! ups.recv().await;
//! ups.recv().await;
//!
//! let heartbeat = Message::Heartbeat(Heartbeat {
//!     term: Term(1),
//!     round: 1,
//!     commit_index: LogIndex(0),
//! });
//! transports[0].send(NodeId(2), &heartbeat, false)?;
//! assert_eq!(inbox.recv().await, Some(heartbeat));
//! transports[0].shutdown().await;
//! # Ok(())
//! # }
//! ```
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
mod outstanding;
mod peer;
mod queue;
mod quic;
mod race;
mod refusal;
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
pub use refusal::RefusalText;
pub use stats::{ClientStats, NetStats, PeerStats, StatsReader};
pub use tls::{BULK_PROTOCOL, CLIENT_PROTOCOL, PEER_PROTOCOL, TlsFiles, TlsIdentity};
pub use transport::QuicTransport;
