//! The serving end of client connections: requests in, responses out in any order, both bounded.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quinn::{Connection, SendStream};

use crate::accept::Slot;
use crate::config::QueueLimits;
use crate::error::{CloseCode, ConnectError, ProtocolError, SendError};
use crate::framing::{FrameReader, write_chunks};
use crate::handler::ClientHandler;
use crate::identity::CertifiedName;
use crate::outstanding::Outstanding;
use crate::queue::{Rejected, SendQueue};
use crate::request::{self, ID_BYTES, KIND_WELCOME, Outgoing, WELCOME_ID};
use crate::transport::Shared;

/// Blocks of a client stream's receive buffer, in bytes. Small, because a request that is kept
/// keeps its block, and there may be thousands of connections.
const CLIENT_BLOCK_BYTES: usize = 16 << 10;
/// Queued response bytes at which a client is disconnected, as a multiple of those at which no
/// more requests are read from it.
const RESPONSE_HARD_LIMIT: usize = 4;

/// A client's connection, to answer on. Cheap to clone and to keep beside a pending request.
#[derive(Clone)]
pub struct ClientConnection {
    state: Arc<State>,
}

struct State {
    id: u64,
    name: CertifiedName,
    connection: Connection,
    queue: SendQueue,
    outstanding: Outstanding,
    max_response_bytes: usize,
    max_body_bytes: u32,
}

impl fmt::Debug for ClientConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConnection")
            .field("id", &self.state.id)
            .field("name", &self.state.name)
            .finish_non_exhaustive()
    }
}

impl ClientConnection {
    /// A number that no other connection of this process has.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.state.id
    }

    /// Whom the client's certificate names.
    #[must_use]
    pub fn name(&self) -> &CertifiedName {
        &self.state.name
    }

    /// Where the client is.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.state.connection.remote_address()
    }

    /// Queues the answer to a request; `kind` is the application's, except 0. Never waits;
    /// answers that are queued together are written together. The client receives `head` and
    /// `payloads` as one body.
    ///
    /// # Errors
    /// [`SendError::TooLarge`]: nothing was queued, answer with something smaller.
    /// [`SendError::ShutDown`]: the connection has ended, or was ended now because the client
    /// does not read its responses.
    pub fn respond(
        &self,
        request_id: u64,
        kind: u8,
        head: &[u8],
        payloads: &[Bytes],
    ) -> Result<(), SendError> {
        let outgoing = Outgoing {
            id: request_id,
            kind,
            head,
            payloads,
        };
        self.queue(&outgoing)?;
        self.state.outstanding.end(request_id);
        Ok(())
    }

    fn queue(&self, outgoing: &Outgoing<'_>) -> Result<(), SendError> {
        let limit = self.state.max_body_bytes;
        let bytes = outgoing.frame_bytes(limit).ok_or(SendError::TooLarge {
            found: outgoing.head.len() + outgoing.payloads.iter().map(Bytes::len).sum::<usize>(),
            limit: limit as usize,
        })?;
        let queued = self
            .state
            .queue
            .push(bytes, |batch| outgoing.append_to(batch));
        queued.map(drop).map_err(|rejected| {
            if rejected == Rejected::Full {
                self.close(CloseCode::Overloaded);
            }
            SendError::ShutDown
        })
    }

    /// Disconnects the client.
    pub fn disconnect(&self) {
        self.close(CloseCode::ShutDown);
    }

    fn close(&self, code: CloseCode) {
        self.state.queue.close();
        self.state.connection.close(code.number(), b"");
    }
}

/// Serves one client connection to its end.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    connection: Connection,
    name: CertifiedName,
) -> Result<(), ConnectError> {
    let Some(handler) = shared.clients.clone() else {
        return Err(ConnectError::NoCommonProtocol);
    };
    let _slot = Slot::take(shared, |shared| &shared.client_connections);
    let most = shared.config.limits.max_client_connections;
    if shared.client_connections.load(Ordering::Relaxed) > most {
        return Err(ConnectError::ClosedByUs(CloseCode::Overloaded));
    }
    match serve_admitted(shared, &handler, connection, name).await {
        // How clients leave is no news to anybody.
        Ok(()) | Err(ConnectError::ClosedByPeer(_) | ConnectError::TimedOut) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn serve_admitted(
    shared: &Arc<Shared>,
    handler: &Arc<dyn ClientHandler>,
    connection: Connection,
    name: CertifiedName,
) -> Result<(), ConnectError> {
    let (send, receive) = connection.accept_bi().await?;
    let client = new_client(shared, connection, name);
    let limit = shared.config.limits.max_request_bytes;
    let max_body = limit.saturating_add(ID_BYTES as u32);
    let mut reader = FrameReader::new(receive, max_body, CLIENT_BLOCK_BYTES);
    welcome(shared, &client, &mut reader).await?;

    let mut writing = tokio::task::JoinSet::new();
    let shutdown = shared.shutdown_signal();
    writing.spawn(write(Arc::clone(shared), client.clone(), send, shutdown));
    let end = read(shared, &client, handler, reader).await;
    let code = end
        .as_ref()
        .err()
        .map_or(CloseCode::Idle, ConnectError::code);
    client.close(code);
    handler.on_disconnect(client.id());
    end
}

fn new_client(shared: &Shared, connection: Connection, name: CertifiedName) -> ClientConnection {
    static NEXT_ID: AtomicU64 = AtomicU64::new(1);
    let limits = &shared.config.limits;
    let queue = QueueLimits {
        messages: usize::MAX,
        bytes: limits
            .max_response_bytes
            .saturating_mul(RESPONSE_HARD_LIMIT),
    };
    ClientConnection {
        state: Arc::new(State {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            name,
            connection,
            queue: SendQueue::new(queue),
            outstanding: Outstanding::new(
                limits.max_outstanding_requests,
                limits.max_outstanding_bytes,
            ),
            max_response_bytes: limits.max_response_bytes,
            max_body_bytes: u32::MAX / 2,
        }),
    }
}

/// The client's first frame is answered with our node id, so that its connecting succeeds only if
/// it is welcome.
async fn welcome(
    shared: &Shared,
    client: &ClientConnection,
    reader: &mut FrameReader,
) -> Result<(), ConnectError> {
    let bound = shared.config.timing.idle_timeout();
    let first = tokio::time::timeout(bound, reader.next())
        .await
        .map_err(|_| ConnectError::TimedOut)??;
    match first {
        Some((header, _)) if header.kind == KIND_WELCOME => {}
        Some(_) | None => {
            return Err(ProtocolError::UnexpectedMessage {
                expected: "the welcome frame",
                found: "another frame",
            }
            .into());
        }
    }
    let answer = Outgoing {
        id: WELCOME_ID,
        kind: KIND_WELCOME,
        head: &shared.config.local.node.0.to_le_bytes(),
        payloads: &[],
    };
    client
        .queue(&answer)
        .map_err(|error| ConnectError::Lost(error.to_string()))
}

async fn read(
    shared: &Shared,
    client: &ClientConnection,
    handler: &Arc<dyn ClientHandler>,
    mut reader: FrameReader,
) -> Result<(), ConnectError> {
    while let Some((header, body)) = reader.next().await? {
        shared.client_counters.received(body.len());
        let (id, body) = request::split(&header, body)?;
        let state = &client.state;
        state.outstanding.begin(id, body.len());
        handler.on_request(client, id, header.kind, body);
        let are_responses_read = || state.queue.bytes() < state.max_response_bytes;
        state.outstanding.wait_for_room(are_responses_read).await;
    }
    Ok(())
}

async fn write(
    shared: Arc<Shared>,
    client: ClientConnection,
    mut stream: SendStream,
    mut shutdown: tokio::sync::watch::Receiver<bool>,
) {
    let _flushing = shared.flush_guard();
    let stall = shared.config.timing.client_stall;
    let shutting_down = shutdown.wait_for(|is_down| *is_down);
    tokio::pin!(shutting_down);
    loop {
        let batch = tokio::select! {
            biased;
            _ = &mut shutting_down => break,
            batch = client.state.queue.take() => batch,
        };
        shared.client_counters.sending(&batch);
        if let Err(error) = write_chunks(&mut stream, &mut batch.into_chunks(), stall).await {
            return client.close(error.code());
        }
        client.state.outstanding.wake();
    }
    if let Some(batch) = client.state.queue.try_take() {
        let _ = write_chunks(&mut stream, &mut batch.into_chunks(), stall).await;
    }
    let _ = stream.finish();
    let _ = stream.stopped().await;
}
