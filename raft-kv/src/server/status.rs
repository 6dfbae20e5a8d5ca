//! Gathers a node's status from Raft and from the store.

use raft_core::{Replication, Role};
use raft_node::{NodeState, Raft, ReadConsistency, Status};
use raft_proto::NodeId;

use crate::command::Query;
use crate::operation::Revision;
use crate::protocol::{MemberInfo, MemberList, NodeStatus, PeerStatus};
use crate::reply::{Reply, StoreStatus};

/// How the node is, whatever state it is in.
pub(super) async fn node_status(id: NodeId, raft: &Raft) -> NodeStatus {
    let (cluster, idle_role, waiting_for) = match raft.state() {
        NodeState::Forming { waiting_for } => (String::new(), "forming", waiting_for),
        NodeState::Running { cluster } => (cluster.to_string(), "starting", Vec::new()),
        NodeState::Stopped(_) => (String::new(), "stopped", Vec::new()),
    };
    let idle = NodeStatus {
        id,
        cluster,
        role: idle_role.to_owned(),
        waiting_for,
        term: 0,
        leader: None,
        commit_index: 0,
        applied_index: 0,
        last_index: 0,
        snapshot_index: 0,
        log_bytes: 0,
        revision: Revision::ZERO,
        hash: 0,
        keys: 0,
        data_bytes: 0,
        sessions: 0,
        peers: Vec::new(),
    };
    let Some(status) = raft.status().await else {
        return idle;
    };
    running(idle, &status, store_status(raft).await)
}

/// The members as this node knows them; `None` while it belongs to no cluster or has stopped.
pub(super) async fn member_list(raft: &Raft) -> Option<MemberList> {
    let NodeState::Running { cluster } = raft.state() else {
        return None;
    };
    let status = raft.status().await?;
    Some(MemberList {
        cluster: cluster.to_string(),
        from: status.id,
        leader: status.leader,
        term: status.term.0,
        commit_index: status.commit_index.0,
        members: MemberInfo::all(&status.membership),
    })
}

async fn store_status(raft: &Raft) -> Option<StoreStatus> {
    let query = Query::Status.to_bytes();
    let answer = raft.read(query, ReadConsistency::Local).await.ok()?;
    match Reply::from_bytes(&answer) {
        Ok(Reply::Status(status)) => Some(status),
        Ok(_) | Err(_) => None,
    }
}

fn running(idle: NodeStatus, status: &Status, store: Option<StoreStatus>) -> NodeStatus {
    let mut node = NodeStatus {
        id: status.id,
        role: role_name(status).to_owned(),
        waiting_for: Vec::new(),
        term: status.term.0,
        leader: status.leader,
        commit_index: status.commit_index.0,
        applied_index: status.applied_index.0,
        last_index: status.last_index.0,
        snapshot_index: status.snapshot_index.0,
        log_bytes: status.log_bytes,
        peers: peers(status),
        ..idle
    };
    if let Some(store) = store {
        node.revision = store.revision;
        node.hash = store.hash;
        node.keys = store.keys;
        node.data_bytes = store.bytes;
        node.sessions = store.sessions;
    }
    node
}

fn role_name(status: &Status) -> &'static str {
    match status.role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::PreCandidate => "pre-candidate",
        Role::Candidate => "candidate",
    }
}

fn peers(status: &Status) -> Vec<PeerStatus> {
    let others = status.membership.members.iter();
    others
        .filter(|(id, _)| **id != status.id)
        .map(|(id, member)| {
            let seen = status.peers.iter().find(|peer| peer.id == *id);
            let role = if status.membership.is_voter(*id) {
                "voter"
            } else {
                "learner"
            };
            PeerStatus {
                id: *id,
                address: member.address.clone(),
                role: role.to_owned(),
                state: seen.map(|peer| state_name(peer.replication).to_owned()),
                match_index: seen.map(|peer| peer.match_index.0),
                silent_ms: seen.map(|peer| peer.silent_for.as_millis() as u64),
            }
        })
        .collect()
}

fn state_name(replication: Replication) -> &'static str {
    match replication {
        Replication::Probe => "probe",
        Replication::Replicate => "replicate",
        Replication::Snapshot => "snapshot",
    }
}
