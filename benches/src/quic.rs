//! Bare quinn endpoints, with its defaults or with the settings that serve short messages best.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AckFrequencyConfig, ClientConfig, Endpoint, EndpointConfig, MtuDiscoveryConfig, ServerConfig,
    TokioRuntime, TransportConfig, VarInt,
};

use crate::Failure;
use crate::tls::Identity;

/// Size of both UDP buffers that is asked for, in bytes.
const UDP_BUFFER_BYTES: usize = 4 << 20;
/// Largest UDP payload that path discovery tries, in bytes; ten of them fit one send.
const MAX_UDP_PAYLOAD_BYTES: u16 = 4096;
/// Window of a stream and of a connection, in bytes.
const WINDOW_BYTES: u32 = 16 << 20;

/// How an endpoint is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settings {
    /// As quinn comes.
    Defaults,
    /// Larger packets, buffers and windows, fewer and quicker acknowledgements.
    Tuned,
}

/// An endpoint on loopback that connects, and is connected to.
///
/// # Errors
/// The operating system's, or TLS's.
pub fn endpoint(identity: &Identity, port: u16, settings: Settings) -> Result<Endpoint, Failure> {
    let socket = UdpSocket::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    let mut config = EndpointConfig::default();
    let transport = match settings {
        Settings::Defaults => Arc::new(TransportConfig::default()),
        Settings::Tuned => {
            let buffers = socket2::SockRef::from(&socket);
            buffers.set_recv_buffer_size(UDP_BUFFER_BYTES)?;
            buffers.set_send_buffer_size(UDP_BUFFER_BYTES)?;
            config.max_udp_payload_size(MAX_UDP_PAYLOAD_BYTES)?;
            Arc::new(tuned())
        }
    };
    let server = QuicServerConfig::try_from(identity.server()?)?;
    let mut server = ServerConfig::with_crypto(Arc::new(server));
    server.transport_config(Arc::clone(&transport));
    let mut endpoint = Endpoint::new(config, Some(server), socket, Arc::new(TokioRuntime))?;
    let client = QuicClientConfig::try_from(identity.client()?)?;
    let mut client = ClientConfig::new(Arc::new(client));
    client.transport_config(transport);
    endpoint.set_default_client_config(client);
    Ok(endpoint)
}

fn tuned() -> TransportConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(MAX_UDP_PAYLOAD_BYTES);
    let mut acks = AckFrequencyConfig::default();
    acks.max_ack_delay(Some(Duration::from_millis(2)))
        .ack_eliciting_threshold(VarInt::from_u32(8));
    let mut congestion = CubicConfig::default();
    congestion.initial_window(256 << 10);
    let mut config = TransportConfig::default();
    config
        .initial_rtt(Duration::from_millis(20))
        .mtu_discovery_config(Some(discovery))
        .ack_frequency_config(Some(acks))
        .congestion_controller_factory(Arc::new(congestion))
        .stream_receive_window(VarInt::from_u32(WINDOW_BYTES))
        .receive_window(VarInt::from_u32(WINDOW_BYTES))
        .send_window(u64::from(WINDOW_BYTES))
        .keep_alive_interval(Some(Duration::from_secs(1)));
    config
}
