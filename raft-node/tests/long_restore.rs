//! A state that takes long to be restored: the node answers meanwhile, and stops when it is asked to.
#![allow(
    clippy::unwrap_used,
    reason = "in test helpers too, a panic is the failure"
)]

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use raft_log::{DataDir, LogOptions, vfs::RealVfs};
use raft_node::{
    Applied, ApplyOn, MemoryNetwork, Parts, Raft, RaftConfig, ReadConsistency, ReadError,
    SnapshotPolicy, StateMachine,
};
use raft_proto::NodeId;
use tempfile::TempDir;
use tokio::sync::Notify;

#[path = "support/leader.rs"]
mod leader;
#[path = "support/patience.rs"]
mod patience;

use leader::leader;
use patience::run;

const POLL: Duration = Duration::from_millis(5);

/// Whether restores come to an end, and whether one has begun.
#[derive(Default)]
struct Tempo {
    is_endless: AtomicBool,
    has_begun: Notify,
}

/// Counts. Restoring it takes for ever, if it is told so, unless its source fails.
struct Slow {
    count: u64,
    cut: Option<u64>,
    tempo: Arc<Tempo>,
}

impl StateMachine for Slow {
    fn apply(&mut self, _applied: Applied<'_>) -> Bytes {
        self.count += 1;
        self.query(&Bytes::new())
    }

    fn query(&mut self, _query: &Bytes) -> Bytes {
        Bytes::copy_from_slice(&self.count.to_le_bytes())
    }

    fn begin_snapshot(&mut self) {
        self.cut = Some(self.count);
    }

    fn snapshot_part(&mut self, _max_bytes: usize) -> Option<Bytes> {
        let cut = self.cut.take()?;
        Some(Bytes::copy_from_slice(&cut.to_le_bytes()))
    }

    fn end_snapshot(&mut self) {
        self.cut = None;
    }

    fn restore(&mut self, source: &mut dyn Read) -> io::Result<()> {
        let mut count = [0; 8];
        source.read_exact(&mut count)?;
        self.count = u64::from_le_bytes(count);
        self.tempo.has_begun.notify_one();
        while self.tempo.is_endless.load(Ordering::Relaxed) {
            // As if there were always more.
            let more = source.read(&mut [0; 1])?;
            assert_eq!(more, 0, "that was all");
            std::thread::yield_now();
        }
        Ok(())
    }
}

struct Group {
    home: TempDir,
    network: MemoryNetwork,
    apply_on: ApplyOn,
    nodes: BTreeMap<u64, Raft>,
    tempo: Arc<Tempo>,
}

impl Group {
    async fn start(size: u64, apply_on: ApplyOn) -> Self {
        let mut group = Self {
            home: tempfile::tempdir().unwrap(),
            network: MemoryNetwork::new(),
            apply_on,
            nodes: BTreeMap::new(),
            tempo: Arc::default(),
        };
        (1..=size).for_each(|id| group.boot(id, size));
        group.write().await;
        group
    }

    fn boot(&mut self, id: u64, size: u64) {
        let voters = (1..=size).map(|id| (NodeId(id), format!("n{id}:1")));
        let mut config = RaftConfig::new(NodeId(id), voters.collect());
        config.log = LogOptions::small();
        config.apply_on = self.apply_on;
        config.limits.snapshots = SnapshotPolicy {
            max_log_entries: 20,
            min_pause: Duration::ZERO,
            keep_entries: 0,
            max_retained_bytes: 0,
            ..SnapshotPolicy::default()
        };
        let path = self.home.path().join(id.to_string());
        let parts = Parts {
            directory: DataDir::open(RealVfs::shared(), &path, NodeId(id)).unwrap(),
            machine: Box::new(Slow {
                count: 0,
                cut: None,
                tempo: Arc::clone(&self.tempo),
            }),
            transport: self.network.transport(NodeId(id)),
        };
        self.nodes.insert(id, Raft::start(config, parts).unwrap());
    }

    async fn leader(&self) -> u64 {
        leader(&self.nodes).await
    }

    async fn write(&self) {
        loop {
            let leader = &self.nodes[&self.leader().await];
            if let Ok(proposal) = leader.propose(Bytes::from_static(b"x")).await
                && proposal.outcome().await.is_ok()
            {
                return;
            }
        }
    }

    async fn stop(&mut self, id: u64) {
        self.nodes.remove(&id).unwrap().shutdown().await.unwrap();
    }
}

#[test]
fn a_node_that_restores_at_its_start_stops_when_it_is_asked_to() {
    run(async {
        let mut group = Group::start(1, ApplyOn::NodeThread).await;
        group.nodes[&1].take_snapshot().await.unwrap();
        group.stop(1).await;
        group.tempo.is_endless.store(true, Ordering::Relaxed);
        group.boot(1, 1);
        group.tempo.has_begun.notified().await;
        group.stop(1).await;
        // What was given up is begun anew.
        group.tempo.is_endless.store(false, Ordering::Relaxed);
        group.boot(1, 1);
        group.write().await;
        let read = group.nodes[&1].read(Bytes::new(), ReadConsistency::Linearizable);
        assert_eq!(read.await.unwrap(), &2_u64.to_le_bytes()[..]);
        group.stop(1).await;
    });
}

#[test]
fn a_node_that_installs_a_snapshot_answers_and_stops_meanwhile() {
    for apply_on in [ApplyOn::OwnThread, ApplyOn::NodeThread] {
        run(async {
            let mut group = Group::start(3, apply_on).await;
            let late = group.leader().await % 3 + 1;
            let had = loop {
                if let Some(status) = group.nodes[&late].status().await {
                    break status.last_index;
                }
            };
            group.stop(late).await;
            for id in group.nodes.keys() {
                while group.nodes[id]
                    .status()
                    .await
                    .is_none_or(|status| status.first_index <= had.next())
                {
                    group.write().await;
                }
            }
            group.tempo.is_endless.store(true, Ordering::Relaxed);
            group.boot(late, 3);
            group.tempo.has_begun.notified().await;
            let node = group.nodes[&late].clone();
            let status = node.status().await.unwrap();
            assert!(status.snapshots.is_restoring, "{:?}", status.snapshots);
            // It waited for the end of the restore before, without a deadline.
            let read = node.read(Bytes::new(), ReadConsistency::Local).await;
            assert_eq!(read, Err(ReadError::Restoring));
            group.stop(late).await;
            group.tempo.is_endless.store(false, Ordering::Relaxed);
            group.boot(late, 3);
            let node = group.nodes[&late].clone();
            loop {
                let read = node.read(Bytes::new(), ReadConsistency::Linearizable);
                if read.await.is_ok() {
                    break;
                }
                tokio::time::sleep(POLL).await;
            }
            for id in 1..=3 {
                group.stop(id).await;
            }
        });
    }
}
