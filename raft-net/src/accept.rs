//! Incoming connections: handshake, identity from the certificate, then by protocol.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, Incoming};
use raft_proto::NodeId;
use rustls_pki_types::CertificateDer;

use crate::error::{CloseCode, ConnectError, IdentityError};
use crate::hello::{Greeted, Greeting};
use crate::identity::{CertifiedName, certified_name};
use crate::tls::{BULK_PROTOCOL, CLIENT_PROTOCOL, PEER_PROTOCOL};
use crate::transport::Shared;
use crate::{link, listener};

/// Accepts until the endpoint is closed.
pub(crate) async fn accept_all(shared: Arc<Shared>) {
    let limit = shared.config.limits.max_handshakes;
    while let Some(incoming) = shared.endpoint.accept().await {
        let in_progress = shared.handshakes.load(Ordering::Relaxed);
        if in_progress >= limit * 2 {
            incoming.refuse();
        } else if in_progress >= limit && incoming.may_retry() {
            // Whoever forges addresses never answers this; a real peer does, one round trip later.
            if let Err(error) = incoming.retry() {
                let node = shared.config.local.node.0;
                tracing::debug!(node, %error, "address check not sent");
            }
        } else {
            let slot = Slot::take(&shared, |shared| &shared.handshakes);
            shared.spawn(accept_one(Arc::clone(&shared), incoming, slot));
        }
    }
}

/// One of a counted number of places; given back when dropped.
pub(crate) struct Slot {
    shared: Arc<Shared>,
    counter: fn(&Shared) -> &AtomicUsize,
}

impl Slot {
    pub(crate) fn take(shared: &Arc<Shared>, counter: fn(&Shared) -> &AtomicUsize) -> Self {
        counter(shared).fetch_add(1, Ordering::Relaxed);
        Self {
            shared: Arc::clone(shared),
            counter,
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        (self.counter)(&self.shared).fetch_sub(1, Ordering::Relaxed);
    }
}

async fn accept_one(shared: Arc<Shared>, incoming: Incoming, slot: Slot) {
    let remote = incoming.remote_address();
    let connection = match handshake(&shared, incoming).await {
        Ok(connection) => connection,
        Err(error) => return shared.reject(remote, &error),
    };
    if let Err(error) = admit(&shared, &connection, slot).await {
        shared.reject(remote, &error);
        connection.close(error.code().number(), b"");
    }
}

async fn handshake(shared: &Shared, incoming: Incoming) -> Result<Connection, ConnectError> {
    let connecting = incoming.accept()?;
    let bound = shared.config.timing.idle_timeout();
    let connection = tokio::time::timeout(bound, connecting)
        .await
        .map_err(|_| ConnectError::TimedOut)??;
    Ok(connection)
}

async fn admit(
    shared: &Arc<Shared>,
    connection: &Connection,
    slot: Slot,
) -> Result<(), ConnectError> {
    let name = identity(connection, &shared.config.cluster_name)?;
    match protocol(connection)? {
        Protocol::Peer => {
            let (node, greeted) = greet(shared, connection, name).await?;
            let peer = shared.peer(node);
            link::start(shared, &peer, connection.clone(), greeted)
                .map_err(ConnectError::ClosedByUs)?;
        }
        Protocol::Bulk => {
            let (node, greeted) = greet(shared, connection, name).await?;
            let peer = shared.peer(node);
            let (shared, connection) = (Arc::clone(shared), connection.clone());
            drop(slot);
            link::receive_bulk(shared, peer, connection, greeted).await;
        }
        Protocol::Client => {
            drop(slot);
            listener::serve(shared, connection.clone(), name).await?;
        }
    }
    Ok(())
}

enum Protocol {
    Peer,
    Bulk,
    Client,
}

fn protocol(connection: &Connection) -> Result<Protocol, ConnectError> {
    let data = connection
        .handshake_data()
        .and_then(|data| data.downcast::<HandshakeData>().ok());
    match data.and_then(|data| data.protocol).as_deref() {
        Some(PEER_PROTOCOL) => Ok(Protocol::Peer),
        Some(BULK_PROTOCOL) => Ok(Protocol::Bulk),
        Some(CLIENT_PROTOCOL) => Ok(Protocol::Client),
        Some(_) | None => Err(ConnectError::NoCommonProtocol),
    }
}

/// Whom the certificate names that the TLS stack has verified.
fn identity(connection: &Connection, cluster: &str) -> Result<CertifiedName, IdentityError> {
    let chain = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
        .ok_or(IdentityError::Missing)?;
    let leaf = chain.first().ok_or(IdentityError::Missing)?;
    certified_name(leaf, cluster)
}

async fn greet(
    shared: &Shared,
    connection: &Connection,
    name: CertifiedName,
) -> Result<(NodeId, Greeted), ConnectError> {
    let node = match name {
        CertifiedName::Node(node) => node,
        CertifiedName::Client(client) => return Err(ConnectError::NotANode { client }),
    };
    if node == shared.config.local.node {
        return Err(ConnectError::ClosedByUs(CloseCode::WrongCertificate));
    }
    let greeting = Greeting {
        local: shared.config.local,
        peer: node,
        handler: &shared.handler,
        max_frame_bytes: shared.config.limits.max_frame_bytes,
        deadline: shared.config.timing.idle_timeout(),
    };
    let greeted = greeting.exchange(connection).await;
    if let Err(ConnectError::RefusedByThem(refusal)) = &greeted {
        shared.handler.on_refused(node, refusal);
    }
    Ok((node, greeted?))
}
