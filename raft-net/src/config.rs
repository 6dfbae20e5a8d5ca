//! What a transport needs to know before it starts: identity, limits, timing.

use std::time::Duration;

use raft_proto::frame::HEADER_BYTES;
use raft_proto::{Boot, Class, Incarnation, NodeId};

use crate::error::NetError;
use crate::tls::TlsIdentity;

/// Who this node is, as it says in its hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalIdentity {
    /// The node's id; its certificate must name it.
    pub node: NodeId,
    /// The life of its data directory.
    pub incarnation: Incarnation,
    /// This start of it.
    pub boot: Boot,
}

/// Everything [`crate::QuicTransport::bind`] needs.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// Who this node is.
    pub local: LocalIdentity,
    /// The cluster's name in certificates: `n1.<cluster_name>`.
    pub cluster_name: String,
    /// Certificate chain, private key and the cluster's authorities.
    pub tls: TlsIdentity,
    /// Bounds on memory.
    pub limits: NetLimits,
    /// Timeouts.
    pub timing: NetTiming,
}

/// How much may wait in one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Messages waiting.
    pub messages: usize,
    /// Bytes waiting. One frame above this is still taken by an empty queue.
    pub bytes: usize,
}

/// Bounds on everything that grows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetLimits {
    /// Largest frame body from or to a peer, in bytes.
    pub max_frame_bytes: u32,
    /// Largest request body from a client, in bytes.
    pub max_request_bytes: u32,
    /// What may wait for each peer: votes, heartbeats, read rounds.
    pub control_queue: QueueLimits,
    /// What may wait for each peer: entries and acknowledgements.
    pub append_queue: QueueLimits,
    /// What may wait for each peer: snapshots and repair.
    pub bulk_queue: QueueLimits,
    /// Bulk bytes that may be under way to a peer without its acknowledgement. A heartbeat waits
    /// behind no more than this.
    pub bulk_credit_bytes: u64,
    /// Bytes written to a connection and not yet acknowledged, control and append together.
    pub send_window_bytes: u64,
    /// Handshakes in progress before newcomers must prove their address first, and twice that
    /// before they are turned away.
    pub max_handshakes: usize,
    /// Client connections at the same time.
    pub max_client_connections: usize,
    /// Unanswered requests of one client connection before no more are read from it.
    pub max_outstanding_requests: usize,
    /// Bytes of unanswered large requests of one client connection before no more requests are
    /// read from it.
    pub max_outstanding_bytes: usize,
    /// Unsent response bytes of one client connection before no more requests are read from it;
    /// at four times this the connection is closed.
    pub max_response_bytes: usize,
    /// UDP send and receive buffers to ask the operating system for, in bytes.
    pub udp_buffer_bytes: usize,
    /// Largest UDP payload that path discovery tries, in bytes. Ten of them must fit into one
    /// UDP datagram's 65,507 bytes, because that is how many are sent with one system call.
    pub max_udp_payload_bytes: u16,
}

impl Default for NetLimits {
    fn default() -> Self {
        Self {
            max_frame_bytes: 16 << 20,
            max_request_bytes: 16 << 20,
            control_queue: QueueLimits {
                messages: 4096,
                bytes: 1 << 20,
            },
            append_queue: QueueLimits {
                messages: 16_384,
                bytes: 32 << 20,
            },
            bulk_queue: QueueLimits {
                messages: 256,
                bytes: 8 << 20,
            },
            bulk_credit_bytes: 128 << 10,
            send_window_bytes: 8 << 20,
            max_handshakes: 256,
            max_client_connections: 4096,
            max_outstanding_requests: 8192,
            max_outstanding_bytes: 64 << 20,
            max_response_bytes: 16 << 20,
            udp_buffer_bytes: 4 << 20,
            max_udp_payload_bytes: 4096,
        }
    }
}

impl NetLimits {
    /// The queue limits of a class of traffic.
    #[must_use]
    pub fn queue(&self, class: Class) -> QueueLimits {
        match class {
            Class::Control => self.control_queue,
            Class::Append => self.append_queue,
            Class::Bulk => self.bulk_queue,
        }
    }

    /// Longest frame that may be sent to a peer, header included, in bytes.
    pub(crate) fn max_whole_frame_bytes(&self) -> usize {
        self.max_frame_bytes as usize + HEADER_BYTES
    }

    fn validate(&self) -> Result<(), NetError> {
        let udp = self.max_udp_payload_bytes;
        if udp < MIN_UDP_BYTES || u32::from(udp) * SEGMENTS_PER_SEND >= MAX_UDP_BYTES {
            let reason = "it must lie between 1200 and 6550 bytes";
            return refuse("max_udp_payload_bytes", reason);
        }
        if self.max_frame_bytes < MIN_FRAME_BYTES {
            return refuse("max_frame_bytes", "a hello does not fit");
        }
        if self.bulk_credit_bytes == 0 {
            return refuse("bulk_credit_bytes", "nothing could ever be sent");
        }
        if self.send_window_bytes == 0 {
            return refuse("send_window_bytes", "nothing could ever be sent");
        }
        if self.max_handshakes == 0 {
            return refuse("max_handshakes", "nobody could ever connect");
        }
        if self.max_outstanding_requests == 0 || self.max_outstanding_bytes == 0 {
            return refuse("max_outstanding_requests", "nobody could ever be served");
        }
        Ok(())
    }
}

/// Timeouts and pauses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetTiming {
    /// The longest election timeout of the Raft above. A connection is idle after twice this, and
    /// stalled if queued bytes make no progress for this long.
    pub election_timeout_max: Duration,
    /// First pause after a failed attempt to connect.
    pub reconnect_min: Duration,
    /// Longest pause between attempts to connect.
    pub reconnect_max: Duration,
    /// A bulk connection that sent nothing for this long is closed.
    pub bulk_idle: Duration,
    /// A client that reads none of its responses for this long is disconnected.
    pub client_stall: Duration,
    /// How long an orderly shutdown waits for the other sides.
    pub shutdown: Duration,
}

impl Default for NetTiming {
    fn default() -> Self {
        Self {
            election_timeout_max: Duration::from_millis(710),
            reconnect_min: Duration::from_millis(20),
            reconnect_max: Duration::from_secs(1),
            bulk_idle: Duration::from_secs(30),
            client_stall: Duration::from_secs(10),
            shutdown: Duration::from_millis(500),
        }
    }
}

impl NetTiming {
    /// Silence after which a connection is given up: twice the longest election timeout.
    #[must_use]
    pub fn idle_timeout(&self) -> Duration {
        self.election_timeout_max * 2
    }

    /// Silence after which a sign of life is sent.
    #[must_use]
    pub fn keep_alive(&self) -> Duration {
        self.idle_timeout() / 4
    }

    fn validate(&self) -> Result<(), NetError> {
        let election = self.election_timeout_max;
        if election < MIN_ELECTION_TIMEOUT || election > MAX_ELECTION_TIMEOUT {
            let reason = "it must lie between 10 ms and one hour";
            return refuse("election_timeout_max", reason);
        }
        if self.reconnect_min.is_zero() || self.reconnect_min > self.reconnect_max {
            let reason = "it must be above zero and at most reconnect_max";
            return refuse("reconnect_min", reason);
        }
        Ok(())
    }
}

/// Segments quinn sends with one system call.
const SEGMENTS_PER_SEND: u32 = 10;
/// Largest UDP payload there is, in bytes.
const MAX_UDP_BYTES: u32 = 65_507;
/// Smallest UDP payload that QUIC may assume (RFC 9000 §14), in bytes.
const MIN_UDP_BYTES: u16 = 1200;
/// Frames must have room for a hello and for any refusal.
const MIN_FRAME_BYTES: u32 = 1024;
/// Below this no timer is reliable.
const MIN_ELECTION_TIMEOUT: Duration = Duration::from_millis(10);
/// Longer ones are a mistake in the unit.
const MAX_ELECTION_TIMEOUT: Duration = Duration::from_secs(3600);

fn refuse(setting: &'static str, reason: &'static str) -> Result<(), NetError> {
    Err(NetError::Setting { setting, reason })
}

impl NetConfig {
    /// Default limits and timing.
    #[must_use]
    pub fn new(local: LocalIdentity, cluster_name: &str, tls: TlsIdentity) -> Self {
        Self {
            local,
            cluster_name: cluster_name.to_owned(),
            tls,
            limits: NetLimits::default(),
            timing: NetTiming::default(),
        }
    }

    /// Refuses what cannot work.
    ///
    /// # Errors
    /// [`NetError::Setting`] or [`NetError::ClusterName`].
    pub fn validate(&self) -> Result<(), NetError> {
        self.limits.validate()?;
        self.timing.validate()?;
        crate::identity::check_cluster_name(&self.cluster_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The setting that is refused after a change to the defaults.
    fn refused(change: impl FnOnce(&mut NetLimits, &mut NetTiming)) -> Option<&'static str> {
        let (mut limits, mut timing) = (NetLimits::default(), NetTiming::default());
        change(&mut limits, &mut timing);
        match limits.validate().and_then(|()| timing.validate()) {
            Ok(()) => None,
            Err(NetError::Setting { setting, .. }) => Some(setting),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn settings_that_cannot_work_are_refused_by_name() {
        assert_eq!(refused(|_, _| {}), None);
        assert_eq!(refused(|l, _| l.max_udp_payload_bytes = 6550), None);
        let udp = Some("max_udp_payload_bytes");
        assert_eq!(refused(|l, _| l.max_udp_payload_bytes = 6551), udp);
        assert_eq!(refused(|l, _| l.max_udp_payload_bytes = 1199), udp);
        let frame = Some("max_frame_bytes");
        assert_eq!(refused(|l, _| l.max_frame_bytes = 1023), frame);
        let credit = Some("bulk_credit_bytes");
        assert_eq!(refused(|l, _| l.bulk_credit_bytes = 0), credit);
        let election = Some("election_timeout_max");
        assert_eq!(
            refused(|_, t| t.election_timeout_max = Duration::ZERO),
            election
        );
        let reconnect = Some("reconnect_min");
        assert_eq!(refused(|_, t| t.reconnect_min = Duration::ZERO), reconnect);
        assert_eq!(refused(|_, t| t.reconnect_max = Duration::ZERO), reconnect);
    }
}
