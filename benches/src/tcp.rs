//! Raft over TCP and TLS: a second implementation of the runtime's transport, as plain as it can be
//! made, to compare QUIC with. One connection for votes, heartbeats and entries and one for bulk
//! traffic, TLS 1.3 with certificates on both sides, whatever waits in one write.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use raft_node::{Link, SendError, Transport, TransportBuilder};
use raft_proto::frame::{self, HEADER_BYTES};
use raft_proto::{Class, GroupId, Hello, Message, NodeId, wire};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::Failure;
use crate::tls::{Identity, NAME};

/// Largest frame body in bytes.
const MAX_BODY_BYTES: u32 = 20 << 20;
/// What may wait for a peer on one connection, in bytes; one frame above it is still taken.
const MAX_WAITING_BYTES: usize = 16 << 20;
/// How much is read at a time, in bytes.
const READ_BYTES: usize = 256 << 10;
/// Pause before a peer that could not be reached is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// Which of a pair of nodes' two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Messages,
    Bulk,
}

impl Lane {
    const ALL: [Self; 2] = [Self::Messages, Self::Bulk];

    const fn of(class: Class) -> Self {
        match class {
            Class::Control | Class::Append => Self::Messages,
            Class::Bulk => Self::Bulk,
        }
    }
}

/// Builds a TCP transport on a listener that is bound already.
pub struct TcpBuilder {
    /// Where peers connect to.
    pub listener: TcpListener,
    /// The certificate that all nodes share.
    pub identity: Arc<Identity>,
}

impl TransportBuilder for TcpBuilder {
    fn start(self: Box<Self>, link: Link) -> Result<Box<dyn Transport>, String> {
        let start = || {
            let acceptor = TlsAcceptor::from(Arc::new(self.identity.server()?));
            let connector = TlsConnector::from(Arc::new(self.identity.client()?));
            self.listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(self.listener)?;
            let shared = Arc::new(Shared {
                link,
                connector,
                state: Mutex::default(),
            });
            let accepting = tokio::spawn(accept(Arc::clone(&shared), listener, acceptor));
            lock(&shared.state).tasks.push(accepting.abort_handle());
            Ok::<_, Failure>(Tcp { shared })
        };
        let started = start().map_err(|error| error.to_string())?;
        Ok(Box::new(started))
    }
}

struct Tcp {
    shared: Arc<Shared>,
}

struct Shared {
    link: Link,
    connector: TlsConnector,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where each peer is; only these are talked to.
    addresses: BTreeMap<NodeId, String>,
    /// Peers that a task keeps connected.
    dialled: BTreeMap<(NodeId, Lane), AbortHandle>,
    outs: BTreeMap<(NodeId, Lane), Arc<Out>>,
    tasks: Vec<AbortHandle>,
}

/// Bytes that wait for a connection.
#[derive(Default)]
struct Out {
    waiting: Mutex<Vec<u8>>,
    changed: Notify,
}

impl Transport for Tcp {
    fn send(&self, to: NodeId, uncounted: bool, message: Message) -> Result<(), SendError> {
        let lane = Lane::of(message.class());
        let out = {
            let state = lock(&self.shared.state);
            if !state.addresses.contains_key(&to) {
                return Err(SendError::UnknownPeer);
            }
            let out = state.outs.get(&(to, lane));
            Arc::clone(out.ok_or(SendError::NotConnected)?)
        };
        let frame = wire::encode(GroupId(0), uncounted, &message);
        let frame = frame.map_err(|_| SendError::TooLarge)?;
        if frame.len() > HEADER_BYTES + MAX_BODY_BYTES as usize {
            return Err(SendError::TooLarge);
        }
        let mut waiting = lock(&out.waiting);
        if !waiting.is_empty() && waiting.len() + frame.len() > MAX_WAITING_BYTES {
            return Err(SendError::QueueFull);
        }
        frame
            .chunks()
            .for_each(|chunk| waiting.extend_from_slice(&chunk));
        drop(waiting);
        out.changed.notify_one();
        Ok(())
    }

    fn max_command_bytes(&self) -> usize {
        16 << 20
    }

    fn set_peers(&self, peers: &[(NodeId, String)]) {
        let mut state = lock(&self.shared.state);
        state.addresses = peers.iter().cloned().collect();
        // The lower id dials, so that there is one connection for each lane.
        for (peer, _) in peers
            .iter()
            .filter(|(peer, _)| *peer > self.shared.link.node())
        {
            for lane in Lane::ALL {
                state.dialled.entry((*peer, lane)).or_insert_with(|| {
                    let dialling = dial(Arc::clone(&self.shared), *peer, lane);
                    tokio::spawn(dialling).abort_handle()
                });
            }
        }
    }

    fn shutdown(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let mut state = lock(&self.shared.state);
        let state = std::mem::take(&mut *state);
        state
            .tasks
            .iter()
            .chain(state.dialled.values())
            .for_each(AbortHandle::abort);
        Box::pin(std::future::ready(()))
    }
}

async fn accept(shared: Arc<Shared>, listener: tokio::net::TcpListener, tls: TlsAcceptor) {
    while let Ok((stream, _)) = listener.accept().await {
        let (shared, tls) = (Arc::clone(&shared), tls.clone());
        let state = Arc::clone(&shared);
        let serving = tokio::spawn(async move {
            // Whoever connects and is nobody has no say; the peer tries again.
            let _ = serve(&shared, stream, &tls).await;
        });
        lock(&state.state).tasks.push(serving.abort_handle());
    }
}

async fn serve(shared: &Shared, stream: TcpStream, tls: &TlsAcceptor) -> Result<(), Failure> {
    stream.set_nodelay(true)?;
    let mut stream = tls.accept(stream).await?;
    let lane = match stream.read_u8().await? {
        0 => Lane::Messages,
        _ => Lane::Bulk,
    };
    let hello = read_hello(&mut stream).await?;
    admit(shared, &hello).await?;
    write_hello(shared, &mut stream, hello.node).await?;
    carry(shared, stream, &hello, lane).await
}

/// Keeps one lane to a peer connected.
async fn dial(shared: Arc<Shared>, peer: NodeId, lane: Lane) {
    loop {
        let address = lock(&shared.state).addresses.get(&peer).cloned();
        if let Some(address) = address {
            // Whatever ended it, the next attempt finds out.
            let _ = connect(&shared, &address, peer, lane).await;
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn connect(shared: &Shared, address: &str, peer: NodeId, lane: Lane) -> Result<(), Failure> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(NAME)?;
    let mut stream = shared.connector.connect(name, stream).await?;
    stream.write_u8(u8::from(lane == Lane::Bulk)).await?;
    write_hello(shared, &mut stream, peer).await?;
    let hello = read_hello(&mut stream).await?;
    if hello.node != peer {
        return Err("another node is at this address".into());
    }
    admit(shared, &hello).await?;
    carry(shared, stream, &hello, lane).await
}

async fn admit(shared: &Shared, hello: &Hello) -> Result<(), Failure> {
    let (link, hello) = (shared.link.clone(), hello.clone());
    let admitted = tokio::task::spawn_blocking(move || link.admit(&hello)).await?;
    admitted.map_err(|refusal| format!("{refusal:?}").into())
}

async fn write_hello(
    shared: &Shared,
    stream: &mut (impl AsyncWrite + Unpin),
    peer: NodeId,
) -> Result<(), Failure> {
    let hello = Message::Hello(shared.link.hello(peer));
    let frame = wire::encode(GroupId(0), false, &hello)?;
    stream.write_all(&frame.to_vec()).await?;
    stream.flush().await?;
    Ok(())
}

async fn read_hello(stream: &mut (impl AsyncRead + Unpin)) -> Result<Hello, Failure> {
    let mut buffer = vec![0; HEADER_BYTES];
    stream.read_exact(&mut buffer).await?;
    let body = u32::from_le_bytes(*buffer.first_chunk().ok_or("a header is longer")?);
    buffer.resize(HEADER_BYTES + body.min(1 << 16) as usize, 0);
    stream.read_exact(&mut buffer[HEADER_BYTES..]).await?;
    let (header, body) = frame::split(&Bytes::from(buffer), 1 << 16)?;
    let message = wire::decode(&header, &body)?;
    if let Message::Hello(hello) = message {
        return Ok(hello);
    }
    Err(format!("a hello was expected, not {}", message.name()).into())
}

/// Carries frames both ways until the connection ends.
async fn carry(
    shared: &Shared,
    stream: impl AsyncRead + AsyncWrite,
    hello: &Hello,
    lane: Lane,
) -> Result<(), Failure> {
    let peer = hello.node;
    let out = Arc::<Out>::default();
    lock(&shared.state)
        .outs
        .insert((peer, lane), Arc::clone(&out));
    if lane == Lane::Messages {
        shared.link.peer_up(peer, hello.incarnation, hello.boot);
    }
    let (reader, writer) = tokio::io::split(stream);
    let ended = tokio::select! {
        ended = read(shared, peer, reader) => ended,
        ended = write(&out, writer) => ended,
    };
    let is_latest = {
        let mut state = lock(&shared.state);
        let latest = state.outs.get(&(peer, lane));
        let is_latest = latest.is_some_and(|latest| Arc::ptr_eq(latest, &out));
        if is_latest {
            state.outs.remove(&(peer, lane));
        }
        is_latest
    };
    if is_latest && lane == Lane::Messages {
        shared.link.peer_down(peer);
    }
    ended
}

async fn read(
    shared: &Shared,
    peer: NodeId,
    mut stream: impl AsyncRead + Unpin,
) -> Result<(), Failure> {
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    loop {
        while let Some((header, body)) = frame::take(&mut buffer, MAX_BODY_BYTES)? {
            let message = wire::decode(&header, &body)?;
            // What is dropped here, Raft repairs.
            let _ = shared.link.deliver(peer, header.is_uncounted(), message);
        }
        buffer.reserve(READ_BYTES);
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

async fn write(out: &Out, mut stream: impl AsyncWrite + Unpin) -> Result<(), Failure> {
    loop {
        out.changed.notified().await;
        let bytes = std::mem::take(&mut *lock(&out.waiting));
        stream.write_all(&bytes).await?;
        stream.flush().await?;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that could panic halfway through a change runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
