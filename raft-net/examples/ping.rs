//! Measures the transport over loopback in one process: messages per second and round-trip times
//! between two nodes, of a client's requests, and of bare quinn for comparison.
//!
//! `cargo run --release -p raft-net --example ping`

use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_net::client::{ClientEndpoint, ClientOptions};
use raft_net::{
    ClientConnection, ClientHandler, LocalIdentity, NetConfig, PeerHandler, QuicTransport,
    TlsIdentity,
};
use raft_proto::{
    AppendOutcome, AppendRequest, AppendResponse, Boot, Class, ClusterId, Entry, EntryKind,
    FetchSnapshotResponse, GroupId, Hello, Incarnation, LogIndex, LogPosition, Message, NodeId,
    Refusal, Term,
};
use tokio::sync::{Notify, mpsc};

const CLUSTER: &str = "ping";
const MESSAGE_BYTES: usize = 128;
/// About the size of an acknowledgement's frame.
const ANSWER_BYTES: usize = 20;
const DURATION: Duration = Duration::from_secs(3);

type Failure = Box<dyn Error + Send + Sync>;

/// Node 1 sends append requests and times the answers; node 2 answers.
struct Node {
    id: NodeId,
    transport: Mutex<Option<Arc<QuicTransport>>>,
    up: Notify,
    answers: mpsc::UnboundedSender<u64>,
}

impl PeerHandler for Node {
    fn cluster(&self) -> Option<ClusterId> {
        None
    }

    fn admit(&self, _hello: &Hello) -> Result<(), Refusal> {
        Ok(())
    }

    fn on_message(&self, from: NodeId, _uncounted: bool, _group: GroupId, message: Message) {
        if let Message::AppendResponse(response) = message {
            let _ = self.answers.send(response.sequence);
            return;
        }
        let sequence = if let Message::AppendRequest(request) = &message {
            request.sequence
        } else if let Message::FetchSnapshotResponse(part) = &message {
            part.offset
        } else {
            return;
        };
        let answer = AppendResponse {
            term: Term(1),
            sequence,
            outcome: AppendOutcome::Accepted,
        };
        let transport = self.transport.lock().ok().and_then(|t| t.clone());
        if let Some(transport) = transport {
            let _ = transport.send(from, &answer.into(), false);
        }
    }

    fn on_peer_up(&self, _peer: NodeId, _incarnation: Incarnation, _boot: Boot) {
        self.up.notify_one();
    }

    fn on_peer_down(&self, _peer: NodeId) {}

    fn on_refused(&self, _peer: NodeId, _refusal: &Refusal) {}
}

impl ClientHandler for Node {
    fn on_request(&self, connection: &ClientConnection, request_id: u64, kind: u8, body: Bytes) {
        let _ = connection.respond(request_id, kind, &[], &[body.slice(..16)]);
    }

    fn on_disconnect(&self, _connection: u64) {}
}

struct Certificates {
    authority: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Certificates {
    fn new() -> Result<Self, Failure> {
        let mut params = rcgen::CertificateParams::new(Vec::new())?;
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        let authority = rcgen::Issuer::new(params, key);
        Ok(Self { authority, pem })
    }

    fn identity(&self, name: &str) -> Result<TlsIdentity, Failure> {
        let names = vec![name.to_owned(), "127.0.0.1".to_owned()];
        let key = rcgen::KeyPair::generate()?;
        let certificate = rcgen::CertificateParams::new(names)?.signed_by(&key, &self.authority)?;
        let (certificate, key) = (certificate.pem(), key.serialize_pem());
        Ok(TlsIdentity::from_pem(&certificate, &key, &self.pem)?)
    }
}

struct Running {
    node: Arc<Node>,
    transport: Arc<QuicTransport>,
    answers: mpsc::UnboundedReceiver<u64>,
    address: SocketAddr,
}

fn start(id: u64, certificates: &Certificates) -> Result<Running, Failure> {
    let (sender, answers) = mpsc::unbounded_channel();
    let node = Arc::new(Node {
        id: NodeId(id),
        transport: Mutex::new(None),
        up: Notify::new(),
        answers: sender,
    });
    let local = LocalIdentity {
        node: NodeId(id),
        incarnation: Incarnation(id),
        boot: Boot::default(),
    };
    let tls = certificates.identity(&format!("n{id}.{CLUSTER}"))?;
    let config = NetConfig::new(local, CLUSTER, tls);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let transport = QuicTransport::bind(socket, config, node.clone(), Some(node.clone()))?;
    let transport = Arc::new(transport);
    if let Ok(mut slot) = node.transport.lock() {
        *slot = Some(Arc::clone(&transport));
    }
    let address = transport.local_addr()?;
    Ok(Running {
        node,
        transport,
        answers,
        address,
    })
}

fn message(class: Class, sequence: u64, payload: Bytes) -> Message {
    if class == Class::Bulk {
        return FetchSnapshotResponse {
            term: Term(1),
            last_included: LogPosition::default(),
            offset: sequence,
            total_bytes: u64::MAX,
            checksum: 0,
            data: payload,
        }
        .into();
    }
    AppendRequest {
        term: Term(1),
        sequence,
        previous: LogPosition::default(),
        commit_index: LogIndex(0),
        entries: vec![Entry {
            index: LogIndex(1),
            term: Term(1),
            kind: EntryKind::Command,
            payload,
        }],
    }
    .into()
}

/// Processor time of the main thread, on which everything runs. Unlike the clock it does not
/// count what other programs do meanwhile. Zero where Linux does not tell.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanos = text.split_whitespace().next().and_then(|n| n.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// When a run started.
#[derive(Clone, Copy)]
struct Start {
    clock: Instant,
    cpu: Duration,
}

impl Start {
    fn now() -> Self {
        Self {
            clock: Instant::now(),
            cpu: cpu_time(),
        }
    }

    fn is_over(&self) -> bool {
        self.clock.elapsed() >= DURATION
    }
}

/// Rates and percentiles of one run; processor time is that of both ends together.
fn report(what: &str, start: Start, mut times: Vec<Duration>, bytes: usize) {
    let seconds = start.clock.elapsed().as_secs_f64();
    let cpu = (cpu_time() - start.cpu).as_secs_f64();
    let count = times.len() as f64;
    times.sort_unstable();
    let at = |share: f64| times[((count - 1.0) * share) as usize];
    println!(
        "{what:<38} {:>8.0}/s {:>7.1} MB/s {:>8.2} us cpu {:>7.1} MB/cpu-s  p50 {:>8.1?} p99 {:>8.1?} max {:>8.1?}",
        count / seconds,
        count * bytes as f64 / seconds / 1e6,
        cpu / count * 1e6,
        count * bytes as f64 / cpu / 1e6,
        at(0.5),
        at(0.99),
        at(1.0),
    );
}

/// Keeps `outstanding` messages of a class under way from one node to the other.
async fn between_nodes(
    one: &mut Running,
    two: &Running,
    class: Class,
    outstanding: u64,
    payload_bytes: usize,
) {
    let payload = Bytes::from(vec![7; payload_bytes]);
    let mut sent_at = HashMap::new();
    let mut times = Vec::new();
    let start = Start::now();
    let mut next = 0;
    while !start.is_over() {
        while (sent_at.len() as u64) < outstanding {
            let message = message(class, next, payload.clone());
            if one.transport.send(two.node.id, &message, false).is_err() {
                break;
            }
            sent_at.insert(next, Instant::now());
            next += 1;
        }
        let mut answer = one.answers.recv().await;
        while let Some(sequence) = answer {
            times.extend(sent_at.remove(&sequence).map(|at| at.elapsed()));
            answer = one.answers.try_recv().ok();
        }
    }
    let what = format!("{class:?}, {outstanding} outstanding, {payload_bytes} B");
    report(&what, start, times, payload_bytes);
    while !sent_at.is_empty() {
        if let Some(sequence) = one.answers.recv().await {
            sent_at.remove(&sequence);
        }
    }
}

async fn client_requests(
    certificates: &Certificates,
    server: SocketAddr,
    callers: usize,
) -> Result<(), Failure> {
    let tls = certificates.identity(&format!("client.{CLUSTER}"))?;
    let endpoint = ClientEndpoint::new(&tls, ClientOptions::default())?;
    let connection = endpoint
        .connect(&server.to_string(), Duration::from_secs(5))
        .await?;
    let start = Start::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..callers {
        let connection = connection.clone();
        tasks.spawn(async move {
            let payload = Bytes::from(vec![7; MESSAGE_BYTES]);
            let mut times = Vec::new();
            while !start.is_over() {
                let before = Instant::now();
                connection.request(1, &[], payload.clone()).await?;
                times.push(before.elapsed());
            }
            Ok::<_, raft_net::client::RequestError>(times)
        });
    }
    let mut times = Vec::new();
    while let Some(caller) = tasks.join_next().await {
        times.extend(caller??);
    }
    let what = format!("client, {callers} callers, {MESSAGE_BYTES} B");
    report(&what, start, times, MESSAGE_BYTES);
    Ok(())
}

/// The floor: two plain quinn endpoints, one stream, fixed-size messages and answers.
async fn bare_quinn(
    certificates: &Certificates,
    outstanding: usize,
    message_bytes: usize,
) -> Result<(), Failure> {
    let (server, client) = bare::endpoints(certificates)?;
    let address = server.local_addr()?;
    let answering = tokio::spawn(bare::answer(server.clone(), message_bytes));
    let connection = client.connect(address, "localhost")?.await?;
    let (mut send, mut receive) = connection.open_bi().await?;
    let mut times = Vec::new();
    let mut sent_at = std::collections::VecDeque::new();
    let mut partial = 0;
    let start = Start::now();
    while !start.is_over() {
        let missing = outstanding - sent_at.len();
        sent_at.extend(std::iter::repeat_n(Instant::now(), missing));
        if missing > 0 {
            send.write_all(&vec![7; missing * message_bytes]).await?;
        }
        let chunk = receive.read_chunk(1 << 16, true).await?;
        partial += chunk.map_or(0, |chunk| chunk.bytes.len());
        for _ in 0..partial / ANSWER_BYTES {
            times.extend(sent_at.pop_front().map(|at| at.elapsed()));
        }
        partial %= ANSWER_BYTES;
    }
    let what = format!("bare quinn, {outstanding} outstanding, {message_bytes} B");
    report(&what, start, times, message_bytes);
    connection.close(0_u32.into(), b"");
    answering.abort();
    Ok(())
}

mod bare {
    //! Plain quinn with its default transport settings.

    use std::sync::Arc;

    use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
    use quinn::{ClientConfig, Endpoint, ServerConfig};
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};

    use super::{ANSWER_BYTES, Certificates, Failure, Ipv4Addr};

    pub(super) fn endpoints(certificates: &Certificates) -> Result<(Endpoint, Endpoint), Failure> {
        use rustls_pki_types::pem::PemObject;
        let key = rcgen::KeyPair::generate()?;
        let issued = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?
            .signed_by(&key, &certificates.authority)?;
        let key = PrivateKeyDer::try_from(key.serialize_der())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = &[&rustls::version::TLS13];
        let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)?
            .with_no_client_auth()
            .with_single_cert(vec![issued.der().clone()], key)?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(certificates.pem.as_bytes())?)?;
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        let server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server)?));
        let server = Endpoint::server(server, any)?;
        let mut client_endpoint = Endpoint::client(any)?;
        let client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(client)?));
        client_endpoint.set_default_client_config(client);
        Ok((server, client_endpoint))
    }

    /// Answers every whole message with a few bytes.
    pub(super) async fn answer(server: Endpoint, message_bytes: usize) -> Result<(), Failure> {
        let incoming = server.accept().await.ok_or("closed")?;
        let (mut send, mut receive) = incoming.await?.accept_bi().await?;
        let mut partial = 0;
        while let Some(chunk) = receive.read_chunk(1 << 16, true).await? {
            partial += chunk.bytes.len();
            let whole = partial / message_bytes;
            if whole > 0 {
                send.write_all(&vec![1; whole * ANSWER_BYTES]).await?;
            }
            partial %= message_bytes;
        }
        Ok(())
    }
}

/// Runs a future on a single-threaded runtime, as a node does.
fn on_one_thread(task: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(task)
}

fn main() -> Result<(), Failure> {
    let certificates = Certificates::new()?;
    on_one_thread(async {
        for (outstanding, bytes) in [(1, MESSAGE_BYTES), (64, MESSAGE_BYTES), (8, 256 << 10)] {
            bare_quinn(&certificates, outstanding, bytes).await?;
        }
        let mut one = start(1, &certificates)?;
        let two = start(2, &certificates)?;
        let named = [
            (one.node.id, one.address.to_string()),
            (two.node.id, two.address.to_string()),
        ];
        let dialled = Instant::now();
        one.transport.set_peers(&named);
        one.node.up.notified().await;
        println!("connected in {:.1?}", dialled.elapsed());
        for (class, outstanding, bytes) in [
            (Class::Append, 1, MESSAGE_BYTES),
            (Class::Append, 64, MESSAGE_BYTES),
            (Class::Append, 1024, MESSAGE_BYTES),
            (Class::Append, 8, 17_000),
            (Class::Append, 4, 1 << 20),
            (Class::Bulk, 8, 256 << 10),
        ] {
            between_nodes(&mut one, &two, class, outstanding, bytes).await;
        }
        for callers in [1, 64, 1000] {
            client_requests(&certificates, two.address, callers).await?;
        }
        let stats = one.transport.stats();
        println!("{:#?}", stats.peers[0]);
        Ok(())
    })
}
