//! The client's end: connections on which many requests are under way at once.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes};
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream};
use raft_proto::NodeId;
use thiserror::Error;
use tokio::sync::oneshot;

use crate::config::{NetLimits, NetTiming, QueueLimits};
use crate::error::{CloseCode, ConnectError, NetError, ProtocolError};
use crate::framing::{FrameReader, write_chunks};
use crate::queue::{Rejected, SendQueue};
use crate::quic;
use crate::race::{race, resolve};
use crate::request::{self, KIND_WELCOME, Outgoing, WELCOME_ID};
use crate::tls::{CLIENT_PROTOCOL, TlsIdentity};

/// Blocks of the receive buffer, in bytes.
const BLOCK_BYTES: usize = 64 << 10;

/// Bounds and timeouts of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientOptions {
    /// Largest request body, in bytes; the server has its own limit.
    pub max_request_bytes: u32,
    /// Largest response body accepted, in bytes.
    pub max_response_bytes: u32,
    /// Requests waiting to be written on one connection.
    pub queue: QueueLimits,
    /// Silence after which a connection is given up. The server's own timeout may be shorter.
    pub idle_timeout: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            max_request_bytes: 16 << 20,
            max_response_bytes: 256 << 20,
            queue: QueueLimits {
                messages: 65_536,
                bytes: 64 << 20,
            },
            idle_timeout: Duration::from_secs(5),
        }
    }
}

/// A UDP socket from which connections to servers are made. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ClientEndpoint {
    v4: Endpoint,
    v6: Option<Endpoint>,
    config: ClientConfig,
    options: ClientOptions,
}

impl ClientEndpoint {
    /// Makes an endpoint on a port of the system's choice. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`NetError`]; an expired or foreign certificate is found here.
    pub fn new(tls: &TlsIdentity, options: ClientOptions) -> Result<Self, NetError> {
        tls.check_client_certificate()?;
        let limits = NetLimits::default();
        let timing = NetTiming {
            // A connection is idle after twice the election timeout.
            election_timeout_max: options.idle_timeout / 2,
            ..NetTiming::default()
        };
        let mut config = ClientConfig::new(Arc::new(tls.client(CLIENT_PROTOCOL)?));
        config.transport_config(quic::transport_config(
            &limits,
            &timing,
            limits.send_window_bytes,
        )?);
        let bind = |address: SocketAddr| -> Result<Endpoint, NetError> {
            quic::endpoint(UdpSocket::bind(address)?, None, &limits, None)
        };
        Ok(Self {
            v4: bind((Ipv4Addr::UNSPECIFIED, 0).into())?,
            // Not every machine has IPv6.
            v6: bind((Ipv6Addr::UNSPECIFIED, 0).into()).ok(),
            config,
            options,
        })
    }

    /// Connects to `host:port` within `deadline`. The server's certificate must name that host or
    /// address. Returns only when the server has accepted our certificate too.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(
        &self,
        address: &str,
        deadline: Duration,
    ) -> Result<ClientConnection, ConnectError> {
        tokio::time::timeout(deadline, self.connect_unbounded(address))
            .await
            .map_err(|_| ConnectError::TimedOut)?
    }

    async fn connect_unbounded(&self, address: &str) -> Result<ClientConnection, ConnectError> {
        let remotes = resolve(address).await?;
        race(&remotes, |remote| self.reach(remote, host_of(address))).await
    }

    /// Returns only when the server has accepted our certificate, too.
    async fn reach(
        &self,
        remote: SocketAddr,
        host: &str,
    ) -> Result<ClientConnection, ConnectError> {
        let endpoint = match (remote, &self.v6) {
            (SocketAddr::V6(_), Some(v6)) => v6,
            (SocketAddr::V6(_), None) | (SocketAddr::V4(_), _) => &self.v4,
        };
        let connection = endpoint
            .connect_with(self.config.clone(), remote, host)
            .map_err(|error| ConnectError::Start(error.to_string()))?
            .await?;
        let (send, receive) = connection.open_bi().await?;
        ClientConnection::start(connection, send, receive, &self.options).await
    }

    /// Closes every connection and waits until the servers know, within `bound`.
    pub async fn shutdown(&self, bound: Duration) {
        for endpoint in std::iter::once(&self.v4).chain(&self.v6) {
            endpoint.close(CloseCode::ShutDown.number(), b"");
            let _ = tokio::time::timeout(bound, endpoint.wait_idle()).await;
        }
    }
}

/// The part of `host:port` that the certificate must name.
fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The application's kind.
    pub kind: u8,
    /// The server's head and payloads, one after the other.
    pub body: Bytes,
}

/// Whether a request that got no answer may have reached the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It was never given to the network: it had no effect.
    No,
    /// It may have arrived, and may have had, or yet have, its effect.
    Maybe,
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// The connection has ended.
    #[error("disconnected: {reason}")]
    Disconnected {
        /// Whether the request may have reached the server.
        sent: Sent,
        /// Why the connection ended.
        reason: ConnectError,
    },
    /// Too much is waiting to be written; nothing was sent.
    #[error("too many requests are waiting to be sent")]
    QueueFull,
    /// The request exceeds the limit; nothing was sent.
    #[error("a request of {found} bytes exceeds the limit of {limit} bytes")]
    TooLarge {
        /// Bytes of head and payload.
        found: usize,
        /// Bytes allowed.
        limit: usize,
    },
}

/// A connection to one server. Cheap to clone; all clones share one stream, and requests that are
/// made at the same time are written together. Closed when the last clone is dropped.
#[derive(Clone)]
pub struct ClientConnection {
    handle: Arc<ConnectionHandle>,
}

/// Closes the connection when the last user is gone; the tasks hold only [`Inner`].
struct ConnectionHandle {
    inner: Arc<Inner>,
    node: NodeId,
}

impl Drop for ConnectionHandle {
    fn drop(&mut self) {
        self.inner
            .end(ConnectError::ClosedByUs(CloseCode::ShutDown));
    }
}

struct Inner {
    connection: Connection,
    queue: SendQueue,
    calls: Mutex<Calls>,
    max_request_bytes: u32,
}

/// The calls under way.
#[derive(Default)]
struct Calls {
    waiting: HashMap<u64, oneshot::Sender<Answer>, BuildHasherDefault<IdHasher>>,
    next_id: u64,
    /// Ids below this have been given to the network.
    taken_below: u64,
    ended: Option<ConnectError>,
}

type Answer = Result<Response, RequestError>;

/// Ids are consecutive numbers of our own making, so they are good hashes already.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, id: u64) {
        // The table takes its control bits from the top: spread the low ones there.
        self.0 = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl fmt::Debug for ClientConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConnection")
            .field("node", &self.handle.node)
            .field("remote", &self.remote_address())
            .finish_non_exhaustive()
    }
}

impl ClientConnection {
    async fn start(
        connection: Connection,
        mut send: SendStream,
        receive: RecvStream,
        options: &ClientOptions,
    ) -> Result<Self, ConnectError> {
        let mut reader = FrameReader::new(receive, options.max_response_bytes, BLOCK_BYTES);
        let node = greet(&mut send, &mut reader, options.idle_timeout).await?;
        let inner = Arc::new(Inner {
            connection,
            queue: SendQueue::new(options.queue),
            calls: Mutex::new(Calls {
                next_id: WELCOME_ID + 1,
                taken_below: WELCOME_ID + 1,
                ..Calls::default()
            }),
            max_request_bytes: options.max_request_bytes,
        });
        tokio::spawn(write(Arc::clone(&inner), send, options.idle_timeout));
        tokio::spawn(read(Arc::clone(&inner), reader));
        Ok(Self {
            handle: Arc::new(ConnectionHandle { inner, node }),
        })
    }

    /// Sends a request and waits for its response; `kind` is the application's, except 0. The
    /// server receives `head` and `payload` as one body.
    ///
    /// There is no deadline here: drop the future (for example with `tokio::time::timeout`) to
    /// stop waiting. A server that falls silent fails all requests after the idle timeout.
    ///
    /// # Errors
    /// [`RequestError`]. [`Sent`] tells whether the request may have had an effect.
    pub async fn request(&self, kind: u8, head: &[u8], payload: Bytes) -> Answer {
        let inner = &self.handle.inner;
        let (id, answer) = inner.submit(kind, head, payload)?;
        let _forget = ForgetOnDrop { inner, id };
        match answer.await {
            Ok(answer) => answer,
            // The sender goes only together with an answer, or with the runtime.
            Err(_) => Err(RequestError::Disconnected {
                sent: Sent::Maybe,
                reason: ConnectError::ClosedByUs(CloseCode::ShutDown),
            }),
        }
    }

    /// The server's node id, as it says itself.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.handle.node
    }

    /// Where the server is.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.handle.inner.connection.remote_address()
    }

    /// Why the connection has ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<ConnectError> {
        self.handle.inner.calls().ended.clone()
    }

    /// Requests that wait for their responses.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.handle.inner.calls().waiting.len()
    }

    /// Closes the connection; outstanding requests fail.
    pub fn close(&self) {
        let reason = ConnectError::ClosedByUs(CloseCode::ShutDown);
        self.handle.inner.end(reason);
    }
}

/// Forgets a call that nobody waits for any more.
struct ForgetOnDrop<'a> {
    inner: &'a Inner,
    id: u64,
}

impl Drop for ForgetOnDrop<'_> {
    fn drop(&mut self) {
        self.inner.calls().waiting.remove(&self.id);
    }
}

impl Inner {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a request under a fresh id. Ids enter the queue in their order.
    fn submit(
        &self,
        kind: u8,
        head: &[u8],
        payload: Bytes,
    ) -> Result<(u64, oneshot::Receiver<Answer>), RequestError> {
        let found = head.len() + payload.len();
        let mut calls = self.calls();
        let id = calls.next_id;
        let payloads = [payload];
        let outgoing = Outgoing {
            id,
            kind,
            head,
            payloads: &payloads,
        };
        let limit = self.max_request_bytes;
        let bytes = outgoing
            .frame_bytes(limit.saturating_add(request::ID_BYTES as u32))
            .ok_or(RequestError::TooLarge {
                found,
                limit: limit as usize,
            })?;
        let queued = self.queue.push(bytes, |batch| outgoing.append_to(batch));
        match (queued, calls.ended.clone()) {
            (Ok(_), None) => {}
            (Err(Rejected::Full), None) => return Err(RequestError::QueueFull),
            (Ok(_) | Err(_), reason) => {
                return Err(RequestError::Disconnected {
                    sent: Sent::No,
                    reason: reason.unwrap_or(ConnectError::ClosedByUs(CloseCode::ShutDown)),
                });
            }
        }
        calls.next_id += 1;
        let (sender, receiver) = oneshot::channel();
        calls.waiting.insert(id, sender);
        Ok((id, receiver))
    }

    /// Fails everything that waits, once.
    fn end(&self, reason: ConnectError) {
        self.connection.close(reason.code().number(), b"");
        let mut calls = self.calls();
        if calls.ended.is_some() {
            return;
        }
        calls.ended = Some(reason.clone());
        self.queue.close();
        let taken_below = calls.taken_below;
        for (id, waiting) in calls.waiting.drain() {
            let sent = if id < taken_below {
                Sent::Maybe
            } else {
                Sent::No
            };
            let reason = reason.clone();
            // A caller that has gone needs no answer.
            let _ = waiting.send(Err(RequestError::Disconnected { sent, reason }));
        }
    }
}

async fn greet(
    send: &mut SendStream,
    reader: &mut FrameReader,
    stall: Duration,
) -> Result<NodeId, ConnectError> {
    let hello = Outgoing {
        id: WELCOME_ID,
        kind: KIND_WELCOME,
        head: &[],
        payloads: &[],
    };
    let mut batch = crate::queue::Batch::default();
    hello.append_to(&mut batch);
    write_chunks(send, &mut batch.into_chunks(), stall).await?;
    let unexpected = |found| ProtocolError::UnexpectedMessage {
        expected: "the server's welcome",
        found,
    };
    let Some((header, body)) = reader.next().await? else {
        return Err(ProtocolError::StreamEnded("response").into());
    };
    let (_, mut rest) = request::split(&header, body)?;
    if header.kind != KIND_WELCOME || rest.len() != size_of::<u64>() {
        return Err(unexpected("another frame").into());
    }
    Ok(NodeId(rest.get_u64_le()))
}

async fn write(inner: Arc<Inner>, mut stream: SendStream, stall: Duration) {
    let connection = inner.connection.clone();
    let closed = connection.closed();
    tokio::pin!(closed);
    loop {
        tokio::select! {
            () = inner.queue.filled() => {}
            _ = &mut closed => return,
        }
        let batch = {
            let mut calls = inner.calls();
            calls.taken_below = calls.next_id;
            inner.queue.try_take()
        };
        let Some(batch) = batch else { continue };
        if let Err(error) = write_chunks(&mut stream, &mut batch.into_chunks(), stall).await {
            return inner.end(error);
        }
    }
}

async fn read(inner: Arc<Inner>, mut reader: FrameReader) {
    let reason = loop {
        match reader.next().await {
            Ok(Some((header, body))) => match request::split(&header, body) {
                Ok((id, body)) => {
                    let kind = header.kind;
                    let waiting = inner.calls().waiting.remove(&id);
                    if let Some(waiting) = waiting {
                        // A caller that has gone needs no answer.
                        let _ = waiting.send(Ok(Response { kind, body }));
                    }
                }
                Err(error) => break error.into(),
            },
            Ok(None) => break ConnectError::ClosedByPeer(CloseCode::ShutDown),
            Err(error) => break error,
        }
    };
    inner.end(reason);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certified_host_is_what_stands_before_the_port() {
        assert_eq!(host_of("127.0.0.1:7001"), "127.0.0.1");
        assert_eq!(host_of("[::1]:7001"), "::1");
        assert_eq!(host_of("db1.example.com:7001"), "db1.example.com");
    }
}
