//! Counters, as a caller reads them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use raft_proto::{Boot, Class, NodeId};

use crate::error::ConnectError;
use crate::peer::{Peer, add};
use crate::queue::Batch;
use crate::transport::Shared;

/// What a transport has done since it started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetStats {
    /// Incoming connections turned away.
    pub rejected_connections: u64,
    /// All clients together.
    pub clients: ClientStats,
    /// Every peer, by id. One that is removed takes its counters along.
    pub peers: Vec<PeerStats>,
}

/// All clients together. Counters run since the transport started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientStats {
    /// Connections at the moment.
    pub connections: usize,
    /// Requests received.
    pub received_messages: u64,
    /// Bytes of request bodies received.
    pub received_bytes: u64,
    /// Responses written.
    pub sent_messages: u64,
    /// Bytes of responses written.
    pub sent_bytes: u64,
}

/// One peer. Counters run since the transport started; those by class are in the order of
/// [`Class::ALL`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStats {
    /// The peer.
    pub node: NodeId,
    /// The boot it is connected with, if it is.
    pub connected: Option<Boot>,
    /// Main connections so far.
    pub connections: u64,
    /// Messages written, by class.
    pub sent_messages: [u64; 3],
    /// Bytes written, by class.
    pub sent_bytes: [u64; 3],
    /// Messages received, by class.
    pub received_messages: [u64; 3],
    /// Bytes of message bodies received, by class.
    pub received_bytes: [u64; 3],
    /// Messages dropped because a queue was full or the connection went, by class.
    pub dropped: [u64; 3],
    /// Messages waiting now, by class.
    pub queued_messages: [usize; 3],
    /// Bytes waiting now, by class.
    pub queued_bytes: [usize; 3],
    /// Smoothed round-trip time of the main connection.
    pub round_trip: Option<Duration>,
    /// UDP payload size in use on the main connection, in bytes.
    pub udp_payload_bytes: Option<u16>,
    /// Packets lost on the main connection.
    pub lost_packets: u64,
    /// Why the last attempt to connect failed, if no later one succeeded.
    pub last_error: Option<ConnectError>,
}

/// Reads a transport's counters from any thread. Does not keep the transport alive, nor its
/// socket open. Cheap to clone.
#[derive(Clone)]
pub struct StatsReader {
    shared: Weak<Shared>,
}

impl std::fmt::Debug for StatsReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StatsReader").finish_non_exhaustive()
    }
}

impl StatsReader {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::downgrade(shared),
        }
    }

    /// What happened so far; `None` once the transport is gone.
    #[must_use]
    pub fn read(&self) -> Option<NetStats> {
        self.shared.upgrade().map(|shared| NetStats::of(&shared))
    }
}

/// Counters of all client connections.
#[derive(Debug, Default)]
pub(crate) struct ClientCounters {
    received_messages: AtomicU64,
    received_bytes: AtomicU64,
    sent_messages: AtomicU64,
    sent_bytes: AtomicU64,
}

impl ClientCounters {
    /// A request with a body of this many bytes arrived.
    pub(crate) fn received(&self, bytes: usize) {
        add(&self.received_messages, 1);
        add(&self.received_bytes, bytes as u64);
    }

    /// Responses that waited are written.
    pub(crate) fn sending(&self, batch: &Batch) {
        add(&self.sent_messages, batch.frames() as u64);
        add(&self.sent_bytes, batch.bytes() as u64);
    }
}

impl NetStats {
    pub(crate) fn of(shared: &Shared) -> Self {
        let counters = &shared.client_counters;
        let peers = shared.all_peers();
        Self {
            rejected_connections: read(&shared.rejected),
            clients: ClientStats {
                connections: shared.client_connections.load(Ordering::Relaxed),
                received_messages: read(&counters.received_messages),
                received_bytes: read(&counters.received_bytes),
                sent_messages: read(&counters.sent_messages),
                sent_bytes: read(&counters.sent_bytes),
            },
            peers: peers.iter().map(|peer| PeerStats::of(peer)).collect(),
        }
    }
}

impl PeerStats {
    fn of(peer: &Peer) -> Self {
        let link = peer.current();
        let path = link.as_ref().map(|link| link.connection.stats().path);
        let counters = &peer.counters;
        Self {
            node: peer.id,
            connected: link.as_ref().map(|link| link.life.boot),
            connections: read(&counters.connections),
            sent_messages: read_all(&counters.sent_messages),
            sent_bytes: read_all(&counters.sent_bytes),
            received_messages: read_all(&counters.received_messages),
            received_bytes: read_all(&counters.received_bytes),
            dropped: read_all(&counters.dropped),
            queued_messages: Class::ALL.map(|class| peer.queue(class).frames()),
            queued_bytes: Class::ALL.map(|class| peer.queue(class).bytes()),
            round_trip: path.map(|path| path.rtt),
            udp_payload_bytes: path.map(|path| path.current_mtu),
            lost_packets: path.map_or(0, |path| path.lost_packets),
            last_error: peer.last_error(),
        }
    }
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn read_all(counters: &[AtomicU64; 3]) -> [u64; 3] {
    [0, 1, 2].map(|class: usize| read(&counters[class]))
}
