//! Disks that are slow to open a log, or full: callers are told, and nothing is lost.
#![allow(
    clippy::unwrap_used,
    reason = "in test helpers too, a panic is the failure"
)]

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use raft_log::vfs::{Access, LockGuard, RealVfs, Vfs, VfsFile};
use raft_log::{DataDir, LogOptions};
use raft_node::{
    Applied, MemoryNetwork, NodeState, Parts, ProposeError, Raft, RaftConfig, ReadConsistency,
    ReadError, Small, SmallState,
};
use raft_proto::NodeId;

#[path = "support/patience.rs"]
mod patience;

use patience::run;

const ID: NodeId = NodeId(1);

/// Counts its commands.
#[derive(Default)]
struct Counter(u64);

impl SmallState for Counter {
    fn apply(&mut self, _applied: Applied<'_>) -> Bytes {
        self.0 += 1;
        self.query(&Bytes::new())
    }

    fn query(&mut self, _query: &Bytes) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_le_bytes())
    }

    fn save(&self) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_le_bytes())
    }

    fn load(&mut self, saved: &[u8]) -> std::io::Result<()> {
        let number = saved.try_into().map_err(std::io::Error::other)?;
        self.0 = u64::from_le_bytes(number);
        Ok(())
    }
}

/// The real disk, with its troubles.
#[derive(Debug, Default)]
struct Disk {
    real: RealVfs,
    /// No file can be created.
    is_full: AtomicBool,
    /// The directory of the snapshots cannot be synced once a snapshot has its name.
    fails_to_name: AtomicBool,
    is_named: AtomicBool,
    /// The next open of the log waits for this.
    log_is_open: Mutex<Option<Receiver<()>>>,
}

impl Vfs for Disk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.real.create_dir_all(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.real.create(path)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn VfsFile>> {
        self.real.open(path, access)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if to.extension().is_some_and(|extension| extension == "snap") {
            self.is_named.store(true, Ordering::Relaxed);
        }
        self.real.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.real.remove(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        if directory.ends_with("log-0")
            && let Some(opened) = self.log_is_open.lock().unwrap().take()
        {
            opened.recv().unwrap();
        }
        self.real.list(directory)
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        let fails = self.fails_to_name.load(Ordering::Relaxed)
            && self.is_named.load(Ordering::Relaxed)
            && directory.ends_with("snapshots-0");
        if fails {
            return Err(io::Error::other("injected sync failure"));
        }
        self.real.sync_dir(directory)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        self.real.lock(path)
    }

    fn random(&self) -> io::Result<u64> {
        self.real.random()
    }
}

fn start(disk: &Arc<Disk>, path: &Path) -> Raft {
    let mut config = RaftConfig::new(ID, vec![(ID, "n1:1".to_owned())]);
    config.log = LogOptions::small();
    let vfs = Arc::clone(disk) as Arc<dyn Vfs>;
    let parts = Parts {
        directory: DataDir::open(vfs, path, ID).unwrap(),
        machine: Small::boxed(Counter::default()),
        transport: MemoryNetwork::new().transport(ID),
    };
    Raft::start(config, parts).unwrap()
}

/// Proposes until it is accepted.
async fn write(raft: &Raft, bytes: usize) -> u64 {
    loop {
        match raft.propose(vec![0; bytes].into()).await {
            Ok(proposal) => return number(&proposal.outcome().await.unwrap()),
            Err(ProposeError::NotLeader { .. } | ProposeError::DiskUnavailable) => {
                tokio::task::yield_now().await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap())
}

#[test]
fn requests_are_refused_while_the_log_is_being_opened() {
    run(async {
        let home = tempfile::tempdir().unwrap();
        let disk = Arc::new(Disk::default());
        let raft = start(&disk, home.path());
        assert_eq!(write(&raft, 1).await, 1);
        raft.shutdown().await.unwrap();

        let (opened, log_is_open) = channel();
        *disk.log_is_open.lock().unwrap() = Some(log_is_open);
        let raft = start(&disk, home.path());
        let leader = None;
        let refused = raft.propose(Bytes::from_static(b"x")).await.err();
        assert_eq!(refused, Some(ProposeError::NotLeader { leader }));
        let refused = raft.read(Bytes::new(), ReadConsistency::Local).await;
        assert_eq!(refused, Err(ReadError::NotConfirmed { leader: None }));
        assert!(raft.status().await.is_none());
        opened.send(()).unwrap();
        assert_eq!(write(&raft, 1).await, 2);
        raft.shutdown().await.unwrap();
    });
}

#[test]
fn a_node_that_is_asked_to_stop_while_its_log_is_being_opened_stops() {
    run(async {
        let home = tempfile::tempdir().unwrap();
        let disk = Arc::new(Disk::default());
        let raft = start(&disk, home.path());
        assert_eq!(write(&raft, 1).await, 1);
        raft.shutdown().await.unwrap();

        let (opened, log_is_open) = channel();
        *disk.log_is_open.lock().unwrap() = Some(log_is_open);
        let raft = start(&disk, home.path());
        let stopping = raft.clone();
        let stopped = tokio::spawn(async move { stopping.shutdown().await });
        tokio::task::yield_now().await;
        // The stop is taken before this is answered, because notices come in order.
        assert!(raft.status().await.is_none());
        opened.send(()).unwrap();
        stopped.await.unwrap().unwrap();
    });
}

#[test]
fn a_full_disk_keeps_writes_waiting_and_loses_none() {
    run(async {
        let home = tempfile::tempdir().unwrap();
        let disk = Arc::new(Disk::default());
        let raft = start(&disk, home.path());
        let mut written = write(&raft, 1).await;
        disk.is_full.store(true, Ordering::Relaxed);
        // Until the segments there are have no room: then one waits, and the next is refused.
        let mut waiting = Vec::new();
        loop {
            match raft.propose(vec![0; 8 << 10].into()).await {
                Ok(proposal) => waiting.push(tokio::spawn(proposal.outcome())),
                Err(ProposeError::DiskUnavailable) => break,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(matches!(raft.state(), NodeState::Running { .. }));
        disk.is_full.store(false, Ordering::Relaxed);
        for outcome in waiting {
            written += 1;
            assert_eq!(number(&outcome.await.unwrap().unwrap()), written);
        }
        assert_eq!(write(&raft, 1).await, written + 1);
        raft.shutdown().await.unwrap();
    });
}

/// A snapshot has its name, and nobody knows whether durably: a second sync could say so of a name that
/// is lost. The node stops with a message, and the next start goes on.
#[test]
fn a_node_whose_snapshots_name_may_not_be_durable_stops() {
    let home = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    run(async {
        let raft = start(&disk, home.path());
        write(&raft, 10).await;
        disk.fails_to_name.store(true, Ordering::Relaxed);
        raft.take_snapshot().await.unwrap_err();
        let is_stopped = |state: &NodeState| matches!(state, NodeState::Stopped(_));
        let NodeState::Stopped(Some(error)) = raft.wait_for(is_stopped).await else {
            panic!("it stopped without a reason");
        };
        let said = error.to_string();
        assert!(said.contains("restart this node"), "{said}");
        drop(raft);
        disk.fails_to_name.store(false, Ordering::Relaxed);
        let raft = start(&disk, home.path());
        assert_eq!(write(&raft, 10).await, 2);
        raft.take_snapshot().await.unwrap();
        raft.shutdown().await.unwrap();
    });
}
