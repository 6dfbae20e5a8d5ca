//! The transport of `raft-net` behind this crate's [`Transport`].

use std::future::Future;
use std::net::UdpSocket;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use raft_net::{
    ClientHandler, LocalIdentity, NetConfig, NetLimits, NetTiming, PeerHandler, QuicTransport,
    StatsReader, TlsIdentity,
};
use raft_proto::{
    Boot, ClusterId, GroupId, Hello, Incarnation, Message, NodeId, Refusal, Versions,
};

use crate::link::Link;
use crate::transport::{SendError, Transport, TransportBuilder};

/// Builds a QUIC transport on a socket that is bound already, so that a port in use is an error
/// before anything else happens.
pub struct QuicBuilder {
    /// The node's one UDP socket, for peers and clients.
    pub socket: UdpSocket,
    /// The cluster's name, which every certificate names.
    pub cluster_name: String,
    /// Certificate, key and authorities.
    pub tls: TlsIdentity,
    /// Limits of queues, frames and buffers.
    pub limits: NetLimits,
    /// Timeouts and pauses.
    pub timing: NetTiming,
    /// Serves clients on the same socket.
    pub clients: Option<Arc<dyn ClientHandler>>,
    /// Gets a reader of the transport's counters as soon as there is a transport.
    pub stats: Arc<OnceLock<StatsReader>>,
}

impl TransportBuilder for QuicBuilder {
    fn start(self: Box<Self>, link: Link) -> Result<Box<dyn Transport>, String> {
        let config = NetConfig {
            local: LocalIdentity {
                node: link.node(),
                incarnation: link.incarnation(),
                boot: link.boot(),
            },
            cluster_name: self.cluster_name,
            tls: self.tls,
            limits: self.limits,
            timing: self.timing,
        };
        let max_frame_bytes = config.limits.max_frame_bytes as usize;
        let handler = Arc::new(LinkHandler(link));
        let transport = QuicTransport::bind(self.socket, config, handler, self.clients)
            .map_err(|error| error.to_string())?;
        // A slot that is filled already belongs to somebody else's transport.
        let _ = self.stats.set(transport.stats_reader());
        Ok(Box::new(Quic {
            transport,
            max_command_bytes: max_frame_bytes.saturating_sub(APPEND_HEAD_BYTES),
        }))
    }
}

/// More than the head of an append of one entry takes.
const APPEND_HEAD_BYTES: usize = 1 << 10;

struct Quic {
    transport: QuicTransport,
    max_command_bytes: usize,
}

struct LinkHandler(Link);

impl PeerHandler for LinkHandler {
    fn cluster(&self) -> Option<ClusterId> {
        self.0.cluster()
    }

    fn versions(&self) -> Versions {
        self.0.versions()
    }

    fn admit(&self, hello: &Hello) -> Result<(), Refusal> {
        self.0.admit(hello)
    }

    fn on_message(&self, from: NodeId, uncounted: bool, group: GroupId, message: Message) {
        if group == GroupId(0) {
            // What is dropped here, Raft repairs.
            let _ = self.0.deliver(from, uncounted, message);
        }
    }

    fn on_peer_up(&self, peer: NodeId, incarnation: Incarnation, boot: Boot) {
        self.0.peer_up(peer, incarnation, boot);
    }

    fn on_peer_down(&self, peer: NodeId) {
        self.0.peer_down(peer);
    }

    fn on_refused(&self, peer: NodeId, refusal: &Refusal) {
        self.0.refused(peer, refusal);
    }
}

impl Transport for Quic {
    fn send(&self, to: NodeId, uncounted: bool, message: Message) -> Result<(), SendError> {
        self.transport
            .send(to, &message, uncounted)
            .map_err(|error| match error {
                raft_net::SendError::QueueFull(_) => SendError::QueueFull,
                raft_net::SendError::UnknownPeer(_) => SendError::UnknownPeer,
                raft_net::SendError::NotConnected(_) | raft_net::SendError::ShutDown => {
                    SendError::NotConnected
                }
                raft_net::SendError::TooLarge { .. } | raft_net::SendError::Codec(_) => {
                    SendError::TooLarge
                }
            })
    }

    fn max_command_bytes(&self) -> usize {
        self.max_command_bytes
    }

    fn set_peers(&self, peers: &[(NodeId, String)]) {
        self.transport.set_peers(peers);
    }

    fn shutdown(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.transport.shutdown())
    }
}
