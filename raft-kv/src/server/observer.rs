//! Looks at a running server from outside its threads: metrics, health, readiness.
//!
//! * *Healthy*: the process lives and its node's main thread answers; the log is not poisoned. A
//!   node that waits for others is healthy: to restart it would help nobody.
//! * *Ready*: a linearizable read that starts now is answered here, in time. That takes what a
//!   client needs: the node is a member, knows a leader, the leader reaches a majority, and this
//!   node has applied everything that was committed when it was asked.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use raft_core::Role;
use raft_net::StatsReader;
use raft_node::{Metrics, NodeState, Raft, ReadConsistency};
use raft_proto::NodeId;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::metrics::Scrape;
use super::status::refusals;
use crate::command::Query;
use crate::reply::{Reply, StoreStatus};

/// How long a healthy node may take to answer: far longer than its longest turn.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the read of a node that is ready may take: longer than an election.
const READY_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a scrape waits for the store; without it, it shows the rest.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(1);

/// What was found, and why.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// All is well.
    Good(Value),
    /// It is not.
    Bad(Value),
}

/// What observes one server. Does not keep it running.
#[derive(Clone)]
pub(super) struct Observer {
    pub(super) node: NodeId,
    pub(super) raft: Raft,
    pub(super) net: Arc<OnceLock<StatsReader>>,
}

impl Observer {
    /// The text of `/metrics`.
    pub(super) async fn metrics(&self) -> String {
        let cluster = match self.raft.state() {
            NodeState::Running { cluster } => Some(cluster.to_string()),
            NodeState::Forming { .. } | NodeState::Stopped(_) => None,
        };
        let (status, store) = tokio::join!(
            timeout(SCRAPE_TIMEOUT, self.raft.status()),
            timeout(SCRAPE_TIMEOUT, self.store(ReadConsistency::Local)),
        );
        let scrape = Scrape {
            node: self.node,
            cluster,
            raft: self.raft.metrics(),
            status: status.ok().flatten(),
            net: self.net.get().and_then(StatsReader::read),
            store: store.ok().and_then(Result::ok),
        };
        scrape.into_text()
    }

    /// The answer of `/health`.
    pub(super) async fn health(&self) -> Verdict {
        let answered = timeout(HEALTH_TIMEOUT, self.raft.status()).await;
        let (state, reason) = match (self.raft.state(), answered) {
            (NodeState::Stopped(Some(error)), _) => ("stopped", Some(error.to_string())),
            (NodeState::Stopped(None), _) => ("stopped", Some("it was asked to stop".to_owned())),
            (NodeState::Forming { .. } | NodeState::Running { .. }, Err(_)) => {
                let reason = format!("its main thread has not answered for {HEALTH_TIMEOUT:?}");
                ("stuck", Some(reason))
            }
            (NodeState::Forming { .. }, Ok(_)) => ("forming", None),
            (NodeState::Running { .. }, Ok(_)) => ("running", None),
        };
        let body = json!({
            "healthy": reason.is_none(),
            "node": self.node.0,
            "state": state,
            "disk_stalled": self.raft.metrics().is_disk_stalled,
            "reason": reason,
        });
        match reason {
            None => Verdict::Good(body),
            Some(_) => Verdict::Bad(body),
        }
    }

    /// The answer of `/ready`.
    pub(super) async fn ready(&self) -> Verdict {
        let reason = self.why_not_ready().await;
        let raft = self.raft.metrics();
        let body = json!({
            "ready": reason.is_none(),
            "node": self.node.0,
            "role": raft.role.map(role_name),
            "term": raft.term.0,
            "leader": raft.leader.map(|id| id.0),
            "commit_index": raft.commit_index.0,
            "applied_index": raft.applied_index.0,
            "reason": reason,
        });
        match reason {
            None => Verdict::Good(body),
            Some(_) => Verdict::Bad(body),
        }
    }

    async fn why_not_ready(&self) -> Option<String> {
        match self.raft.state() {
            NodeState::Forming { waiting_for } => {
                return Some(format!("it is waiting for {}", waiting_for.join(", ")));
            }
            NodeState::Stopped(_) => return Some("it has stopped".to_owned()),
            NodeState::Running { .. } => {}
        }
        let read = self.store(ReadConsistency::Linearizable);
        let why = match timeout(READY_TIMEOUT, read).await {
            Ok(Ok(_)) => return None,
            Ok(Err(why)) => why,
            Err(_) => behind(&self.raft.metrics()),
        };
        // Whoever is refused knows no leader, or cannot reach it: this is the cause.
        let refusals = refusals(&self.raft);
        Some([refusals, vec![why]].concat().join("; "))
    }

    async fn store(&self, consistency: ReadConsistency) -> Result<StoreStatus, String> {
        let query = Query::Status.to_bytes();
        let answer = self.raft.read(query, consistency).await;
        let answer = answer.map_err(|error| error.to_string())?;
        match Reply::from_bytes(&answer) {
            Ok(Reply::Status(status)) => Ok(status),
            Ok(_) | Err(_) => Err("the store gave another answer than its status".to_owned()),
        }
    }
}

fn behind(raft: &Metrics) -> String {
    let (applied, committed) = (raft.applied_index.0, raft.commit_index.0);
    match raft.leader {
        None => "no leader is known".to_owned(),
        Some(leader) => format!(
            "a read was not confirmed and applied within {READY_TIMEOUT:?}: leader {}, applied \
             {applied}, committed {committed}",
            leader.0
        ),
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Follower => "follower",
        Role::PreCandidate => "pre-candidate",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
    }
}
