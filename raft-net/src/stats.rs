//! Counters, as a caller reads them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use raft_proto::{Boot, Class, NodeId};

use crate::error::ConnectError;
use crate::peer::Peer;

/// What a transport has done since it started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetStats {
    /// Incoming connections turned away.
    pub rejected_connections: u64,
    /// Client connections at the moment.
    pub client_connections: usize,
    /// Every peer, by id.
    pub peers: Vec<PeerStats>,
}

/// One peer. Counters run since the transport started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStats {
    /// The peer.
    pub node: NodeId,
    /// The boot it is connected with, if it is.
    pub connected: Option<Boot>,
    /// Main connections so far.
    pub connections: u64,
    /// Messages written.
    pub sent_messages: u64,
    /// Bytes written.
    pub sent_bytes: u64,
    /// Messages received.
    pub received_messages: u64,
    /// Bytes of message bodies received, by class in the order of [`Class::ALL`].
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

impl PeerStats {
    pub(crate) fn of(peer: &Peer) -> Self {
        let link = peer.current();
        let path = link.as_ref().map(|link| link.connection.stats().path);
        let counters = &peer.counters;
        Self {
            node: peer.id,
            connected: link.as_ref().map(|link| link.life.boot),
            connections: read(&counters.connections),
            sent_messages: read(&counters.sent_messages),
            sent_bytes: read(&counters.sent_bytes),
            received_messages: read(&counters.received_messages),
            received_bytes: [0, 1, 2].map(|class: usize| read(&counters.received_bytes[class])),
            dropped: [0, 1, 2].map(|class: usize| read(&counters.dropped[class])),
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
