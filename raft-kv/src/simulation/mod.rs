//! The workload of this service in `raft-sim`: the real state machine, its sessions and commands,
//! and the client's decisions, under virtual time; judged by what clients were told.
//!
//! Clients put, append, read, compare and swap, delete ranges, run transactions and compact, with
//! sessions of short and long lives and without any, and repeat calls as the real client does:
//! [`crate::client::call`] decides after every attempt, [`crate::client::window`] numbers the
//! writes. What is not here is its I/O: connections, the pool, and asking around who leads.
//!
//! Judged is, besides what the simulator checks itself: the history of each group of keys is
//! linearizable (`model`); no write counts twice, none that was refused counts at all, and every
//! one that was acknowledged is in the log (`history`); and replicas that have applied the same
//! entries have the same [state hash](crate::machine::KvMachine::hash), after every entry and after
//! every restored snapshot (`replica`).

mod clerk;
mod history;
mod model;
mod replica;
mod wire;

use bytes::Bytes;
use raft_node::StateMachine;
use raft_proto::NodeId;
use raft_sim::campaign::{Judgement, Plan, Workload};
use raft_sim::{Cluster, Time};

use self::clerk::Clerk;
use self::history::History;
use self::replica::{Hashes, Replica};
use crate::command::{Command, Query};
use crate::operation::Operation;

/// The key that probes write; clients leave it alone.
const PROBE_KEY: &[u8] = b"probe";

/// See the module's page.
#[derive(Default)]
pub struct KvWorkload {
    history: History,
    hashes: Hashes,
}

impl KvWorkload {
    /// The workload of a plan.
    #[must_use]
    pub fn boxed(_plan: &Plan) -> Box<dyn Workload> {
        Box::new(Self::default())
    }
}

impl Workload for KvWorkload {
    fn machines(&self) -> Box<dyn Fn(NodeId) -> Box<dyn StateMachine>> {
        let hashes = self.hashes.clone();
        Box::new(move |_| Box::new(Replica::new(hashes.clone())))
    }

    fn spawn(&mut self, cluster: &mut Cluster, plan: &Plan) {
        let nodes = cluster.node_ids();
        let until = Time::from_ms(plan.trouble_ms);
        for _ in 0..plan.clients {
            let (nodes, history) = (nodes.clone(), self.history.clone());
            let operations = plan.operations_max;
            cluster.spawn(move |client| Clerk::new(client, nodes, history).play(until, operations));
        }
    }

    fn probe_command(&self) -> Bytes {
        let operation = Operation::Put {
            key: PROBE_KEY,
            value: b"",
        };
        let origin = None;
        Command::Write { origin, operation }.encode().to_bytes()
    }

    fn probe_query(&self) -> Bytes {
        Query::Status.to_bytes()
    }

    fn judge(&self, cluster: &Cluster) -> Result<Judgement, String> {
        self.history.judge(cluster)
    }
}
