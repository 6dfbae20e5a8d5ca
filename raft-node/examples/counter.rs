//! A counter of your own, replicated on three nodes of one process. Run it with
//! `cargo run -p raft-node --example counter`.

use std::error::Error;

use bytes::Bytes;
use raft_log::DataDir;
use raft_log::vfs::RealVfs;
use raft_node::{Applied, MemoryNetwork, NodeState, Parts, Raft, RaftConfig, ReadConsistency};
use raft_node::{ProposeError, StateMachine};
use raft_proto::NodeId;

/// Adds up the numbers it is given.
#[derive(Default)]
struct Counter(u64);

impl StateMachine for Counter {
    fn apply(&mut self, applied: Applied<'_>) -> Bytes {
        let number = applied
            .command
            .as_ref()
            .try_into()
            .map_or(0, u64::from_le_bytes);
        self.0 = self.0.wrapping_add(number);
        self.query(&Bytes::new())
    }

    fn query(&mut self, _query: &Bytes) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_le_bytes())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let home = tempfile::tempdir()?;
    let network = MemoryNetwork::new();
    let voters: Vec<_> = (1..=3)
        .map(|id| (NodeId(id), format!("node-{id}:1")))
        .collect();
    let mut nodes = Vec::new();
    for (id, _) in &voters {
        let path = home.path().join(id.to_string());
        let parts = Parts {
            directory: DataDir::open(RealVfs::shared(), &path, *id)?,
            machine: Box::new(Counter::default()),
            transport: network.transport(*id),
        };
        nodes.push(Raft::start(RaftConfig::new(*id, voters.clone()), parts)?);
    }
    for node in &nodes {
        node.wait_for(|state| matches!(state, NodeState::Running { .. }))
            .await;
    }

    // Every node may be asked; the leader takes the command, the others say who leads.
    let mut sum = 0;
    for number in 1..=100_u64 {
        let reply = add(&nodes, number).await?;
        sum += number;
        assert_eq!(reply, sum);
    }
    for node in &nodes {
        let answer = node
            .read(Bytes::new(), ReadConsistency::Linearizable)
            .await?;
        println!(
            "a node says {}",
            u64::from_le_bytes(answer.as_ref().try_into()?)
        );
    }
    for node in nodes {
        node.shutdown().await?;
    }
    Ok(())
}

async fn add(nodes: &[Raft], number: u64) -> Result<u64, Box<dyn Error>> {
    for node in nodes.iter().cycle() {
        match node
            .propose(Bytes::copy_from_slice(&number.to_le_bytes()))
            .await
        {
            Ok(proposal) => {
                let reply = proposal.outcome().await?;
                return Ok(u64::from_le_bytes(reply.as_ref().try_into()?));
            }
            Err(ProposeError::NotLeader { .. }) => tokio::task::yield_now().await,
            Err(error) => return Err(error.into()),
        }
    }
    Err("no nodes".into())
}
