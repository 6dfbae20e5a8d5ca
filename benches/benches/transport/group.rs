//! Three nodes of the same runtime in one process, over QUIC and over TCP with TLS: proposals
//! through real logs.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
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
    Applied, ApplyOn, Parts, QuicBuilder, Raft, RaftConfig, Small, SmallState, TransportBuilder,
};
use raft_proto::NodeId;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// Nodes of a group.
const NODES: u64 = 3;
/// Length of commands in bytes.
const COMMAND_BYTES: usize = 256;
/// Proposals under way.
const CLIENTS: [u64; 3] = [1, 64, 256];

/// What carries messages.
#[derive(Clone, Copy, Debug)]
enum Carrier {
    Quic,
    Tcp,
}

/// Measures and prints.
pub(super) fn run(options: &Options) {
    print_head("raft group over QUIC and over TCP + TLS", "proposal");
    let runtime = super::runtime();
    let quic = Group::start(Carrier::Quic, &runtime);
    let tcp = Group::start(Carrier::Tcp, &runtime);
    for clients in CLIENTS {
        let title = format!("{NODES} nodes, {clients} clients, {COMMAND_BYTES} B");
        let of = |group: &Group, slice| {
            let mut latencies = Vec::new();
            let measured =
                Measured::once(|| runtime.block_on(group.write(clients, slice, &mut latencies)));
            latencies.sort_unstable();
            let p99 = latencies[(latencies.len() - 1) * 99 / 100];
            eprintln!("{title}: p99 {p99:.1?} over {:?}", group.carrier);
            measured
        };
        Contest::new(&title)
            .with("QUIC", |slice| of(&quic, slice))
            .with("TCP + TLS", |slice| of(&tcp, slice))
            .run(options);
    }
    runtime.block_on(async {
        quic.stop().await;
        tcp.stop().await;
    });
}

/// Counts.
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
        Bytes::copy_from_slice(&self.0.to_le_bytes())
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
struct Group {
    carrier: Carrier,
    nodes: Vec<Raft>,
    _home: TempDir,
}

impl Group {
    fn start(carrier: Carrier, runtime: &Runtime) -> Self {
        let home = super::directory();
        let authority = Authority::new().expect("keys can be made");
        let identity = Arc::new(Identity::generate().expect("keys can be made"));
        let udp: Vec<_> = (0..NODES)
            .map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free"))
            .collect();
        let tcp: Vec<_> = (0..NODES)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free"))
            .collect();
        let address = |at: usize| match carrier {
            Carrier::Quic => udp[at].local_addr(),
            Carrier::Tcp => tcp[at].local_addr(),
        };
        let voters: Vec<_> = (0..NODES as usize)
            .map(|at| {
                let address = address(at).expect("it is bound");
                (NodeId(at as u64 + 1), address.to_string())
            })
            .collect();
        let mut nodes = Vec::new();
        for (id, (socket, listener)) in (1..).zip(udp.into_iter().zip(tcp)) {
            let transport: Box<dyn TransportBuilder> = match carrier {
                Carrier::Quic => Box::new(QuicBuilder {
                    socket,
                    cluster_name: CLUSTER.to_string(),
                    tls: authority.node(id).expect("keys can be made"),
                    limits: NetLimits::default(),
                    timing: NetTiming::default(),
                    clients: None,
                    stats: Arc::default(),
                }),
                Carrier::Tcp => Box::new(TcpBuilder {
                    listener,
                    identity: Arc::clone(&identity),
                }),
            };
            let path = home.path().join(id.to_string());
            let directory = DataDir::open(RealVfs::shared(), &path, NodeId(id));
            let mut config = RaftConfig::new(NodeId(id), voters.clone());
            config.apply_on = ApplyOn::NodeThread;
            let parts = Parts {
                directory: directory.expect("a fresh directory opens"),
                machine: Small::boxed(Counter(0)),
                transport,
            };
            nodes.push(Raft::start(config, parts).expect("a node starts"));
        }
        let group = Self {
            carrier,
            nodes,
            _home: home,
        };
        runtime.block_on(group.leader());
        group
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
