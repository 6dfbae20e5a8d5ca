//! A cluster restored from a snapshot file: real threads and files, a network inside the process.
#![allow(
    clippy::unwrap_used,
    reason = "in test helpers too, a panic is the failure"
)]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use raft_log::vfs::{RealVfs, Vfs};
use raft_log::{DataDir, LogOptions};
use raft_node::restore::{RestorePlan, restore_directory};
use raft_node::{
    ChangeError, ChangeSafety, FatalError, MembershipChange, MemoryNetwork, NodeState, Parts, Raft,
    RaftConfig, ReadConsistency, Small,
};
use raft_proto::{Incarnation, Member, NodeId, Promotion};

#[path = "support/journal.rs"]
mod journal;
#[path = "support/patience.rs"]
mod patience;

use journal::Journal;
use patience::run;

fn start(network: &MemoryNetwork, home: &Path, mut config: RaftConfig) -> Raft {
    let node = config.core.id;
    config.log = LogOptions::small();
    let parts = Parts {
        directory: DataDir::open(RealVfs::shared(), home, node).unwrap(),
        machine: Small::boxed(Journal::default()),
        transport: network.transport(node),
    };
    Raft::start(config, parts).unwrap()
}

/// Proposes at one node after the other until one of them has applied it.
async fn write(nodes: &[Raft], command: &'static str) {
    for node in nodes.iter().cycle() {
        let command = Bytes::from_static(command.as_bytes());
        if let Ok(proposal) = node.propose(command).await
            && proposal.outcome().await.is_ok()
        {
            return;
        }
        tokio::task::yield_now().await;
    }
}

async fn read(node: &Raft) -> Bytes {
    loop {
        let read = node.read(Bytes::new(), ReadConsistency::Linearizable);
        if let Ok(answer) = read.await {
            return answer;
        }
        tokio::task::yield_now().await;
    }
}

/// What `raft-kv snapshot save` does.
async fn save(node: &Raft, path: &Path) {
    let snapshot = node.take_snapshot().await.unwrap();
    let mut bytes = Vec::new();
    loop {
        let offset = bytes.len() as u64;
        let part = node.read_snapshot(snapshot.last_included, offset, 1 << 20);
        let (part, total) = part.await.unwrap().unwrap();
        bytes.extend_from_slice(&part);
        if bytes.len() as u64 == total {
            return std::fs::write(path, bytes).unwrap();
        }
    }
}

/// Asks one node after the other until the change is made.
async fn add(nodes: &[Raft], id: u64) {
    let change = MembershipChange::AddLearner {
        id: NodeId(id),
        member: Member {
            incarnation: None,
            address: format!("h{id}:1"),
        },
        promotion: Promotion::Auto,
    };
    for node in nodes.iter().cycle() {
        let changed = node.change_membership(vec![change.clone()], ChangeSafety::KeepQuorum);
        match changed.await {
            Ok(_) | Err(ChangeError::AlreadyAMember(_)) => return,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

#[test]
fn three_nodes_restored_apart_form_one_cluster_with_everything_and_grow() {
    run(async {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        let members: Vec<_> = [1, 2, 3].map(|id| (NodeId(id), format!("h{id}:1"))).into();
        let lost = vec![(NodeId(1), "lost:1".to_owned())];
        let network = MemoryNetwork::new();
        let old = [start(
            &network,
            &at("old"),
            RaftConfig::new(NodeId(1), lost),
        )];
        write(&old, "one").await;
        write(&old, "two").await;
        save(&old[0], &at("file")).await;
        let last = old[0].status().await.unwrap().applied_index;
        write(&old, "after").await;
        old[0].shutdown().await.unwrap();

        let network = MemoryNetwork::new();
        let mut nodes = Vec::new();
        for (id, _) in &members {
            let directory = at(&format!("new{}", id.0));
            let plan = RestorePlan {
                snapshot: at("file"),
                directory: directory.clone(),
                node: *id,
                members: members.clone(),
                log: LogOptions::small(),
            };
            let vfs: Arc<dyn Vfs> = RealVfs::shared();
            restore_directory(&vfs, &plan).unwrap();
            let config = RaftConfig::new(*id, members.clone());
            nodes.push(start(&network, &directory, config));
        }
        for node in &nodes {
            assert_eq!(read(node).await, "one two ");
        }
        write(&nodes, "three").await;
        let status = nodes[0].status().await.unwrap();
        assert!(status.last_index > last, "indexes go on where they were");
        // Also after a restart, and for a node that joins and has nothing.
        nodes[0].shutdown().await.unwrap();
        let config = RaftConfig::new(NodeId(1), members.clone());
        nodes[0] = start(&network, &at("new1"), config);
        nodes.push(start(&network, &at("n4"), RaftConfig::joining(NodeId(4))));
        add(&nodes, 4).await;
        for node in &nodes {
            assert_eq!(read(node).await, "one two three ");
        }
        for node in nodes {
            node.shutdown().await.unwrap();
        }
    });
}

#[test]
fn no_node_starts_on_an_unfinished_restore() {
    run(async {
        let home = tempfile::tempdir().unwrap();
        let owner = (NodeId(1), Incarnation(5));
        let begun = ("restore", &b"begun"[..]);
        drop(DataDir::create(RealVfs::shared(), home.path(), owner, begun).unwrap());
        let alone = vec![(NodeId(1), "h1:1".to_owned())];
        let config = RaftConfig::new(NodeId(1), alone);
        let node = start(&MemoryNetwork::new(), home.path(), config);
        let stopped = node.wait_for(|_| false).await;
        let NodeState::Stopped(Some(FatalError::UnfinishedRestore(error))) = stopped else {
            panic!("it did not stop: {stopped:?}");
        };
        assert!(error.to_string().contains("restore again"), "{error}");
    });
}
