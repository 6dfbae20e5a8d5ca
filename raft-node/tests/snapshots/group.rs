//! Three nodes on a network inside the process, with a state that grows as told.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use raft_log::{DataDir, LogOptions, vfs::RealVfs};
use raft_node::{
    Applied, ApplyOn, FetchProgress, MemoryNetwork, NodeState, Parts, Raft, RaftConfig,
    ReadConsistency, Small, SmallState, SnapshotPolicy, Status, TransportBuilder,
};
use raft_proto::{LogIndex, NodeId};
use tempfile::TempDir;

use crate::toll::Toll;

#[path = "../support/leader.rs"]
mod leader;
#[path = "../support/patience.rs"]
mod patience;

use leader::leader;
pub(crate) use patience::run;

/// Between two looks at something that takes a while.
const POLL: Duration = Duration::from_millis(5);

/// Grows by as many bytes as a command says; which ones depends on all commands before.
#[derive(Default)]
pub(crate) struct Pile(Vec<u8>);

impl SmallState for Pile {
    fn apply(&mut self, applied: Applied<'_>) -> Bytes {
        let bytes = u64::from_le_bytes(applied.command[..8].try_into().unwrap());
        let seed = self.0.len() as u64 ^ applied.index.0;
        self.0.extend((0..bytes).map(|at| (at ^ seed) as u8));
        Bytes::new()
    }

    fn query(&mut self, _query: &Bytes) -> Bytes {
        let digest = crc32fast::hash(&self.0);
        format!("{} {digest}", self.0.len()).into()
    }

    fn save(&self) -> Bytes {
        self.0.clone().into()
    }

    fn load(&mut self, saved: &[u8]) -> std::io::Result<()> {
        self.0 = saved.to_vec();
        Ok(())
    }
}

/// What carries the messages of a group.
pub(crate) trait Carrier {
    fn address(&self, id: u64) -> String;
    fn transport(&self, id: u64) -> Box<dyn TransportBuilder>;
    fn heartbeat_interval_ms(&self) -> u64;
}

/// A network inside the process, with a toll on it.
struct Memory(MemoryNetwork, Toll);

impl Carrier for Memory {
    fn address(&self, id: u64) -> String {
        format!("n{id}:1")
    }

    fn transport(&self, id: u64) -> Box<dyn TransportBuilder> {
        self.1.on(self.0.transport(NodeId(id)))
    }

    fn heartbeat_interval_ms(&self) -> u64 {
        100
    }
}

pub(crate) struct Group {
    carrier: Box<dyn Carrier>,
    home: TempDir,
    apply_on: ApplyOn,
    policy: SnapshotPolicy,
    nodes: BTreeMap<u64, Raft>,
}

impl Group {
    pub(crate) async fn start(apply_on: ApplyOn, policy: SnapshotPolicy, toll: &Toll) -> Self {
        let carrier = Memory(MemoryNetwork::new(), toll.clone());
        Self::start_on(Box::new(carrier), apply_on, policy).await
    }

    pub(crate) async fn start_on(
        carrier: Box<dyn Carrier>,
        apply_on: ApplyOn,
        policy: SnapshotPolicy,
    ) -> Self {
        let mut group = Self {
            carrier,
            home: tempfile::tempdir().unwrap(),
            apply_on,
            policy,
            nodes: BTreeMap::new(),
        };
        (1..=3).for_each(|id| group.boot(id));
        for node in group.nodes.values() {
            let running = node.wait_for(|s| matches!(s, NodeState::Running { .. }));
            assert!(matches!(running.await, NodeState::Running { .. }));
        }
        group.fill(1).await;
        group
    }

    pub(crate) fn boot(&mut self, id: u64) {
        let voters = [1, 2, 3].map(|id| (NodeId(id), self.carrier.address(id)));
        let mut config = RaftConfig::new(NodeId(id), voters.to_vec());
        config.core.heartbeat_interval_ms = self.carrier.heartbeat_interval_ms();
        config.log = LogOptions::small();
        config.apply_on = self.apply_on;
        config.limits.snapshots = self.policy.clone();
        let path = self.home().join(id.to_string());
        let parts = Parts {
            directory: DataDir::open(RealVfs::shared(), &path, NodeId(id)).unwrap(),
            machine: Small::boxed(Pile::default()),
            transport: self.carrier.transport(id),
        };
        self.nodes.insert(id, Raft::start(config, parts).unwrap());
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    pub(crate) fn node(&self, id: u64) -> &Raft {
        &self.nodes[&id]
    }

    pub(crate) async fn shut_down(&mut self, id: u64) {
        self.nodes.remove(&id).unwrap().shutdown().await.unwrap();
    }

    pub(crate) async fn stop(self) {
        for node in self.nodes.into_values() {
            node.shutdown().await.unwrap();
        }
    }

    pub(crate) async fn status(&self, id: u64) -> Status {
        loop {
            match self.nodes[&id].status().await {
                Some(status) => return status,
                None => tokio::time::sleep(POLL).await,
            }
        }
    }

    pub(crate) async fn leader(&self) -> u64 {
        leader(&self.nodes).await
    }

    pub(crate) async fn follower(&self) -> u64 {
        self.leader().await % 3 + 1
    }

    /// Lets the state grow.
    pub(crate) async fn fill(&self, bytes: u64) {
        loop {
            let leader = self.node(self.leader().await);
            let command = Bytes::copy_from_slice(&bytes.to_le_bytes());
            if let Ok(proposal) = leader.propose(command).await
                && proposal.outcome().await.is_ok()
            {
                return;
            }
        }
    }

    /// Waits until a node has no entry up to this one any more.
    pub(crate) async fn gives_up(&self, id: u64, index: LogIndex) {
        while self.status(id).await.first_index <= index {
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until a node has fetched so many bytes of a snapshot.
    pub(crate) async fn fetched(&self, id: u64, bytes: u64) -> FetchProgress {
        loop {
            let fetching = self.status(id).await.snapshots.fetching;
            if let Some(fetching) = fetching.filter(|f| f.stored_bytes >= bytes) {
                return fetching;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until all nodes that run have the state that is committed now.
    pub(crate) async fn agree(&self) {
        let mut states = Vec::new();
        for node in self.nodes.values() {
            states.push(loop {
                let read = node.read(Bytes::new(), ReadConsistency::Linearizable);
                match read.await {
                    Ok(state) => break state,
                    Err(_) => tokio::time::sleep(POLL).await,
                }
            });
        }
        assert!(
            states.windows(2).all(|pair| pair[0] == pair[1]),
            "{states:?}"
        );
    }
}
