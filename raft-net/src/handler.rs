//! What the program above implements to hear from peers and clients.

use std::net::SocketAddr;

use bytes::Bytes;
use raft_proto::{
    Boot, ClusterId, GroupId, Hello, Incarnation, Message, NodeId, Refusal, Versions,
};

use crate::error::ConnectError;
use crate::listener::ClientConnection;

/// Receives what comes from peers. Called from the transport's tasks: apart from
/// [`admit`](Self::admit) nothing here may block, nor call
/// [`QuicTransport::set_peers`](crate::QuicTransport::set_peers).
pub trait PeerHandler: Send + Sync + 'static {
    /// The cluster this node belongs to, for its hello; `None` while it belongs to none.
    fn cluster(&self) -> Option<ClusterId>;

    /// The versions of the protocol this node speaks, for its hello. A peer that has none in common
    /// with it is refused.
    fn versions(&self) -> Versions {
        Versions::CURRENT
    }

    /// Decides whether a peer is welcome. Its certificate has been verified and compared with the
    /// hello. May block (to make the peer's boot durable); runs on a blocking thread. Asked once
    /// per connection, so more than once per boot.
    ///
    /// # Errors
    /// The refusal to tell the peer.
    fn admit(&self, hello: &Hello) -> Result<(), Refusal>;

    /// A message arrived. Order is kept within a class of traffic as long as one connection lasts.
    fn on_message(&self, from: NodeId, uncounted: bool, group: GroupId, message: Message);

    /// A peer is connected: this boot of this life of its data directory. Comes before its first
    /// message; calls for one peer never overlap, and between two of them there is always an
    /// [`on_peer_down`](Self::on_peer_down).
    fn on_peer_up(&self, peer: NodeId, incarnation: Incarnation, boot: Boot);

    /// A peer is not connected any more, or was replaced by a newer boot of itself.
    fn on_peer_down(&self, peer: NodeId);

    /// A peer refuses us ([`RefusalText`](crate::RefusalText) says it in words). Attempts go on, at
    /// the longest pause.
    fn on_refused(&self, peer: NodeId, refusal: &Refusal);

    /// An attempt to reach a peer failed; attempts go on. For logs and tests.
    fn on_connect_failed(&self, _peer: NodeId, _error: &ConnectError) {}

    /// An incoming connection was turned away. For logs and tests.
    fn on_rejected(&self, _remote: SocketAddr, _error: &ConnectError) {}
}

/// Receives what comes from clients. Nothing here may block.
pub trait ClientHandler: Send + Sync + 'static {
    /// A request arrived: to be answered, now or later and in any order, by
    /// [`ClientConnection::respond`] with the same `request_id`. `body` is what the client passed
    /// as head and payload, one after the other.
    fn on_request(&self, connection: &ClientConnection, request_id: u64, kind: u8, body: Bytes);

    /// A client connection (see [`ClientConnection::id`]) has ended; responses to it go nowhere.
    fn on_disconnect(&self, connection: u64);
}
