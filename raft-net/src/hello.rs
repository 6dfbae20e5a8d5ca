//! The first frames of every peer connection: both sides say who they are and answer each other.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, SendStream};
use raft_proto::{GroupId, Hello, HelloResponse, Message, NodeId, Refusal, wire};

use crate::config::LocalIdentity;
use crate::error::{ConnectError, ProtocolError};
use crate::framing::{FrameReader, write_chunks};
use crate::handler::PeerHandler;

/// Blocks of a peer stream's receive buffer, in bytes.
pub(crate) const PEER_BLOCK_BYTES: usize = 64 << 10;

/// A connection whose two sides have admitted each other.
pub(crate) struct Greeted {
    /// What the peer said.
    pub(crate) hello: Hello,
    /// Our first stream, at the frame after our answer.
    pub(crate) send: SendStream,
    /// Their first stream, at the frame after theirs.
    pub(crate) receive: FrameReader,
}

/// What the exchange needs to know.
pub(crate) struct Greeting<'a> {
    pub(crate) local: LocalIdentity,
    /// The peer, as its certificate says.
    pub(crate) peer: NodeId,
    pub(crate) handler: &'a Arc<dyn PeerHandler>,
    pub(crate) max_frame_bytes: u32,
    /// Bound on the whole exchange.
    pub(crate) deadline: Duration,
}

impl Greeting<'_> {
    /// Runs the exchange. The first stream of each side carries its hello and then its answer to
    /// the other's; both sides send their hello at once.
    pub(crate) async fn exchange(&self, connection: &Connection) -> Result<Greeted, ConnectError> {
        tokio::time::timeout(self.deadline, self.exchange_unbounded(connection))
            .await
            .map_err(|_| ConnectError::TimedOut)?
    }

    async fn exchange_unbounded(&self, connection: &Connection) -> Result<Greeted, ConnectError> {
        let mut send = connection.open_uni().await?;
        let hello = Hello {
            cluster: self.handler.cluster(),
            node: self.local.node,
            incarnation: self.local.incarnation,
            boot: self.local.boot,
            receiver: self.peer,
            versions: self.handler.versions(),
        };
        self.send(&mut send, &hello.into()).await?;
        let stream = connection.accept_uni().await?;
        let mut receive = FrameReader::new(stream, self.max_frame_bytes, PEER_BLOCK_BYTES);
        let first = next_message(&mut receive).await?;
        let Message::Hello(hello) = first else {
            return Err(unexpected("Hello", &first));
        };
        let refusal = self.judge(&hello).await?;
        let answer = HelloResponse {
            refusal: refusal.clone(),
        };
        self.send(&mut send, &answer.into()).await?;
        if let Some(refusal) = refusal {
            self.hear_refusal(&mut receive).await;
            // The answer must arrive before the connection is closed.
            let _ = send.finish();
            let _ = send.stopped().await;
            return Err(ConnectError::RefusedByUs(refusal));
        }
        let second = next_message(&mut receive).await?;
        let Message::HelloResponse(answer) = second else {
            return Err(unexpected("HelloResponse", &second));
        };
        match answer.refusal {
            Some(refusal) => Err(ConnectError::RefusedByThem(refusal)),
            None => Ok(Greeted {
                hello,
                send,
                receive,
            }),
        }
    }

    /// Both sides may refuse each other, and each wants to know why it is not welcome. Whoever has
    /// nothing to say is not waited for.
    async fn hear_refusal(&self, receive: &mut FrameReader) {
        let bound = self.deadline / 4;
        if let Ok(Ok(Message::HelloResponse(answer))) =
            tokio::time::timeout(bound, next_message(receive)).await
            && let Some(theirs) = answer.refusal
        {
            self.handler.on_refused(self.peer, &theirs);
        }
    }

    /// What can be judged from the hello alone, then the handler's opinion.
    async fn judge(&self, hello: &Hello) -> Result<Option<Refusal>, ConnectError> {
        if let Some(refusal) = mismatch(hello, self.peer, &self.local, self.handler.as_ref()) {
            return Ok(Some(refusal));
        }
        let (handler, hello) = (Arc::clone(self.handler), hello.clone());
        let verdict = tokio::task::spawn_blocking(move || handler.admit(&hello)).await;
        match verdict {
            Ok(verdict) => Ok(verdict.err()),
            Err(error) => Err(ConnectError::Lost(format!("admission failed: {error}"))),
        }
    }

    async fn send(&self, stream: &mut SendStream, message: &Message) -> Result<(), ConnectError> {
        let frame = wire::encode(GroupId(0), false, message).map_err(ProtocolError::from)?;
        let mut chunks: Vec<Bytes> = frame.chunks().collect();
        write_chunks(stream, &mut chunks, self.deadline).await
    }
}

fn mismatch(
    hello: &Hello,
    certified: NodeId,
    local: &LocalIdentity,
    handler: &dyn PeerHandler,
) -> Option<Refusal> {
    if hello.node != certified {
        return Some(Refusal::WrongIdentity { certified });
    }
    if hello.receiver != local.node {
        return Some(Refusal::WrongReceiver {
            receiver: local.node,
        });
    }
    let versions = handler.versions();
    if versions.in_common(hello.versions).is_none() {
        return Some(Refusal::NoCommonVersion { versions });
    }
    match (handler.cluster(), hello.cluster) {
        (Some(ours), Some(theirs)) if ours != theirs => {
            Some(Refusal::WrongCluster { cluster: ours })
        }
        (Some(_), Some(_)) | (None, _) | (_, None) => None,
    }
}

async fn next_message(receive: &mut FrameReader) -> Result<Message, ConnectError> {
    match receive.next().await? {
        Some((header, body)) => Ok(wire::decode(&header, &body).map_err(ProtocolError::from)?),
        None => Err(ProtocolError::StreamEnded("first").into()),
    }
}

fn unexpected(expected: &'static str, found: &Message) -> ConnectError {
    let found = found.name();
    ProtocolError::UnexpectedMessage { expected, found }.into()
}
