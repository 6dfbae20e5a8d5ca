//! A snapshot on a slow line must not hold heartbeats up: counted in bytes, not in time.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use raft_net::{
    LocalIdentity, NetConfig, NetLimits, NetTiming, PeerHandler, QuicTransport, TlsIdentity,
};
use raft_node::driver::SnapshotPolicy;
use raft_node::{ApplyOn, Link, SendError, Transport, TransportBuilder};
use raft_proto::{Boot, ClusterId, GroupId, Hello, Incarnation, Message, NodeId, Refusal, Term};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use crate::group::{Carrier, Group, run};
use crate::proxy::{self, Rate};
use crate::{eager, leave_behind};

/// Most bytes of a snapshot that may arrive between the moment a heartbeat is queued and the moment
/// it arrives.
const MOST_BETWEEN: u64 = 256 << 10;
/// Heartbeats that must be looked at while a snapshot flows.
const HEARTBEATS: u64 = 100;
/// The slow line, in bytes a millisecond.
const SLOW: u64 = 1_500;
/// Slow enough for several snapshots to be taken while one is on its way, in bytes a millisecond.
const CRAWL: u64 = 300;
/// Fast enough to be of no account.
const FAST: u64 = 1_000_000;

/// What has arrived where, and what had when each heartbeat was queued.
#[derive(Default)]
struct Meter {
    /// Bytes of snapshots, by receiver.
    arrived: HashMap<NodeId, u64>,
    /// By receiver, term and round.
    queued: HashMap<(NodeId, Term, u64), u64>,
    /// The most that arrived between a heartbeat's queueing and its arrival.
    worst: u64,
    /// Heartbeats that arrived after the first byte of a snapshot and before the last.
    during: u64,
    /// Heartbeats since the last byte.
    since: u64,
}

impl Meter {
    fn queues(&mut self, to: NodeId, message: &Message) {
        if let Message::Heartbeat(beat) = message {
            let arrived = self.arrived.get(&to).copied().unwrap_or_default();
            self.queued.insert((to, beat.term, beat.round), arrived);
        }
    }

    fn arrives(&mut self, at: NodeId, message: &Message) {
        if let Message::FetchSnapshotResponse(part) = message {
            *self.arrived.entry(at).or_default() += part.data.len() as u64;
            self.during += std::mem::take(&mut self.since);
        }
        if let Message::Heartbeat(beat) = message {
            let arrived = self.arrived.get(&at).copied().unwrap_or_default();
            let queued = self.queued.remove(&(at, beat.term, beat.round));
            if let Some(before) = queued.filter(|_| arrived > 0) {
                self.worst = self.worst.max(arrived - before);
                self.since += 1;
            }
        }
    }
}

/// QUIC through proxies, with a meter at both ends of every connection.
struct Metered {
    issuer: Issuer<'static, KeyPair>,
    authority: String,
    /// Where each node listens, and where it is reached.
    addresses: BTreeMap<u64, (SocketAddr, SocketAddr)>,
    meter: Arc<Mutex<Meter>>,
}

impl Metered {
    async fn new(rate: &Rate, meter: &Arc<Mutex<Meter>>) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap().pem();
        let mut addresses = BTreeMap::new();
        for id in 1..=3 {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let listens = socket.local_addr().unwrap();
            addresses.insert(id, (listens, proxy::start(listens, rate).await));
        }
        Self {
            issuer: Issuer::new(params, key),
            authority,
            addresses,
            meter: Arc::clone(meter),
        }
    }

    fn tls(&self, id: u64) -> TlsIdentity {
        let names = vec![format!("n{id}.test"), "localhost".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        TlsIdentity::from_pem(&certificate, &key.serialize_pem(), &self.authority).unwrap()
    }
}

impl Carrier for Metered {
    fn address(&self, id: u64) -> String {
        self.addresses[&id].1.to_string()
    }

    fn transport(&self, id: u64) -> Box<dyn TransportBuilder> {
        Box::new(MeteredBuilder {
            socket: UdpSocket::bind(self.addresses[&id].0).unwrap(),
            tls: self.tls(id),
            meter: Arc::clone(&self.meter),
        })
    }

    fn heartbeat_interval_ms(&self) -> u64 {
        20
    }
}

struct MeteredBuilder {
    socket: UdpSocket,
    tls: TlsIdentity,
    meter: Arc<Mutex<Meter>>,
}

impl TransportBuilder for MeteredBuilder {
    fn start(self: Box<Self>, link: Link) -> Result<Box<dyn Transport>, String> {
        let config = NetConfig {
            local: LocalIdentity {
                node: link.node(),
                incarnation: link.incarnation(),
                boot: link.boot(),
            },
            cluster_name: "test".to_owned(),
            tls: self.tls,
            limits: NetLimits::default(),
            timing: NetTiming::default(),
        };
        let handler = MeteredLink(link, Arc::clone(&self.meter));
        let transport = QuicTransport::bind(self.socket, config, Arc::new(handler), None);
        let transport = transport.map_err(|error| error.to_string())?;
        Ok(Box::new(MeteredQuic(transport, self.meter)))
    }
}

struct MeteredQuic(QuicTransport, Arc<Mutex<Meter>>);

impl Transport for MeteredQuic {
    fn send(&self, to: NodeId, uncounted: bool, message: Message) -> Result<(), SendError> {
        self.1.lock().unwrap().queues(to, &message);
        let sent = self.0.send(to, &message, uncounted);
        sent.map_err(|_| SendError::NotConnected)
    }

    fn set_peers(&self, peers: &[(NodeId, String)]) {
        self.0.set_peers(peers);
    }

    fn shutdown(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.0.shutdown())
    }
}

struct MeteredLink(Link, Arc<Mutex<Meter>>);

impl PeerHandler for MeteredLink {
    fn cluster(&self) -> Option<ClusterId> {
        self.0.cluster()
    }

    fn admit(&self, hello: &Hello) -> Result<(), Refusal> {
        self.0.admit(hello)
    }

    fn on_message(&self, from: NodeId, uncounted: bool, _group: GroupId, message: Message) {
        self.1.lock().unwrap().arrives(self.0.node(), &message);
        let _ = self.0.deliver(from, uncounted, message);
    }

    fn on_peer_up(&self, peer: NodeId, incarnation: Incarnation, boot: Boot) {
        self.0.peer_up(peer, incarnation, boot);
    }

    fn on_peer_down(&self, peer: NodeId) {
        self.0.peer_down(peer);
    }

    fn on_refused(&self, peer: NodeId, refusal: &Refusal) {
        self.0.refused(peer, refusal);
    }
}

#[test]
fn heartbeats_keep_their_rhythm_while_a_snapshot_flows() {
    run(async {
        let rate = Rate::default();
        rate.store(FAST, std::sync::atomic::Ordering::Relaxed);
        let meter = Arc::default();
        let carrier = Metered::new(&rate, &meter).await;
        let mut group = Group::start_on(Box::new(carrier), ApplyOn::OwnThread, eager()).await;
        let late = leave_behind(&mut group, 60, 100_000).await;
        rate.store(SLOW, std::sync::atomic::Ordering::Relaxed);
        group.boot(late);
        while group.status(late).await.snapshots.installed == 0 {
            tokio::task::yield_now().await;
        }
        group.agree().await;
        group.stop().await;
        let meter = meter.lock().unwrap();
        let (during, worst) = (meter.during, meter.worst);
        println!("{during} heartbeats, at most {worst} bytes before one");
        assert!(during >= HEARTBEATS, "only {during} heartbeats");
        assert!(worst > 0, "nothing was measured");
        assert!(worst <= MOST_BETWEEN, "{worst} bytes arrived before one");
    });
}

/// Under load, newer snapshots are taken while one crawls over the line. The follower must not need
/// the next one as soon as it has the first.
#[test]
fn a_follower_behind_a_slow_line_under_load_needs_one_snapshot() {
    run(async {
        let rate = Rate::default();
        rate.store(FAST, std::sync::atomic::Ordering::Relaxed);
        let carrier = Metered::new(&rate, &Arc::default()).await;
        let policy = SnapshotPolicy {
            keep_entries: 5,
            max_retained_bytes: 1 << 30,
            // The follower that is down counts as gone at once.
            fetch_patience: Duration::from_millis(1_500),
            ..eager()
        };
        let mut group = Group::start_on(Box::new(carrier), ApplyOn::OwnThread, policy).await;
        let late = leave_behind(&mut group, 20, 100_000).await;
        rate.store(CRAWL, std::sync::atomic::Ordering::Relaxed);
        let leader = group.leader().await;
        let taken = group.status(leader).await.snapshots.taken;
        group.boot(late);
        let mut during = 0;
        while group.status(late).await.snapshots.installed == 0 {
            group.fill(100).await;
            during = group.status(leader).await.snapshots.taken - taken;
            if during >= 3 {
                rate.store(SLOW, std::sync::atomic::Ordering::Relaxed);
            }
        }
        assert!(during >= 3, "{during} were taken meanwhile");
        for _ in 0..200 {
            group.fill(100).await;
        }
        group.agree().await;
        let snapshots = group.status(late).await.snapshots;
        assert_eq!(snapshots.installed, 1, "{snapshots:?}");
        group.stop().await;
    });
}
