//! Three nodes of the same runtime in one process, over QUIC and over TCP with TLS: proposals
//! through real logs, over loopback and over worse networks, also while a fourth node fetches a
//! snapshot.

use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use benches::authority::{Authority, CLUSTER};
use benches::contest::{Contest, Measured, Options, print_head};
use benches::tcp::TcpBuilder;
use benches::tls::Identity;
use bytes::Bytes;
use raft_core::Role;
use raft_log::DataDir;
use raft_log::vfs::RealVfs;
use raft_net::{NetLimits, NetTiming};
use raft_node::{
    Applied, ApplyOn, ChangeSafety, MembershipChange, Parts, QuicBuilder, Raft, RaftConfig, Small,
    SmallState, TransportBuilder,
};
use raft_proto::{Member, NodeId, Promotion};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::namespaces::{self, Network, Weather};

/// Nodes of a group.
const NODES: u8 = 3;
/// The one that joins to fetch a snapshot.
const NEWCOMER: NodeId = NodeId(4);
/// Length of commands in bytes.
const COMMAND_BYTES: usize = 256;
/// Proposals under way.
const CLIENTS: [u64; 3] = [1, 64, 256];
/// The same over networks with delay.
const FAR_CLIENTS: [u64; 2] = [1, 256];
/// How long packets are on their way, one way, and how many of 10,000 are lost.
const WEATHERS: [(u64, u32); 4] = [(0, 0), (5, 0), (5, 10), (5, 100)];
/// Length of the state, so of a snapshot, in bytes.
const STATE_BYTES: usize = 16 << 20;
/// Entries that compaction keeps: few, so that the newcomer needs the snapshot.
const KEEP_ENTRIES: u64 = 100;
/// How long a snapshot may take.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(120);

/// What carries messages.
#[derive(Clone, Copy, Debug)]
enum Carrier {
    Quic,
    Tcp,
}

/// Where nodes are.
#[derive(Clone, Copy)]
enum Site<'a> {
    Loopback,
    Namespaces(&'a Network),
}

/// Measures and prints.
pub(super) fn run(options: &Options) {
    let runtime = super::runtime();
    if options.wants("raft group, loopback") {
        print_head(
            "raft group over QUIC and over TCP + TLS, loopback",
            "proposal",
        );
        let pair = Pair::start(Site::Loopback, &runtime);
        for clients in CLIENTS {
            let title = format!("{NODES} nodes, {clients} clients, {COMMAND_BYTES} B");
            pair.compare(&title, clients, false, options);
        }
        pair.stop();
    }
    if !options.wants("raft group, namespaces") {
        return;
    }
    let network = match Network::new(NODES + 1) {
        Ok(network) => network,
        Err(error) => {
            eprintln!("no namespaces, so nothing is measured over worse networks: {error}");
            return;
        }
    };
    print_head(
        "raft group over QUIC and over TCP + TLS, namespaces",
        "proposal",
    );
    let pair = Pair::start(Site::Namespaces(&network), &runtime);
    for (delay_ms, lost_per_10_000) in WEATHERS {
        network.set_weather(Weather {
            delay: Duration::from_millis(delay_ms),
            lost_per_10_000,
        });
        let lost = f64::from(lost_per_10_000) / 100.0;
        for clients in FAR_CLIENTS {
            let title = format!("{delay_ms} ms one way, {lost} % lost, {clients} clients");
            pair.compare(&title, clients, false, options);
        }
        let clients = FAR_CLIENTS[FAR_CLIENTS.len() - 1];
        let title = format!("{delay_ms} ms one way, {lost} % lost, {clients} clients, snapshot");
        pair.compare(&title, clients, true, options);
    }
    pair.stop();
}

/// The same group over either.
struct Pair<'a> {
    quic: Group<'a>,
    tcp: Group<'a>,
    runtime: &'a Runtime,
}

impl<'a> Pair<'a> {
    fn start(site: Site<'a>, runtime: &'a Runtime) -> Self {
        Self {
            quic: Group::start(Carrier::Quic, site, runtime),
            tcp: Group::start(Carrier::Tcp, site, runtime),
            runtime,
        }
    }

    /// Clients at both in turn, also while a newcomer fetches a snapshot.
    fn compare(&self, title: &str, clients: u64, with_snapshot: bool, options: &Options) {
        let of = |group: &Group<'_>, slice| {
            let mut latencies = Vec::new();
            let newcomer = with_snapshot.then(|| self.runtime.block_on(group.invite()));
            let work = || {
                let written = group.write(clients, slice, &mut latencies);
                self.runtime.block_on(written)
            };
            let measured = Measured::once(work);
            latencies.sort_unstable();
            let p99 = latencies[(latencies.len() - 1) * 99 / 100];
            eprintln!("{title}: p99 {p99:.1?} over {:?}", group.carrier);
            if let Some(newcomer) = newcomer {
                let taken = self.runtime.block_on(group.see_off(newcomer));
                eprintln!("{title}: snapshot in {taken:.1?} over {:?}", group.carrier);
            }
            measured
        };
        Contest::new(title)
            .with("QUIC", |slice| of(&self.quic, slice))
            .with("TCP + TLS", |slice| of(&self.tcp, slice))
            .run(options);
    }

    fn stop(self) {
        self.runtime.block_on(async {
            self.quic.stop().await;
            self.tcp.stop().await;
        });
    }
}

/// Counts, with a state of [`STATE_BYTES`].
struct Counter(u64);

impl SmallState for Counter {
    fn apply(&mut self, applied: Applied<'_>) -> Bytes {
        self.0 += applied.command.len() as u64;
        Bytes::new()
    }

    fn query(&mut self, _query: &Bytes) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_le_bytes())
    }

    fn save(&self) -> Bytes {
        let mut state = vec![7; STATE_BYTES];
        state[..8].copy_from_slice(&self.0.to_le_bytes());
        state.into()
    }

    fn load(&mut self, saved: &[u8]) -> std::io::Result<()> {
        let bytes = saved
            .first_chunk()
            .ok_or(std::io::ErrorKind::UnexpectedEof)?;
        self.0 = u64::from_le_bytes(*bytes);
        Ok(())
    }
}

/// A running group.
struct Group<'a> {
    carrier: Carrier,
    site: Site<'a>,
    authority: Authority,
    identity: Arc<Identity>,
    nodes: Vec<Raft>,
    home: TempDir,
}

/// A node that is about to have a snapshot.
struct Newcomer {
    node: Raft,
    began: Instant,
    _home: TempDir,
}

/// A node's sockets: one of them is used.
struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    fn bind(address: Ipv4Addr) -> Self {
        Self {
            udp: UdpSocket::bind((address, 0)).expect("a port is free"),
            tcp: TcpListener::bind((address, 0)).expect("a port is free"),
        }
    }

    fn address(&self, carrier: Carrier) -> String {
        let address = match carrier {
            Carrier::Quic => self.udp.local_addr(),
            Carrier::Tcp => self.tcp.local_addr(),
        };
        address.expect("it is bound").to_string()
    }
}

impl<'a> Group<'a> {
    fn start(carrier: Carrier, site: Site<'a>, runtime: &Runtime) -> Self {
        let mut group = Self {
            carrier,
            site,
            authority: Authority::new().expect("keys can be made"),
            identity: Arc::new(Identity::generate().expect("keys can be made")),
            nodes: Vec::new(),
            home: super::directory(),
        };
        let sockets: Vec<_> = (0..NODES).map(|at| group.bind(at)).collect();
        let voters: Vec<_> = (1..)
            .zip(&sockets)
            .map(|(id, sockets)| (NodeId(id), sockets.address(carrier)))
            .collect();
        for (id, sockets) in (1..).map(NodeId).zip(sockets) {
            let home = group.home.path().join(id.0.to_string());
            let config = RaftConfig::new(id, voters.clone());
            let node = group.start_node(config, &home, sockets);
            group.nodes.push(node);
        }
        runtime.block_on(group.leader());
        group
    }

    /// Sockets of a node, which are numbered from 0 on.
    fn bind(&self, at: u8) -> Sockets {
        match self.site {
            Site::Loopback => Sockets::bind(Ipv4Addr::LOCALHOST),
            Site::Namespaces(network) => {
                let address = namespaces::address(at);
                network.within(usize::from(at), move || Sockets::bind(address))
            }
        }
    }

    fn start_node(&self, mut config: RaftConfig, home: &Path, sockets: Sockets) -> Raft {
        let id = config.core.id;
        config.apply_on = ApplyOn::NodeThread;
        config.limits.snapshots.keep_entries = KEEP_ENTRIES;
        let local = sockets.udp.local_addr().expect("it is bound").ip();
        let transport: Box<dyn TransportBuilder> = match self.carrier {
            Carrier::Quic => Box::new(QuicBuilder {
                socket: sockets.udp,
                cluster_name: CLUSTER.to_string(),
                tls: self.authority.node(id.0).expect("keys can be made"),
                limits: NetLimits::default(),
                timing: NetTiming::default(),
                clients: None,
                stats: Arc::default(),
            }),
            Carrier::Tcp => Box::new(TcpBuilder {
                listener: sockets.tcp,
                identity: Arc::clone(&self.identity),
            }),
        };
        let directory = DataDir::open(RealVfs::shared(), home, id);
        let parts = Parts {
            directory: directory.expect("a fresh directory opens"),
            machine: Small::boxed(Counter(0)),
            transport,
        };
        let start = move || Raft::start(config, parts).expect("a node starts");
        match (self.site, local) {
            (Site::Namespaces(network), IpAddr::V4(local)) => {
                let at = usize::from(local.octets()[3]) - 1;
                network.within(at, start)
            }
            _ => start(),
        }
    }

    /// Has a newcomer join that needs a snapshot.
    async fn invite(&self) -> Newcomer {
        let leader = self.leader().await;
        leader.take_snapshot().await.expect("there is room");
        let sockets = self.bind(NODES);
        let change = MembershipChange::AddLearner {
            id: NEWCOMER,
            member: Member {
                incarnation: None,
                address: sockets.address(self.carrier),
            },
            promotion: Promotion::Manual,
        };
        let changed = leader.change_membership(vec![change], ChangeSafety::KeepQuorum);
        changed.await.expect("the leader stays");
        let home = super::directory();
        let began = Instant::now();
        let config = RaftConfig::joining(NEWCOMER);
        let node = self.start_node(config, home.path(), sockets);
        Newcomer {
            node,
            began,
            _home: home,
        }
    }

    /// Waits until a newcomer has the snapshot, and takes it out again; says how long it took.
    async fn see_off(&self, newcomer: Newcomer) -> Duration {
        while newcomer.began.elapsed() < SNAPSHOT_PATIENCE {
            let status = newcomer.node.status().await;
            if status.is_some_and(|status| status.applied_index.0 > 0) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let taken = newcomer.began.elapsed();
        let leader = self.leader().await;
        let change = vec![MembershipChange::Remove(NEWCOMER)];
        let changed = leader.change_membership(change, ChangeSafety::KeepQuorum);
        changed.await.expect("the leader stays");
        newcomer.node.shutdown().await.expect("the node was sound");
        taken
    }

    async fn leader(&self) -> &Raft {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(60) {
            for node in &self.nodes {
                let status = node.status().await;
                if status.is_some_and(|status| status.role == Role::Leader) {
                    return node;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no leader over {:?}", self.carrier);
    }

    /// So many clients propose, each its next command when the last one is applied.
    async fn write(&self, clients: u64, slice: Duration, latencies: &mut Vec<Duration>) -> u64 {
        let leader = self.leader().await;
        let command = Bytes::from(vec![7; COMMAND_BYTES]);
        let begin = Instant::now();
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            let (leader, command) = (leader.clone(), command.clone());
            tasks.spawn(async move {
                let mut times = Vec::new();
                while begin.elapsed() < slice {
                    let proposed = Instant::now();
                    let proposal = leader.propose(command.clone()).await;
                    let proposal = proposal.expect("the leader stays");
                    proposal.outcome().await.expect("the leader stays");
                    times.push(proposed.elapsed());
                }
                times
            });
        }
        while let Some(times) = tasks.join_next().await {
            latencies.extend(times.expect("a client does not panic"));
        }
        latencies.len() as u64
    }

    async fn stop(self) {
        for node in &self.nodes {
            node.shutdown().await.expect("the node was sound");
        }
    }
}
