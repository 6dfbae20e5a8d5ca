//! How a node reaches its peers: an object-safe trait, so that any network can carry a group.

use std::future::Future;
use std::pin::Pin;

use raft_proto::{Message, NodeId};
use thiserror::Error;

use crate::link::Link;

/// Why a message was not sent. None of these needs handling beyond counting: Raft repairs lost
/// messages by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SendError {
    /// The peer's queue for this class of traffic is full.
    #[error("the peer's queue is full")]
    QueueFull,
    /// There is no connection to the peer at the moment.
    #[error("the peer is not connected")]
    NotConnected,
    /// The peer is not in the list given to [`Transport::set_peers`].
    #[error("the peer is unknown")]
    UnknownPeer,
    /// The message cannot be put on the wire.
    #[error("the message exceeds what the wire can carry")]
    TooLarge,
}

/// Carries messages to peers. What arrives from them goes to the [`Link`] that the transport was
/// started with.
pub trait Transport: Send + Sync {
    /// Queues a message and returns at once. Messages of one class to one peer should arrive in
    /// order and at most once while a connection lives; none of that is needed for safety.
    ///
    /// # Errors
    /// [`SendError`]; the message is then dropped.
    fn send(&self, to: NodeId, uncounted: bool, message: Message) -> Result<(), SendError>;

    /// Largest command that fits into one message, in bytes.
    fn max_command_bytes(&self) -> usize {
        usize::MAX
    }

    /// Replaces the list of peers to keep connected (id and `host:port`), this node excluded.
    fn set_peers(&self, peers: &[(NodeId, String)]);

    /// Ends all connections; done when the future is.
    fn shutdown(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// Starts a [`Transport`] on the node's own thread, inside its tokio runtime.
pub trait TransportBuilder: Send + 'static {
    /// Called once. Everything that arrives goes to `link`.
    ///
    /// # Errors
    /// A message for a person: what failed and what to do.
    fn start(self: Box<Self>, link: Link) -> Result<Box<dyn Transport>, String>;
}
