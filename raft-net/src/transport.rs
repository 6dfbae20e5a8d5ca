//! The transport itself: one UDP socket for peers and clients, and the handle to it.

use std::collections::HashMap;
use std::future::Future;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use quinn::{ClientConfig, Endpoint, ServerConfig};
use raft_proto::wire::{self, EncodedFrame};
use raft_proto::{Class, GroupId, Message, NodeId};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::config::NetConfig;
use crate::error::{CloseCode, ConnectError, NetError, SendError};
use crate::handler::{ClientHandler, PeerHandler};
use crate::identity::node_name;
use crate::peer::{Peer, add};
use crate::queue::{Batch, Rejected};
use crate::stats::{ClientCounters, NetStats, StatsReader};
use crate::tls::{BULK_PROTOCOL, CLIENT_PROTOCOL, PEER_PROTOCOL};
use crate::{accept, dial, quic};

/// What all tasks of a transport share.
pub(crate) struct Shared {
    pub(crate) config: NetConfig,
    pub(crate) endpoint: Endpoint,
    pub(crate) handler: Arc<dyn PeerHandler>,
    pub(crate) clients: Option<Arc<dyn ClientHandler>>,
    /// For dialling peers.
    pub(crate) main_client: ClientConfig,
    /// For dialling peers with bulk traffic.
    pub(crate) bulk_client: ClientConfig,
    peers: RwLock<HashMap<NodeId, Arc<Peer>>>,
    runtime: Handle,
    shutting_down: watch::Sender<bool>,
    flushing: Mutex<Option<mpsc::Sender<()>>>,
    flushed: Mutex<Option<mpsc::Receiver<()>>>,
    pub(crate) handshakes: AtomicUsize,
    pub(crate) client_connections: AtomicUsize,
    pub(crate) rejected: AtomicU64,
    pub(crate) client_counters: ClientCounters,
}

impl Shared {
    /// Runs a task on the transport's runtime, whichever thread asks.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    pub(crate) fn is_shutting_down(&self) -> bool {
        *self.shutting_down.borrow()
    }

    pub(crate) fn shutdown_signal(&self) -> watch::Receiver<bool> {
        self.shutting_down.subscribe()
    }

    /// Shutdown waits, within bounds, until all of these are dropped.
    pub(crate) fn flush_guard(&self) -> Option<mpsc::Sender<()>> {
        self.flushing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The peer of this id, known or new.
    pub(crate) fn peer(self: &Arc<Self>, id: NodeId) -> Arc<Peer> {
        if let Some(peer) = self.known_peer(id) {
            return peer;
        }
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        let entry = peers.entry(id);
        Arc::clone(entry.or_insert_with(|| {
            let peer = Peer::new(self.config.local.node, id, &self.config.limits);
            if self.is_shutting_down() {
                peer.retire_all();
            }
            self.spawn(dial::keep_bulk(Arc::clone(self), Arc::clone(&peer)));
            peer
        }))
    }

    pub(crate) fn known_peer(&self, id: NodeId) -> Option<Arc<Peer>> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.get(&id).cloned()
    }

    pub(crate) fn all_peers(&self) -> Vec<Arc<Peer>> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = peers.values().cloned().collect();
        all.sort_by_key(|peer| peer.id);
        all
    }

    fn forget_peer(&self, id: NodeId) {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        peers.remove(&id);
    }

    /// Counts, logs and reports an incoming connection that is turned away.
    pub(crate) fn reject(&self, remote: SocketAddr, error: &ConnectError) {
        add(&self.rejected, 1);
        let node = self.config.local.node.0;
        tracing::warn!(node, %remote, %error, "incoming connection turned away");
        self.handler.on_rejected(remote, error);
    }
}

/// An authenticated QUIC transport. Cheap to share behind an `Arc`; all methods may be called
/// from any thread.
///
/// Dropping it ends every connection at once; [`shutdown`](Self::shutdown) is the orderly way.
pub struct QuicTransport {
    shared: Arc<Shared>,
}

impl QuicTransport {
    /// Starts a transport on a socket that is already bound, so that a port in use is the
    /// caller's own early error. Must be called within a tokio runtime; all of the transport's
    /// tasks run on it.
    ///
    /// Without `clients` the client protocol is not offered.
    ///
    /// # Errors
    /// [`NetError`]: unusable settings, TLS files or socket. Our own certificate is checked like
    /// a peer's, so an expired or foreign one is found here.
    pub fn bind(
        socket: UdpSocket,
        config: NetConfig,
        peers: Arc<dyn PeerHandler>,
        clients: Option<Arc<dyn ClientHandler>>,
    ) -> Result<Self, NetError> {
        config.validate()?;
        let own_name = node_name(config.local.node, &config.cluster_name);
        config.tls.check_server_certificate(&own_name)?;
        config.tls.check_client_certificate()?;
        let (limits, timing) = (&config.limits, &config.timing);
        let main = quic::transport_config(limits, timing, limits.send_window_bytes)?;
        let bulk = quic::transport_config(limits, timing, limits.bulk_credit_bytes)?;

        let mut protocols = vec![PEER_PROTOCOL, BULK_PROTOCOL];
        protocols.extend(clients.is_some().then_some(CLIENT_PROTOCOL));
        let mut server = ServerConfig::with_crypto(Arc::new(config.tls.server(&protocols)?));
        server.transport_config(Arc::clone(&main)).migration(false);
        let mut main_client = ClientConfig::new(Arc::new(config.tls.client(PEER_PROTOCOL)?));
        main_client.transport_config(main);
        let mut bulk_client = ClientConfig::new(Arc::new(config.tls.client(BULK_PROTOCOL)?));
        bulk_client.transport_config(bulk);

        let endpoint = quic::endpoint(socket, Some(server), limits, Some(config.local.node))?;
        let (flushing, flushed) = mpsc::channel(1);
        let shared = Arc::new(Shared {
            config,
            endpoint,
            handler: peers,
            clients,
            main_client,
            bulk_client,
            peers: RwLock::default(),
            runtime: Handle::current(),
            shutting_down: watch::Sender::new(false),
            flushing: Mutex::new(Some(flushing)),
            flushed: Mutex::new(Some(flushed)),
            handshakes: AtomicUsize::new(0),
            client_connections: AtomicUsize::new(0),
            rejected: AtomicU64::new(0),
            client_counters: ClientCounters::default(),
        });
        shared.spawn(accept::accept_all(Arc::clone(&shared)));
        Ok(Self { shared })
    }

    /// The address of the socket.
    ///
    /// # Errors
    /// [`NetError::Socket`].
    pub fn local_addr(&self) -> Result<SocketAddr, NetError> {
        Ok(self.shared.endpoint.local_addr()?)
    }

    /// Names the peers to keep connections with, as `host:port`. Peers that are no longer named
    /// are disconnected; peers that connect by themselves and are admitted need not be named.
    /// Our own id is skipped.
    pub fn set_peers(&self, peers: &[(NodeId, String)]) {
        let local = self.shared.config.local.node;
        for (id, address) in peers.iter().filter(|(id, _)| *id != local) {
            let peer = self.shared.peer(*id);
            let mut is_new = false;
            peer.target.send_if_modified(|target| {
                is_new = target.address.is_none() && !target.is_dismissed;
                let changed = target.address.as_ref() != Some(address);
                target.address = Some(address.clone());
                changed
            });
            if is_new {
                self.shared
                    .spawn(dial::keep_connected(Arc::clone(&self.shared), peer));
            }
        }
        for peer in self.shared.all_peers() {
            let is_named = peers.iter().any(|(id, _)| *id == peer.id);
            if !is_named && peer.target.borrow().address.is_some() {
                self.shared.forget_peer(peer.id);
                peer.dismiss(CloseCode::Removed);
                peer.report(self.shared.handler.as_ref());
            }
        }
    }

    /// Queues a message to a peer; its class decides on the stream. Never waits. `Ok` means
    /// queued, not delivered.
    ///
    /// # Errors
    /// [`SendError`]; the message is dropped then.
    pub fn send(&self, to: NodeId, message: &Message, uncounted: bool) -> Result<(), SendError> {
        let frame = wire::encode(GroupId(0), uncounted, message)?;
        self.send_frame(to, message.class(), &frame)
    }

    /// Queues a frame that is already encoded, for example the same one to several peers.
    ///
    /// # Errors
    /// [`SendError`]; the frame is dropped then.
    pub fn send_frame(
        &self,
        to: NodeId,
        class: Class,
        frame: &EncodedFrame,
    ) -> Result<(), SendError> {
        let bytes = frame.len();
        let limit = self.shared.config.limits.max_whole_frame_bytes();
        if bytes > limit {
            return Err(SendError::TooLarge {
                found: bytes,
                limit,
            });
        }
        let peers = &self.shared.peers;
        let peers = peers.read().unwrap_or_else(PoisonError::into_inner);
        let peer = peers.get(&to).ok_or(SendError::UnknownPeer(to))?;
        if !peer.target.borrow().is_connected {
            return Err(SendError::NotConnected(to));
        }
        peer.push(class, bytes, |batch: &mut Batch| batch.push_encoded(frame))
            .map_err(|rejected| match rejected {
                Rejected::Full => SendError::QueueFull(to),
                Rejected::Closed => SendError::ShutDown,
            })
    }

    /// What happened so far.
    #[must_use]
    pub fn stats(&self) -> NetStats {
        NetStats::of(&self.shared)
    }

    /// Reads the same from anywhere, for as long as the transport lives.
    #[must_use]
    pub fn stats_reader(&self) -> StatsReader {
        StatsReader::new(&self.shared)
    }

    /// Writes what is queued, tells the other sides, and waits for them; all within
    /// [`NetTiming::shutdown`](crate::NetTiming::shutdown). Nothing can be sent afterwards.
    pub async fn shutdown(&self) {
        let bound = self.shared.config.timing.shutdown;
        self.shared.shutting_down.send_replace(true);
        for peer in self.shared.all_peers() {
            peer.retire_all();
        }
        // Every writer holds a sender; the receiver ends when all of them are gone.
        drop(take(&self.shared.flushing));
        if let Some(mut flushed) = take(&self.shared.flushed) {
            let _ = tokio::time::timeout(bound, flushed.recv()).await;
        }
        self.close(bound).await;
    }

    async fn close(&self, bound: Duration) {
        let endpoint = &self.shared.endpoint;
        endpoint.close(CloseCode::ShutDown.number(), b"");
        let _ = tokio::time::timeout(bound, endpoint.wait_idle()).await;
    }
}

impl Drop for QuicTransport {
    fn drop(&mut self) {
        self.shared.shutting_down.send_replace(true);
        for peer in self.shared.all_peers() {
            peer.dismiss(CloseCode::ShutDown);
        }
        self.shared
            .endpoint
            .close(CloseCode::ShutDown.number(), b"");
    }
}

fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}
