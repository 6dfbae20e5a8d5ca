//! Reaching peers: main connections as long as there is none, bulk connections on demand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{ClientConfig, Connection};
use raft_proto::{Class, NodeId, Refusal};
use tokio::sync::watch;

use crate::config::NetTiming;
use crate::error::{CloseCode, ConnectError};
use crate::hello::{Greeted, Greeting};
use crate::identity::node_name;
use crate::link;
use crate::peer::{Peer, Target, add};
use crate::race::{race, resolve};
use crate::transport::Shared;

/// Pauses between attempts: doubled each time, each drawn from the upper half of its range, so
/// that two nodes do not keep dialling each other at the same moment.
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
    random: u64,
}

impl Backoff {
    pub(crate) fn new(timing: &NetTiming) -> Self {
        Self {
            min: timing.reconnect_min,
            max: timing.reconnect_max,
            next: timing.reconnect_min,
            // Without randomness from the system the pauses are merely not jittered alike.
            random: getrandom::u64().unwrap_or(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.min;
    }

    /// From now on the longest pause.
    pub(crate) fn give_up_hurry(&mut self) {
        self.next = self.max;
    }

    pub(crate) fn pause(&mut self) -> Duration {
        // xorshift64: any generator will do for jitter.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let half = self.next / 2;
        let share = (self.random >> 32) as u32;
        let jitter = half.mul_f64(f64::from(share) / f64::from(u32::MAX));
        self.next = (self.next * 2).min(self.max);
        half + jitter
    }
}

/// Dials a peer whenever there is no connection to it, until it is dismissed.
pub(crate) async fn keep_connected(shared: Arc<Shared>, peer: Arc<Peer>) {
    let mut backoff = Backoff::new(&shared.config.timing);
    let mut target = peer.target.subscribe();
    while let Some(address) = address_to_dial(&mut target).await {
        match connect_main(&shared, &peer, &address).await {
            Attempt::Connected | Attempt::Overtaken => {
                backoff.reset();
                // The pause below then follows the loss of the connection: a peer that has just
                // died is not back yet.
                if address_to_dial(&mut target).await.is_none() {
                    return;
                }
            }
            Attempt::Failed(error) => report_failure(&shared, &peer, error, &mut backoff),
        }
        let over = target.wait_for(|t| t.is_dismissed || t.is_connected);
        let _ = tokio::time::timeout(backoff.pause(), over).await;
    }
}

/// Waits until there is no connection; `None` once the peer is dismissed.
async fn address_to_dial(target: &mut watch::Receiver<Target>) -> Option<String> {
    let wanted = target.wait_for(|t| t.is_dismissed || !t.is_connected);
    match wanted.await {
        Ok(target) if !target.is_dismissed => target.address.clone(),
        Ok(_) | Err(_) => None,
    }
}

enum Attempt {
    Connected,
    /// The peer reached us first.
    Overtaken,
    Failed(ConnectError),
}

async fn connect_main(shared: &Arc<Shared>, peer: &Arc<Peer>, address: &str) -> Attempt {
    let mut target = peer.target.subscribe();
    let handshake = async {
        let remotes = resolve(address).await?;
        race(&remotes, |remote| {
            handshake(shared, peer.id, remote, &shared.main_client)
        })
        .await
    };
    // Given up only before our hello was sent: after that the peer may already use it.
    let connection = tokio::select! {
        _ = target.wait_for(|t| t.is_dismissed || t.is_connected) => return Attempt::Overtaken,
        result = handshake => match result {
            Ok(connection) => connection,
            Err(error) => return Attempt::Failed(error),
        },
    };
    match greet(shared, peer.id, &connection).await {
        Ok(greeted) => match link::start(shared, peer, connection, greeted) {
            Ok(()) => Attempt::Connected,
            Err(code) => Attempt::Failed(ConnectError::ClosedByUs(code)),
        },
        Err(error) => {
            connection.close(error.code().number(), b"");
            Attempt::Failed(error)
        }
    }
}

fn report_failure(shared: &Shared, peer: &Peer, error: ConnectError, backoff: &mut Backoff) {
    if let ConnectError::RefusedByThem(refusal) = &error {
        // A refusal seldom changes soon, except one that is none.
        if *refusal != Refusal::Unavailable {
            backoff.give_up_hurry();
        }
        shared.handler.on_refused(peer.id, refusal);
    } else if let ConnectError::RefusedByUs(_) = &error {
        backoff.give_up_hurry();
    }
    shared.handler.on_connect_failed(peer.id, &error);
    let (node, id) = (shared.config.local.node.0, peer.id.0);
    if peer.set_error(error.clone()) {
        tracing::warn!(node, peer = id, %error, "cannot connect; attempts go on");
    } else {
        tracing::debug!(node, peer = id, %error, "still cannot connect");
    }
}

/// TLS handshake with the node of this id; rustls checks that the certificate names it.
async fn handshake(
    shared: &Shared,
    node: NodeId,
    remote: SocketAddr,
    config: &ClientConfig,
) -> Result<Connection, ConnectError> {
    let name = node_name(node, &shared.config.cluster_name);
    let connecting = shared
        .endpoint
        .connect_with(config.clone(), remote, &name)
        .map_err(|error| ConnectError::Start(error.to_string()))?;
    tokio::time::timeout(shared.config.timing.idle_timeout(), connecting)
        .await
        .map_err(|_| ConnectError::TimedOut)?
        .map_err(ConnectError::from)
}

async fn greet(
    shared: &Shared,
    node: NodeId,
    connection: &Connection,
) -> Result<Greeted, ConnectError> {
    Greeting {
        local: shared.config.local,
        peer: node,
        handler: &shared.handler,
        max_frame_bytes: shared.config.limits.max_frame_bytes,
        deadline: shared.config.timing.idle_timeout(),
    }
    .exchange(connection)
    .await
}

/// Opens a bulk connection whenever bulk traffic waits, until the peer is dismissed.
pub(crate) async fn keep_bulk(shared: Arc<Shared>, peer: Arc<Peer>) {
    let mut target = peer.target.subscribe();
    let mut backoff = Backoff::new(&shared.config.timing);
    loop {
        let bulk = async {
            peer.queue(Class::Bulk).filled().await;
            one_bulk_connection(&shared, &peer).await
        };
        let result = tokio::select! {
            _ = target.wait_for(|t| t.is_dismissed) => return,
            result = bulk => result,
        };
        peer.set_bulk(None);
        let Err(error) = result else {
            backoff.reset();
            continue;
        };
        let dropped = peer.queue(Class::Bulk).clear();
        add(&peer.counters.dropped[Class::Bulk as usize], dropped as u64);
        let (node, peer) = (shared.config.local.node.0, peer.id.0);
        tracing::debug!(node, peer, %error, dropped, "bulk connection failed");
        tokio::time::sleep(backoff.pause()).await;
    }
}

/// Dials, sends until idle. `Ok` if it ended because nothing was left to send.
async fn one_bulk_connection(shared: &Arc<Shared>, peer: &Arc<Peer>) -> Result<(), ConnectError> {
    // Nodes dial and accept on one socket, so where the peer is, is known from the main
    // connection even if the peer was never named.
    let Some(link) = peer.current() else {
        return Err(ConnectError::Lost("no main connection".to_owned()));
    };
    let remote = link.connection.remote_address();
    let connection = handshake(shared, peer.id, remote, &shared.bulk_client).await?;
    peer.set_bulk(Some(connection.clone()));
    let end = match greet(shared, peer.id, &connection).await {
        Ok(greeted) => link::send_bulk(shared, peer, greeted.send).await,
        Err(error) => Err(error),
    };
    let end = end.err();
    let code = end.as_ref().map_or(CloseCode::Idle, ConnectError::code);
    connection.close(code.number(), b"");
    match end {
        None | Some(ConnectError::ClosedByUs(CloseCode::Idle)) => Ok(()),
        Some(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_cap_and_start_over() {
        let timing = NetTiming::default();
        let mut backoff = Backoff::new(&timing);
        let mut range = timing.reconnect_min;
        for _ in 0..20 {
            let pause = backoff.pause();
            assert!(
                pause >= range / 2 && pause <= range,
                "{pause:?} of {range:?}"
            );
            range = (range * 2).min(timing.reconnect_max);
        }
        assert_eq!(range, timing.reconnect_max);
        backoff.reset();
        assert!(backoff.pause() <= timing.reconnect_min);
        backoff.give_up_hurry();
        assert!(backoff.pause() >= timing.reconnect_max / 2);
    }
}
