//! The QUIC endpoint: socket buffers, packet sizes, windows, acknowledgements, timeouts.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::{
    AckFrequencyConfig, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig,
    TokioRuntime, TransportConfig, VarInt,
};
use raft_proto::NodeId;
use socket2::SockRef;

use crate::config::{NetLimits, NetTiming};
use crate::error::NetError;

/// Streams a peer opens: control and append.
const PEER_STREAMS: u32 = 2;
/// Streams a client opens.
const CLIENT_STREAMS: u32 = 1;
/// The round trip assumed before one is measured. quinn's 333 ms is made for the internet and
/// would repeat a lost first packet only after a second.
const INITIAL_RTT: Duration = Duration::from_millis(20);
/// How long the receiver may sit on an acknowledgement. The default of 25 ms is part of every
/// probe timeout: a lost last packet would cost 27 ms.
const MAX_ACK_DELAY: Duration = Duration::from_millis(2);
/// Packets received before an acknowledgement is due at once.
const ACK_AFTER_PACKETS: u32 = 8;
/// Bytes that may be under way before the path is known.
const INITIAL_WINDOW_BYTES: u64 = 256 << 10;
/// Most bytes a peer may have under way to us on one stream, and in total.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// QUIC settings of a connection that may have `send_window_bytes` unacknowledged.
pub(crate) fn transport_config(
    limits: &NetLimits,
    timing: &NetTiming,
    send_window_bytes: u64,
) -> Result<Arc<TransportConfig>, NetError> {
    let idle = IdleTimeout::try_from(timing.idle_timeout()).map_err(|_| NetError::Setting {
        setting: "election_timeout_max",
        reason: "it is too long",
    })?;
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(limits.max_udp_payload_bytes);
    let mut acks = AckFrequencyConfig::default();
    acks.max_ack_delay(Some(MAX_ACK_DELAY))
        .ack_eliciting_threshold(VarInt::from_u32(ACK_AFTER_PACKETS));
    let mut congestion = CubicConfig::default();
    congestion.initial_window(INITIAL_WINDOW_BYTES);

    let mut config = TransportConfig::default();
    config
        .max_concurrent_uni_streams(VarInt::from_u32(PEER_STREAMS))
        .max_concurrent_bidi_streams(VarInt::from_u32(CLIENT_STREAMS))
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(timing.keep_alive()))
        .initial_rtt(INITIAL_RTT)
        .mtu_discovery_config(Some(discovery))
        .ack_frequency_config(Some(acks))
        .congestion_controller_factory(Arc::new(congestion))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(send_window_bytes)
        .datagram_receive_buffer_size(None);
    Ok(Arc::new(config))
}

/// Puts a QUIC endpoint on a bound socket, for a node or for a client. Needs a tokio runtime.
pub(crate) fn endpoint(
    socket: UdpSocket,
    server: Option<ServerConfig>,
    limits: &NetLimits,
    node: Option<NodeId>,
) -> Result<Endpoint, NetError> {
    enlarge_buffers(&socket, limits.udp_buffer_bytes, node);
    let mut config = EndpointConfig::default();
    config
        .max_udp_payload_size(limits.max_udp_payload_bytes)
        .map_err(|_| NetError::Setting {
            setting: "max_udp_payload_bytes",
            reason: "it must be at least 1200 bytes",
        })?;
    Ok(Endpoint::new(
        config,
        server,
        socket,
        Arc::new(TokioRuntime),
    )?)
}

/// Asks for large buffers and logs what was granted; a smaller grant only costs speed.
fn enlarge_buffers(socket: &UdpSocket, wanted: usize, node: Option<NodeId>) {
    let node = node.map(|id| id.0);
    let socket = SockRef::from(socket);
    let set = socket
        .set_recv_buffer_size(wanted)
        .and_then(|()| socket.set_send_buffer_size(wanted));
    if let Err(error) = set {
        tracing::warn!(node, %error, wanted, "the UDP buffers cannot be enlarged");
    }
    // Linux reports twice what it grants, for its own bookkeeping.
    let received = socket.recv_buffer_size().unwrap_or(0);
    let sent = socket.send_buffer_size().unwrap_or(0);
    let granted = "UDP buffers; if they are smaller than wanted, net.core.rmem_max and \
                   net.core.wmem_max limit them, which costs speed under load";
    tracing::info!(node, wanted, receive = received, send = sent, "{granted}");
}
