//! A counter of your own, replicated on three nodes of one process. Run it with
//! `cargo run -p raft-node --example counter`.

use std::error::Error;

use bytes::Bytes;
use raft_log::{DataDir, vfs::RealVfs};
use raft_node::{Applied, MemoryNetwork, NodeState, Parts, ProposeError, Raft, RaftConfig};
use raft_node::{ReadConsistency, Small, SmallState};
use raft_proto::NodeId;

/// Adds up the numbers it is given.
#[derive(Default)]
struct Counter(u64);

impl SmallState for Counter {
    fn apply(&mut self, applied: Applied<'_>) -> Bytes {
        self.0 = self.0.wrapping_add(number(applied.command));
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

fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let home = tempfile::tempdir()?;
    let network = MemoryNetwork::new();
    let voters = [1, 2, 3].map(|id| (NodeId(id), format!("node-{id}:1")));
    let mut nodes = Vec::new();
    for (id, address) in &voters {
        let parts = Parts {
            directory: DataDir::open(RealVfs::shared(), &home.path().join(address), *id)?,
            machine: Small::boxed(Counter::default()),
            transport: network.transport(*id),
        };
        let config = RaftConfig::new(*id, voters.to_vec());
        nodes.push(Raft::start(config, parts)?);
    }
    let is_running = |state: &NodeState| matches!(state, NodeState::Running { .. });
    for node in &nodes {
        node.wait_for(is_running).await;
    }
    for term in 1..=100_u64 {
        println!("the sum is {}", add(&nodes, term).await?);
    }
    for node in &nodes {
        let answer = node.read(Bytes::new(), ReadConsistency::Linearizable);
        println!("a node says {}", number(&answer.await?));
    }
    for node in nodes {
        node.shutdown().await?;
    }
    Ok(())
}

/// Any node may be asked; only the leader takes the command.
async fn add(nodes: &[Raft], term: u64) -> Result<u64, Box<dyn Error>> {
    for node in nodes.iter().cycle() {
        let command = Bytes::copy_from_slice(&term.to_le_bytes());
        match node.propose(command).await {
            Ok(proposal) => return Ok(number(&proposal.outcome().await?)),
            Err(ProposeError::NotLeader { .. }) => tokio::task::yield_now().await,
            Err(error) => return Err(error.into()),
        }
    }
    Err("there are no nodes".into())
}
