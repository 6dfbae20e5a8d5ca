//! Certificates, recording handlers and nodes for the tests of this crate.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test binary uses its own part of this module"
)]

pub mod raw;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use raft_net::{
    CertifiedName, ClientConnection, ClientHandler, ConnectError, LocalIdentity, NetConfig,
    PeerHandler, QuicTransport, TlsIdentity,
};
use raft_proto::{
    Boot, ClusterId, GroupId, Heartbeat, Hello, Incarnation, LogIndex, Message, NodeId, Refusal,
    Term,
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType,
};
use tokio::sync::mpsc;

/// Long enough for any machine; a test that waits this long has failed.
pub const DEADLINE: Duration = Duration::from_secs(20);
pub const CLUSTER: &str = "test";

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    Current,
    Expired,
}

impl Authority {
    pub fn new() -> Self {
        Self::named("test authority")
    }

    pub fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    pub fn issue(&self, names: &[&str], validity: Validity) -> Issued {
        let names = names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>();
        let mut params = CertificateParams::new(names).unwrap();
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        params.subject_alt_names.push(SanType::IpAddress(loopback));
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        if validity == Validity::Expired {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        Issued {
            certificate: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    pub fn node(&self, id: u64) -> Issued {
        self.issue(&[&format!("n{id}.{CLUSTER}")], Validity::Current)
    }

    pub fn client(&self) -> Issued {
        self.issue(&[&format!("client.{CLUSTER}")], Validity::Current)
    }

    pub fn identity(&self, issued: &Issued) -> TlsIdentity {
        TlsIdentity::from_pem(&issued.certificate, &issued.key, &self.pem).unwrap()
    }
}

/// What a node heard.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Message(NodeId, bool, Message),
    Up(NodeId, Boot),
    Down(NodeId),
    Refused(NodeId, Refusal),
    ConnectFailed(NodeId, ConnectError),
    Rejected(ConnectError),
    Request(u64, u64, u8, Bytes),
    ClientGone(u64),
}

type Admit = Box<dyn Fn(&Hello) -> Result<(), Refusal> + Send + Sync>;
type Answer = Box<dyn Fn(&ClientConnection, u64, u8, Bytes) + Send + Sync>;

/// Sends every callback into a channel.
pub struct Recorder {
    events: mpsc::UnboundedSender<Event>,
    cluster: Option<ClusterId>,
    admit: Admit,
    answer: Answer,
    pub clients: Mutex<Vec<ClientConnection>>,
}

impl PeerHandler for Recorder {
    fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    fn admit(&self, hello: &Hello) -> Result<(), Refusal> {
        (self.admit)(hello)
    }

    fn on_message(&self, from: NodeId, uncounted: bool, group: GroupId, message: Message) {
        assert_eq!(group, GroupId(0));
        let _ = self.events.send(Event::Message(from, uncounted, message));
    }

    fn on_peer_up(&self, peer: NodeId, _incarnation: Incarnation, boot: Boot) {
        let _ = self.events.send(Event::Up(peer, boot));
    }

    fn on_peer_down(&self, peer: NodeId) {
        let _ = self.events.send(Event::Down(peer));
    }

    fn on_refused(&self, peer: NodeId, refusal: &Refusal) {
        let _ = self.events.send(Event::Refused(peer, refusal.clone()));
    }

    fn on_connect_failed(&self, peer: NodeId, error: &ConnectError) {
        let _ = self.events.send(Event::ConnectFailed(peer, error.clone()));
    }

    fn on_rejected(&self, _remote: SocketAddr, error: &ConnectError) {
        let _ = self.events.send(Event::Rejected(error.clone()));
    }
}

impl ClientHandler for Recorder {
    fn on_request(&self, connection: &ClientConnection, request_id: u64, kind: u8, body: Bytes) {
        assert!(matches!(connection.name(), CertifiedName::Client(_)));
        self.clients.lock().unwrap().push(connection.clone());
        (self.answer)(connection, request_id, kind, body.clone());
        let event = Event::Request(connection.id(), request_id, kind, body);
        let _ = self.events.send(event);
    }

    fn on_disconnect(&self, connection: u64) {
        let _ = self.events.send(Event::ClientGone(connection));
    }
}

/// How a test node differs from an ordinary one.
pub struct NodeSetup {
    pub id: u64,
    pub boot: Boot,
    pub incarnation: Incarnation,
    pub cluster: Option<ClusterId>,
    pub admit: Admit,
    pub answer: Answer,
    pub socket: Option<UdpSocket>,
    pub configure: Box<dyn FnOnce(&mut NetConfig)>,
}

impl NodeSetup {
    pub fn new(id: u64) -> Self {
        Self {
            id,
            boot: boot(1),
            incarnation: Incarnation(id),
            cluster: None,
            admit: Box::new(|_| Ok(())),
            answer: Box::new(|_, _, _, _| {}),
            socket: None,
            configure: Box::new(|_| {}),
        }
    }

    pub fn start(self, authority: &Authority) -> Node {
        let local = LocalIdentity {
            node: NodeId(self.id),
            incarnation: self.incarnation,
            boot: self.boot,
        };
        let tls = authority.identity(&authority.node(self.id));
        let mut config = NetConfig::new(local, CLUSTER, tls);
        (self.configure)(&mut config);
        let (events, received) = mpsc::unbounded_channel();
        let recorder = Arc::new(Recorder {
            events,
            cluster: self.cluster,
            admit: self.admit,
            answer: self.answer,
            clients: Mutex::default(),
        });
        let socket = self.socket.unwrap_or_else(any_socket);
        let address = socket.local_addr().unwrap();
        let peers: Arc<dyn PeerHandler> = recorder.clone();
        let clients: Arc<dyn ClientHandler> = recorder.clone();
        let transport = QuicTransport::bind(socket, config, peers, Some(clients)).unwrap();
        Node {
            id: NodeId(self.id),
            address,
            transport,
            recorder,
            events: received,
        }
    }
}

/// A running node.
pub struct Node {
    pub id: NodeId,
    pub address: SocketAddr,
    pub transport: QuicTransport,
    pub recorder: Arc<Recorder>,
    pub events: mpsc::UnboundedReceiver<Event>,
}

impl Node {
    pub fn named(&self) -> (NodeId, String) {
        (self.id, self.address.to_string())
    }

    /// Waits for an event that `pick` likes; others are passed over.
    pub async fn until<T>(&mut self, what: &str, mut pick: impl FnMut(Event) -> Option<T>) -> T {
        let id = self.id;
        let found = async {
            loop {
                let event = self.events.recv().await.expect("the node is alive");
                if let Some(found) = pick(event) {
                    return found;
                }
            }
        };
        tokio::time::timeout(DEADLINE, found)
            .await
            .unwrap_or_else(|_| panic!("{id} waited in vain for {what}"))
    }

    pub async fn until_up(&mut self, peer: NodeId) -> Boot {
        self.until("a peer to come up", |event| match event {
            Event::Up(id, boot) if id == peer => Some(boot),
            _ => None,
        })
        .await
    }

    pub async fn until_down(&mut self, peer: NodeId) {
        self.until("a peer to go down", |event| {
            (event == Event::Down(peer)).then_some(())
        })
        .await;
    }

    pub async fn next_message(&mut self) -> (NodeId, bool, Message) {
        self.until("a message", |event| match event {
            Event::Message(from, uncounted, message) => Some((from, uncounted, message)),
            _ => None,
        })
        .await
    }

    pub async fn next_rejection(&mut self) -> ConnectError {
        self.until("a rejection", |event| match event {
            Event::Rejected(error) => Some(error),
            _ => None,
        })
        .await
    }
}

/// Two nodes that know each other and are connected.
pub async fn connected_pair(first: NodeSetup, second: NodeSetup) -> (Node, Node) {
    let authority = Authority::new();
    let (mut one, mut two) = (first.start(&authority), second.start(&authority));
    introduce(&[&one, &two]);
    one.until_up(two.id).await;
    two.until_up(one.id).await;
    (one, two)
}

/// Names every node to every node.
pub fn introduce(nodes: &[&Node]) {
    let all: Vec<_> = nodes.iter().map(|node| node.named()).collect();
    for node in nodes {
        node.transport.set_peers(&all);
    }
}

pub fn any_socket() -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

pub fn boot(counter: u64) -> Boot {
    Boot {
        counter,
        nonce: counter * 1000,
    }
}

pub fn heartbeat(round: u64) -> Message {
    Message::Heartbeat(Heartbeat {
        term: Term(1),
        round,
        commit_index: LogIndex(round),
    })
}
