//! What takes long in a state machine on the main thread does not hold up the node.
#![allow(
    clippy::unwrap_used,
    reason = "in test helpers too, a panic is the failure"
)]

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use bytes::Bytes;
use raft_log::{DataDir, LogOptions, vfs::RealVfs};
use raft_node::{
    Applied, ApplyOn, MemoryNetwork, Parts, ProposeError, Raft, RaftConfig, ReadConsistency,
    StateMachine, Step,
};
use raft_proto::NodeId;

/// Generous: it only ends a test that hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers "long", and applies "long", only when the test lets it.
struct Gate {
    entered: Sender<()>,
    released: Receiver<()>,
    applied: u64,
}

impl Gate {
    fn pass(&self, step: &Bytes) {
        if step == "long" {
            self.entered.send(()).unwrap();
            self.released.recv().unwrap();
        }
    }

    fn count(&self) -> Bytes {
        self.applied.to_string().into()
    }
}

impl StateMachine for Gate {
    fn apply(&mut self, applied: Applied<'_>) -> Bytes {
        self.pass(applied.command);
        self.applied += 1;
        self.count()
    }

    fn query(&mut self, query: &Bytes) -> Bytes {
        self.pass(query);
        self.count()
    }

    fn takes_long(&self, step: Step<'_>) -> bool {
        match step {
            Step::Command(bytes) | Step::Query(bytes) => bytes == "long",
        }
    }

    fn begin_snapshot(&mut self) {}

    fn snapshot_part(&mut self, _max_bytes: usize) -> Option<Bytes> {
        None
    }

    fn end_snapshot(&mut self) {}

    fn restore(&mut self, _source: &mut dyn Read) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_node_answers_while_its_state_machine_works() {
    let (entered, has_entered) = channel();
    let (release, released) = channel();
    let home = tempfile::tempdir().unwrap();
    let id = NodeId(1);
    let mut config = RaftConfig::new(id, vec![(id, "n1:1".to_owned())]);
    config.log = LogOptions::small();
    config.apply_on = ApplyOn::NodeThread;
    let raft = Raft::start(
        config,
        Parts {
            directory: DataDir::open(RealVfs::shared(), home.path(), id).unwrap(),
            machine: Box::new(Gate {
                entered,
                released,
                applied: 0,
            }),
            transport: MemoryNetwork::new().transport(id),
        },
    )
    .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let test = async {
        let first = loop {
            match raft.propose("first".into()).await {
                Ok(proposal) => break proposal.outcome().await.unwrap(),
                Err(ProposeError::NotLeader { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(first, "1");
        let long = raft.propose("long".into()).await.unwrap();
        has_entered.recv().unwrap();
        // The main thread is free: it takes another command, commits it, and tells how it is.
        let next = raft.propose("next".into()).await.unwrap();
        let index = next.position.index;
        while raft.status().await.unwrap().commit_index < index {
            tokio::task::yield_now().await;
        }
        release.send(()).unwrap();
        assert_eq!(long.outcome().await.unwrap(), "2");
        assert_eq!(next.outcome().await.unwrap(), "3");

        let query = raft.read("long".into(), ReadConsistency::Linearizable);
        let freed = async {
            let (entered, waiting) = tokio::sync::oneshot::channel();
            std::thread::spawn(move || {
                has_entered.recv().unwrap();
                entered.send(()).unwrap();
            });
            waiting.await.unwrap();
            assert!(raft.status().await.is_some());
            release.send(()).unwrap();
        };
        let (answer, ()) = tokio::join!(query, freed);
        assert_eq!(answer.unwrap(), "3");
        raft.shutdown().await.unwrap();
    };
    runtime
        .block_on(async { tokio::time::timeout(PATIENCE, test).await })
        .expect("the test hangs");
}
