//! Gathers a node's status from Raft and from the store.

use std::time::Duration;

use raft_core::{Replication, Role};
use raft_node::{NodeState, Raft, ReadConsistency, Status};
use raft_proto::NodeId;
use tokio::time::timeout;

use crate::command::Query;
use crate::protocol::{MemberInfo, MemberList, NodeStatus, PeerStatus, SavingStatus};
use crate::reply::{Reply, StoreStatus};

/// How long the status waits for the store, which may be busy with a long scan; without it, it
/// tells the rest. Half of what clients wait for a status.
const STORE_PATIENCE: Duration = Duration::from_millis(500);

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
        ..NodeStatus::default()
    };
    let Some(status) = raft.status().await else {
        return idle;
    };
    let store = timeout(STORE_PATIENCE, store_status(raft)).await;
    NodeStatus {
        notes: notes(raft, &status),
        ..running(idle, &status, store.ok().flatten())
    }
}

/// What is not as it should be, or takes long, in sentences.
fn notes(raft: &Raft, status: &Status) -> Vec<String> {
    let mut notes = Vec::new();
    if status.is_removed {
        notes.push(
            "it is no member of its cluster any more; stop it, and delete its data directory"
                .to_owned(),
        );
    }
    if status.is_uncounted {
        notes.push("it has lost parts of its log, and counts nowhere until it has them".to_owned());
    }
    if raft.metrics().is_disk_stalled {
        notes.push("its disk makes no progress: it is full, or stalled".to_owned());
    }
    for difference in &status.comparison.differences {
        notes.push(format!("replicas differ: {difference}"));
    }
    let snapshots = &status.snapshots;
    if let Some(fetch) = &snapshots.fetching {
        notes.push(format!(
            "it fetches a snapshot up to entry {} from {}: {} of {} bytes",
            fetch.last_included.index.0, fetch.from, fetch.stored_bytes, fetch.total_bytes
        ));
    }
    if snapshots.is_restoring {
        notes.push("its store is being replaced by a snapshot".to_owned());
    }
    notes.extend(refusals(raft));
    notes
}

/// Who refuses the node, and what it says; peers that say the same are named together.
pub(super) fn refusals(raft: &Raft) -> Vec<String> {
    let mut told: Vec<(raft_proto::Refusal, String, Vec<String>)> = Vec::new();
    for by in raft.refusals() {
        match told.iter_mut().find(|(refusal, ..)| *refusal == by.refusal) {
            Some((.., others)) => others.push(by.peer.to_string()),
            None => told.push((by.refusal, by.explanation, Vec::new())),
        }
    }
    let one = |(_, explanation, others): (_, String, Vec<String>)| match &others[..] {
        [] => explanation,
        others => format!("{explanation} ({} likewise)", others.join(", ")),
    };
    told.into_iter().map(one).collect()
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
        saving: status.snapshots.saving.map(|saving| SavingStatus {
            index: saving.last_included.index.0,
            bytes: saving.bytes,
        }),
        is_restoring: status.snapshots.is_restoring,
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
