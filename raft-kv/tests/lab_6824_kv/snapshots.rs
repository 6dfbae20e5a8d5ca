//! The lab's tests with snapshots (3B): servers that take them all the time, and logs that must
//! stay short.

use std::cell::RefCell;
use std::io::{self, Read};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use raft_core::IndexRange;
use raft_kv::machine::KvMachine;
use raft_kv::store::Retention;
use raft_node::{Applied, SnapshotPolicy, StateMachine};
use raft_proto::NodeId;
use raft_sim::{Cluster, ClusterOptions, LinkOptions, Mark};

use super::clerk::Reach;
use super::generic::{Crashes, Keys, Partitions, Scenario, Snapshots, finish, for_seeds};
use super::history::History;
use super::{ELECTION_MS, UNRELIABLE, everywhere, play, read};

/// The lab's `maxraftstate`: a snapshot is due once the log has this many bytes.
const MAX_RAFT_STATE: u64 = 1_000;
/// How many times as long a log may be.
const SLACK: u64 = 8;
/// The lab's `maxsnapshotstate`, in bytes.
const MAX_SNAPSHOT_STATE: usize = 500;
/// How soon logs must be short after the last answer, in milliseconds: the lab gives servers time
/// to checkpoint without a number; here it is a few messages of the unreliable network.
const COMPACTION_MS: u64 = 300;

/// The machine, and how long its longest snapshot was.
struct Measured {
    machine: KvMachine,
    cut_bytes: usize,
    longest: Arc<AtomicUsize>,
}

impl StateMachine for Measured {
    fn apply(&mut self, applied: Applied<'_>) -> Bytes {
        StateMachine::apply(&mut self.machine, applied)
    }

    fn query(&mut self, query: &Bytes) -> Bytes {
        StateMachine::query(&mut self.machine, query)
    }

    fn begin_snapshot(&mut self) {
        self.cut_bytes = 0;
        self.machine.begin_snapshot();
    }

    fn snapshot_part(&mut self, max_bytes: usize) -> Option<Bytes> {
        let part = self.machine.snapshot_part(max_bytes)?;
        self.cut_bytes += part.len();
        self.longest.fetch_max(self.cut_bytes, Ordering::Relaxed);
        Some(part)
    }

    fn end_snapshot(&mut self) {
        self.machine.end_snapshot();
    }

    fn restore(&mut self, source: &mut dyn Read) -> io::Result<()> {
        self.machine.restore(source)
    }
}

/// Servers that take a snapshot whenever their log has the lab's size, and keep nothing behind it.
pub(crate) fn cluster(servers: u64, seed: u64, links: LinkOptions) -> Cluster {
    measured_cluster(servers, seed, links).0
}

fn measured_cluster(servers: u64, seed: u64, links: LinkOptions) -> (Cluster, Arc<AtomicUsize>) {
    let mut options = ClusterOptions::new(servers).seed(seed).links(links);
    options.limits.snapshots = SnapshotPolicy {
        max_log_bytes: MAX_RAFT_STATE,
        growth_percent: 0,
        min_pause: Duration::ZERO,
        keep_entries: 0,
        max_retained_bytes: 0,
        ..SnapshotPolicy::default()
    };
    let longest = Arc::new(AtomicUsize::new(0));
    let measured = Arc::clone(&longest);
    let cluster = Cluster::new(options, move |_| {
        // The lab's store keeps no older versions, and its bounds allow none.
        let retention = Retention {
            versions_max: 0,
            bytes_max: 0,
        };
        Box::new(Measured {
            machine: KvMachine::new(retention),
            cut_bytes: 0,
            longest: Arc::clone(&measured),
        })
    });
    (cluster, longest)
}

/// Bytes of the entries in a node's log.
fn log_bytes(cluster: &Cluster, node: NodeId) -> u64 {
    let core = cluster.core(node).expect("it runs");
    let first = core.base_position().index.next();
    let range = IndexRange::new(first, core.last_position().index);
    range.map_or(0, |range| core.log_bytes(range))
}

/// Every running server's log is short, now or soon.
pub(crate) fn check_log_sizes(cluster: &mut Cluster) {
    check_log_sizes_of(cluster, &cluster.node_ids());
}

fn check_log_sizes_of(cluster: &mut Cluster, nodes: &[NodeId]) {
    let longest = |cluster: &Cluster| {
        let bytes = nodes.iter().map(|node| log_bytes(cluster, *node));
        bytes.max().unwrap_or(0)
    };
    cluster.run_until(COMPACTION_MS, |cluster| {
        longest(cluster) < SLACK * MAX_RAFT_STATE
    });
    let bytes = longest(cluster);
    assert!(bytes < SLACK * MAX_RAFT_STATE, "a log has {bytes} bytes");
}

fn put_all(
    cluster: &mut Cluster,
    reach: &Reach,
    history: &History,
    pairs: Vec<(String, &'static str)>,
) {
    play(cluster, reach, history, async move |clerk| {
        for (key, value) in pairs {
            clerk.put(&key, value).await;
        }
    });
    finish(cluster);
}

#[test]
fn snapshot_rpc() {
    for_seeds(5, |seed| {
        let mut cluster = cluster(3, seed, LinkOptions::reliable());
        let history = History::default();
        let nodes = cluster.node_ids();
        let reach: Reach = Rc::new(RefCell::new(nodes.clone()));
        let one = |key: &str, value| vec![(key.to_owned(), value)];
        put_all(&mut cluster, &reach, &history, one("a", "A"));
        assert_eq!(read(&mut cluster, &reach, &history, "a"), "A");

        // A lot of writes into the majority.
        cluster.partition(&[&nodes[..2], &nodes[2..]]);
        *reach.borrow_mut() = nodes[..2].to_vec();
        let many = (0..50).map(|n| (n.to_string(), "v"));
        put_all(&mut cluster, &reach, &history, many.collect());
        cluster.run_for_ms(ELECTION_MS);
        put_all(&mut cluster, &reach, &history, one("b", "B"));
        check_log_sizes_of(&mut cluster, &nodes[..2]);

        // Now the server that lags is needed, so it has to catch up.
        cluster.heal();
        cluster.partition(&[&[nodes[0], nodes[2]], &[nodes[1]]]);
        *reach.borrow_mut() = vec![nodes[0], nodes[2]];
        put_all(&mut cluster, &reach, &history, one("c", "C"));
        put_all(&mut cluster, &reach, &history, one("d", "D"));
        for (key, value) in [("a", "A"), ("b", "B"), ("1", "v"), ("49", "v")] {
            assert_eq!(read(&mut cluster, &reach, &history, key), value);
        }

        // And everybody.
        cluster.heal();
        *reach.borrow_mut() = nodes;
        put_all(&mut cluster, &reach, &history, one("e", "E"));
        for (key, value) in [("c", "C"), ("e", "E"), ("1", "v")] {
            assert_eq!(read(&mut cluster, &reach, &history, key), value);
        }
        let installed = cluster.tally().marks.get(&Mark::SnapshotInstalled);
        assert!(installed.is_some(), "a snapshot was installed");
        history.assert_linearizable();
    });
}

#[test]
fn snapshot_size() {
    for_seeds(3, |seed| {
        let (mut cluster, longest) = measured_cluster(3, seed, LinkOptions::reliable());
        let history = History::default();
        let reach = everywhere(&cluster);
        play(&mut cluster, &reach, &history, async |clerk| {
            for _ in 0..200 {
                for value in ["0", "1"] {
                    clerk.put("x", value).await;
                    assert_eq!(clerk.get("x").await.as_deref(), Some(value.as_bytes()));
                }
            }
        });
        finish(&mut cluster);
        check_log_sizes(&mut cluster);
        let bytes = longest.load(Ordering::Relaxed);
        assert!(
            (1..=MAX_SNAPSHOT_STATE).contains(&bytes),
            "the longest snapshot has {bytes} bytes"
        );
        history.assert_linearizable();
    });
}

fn snapshotting(clients: u64) -> Scenario {
    Scenario::new(clients).snapshots(Snapshots::Often)
}

#[test]
fn snapshot_recover() {
    let scenario = snapshotting(1).crashes(Crashes::Everybody);
    for_seeds(3, |seed| scenario.run(seed));
}

#[test]
fn snapshot_recover_many_clients() {
    let scenario = snapshotting(20).crashes(Crashes::Everybody);
    for_seeds(2, |seed| scenario.run(seed));
}

#[test]
fn snapshot_unreliable() {
    for_seeds(3, |seed| snapshotting(5).links(UNRELIABLE).run(seed));
}

#[test]
fn snapshot_unreliable_recover() {
    let scenario = snapshotting(5)
        .links(UNRELIABLE)
        .crashes(Crashes::Everybody);
    for_seeds(3, |seed| scenario.run(seed));
}

#[test]
fn snapshot_unreliable_recover_concurrent_partition() {
    let scenario = snapshotting(5)
        .links(UNRELIABLE)
        .crashes(Crashes::Everybody)
        .partitions(Partitions::Random);
    for_seeds(3, |seed| scenario.run(seed));
}

#[test]
fn snapshot_unreliable_recover_concurrent_partition_linearizable() {
    let scenario = snapshotting(15)
        .servers(7)
        .links(UNRELIABLE)
        .crashes(Crashes::Everybody)
        .partitions(Partitions::Random)
        .keys(Keys::Shared);
    for_seeds(2, |seed| scenario.run(seed));
}
