//! A bare quinn endpoint that can misbehave in every way a peer can.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, TransportConfig, VarInt};
use raft_net::CloseCode;
use raft_proto::{GroupId, Hello, HelloResponse, Incarnation, Message, NodeId, wire};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{Authority, CLUSTER, DEADLINE, Issued, boot};

/// A TLS client that presents `issued` (or nothing) and trusts `authority`.
pub fn tls(authority: &Authority, issued: Option<&Issued>, protocol: &[u8]) -> ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap();
    roots.add(root).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match issued {
        Some(issued) => {
            let chain = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![chain], key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()))
}

/// An endpoint without a server side.
pub fn endpoint() -> Endpoint {
    Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap()
}

/// A raw connection to a node; the endpoint must live as long.
pub struct Raw {
    pub endpoint: Endpoint,
    pub connection: Connection,
}

impl Raw {
    /// Connects to node `target` with a TLS configuration.
    pub async fn connect(
        config: ClientConfig,
        target: NodeId,
        address: SocketAddr,
    ) -> Result<Self, ConnectionError> {
        let endpoint = endpoint();
        let name = format!("n{}.{CLUSTER}", target.0);
        let connecting = endpoint.connect_with(config, address, &name).unwrap();
        let connection = tokio::time::timeout(DEADLINE, connecting).await.unwrap()?;
        Ok(Self {
            endpoint,
            connection,
        })
    }

    /// Connects, says hello as `node` and is admitted; returns the first stream.
    pub async fn admitted(
        authority: &Authority,
        node: u64,
        target: NodeId,
        address: SocketAddr,
        transport: TransportConfig,
    ) -> (Self, quinn::SendStream) {
        let issued = authority.node(node);
        let mut config = tls(authority, Some(&issued), raft_net::PEER_PROTOCOL);
        config.transport_config(Arc::new(transport));
        let raw = Self::connect(config, target, address).await.unwrap();
        let mut stream = raw.connection.open_uni().await.unwrap();
        let welcome = Message::HelloResponse(HelloResponse { refusal: None });
        for message in [hello(node, target), welcome] {
            stream.write_all(&frame(&message)).await.unwrap();
        }
        (raw, stream)
    }

    /// The code with which the node closes the connection.
    pub async fn close_code(&self) -> CloseCode {
        match self.closed().await {
            ConnectionError::ApplicationClosed(close) => code(close.error_code),
            other => panic!("unexpected end: {other:?}"),
        }
    }

    pub async fn closed(&self) -> ConnectionError {
        tokio::time::timeout(DEADLINE, self.connection.closed())
            .await
            .expect("the node closes the connection")
    }
}

fn code(number: VarInt) -> CloseCode {
    match number.into_inner() {
        0 => CloseCode::ShutDown,
        1 => CloseCode::Replaced,
        2 => CloseCode::Refused,
        3 => CloseCode::WrongCertificate,
        4 => CloseCode::Malformed,
        5 => CloseCode::Stalled,
        6 => CloseCode::Removed,
        other => CloseCode::Unknown(other),
    }
}

pub fn hello(node: u64, receiver: NodeId) -> Message {
    Message::Hello(Hello {
        cluster: None,
        node: NodeId(node),
        incarnation: Incarnation(node),
        boot: boot(1),
        receiver,
        versions: raft_proto::Versions::CURRENT,
    })
}

pub fn frame(message: &Message) -> Vec<u8> {
    wire::encode(GroupId(0), false, message).unwrap().to_vec()
}

/// Reads the next message from a stream.
pub async fn read_message(stream: &mut quinn::RecvStream) -> Message {
    let mut header = [0; raft_proto::frame::HEADER_BYTES];
    let limit = Duration::from_secs(20);
    let read = async {
        stream.read_exact(&mut header).await.unwrap();
        let header = raft_proto::FrameHeader::parse(&header, 1 << 20).unwrap();
        let mut body = vec![0; header.body_bytes as usize];
        stream.read_exact(&mut body).await.unwrap();
        wire::decode(&header, &Bytes::from(body)).unwrap()
    };
    tokio::time::timeout(limit, read).await.unwrap()
}
