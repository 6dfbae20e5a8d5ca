//! An fsync that fails under the real runtime: nothing is acknowledged after it, another node leads, the
//! node ends with a message, and starts again once its disk is healthy (D7).
#![allow(
    clippy::unwrap_used,
    reason = "in test helpers too, a panic is the failure"
)]

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use raft_log::vfs::{Access, AlignedBytes, Content, LockGuard, RealVfs, Vfs, VfsFile, Writers};
use raft_log::{DataDir, LogOptions};
use raft_node::{
    Applied, FatalError, MemoryNetwork, NodeState, Parts, ProposeError, Raft, RaftConfig,
    ReadConsistency, Small, SmallState,
};
use raft_proto::NodeId;
use tempfile::TempDir;

#[path = "support/leader.rs"]
mod leader;
#[path = "support/patience.rs"]
mod patience;

use leader::leader;
use patience::run;

const POLL: Duration = Duration::from_millis(2);

/// Counts its commands.
#[derive(Default)]
struct Counter(u64);

impl SmallState for Counter {
    fn apply(&mut self, _applied: Applied<'_>) -> Bytes {
        self.0 += 1;
        self.save()
    }

    fn query(&mut self, _query: &Bytes) -> Bytes {
        self.save()
    }

    fn save(&self) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_le_bytes())
    }

    fn load(&mut self, saved: &[u8]) -> io::Result<()> {
        self.0 = u64::from_le_bytes(saved.try_into().map_err(io::Error::other)?);
        Ok(())
    }
}

/// The real disk, until its syncs fail.
#[derive(Debug, Default)]
struct Disk {
    real: RealVfs,
    is_failing: Arc<AtomicBool>,
}

#[derive(Debug)]
struct File {
    real: Arc<dyn VfsFile>,
    is_failing: Arc<AtomicBool>,
}

impl Disk {
    fn file(&self, real: Arc<dyn VfsFile>) -> Arc<dyn VfsFile> {
        let is_failing = Arc::clone(&self.is_failing);
        Arc::new(File { real, is_failing })
    }
}

impl Vfs for Disk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.real.create_dir_all(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        Ok(self.file(self.real.create(path)?))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn VfsFile>> {
        Ok(self.file(self.real.open(path, access)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.real.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.real.remove(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.real.list(directory)
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        self.real.sync_dir(directory)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        self.real.lock(path)
    }

    fn random(&self) -> io::Result<u64> {
        self.real.random()
    }
}

impl VfsFile for File {
    fn size(&self) -> io::Result<u64> {
        self.real.size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.real.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: AlignedBytes<'_>) -> io::Result<()> {
        self.real.write_at(offset, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.is_failing.load(Ordering::Relaxed) {
            return Err(io::Error::other("injected: the disk does not take it"));
        }
        self.real.sync_data()
    }

    fn content(&self, expectation: Writers) -> io::Result<Content> {
        self.real.content(expectation)
    }
}

struct Group {
    home: TempDir,
    network: MemoryNetwork,
    disks: BTreeMap<u64, Arc<Disk>>,
    nodes: BTreeMap<u64, Raft>,
}

impl Group {
    fn start() -> Self {
        let mut group = Self {
            home: tempfile::tempdir().unwrap(),
            network: MemoryNetwork::new(),
            disks: (1..=3).map(|id| (id, Arc::default())).collect(),
            nodes: BTreeMap::new(),
        };
        (1..=3).for_each(|id| group.boot(id));
        group
    }

    fn boot(&mut self, id: u64) {
        let voters = (1..=3).map(|id| (NodeId(id), format!("n{id}:1")));
        let mut config = RaftConfig::new(NodeId(id), voters.collect());
        config.log = LogOptions::small();
        let path = self.home.path().join(id.to_string());
        let vfs = Arc::clone(&self.disks[&id]) as Arc<dyn Vfs>;
        let parts = Parts {
            directory: DataDir::open(vfs, &path, NodeId(id)).unwrap(),
            machine: Small::boxed(Counter::default()),
            transport: self.network.transport(NodeId(id)),
        };
        self.nodes.insert(id, Raft::start(config, parts).unwrap());
    }

    fn set_failing(&self, id: u64, is_failing: bool) {
        let disk = &self.disks[&id];
        disk.is_failing.store(is_failing, Ordering::Relaxed);
    }

    async fn leader(&self) -> u64 {
        leader(&self.nodes).await
    }

    /// Writes until one is acknowledged. Returns how many may count besides.
    async fn write(&self) -> u64 {
        let mut unknown = 0;
        loop {
            let leader = &self.nodes[&self.leader().await];
            if let Ok(proposal) = leader.propose(Bytes::from_static(b"x")).await {
                match proposal.outcome().await {
                    Ok(_) => return unknown,
                    Err(_) => unknown += 1,
                }
            }
        }
    }

    async fn count(&self, id: u64) -> u64 {
        loop {
            let read = self.nodes[&id].read(Bytes::new(), ReadConsistency::Linearizable);
            if let Ok(count) = read.await {
                return u64::from_le_bytes(count[..].try_into().unwrap());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until a node has ended because of its log.
    async fn ended(&mut self, id: u64) {
        let node = self.nodes.remove(&id).unwrap();
        let NodeState::Stopped(Some(error)) = node.wait_for(|_| false).await else {
            panic!("it goes on");
        };
        assert!(matches!(error, FatalError::Log(_)), "{error}");
        let said = error.to_string();
        for words in ["injected", "restart the node once its disk is healthy"] {
            assert!(said.contains(words), "{said}");
        }
        let after = node.propose(Bytes::from_static(b"x")).await;
        assert_eq!(after.unwrap_err(), ProposeError::ShutDown);
    }
}

#[test]
fn a_leader_whose_sync_fails_acknowledges_nothing_more_and_another_one_leads() {
    run(async {
        let mut group = Group::start();
        let (mut acknowledged, mut unknown) = (0, 0);
        for round in 0..3 {
            for _ in 0..20 {
                unknown += group.write().await;
                acknowledged += 1;
            }
            let leader = group.leader().await;
            group.set_failing(leader, true);
            let mut under_way = Vec::new();
            for _ in 0..10 {
                match group.nodes[&leader].propose(Bytes::from_static(b"x")).await {
                    Ok(proposal) => under_way.push(proposal.outcome()),
                    Err(_) => break,
                }
            }
            assert!(!under_way.is_empty(), "round {round}: it led");
            for outcome in under_way {
                // The others may have it: it is neither acknowledged nor refused.
                assert_eq!(outcome.await, Err(ProposeError::Unknown));
                unknown += 1;
            }
            group.ended(leader).await;
            unknown += group.write().await;
            acknowledged += 1;
            assert_ne!(group.leader().await, leader);
            group.set_failing(leader, false);
            group.boot(leader);
        }
        let counts = [
            group.count(1).await,
            group.count(2).await,
            group.count(3).await,
        ];
        for count in counts {
            assert!(
                (acknowledged..=acknowledged + unknown).contains(&count),
                "{acknowledged} were acknowledged, {unknown} unknown, {count} counted"
            );
        }
        assert_eq!((counts[0], counts[1]), (counts[1], counts[2]));
        for node in group.nodes.into_values() {
            node.shutdown().await.unwrap();
        }
    });
}

#[test]
fn a_follower_whose_sync_fails_ends_and_is_not_missed() {
    run(async {
        let mut group = Group::start();
        group.write().await;
        let leader = group.leader().await;
        let follower = leader % 3 + 1;
        group.set_failing(follower, true);
        // It hears of the next write, and cannot keep it.
        group.write().await;
        group.ended(follower).await;
        for _ in 0..20 {
            group.write().await;
        }
        group.set_failing(follower, false);
        group.boot(follower);
        assert!(group.count(follower).await >= 22);
        for node in group.nodes.into_values() {
            node.shutdown().await.unwrap();
        }
    });
}
