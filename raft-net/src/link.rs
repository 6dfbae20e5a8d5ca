//! The life of one established connection between two nodes: two readers, two writers, one end.

use std::sync::Arc;

use quinn::{Connection, SendStream};
use raft_proto::{Class, wire};
use tokio::task::JoinSet;

use crate::error::{CloseCode, ConnectError, ProtocolError};
use crate::framing::{FrameReader, write_chunks};
use crate::hello::{Greeted, PEER_BLOCK_BYTES};
use crate::peer::{Life, Link, Peer};
use crate::transport::Shared;

/// Pieces that bulk payloads are cut into: quinn's credit is given back piece by piece.
const BULK_PIECE_BYTES: usize = 16 << 10;
/// Control streams go before append streams whenever both have something to send.
const CONTROL_PRIORITY: i32 = 1;

/// Takes a greeted main connection into service: when this returns, messages flow.
///
/// # Errors
/// The code the connection was closed with, if it is not wanted.
pub(crate) fn start(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    connection: Connection,
    greeted: Greeted,
) -> Result<(), CloseCode> {
    let life = Life {
        incarnation: greeted.hello.incarnation,
        boot: greeted.hello.boot,
    };
    let link = Link::new(connection, life);
    if let Err(code) = peer.install(&link) {
        link.close(code);
        return Err(code);
    }
    peer.report(shared.handler.as_ref());
    shared.spawn(run(Arc::clone(shared), Arc::clone(peer), link, greeted));
    Ok(())
}

async fn run(shared: Arc<Shared>, peer: Arc<Peer>, link: Arc<Link>, greeted: Greeted) {
    let boot = link.life.boot.counter;
    let remote = link.connection.remote_address();
    let (node, id) = (shared.config.local.node.0, peer.id.0);
    tracing::info!(node, peer = id, boot, %remote, "peer connected");
    let end = serve(&shared, &peer, &link, greeted).await;
    link.close(end.code());
    peer.remove(&link);
    peer.report(shared.handler.as_ref());
    let is_replaced = matches!(
        end,
        ConnectError::ClosedByUs(CloseCode::Replaced)
            | ConnectError::ClosedByPeer(CloseCode::Replaced)
    );
    if is_replaced {
        // Both sides dialled, or one came back: another connection of the pair goes on.
        tracing::debug!(node, peer = id, boot, %end, "peer connection ended");
    } else {
        tracing::info!(node, peer = id, boot, %end, "peer connection ended");
    }
}

impl ConnectError {
    /// What to tell the other side when this ends a connection.
    pub(crate) fn code(&self) -> CloseCode {
        match self {
            Self::ClosedByUs(code) => *code,
            Self::ClosedByPeer(_) => CloseCode::Replaced,
            Self::Malformed(_) => CloseCode::Malformed,
            Self::Identity(_) | Self::NotANode { .. } => CloseCode::WrongCertificate,
            Self::RefusedByUs(_) | Self::RefusedByThem(_) => CloseCode::Refused,
            Self::TimedOut
            | Self::Lost(_)
            | Self::Resolve { .. }
            | Self::Start(_)
            | Self::TheirCertificate { .. }
            | Self::OurCertificate(_)
            | Self::NoCommonProtocol => CloseCode::Stalled,
        }
    }
}

/// Runs the four tasks until one fails or all have finished; says why it is over.
async fn serve(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    link: &Arc<Link>,
    greeted: Greeted,
) -> ConnectError {
    let append = match link.connection.open_uni().await {
        Ok(stream) => stream,
        Err(error) => return error.into(),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(write(
        Arc::clone(shared),
        Arc::clone(peer),
        Arc::clone(link),
        Class::Control,
        greeted.send,
    ));
    tasks.spawn(write(
        Arc::clone(shared),
        Arc::clone(peer),
        Arc::clone(link),
        Class::Append,
        append,
    ));
    tasks.spawn(read_control(
        Arc::clone(shared),
        Arc::clone(peer),
        Arc::clone(link),
        greeted.receive,
    ));
    tasks.spawn(read_append(
        Arc::clone(shared),
        Arc::clone(peer),
        Arc::clone(link),
    ));
    let finished = ConnectError::ClosedByUs(CloseCode::Replaced);
    match first_end(&mut tasks).await {
        Some(error) => return error,
        None if tasks.is_empty() => return finished,
        None => {}
    }
    // One stream has finished in order, so the connection is on its way out: the rest may take
    // no longer than silence would.
    let rest = async {
        while !tasks.is_empty() {
            if let Some(error) = first_end(&mut tasks).await {
                return error;
            }
        }
        finished
    };
    tokio::time::timeout(shared.config.timing.idle_timeout(), rest)
        .await
        .unwrap_or(ConnectError::ClosedByUs(CloseCode::Replaced))
}

/// Waits for one task; returns why it failed, if it did.
async fn first_end(tasks: &mut JoinSet<Result<(), ConnectError>>) -> Option<ConnectError> {
    match tasks.join_next().await? {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error),
        Err(panic) => Some(ConnectError::Lost(format!("a task failed: {panic}"))),
    }
}

/// Writes what waits in a class's queue until the link is retired.
async fn write(
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    link: Arc<Link>,
    class: Class,
    mut stream: SendStream,
) -> Result<(), ConnectError> {
    let _flushing = shared.flush_guard();
    if class == Class::Control {
        // Fails only on a finished stream, which this is not.
        let _ = stream.set_priority(CONTROL_PRIORITY);
    }
    let stall = shared.config.timing.election_timeout_max;
    let mut retirement = link.retirement();
    let retired = retirement.wait_for(|retired| *retired);
    tokio::pin!(retired);
    loop {
        let batch = tokio::select! {
            biased;
            _ = &mut retired => break,
            batch = peer.queue(class).take() => batch,
        };
        peer.counters.sending(class, &batch);
        write_chunks(&mut stream, &mut batch.into_chunks(), stall).await?;
    }
    if shared.is_shutting_down()
        && let Some(batch) = peer.queue(class).try_take()
    {
        write_chunks(&mut stream, &mut batch.into_chunks(), stall).await?;
    }
    let _ = stream.finish();
    // Resolves when the peer has acknowledged everything, so closing loses nothing.
    let _ = stream.stopped().await;
    Ok(())
}

async fn read_control(
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    link: Arc<Link>,
    reader: FrameReader,
) -> Result<(), ConnectError> {
    deliver(&shared, &peer, Some(&link), Class::Control, reader).await?;
    peer.peer_finished(&link);
    Ok(())
}

async fn read_append(
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    link: Arc<Link>,
) -> Result<(), ConnectError> {
    let stream = link.connection.accept_uni().await?;
    let max = shared.config.limits.max_frame_bytes;
    let reader = FrameReader::new(stream, max, PEER_BLOCK_BYTES);
    deliver(&shared, &peer, Some(&link), Class::Append, reader).await
}

/// Hands every message of a stream to the handler until the stream ends.
async fn deliver(
    shared: &Shared,
    peer: &Peer,
    link: Option<&Link>,
    class: Class,
    mut reader: FrameReader,
) -> Result<(), ConnectError> {
    while let Some((header, body)) = reader.next().await? {
        peer.counters.received(class, body.len());
        let message = wire::decode(&header, &body).map_err(ProtocolError::from)?;
        check_class(&message, class)?;
        if link.is_some_and(Link::is_dead) {
            return Err(ConnectError::ClosedByUs(CloseCode::Replaced));
        }
        let uncounted = header.is_uncounted();
        shared
            .handler
            .on_message(peer.id, uncounted, header.group, message);
    }
    Ok(())
}

fn check_class(message: &raft_proto::Message, stream: Class) -> Result<(), ProtocolError> {
    use raft_proto::{HelloResponse, Message};
    let message_name = message.name();
    // A refusal may come later than the hellos: who was welcome then is no member any more.
    let welcome = HelloResponse { refusal: None };
    if matches!(message, Message::Hello(_)) || *message == Message::HelloResponse(welcome) {
        return Err(ProtocolError::UnexpectedMessage {
            expected: "a message after the hellos",
            found: message_name,
        });
    }
    if message.class() != stream {
        return Err(ProtocolError::WrongStream {
            message: message_name,
            stream,
        });
    }
    Ok(())
}

/// Receives bulk traffic on a connection that the peer dialled for it.
pub(crate) async fn receive_bulk(
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    connection: Connection,
    greeted: Greeted,
) {
    // Our side of the connection has nothing more to say.
    let Greeted {
        mut send, receive, ..
    } = greeted;
    let _ = send.finish();
    let end = deliver(&shared, &peer, None, Class::Bulk, receive).await;
    let code = end
        .as_ref()
        .err()
        .map_or(CloseCode::Idle, ConnectError::code);
    connection.close(code.number(), b"");
    if let Err(error) = end {
        let (node, peer) = (shared.config.local.node.0, peer.id.0);
        tracing::debug!(node, peer, %error, "incoming bulk connection ended");
    }
}

/// Sends bulk traffic on a connection of our own until it was idle for long.
pub(crate) async fn send_bulk(
    shared: &Shared,
    peer: &Peer,
    mut stream: SendStream,
) -> Result<(), ConnectError> {
    let _flushing = shared.flush_guard();
    let timing = &shared.config.timing;
    let class = Class::Bulk;
    let queue = peer.queue(class);
    loop {
        let Ok(batch) = tokio::time::timeout(timing.bulk_idle, queue.take()).await else {
            return Err(ConnectError::ClosedByUs(CloseCode::Idle));
        };
        peer.counters.sending(class, &batch);
        let mut pieces = batch.into_chunks_of(BULK_PIECE_BYTES);
        write_chunks(&mut stream, &mut pieces, timing.election_timeout_max).await?;
    }
}
