//! The runtime whole: real threads, real files, three nodes on a network inside the process.
#![allow(
    clippy::unwrap_used,
    reason = "in test helpers too, a panic is the failure"
)]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use raft_core::Role;
use raft_log::{DataDir, LogOptions, vfs::RealVfs};
use raft_node::{
    Applied, ApplyOn, FatalError, Link, MemoryNetwork, NodeState, Parts, ProposeError, Raft,
    RaftConfig, ReadConsistency, ReadError, Small, SmallState, StateMachine, Transport,
    TransportBuilder,
};
use raft_proto::NodeId;
use tempfile::TempDir;
use tokio::sync::oneshot;

#[path = "support/journal.rs"]
mod journal;
#[path = "support/patience.rs"]
mod patience;

use journal::Journal;
use patience::run;

struct Group {
    network: MemoryNetwork,
    home: TempDir,
    nodes: Vec<Raft>,
}

impl Group {
    fn start(size: u64, apply_on: ApplyOn) -> Self {
        let mut group = Self {
            network: MemoryNetwork::new(),
            home: tempfile::tempdir().unwrap(),
            nodes: Vec::new(),
        };
        for id in 1..=size {
            let node = group.start_node(id, size, apply_on);
            group.nodes.push(node);
        }
        group
    }

    fn path(&self, id: u64) -> PathBuf {
        self.home.path().join(id.to_string())
    }

    fn start_node(&self, id: u64, size: u64, apply_on: ApplyOn) -> Raft {
        start_node(&self.network, &self.path(id), id, size, apply_on)
    }

    async fn running(&self) {
        for node in &self.nodes {
            let state = node
                .wait_for(|s| matches!(s, NodeState::Running { .. }))
                .await;
            assert!(matches!(state, NodeState::Running { .. }), "{state:?}");
        }
    }

    /// Proposes at whoever leads, until it is applied.
    async fn write(&self, command: &'static str) {
        for node in self.nodes.iter().cycle() {
            match node.propose(Bytes::from_static(command.as_bytes())).await {
                Ok(proposal) => {
                    if let Ok(reply) = proposal.outcome().await {
                        return assert_eq!(reply, command);
                    }
                }
                Err(ProposeError::NotLeader { .. } | ProposeError::ShutDown) => {
                    tokio::task::yield_now().await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn leader(&self) -> usize {
        loop {
            for (at, node) in self.nodes.iter().enumerate() {
                let status = node.status().await;
                if status.is_some_and(|status| status.role == Role::Leader) {
                    return at;
                }
            }
            tokio::task::yield_now().await;
        }
    }

    async fn journal(&self, at: usize) -> Bytes {
        loop {
            let read = self.nodes[at].read(Bytes::new(), ReadConsistency::Linearizable);
            match read.await {
                Ok(answer) => return answer,
                Err(ReadError::NotConfirmed { .. } | ReadError::TimedOut) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn stop(self) {
        for node in self.nodes {
            node.shutdown().await.unwrap();
        }
    }
}

fn start_node(network: &MemoryNetwork, path: &Path, id: u64, size: u64, apply_on: ApplyOn) -> Raft {
    let voters = (1..=size).map(|id| (NodeId(id), format!("n{id}:1")));
    let mut config = RaftConfig::new(NodeId(id), voters.collect());
    config.log = LogOptions::small();
    config.apply_on = apply_on;
    let parts = Parts {
        directory: DataDir::open(RealVfs::shared(), path, NodeId(id)).unwrap(),
        machine: Small::boxed(Journal::default()),
        transport: network.transport(NodeId(id)),
    };
    Raft::start(config, parts).unwrap()
}

#[test]
fn every_node_applies_every_command_in_order() {
    for apply_on in [ApplyOn::OwnThread, ApplyOn::NodeThread] {
        run(async {
            let group = Group::start(3, apply_on);
            group.running().await;
            for command in ["a", "b", "c"] {
                group.write(command).await;
            }
            for at in 0..3 {
                assert_eq!(group.journal(at).await, "a b c ");
            }
            group.stop().await;
        });
    }
}

#[test]
fn a_restarted_node_has_everything_again() {
    run(async {
        let mut group = Group::start(3, ApplyOn::OwnThread);
        group.running().await;
        group.write("before").await;
        for at in 0..3 {
            group.nodes[at].shutdown().await.unwrap();
            group.nodes[at] = group.start_node(at as u64 + 1, 3, ApplyOn::OwnThread);
        }
        group.write("after").await;
        for at in 0..3 {
            assert_eq!(group.journal(at).await, "before after ");
        }
        group.stop().await;
    });
}

#[test]
fn the_others_go_on_without_their_leader_and_it_catches_up() {
    run(async {
        let group = Group::start(3, ApplyOn::OwnThread);
        group.running().await;
        group.write("one").await;
        let old = group.leader().await;
        group.network.isolate(NodeId(old as u64 + 1));
        let rest = Group {
            network: group.network.clone(),
            home: tempfile::tempdir().unwrap(),
            nodes: (0..3)
                .filter(|at| *at != old)
                .map(|at| group.nodes[at].clone())
                .collect(),
        };
        rest.write("two").await;
        group.network.heal();
        assert_eq!(group.journal(old).await, "one two ");
        group.stop().await;
    });
}

#[test]
fn leadership_moves_on_request() {
    run(async {
        let group = Group::start(3, ApplyOn::OwnThread);
        group.running().await;
        group.write("one").await;
        let old = group.leader().await;
        let next = NodeId((old as u64 + 1) % 3 + 1);
        group.nodes[old].transfer_leadership(next).await.unwrap();
        assert_eq!(group.leader().await as u64 + 1, next.0);
        group.write("two").await;
        group.stop().await;
    });
}

#[test]
fn a_stopped_node_says_so_and_frees_its_directory() {
    run(async {
        let group = Group::start(1, ApplyOn::OwnThread);
        group.running().await;
        group.write("only").await;
        let node = group.nodes[0].clone();
        node.shutdown().await.unwrap();
        let refused = node.propose("late".into()).await;
        assert_eq!(refused.unwrap_err(), ProposeError::ShutDown);
        let read = node.read(Bytes::new(), ReadConsistency::Local).await;
        assert_eq!(read.unwrap_err(), ReadError::ShutDown);
        assert!(node.status().await.is_none());
        assert!(matches!(node.state(), NodeState::Stopped(None)));
        DataDir::open(RealVfs::shared(), &group.path(1), NodeId(1)).unwrap();
    });
}

#[test]
fn a_member_whose_log_is_gone_does_not_start_empty() {
    run(async {
        let group = Group::start(1, ApplyOn::OwnThread);
        group.running().await;
        group.write("precious").await;
        group.nodes[0].shutdown().await.unwrap();
        let mut removed = 0;
        for file in std::fs::read_dir(group.path(1).join("log-0")).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "wal") {
                std::fs::remove_file(path).unwrap();
                removed += 1;
            }
        }
        assert!(removed > 0, "there were segments to lose");
        let node = group.start_node(1, 1, ApplyOn::OwnThread);
        let state = node.wait_for(|_| false).await;
        let NodeState::Stopped(Some(error)) = state else {
            panic!("{state:?}");
        };
        assert!(
            matches!(
                error,
                FatalError::LostLog { .. } | FatalError::UnknownEnd { .. }
            ),
            "{error}"
        );
    });
}

#[test]
fn a_command_that_does_not_fit_into_the_log_stops_nobody() {
    run(async {
        let group = Group::start(1, ApplyOn::OwnThread);
        group.running().await;
        group.write("before").await;
        // Far below the driver's own limit, which knows nothing of the log's.
        let limit = LogOptions::small().max_entry_bytes as usize;
        let refused = group.nodes[0].propose(vec![0; limit + 1].into()).await;
        let bytes = limit + 1;
        let expected = ProposeError::TooLarge { bytes, limit };
        assert_eq!(refused.err(), Some(expected));
        group.write("after").await;
        group.stop().await;
    });
}

/// Panics at the first command.
struct Bomb;

impl SmallState for Bomb {
    fn apply(&mut self, _applied: Applied<'_>) -> Bytes {
        panic!("planted: a state machine that panics")
    }

    fn query(&mut self, query: &Bytes) -> Bytes {
        query.clone()
    }

    fn save(&self) -> Bytes {
        Bytes::new()
    }

    fn load(&mut self, _saved: &[u8]) -> std::io::Result<()> {
        Ok(())
    }
}

fn start_alone(
    path: &Path,
    apply_on: ApplyOn,
    machine: Box<dyn StateMachine>,
    transport: Box<dyn TransportBuilder>,
) -> Raft {
    let id = NodeId(1);
    let mut config = RaftConfig::new(id, vec![(id, "n1:1".to_owned())]);
    config.log = LogOptions::small();
    config.apply_on = apply_on;
    let parts = Parts {
        directory: DataDir::open(RealVfs::shared(), path, id).unwrap(),
        machine,
        transport,
    };
    Raft::start(config, parts).unwrap()
}

#[test]
fn nobody_waits_for_a_node_whose_state_machine_panicked() {
    for (apply_on, thread) in [
        (ApplyOn::NodeThread, "main"),
        (ApplyOn::OwnThread, "applier"),
    ] {
        run(async {
            let home = tempfile::tempdir().unwrap();
            let transport = MemoryNetwork::new().transport(NodeId(1));
            let raft = start_alone(home.path(), apply_on, Small::boxed(Bomb), transport);
            let proposal = loop {
                match raft.propose(Bytes::from_static(b"fuse")).await {
                    Ok(proposal) => break proposal,
                    Err(ProposeError::NotLeader { .. }) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            };
            assert_eq!(proposal.outcome().await, Err(ProposeError::Unknown));
            let stopped = raft.wait_for(|_| false).await;
            assert!(
                matches!(stopped, NodeState::Stopped(Some(FatalError::Thread(job))) if job == thread),
                "{stopped:?}"
            );
            assert!(matches!(raft.state(), NodeState::Stopped(Some(_))));
            let refused = raft.propose(Bytes::new()).await.err();
            assert_eq!(refused, Some(ProposeError::ShutDown));
            let read = raft.read(Bytes::new(), ReadConsistency::Local).await;
            assert_eq!(read, Err(ReadError::ShutDown));
        });
    }
}

/// Answers one ping by a task of the node's own runtime, as any transport does its work.
struct Ponger(
    oneshot::Receiver<oneshot::Sender<()>>,
    Box<dyn TransportBuilder>,
);

impl TransportBuilder for Ponger {
    fn start(self: Box<Self>, link: Link) -> Result<Box<dyn Transport>, String> {
        let Self(ping, inner) = *self;
        tokio::spawn(async move { ping.await.map(|pong| pong.send(())) });
        inner.start(link)
    }
}

/// Reads without a pause: each answer asks for the next one, before the node looks again.
fn read_on(raft: Raft, stop: Arc<AtomicBool>, begun: Arc<Mutex<Option<oneshot::Sender<()>>>>) {
    let again = raft.clone();
    raft.read_with(Bytes::new(), ReadConsistency::Local, move |answer| {
        if let Some(begun) = begun.lock().unwrap().take() {
            let _ = begun.send(());
        }
        if answer.is_ok() && !stop.load(Ordering::Relaxed) {
            read_on(again, stop, begun);
        }
    });
}

#[test]
fn requests_without_a_pause_leave_the_transport_its_turn() {
    run(async {
        let home = tempfile::tempdir().unwrap();
        let (ping, pinged) = oneshot::channel();
        let transport = Ponger(pinged, MemoryNetwork::new().transport(NodeId(1)));
        let machine = Small::boxed(Journal::default());
        let apply_on = ApplyOn::NodeThread;
        let raft = start_alone(home.path(), apply_on, machine, Box::new(transport));
        raft.wait_for(|s| matches!(s, NodeState::Running { .. }))
            .await;
        let stop = Arc::new(AtomicBool::new(false));
        let (begun, reading) = oneshot::channel();
        let begun = Arc::new(Mutex::new(Some(begun)));
        read_on(raft.clone(), Arc::clone(&stop), begun);
        reading.await.unwrap();
        let (pong, ponged) = oneshot::channel();
        ping.send(pong).unwrap();
        ponged.await.unwrap();
        stop.store(true, Ordering::Relaxed);
        raft.shutdown().await.unwrap();
    });
}

#[test]
fn metrics_tell_what_happened() {
    run(async {
        let group = Group::start(3, ApplyOn::NodeThread);
        group.running().await;
        for _ in 0..20 {
            group.write("x").await;
        }
        let leader = group.leader().await;
        // A linearizable read has seen all of them applied.
        group.journal(leader).await;
        let led = group.nodes[leader].metrics();
        assert_eq!(led.role, Some(Role::Leader));
        assert_eq!(led.leader, Some(NodeId(leader as u64 + 1)));
        assert_eq!((led.voters, led.learners), (3, 0));
        assert!(led.applied_index.0 >= 20 && led.applied_index <= led.commit_index);
        assert!(led.commit_index <= led.last_index && led.log_bytes > 0);
        assert!(led.leader_changes >= 1 && led.reads >= 1);
        assert!(led.inbox_wait.count() > 0 && led.apply_batch.count() > 0);
        assert_eq!((led.inbox_refused, led.inbox_dropped), (0, 0));
        assert!(!led.is_disk_stalled && led.disk_full == 0);

        let all: Vec<_> = group.nodes.iter().map(Raft::metrics).collect();
        let sum = |of: fn(&raft_node::Metrics) -> u64| all.iter().map(of).sum::<u64>();
        // Whoever took a command answered it and knows how long that took.
        assert!(sum(|m| m.proposals) >= 20 && sum(|m| m.elections) >= 1);
        assert!(sum(|m| m.proposal_duration.count()) >= 20);
        for node in &all {
            assert!(node.proposal_duration.count() <= node.proposals);
            let syncs = node.log_sync_duration.count();
            assert!(syncs > 0 && syncs == node.log_sync_entries.count());
            assert_eq!(syncs, node.log_sync_bytes.count());
        }
        // The first entry came with the formed log; everything else went through the writer.
        let written = led.log_sync_entries.sum;
        assert!(written >= 20 && written < led.last_index.0 + 1, "{led:?}");
        group.stop().await;
    });
}
