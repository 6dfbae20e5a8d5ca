//! A partition that stays: progress is required if some node has two-way links to a quorum whose logs
//! are no newer than its own (or if the one that leads has); otherwise nothing is but safety.

use std::collections::BTreeSet;

use raft_core::{RaftCore, Role, Time};
use raft_proto::{LogPosition, NodeId, Term};

use super::liveness::{RETRY_MS, STABLE_MS, deadline, goes_on};
use super::workload::Workload;
use crate::cluster::{Cluster, Ticket};
use crate::network::Shape;
use crate::random::Random;

/// Closes links for good; demands that a leader is stable and commits if some node could lead.
pub(super) fn demand(
    cluster: &mut Cluster,
    healed: &BTreeSet<NodeId>,
    workload: &dyn Workload,
    random: &mut Random,
) -> Result<(), String> {
    let shapes = [
        Shape::Ring,
        Shape::Bridge,
        Shape::Star,
        Shape::Deaf,
        Shape::Mute,
        Shape::OneWaySplit,
        Shape::RandomLinks,
    ];
    let shape = *random.pick(&shapes);
    let around = cluster.leader().filter(|_| random.per_mille(500));
    cluster.begin_partition_around(shape, around, random);
    // What was on its way when the links closed may still change who is up to date.
    cluster.run_for_ms(2 * cluster.longest_election_timeout_ms());
    let end = deadline(cluster);
    let able = able_to_lead(cluster, healed);
    if able.is_empty() {
        return Ok(());
    }
    while cluster.now() < end {
        let Some(leading) = commits_something(cluster, workload, end) else {
            break;
        };
        // One write may slip through between two elections: the leader must stay, and go on.
        cluster.run_for_ms(STABLE_MS);
        if commits_something(cluster, workload, end) == Some(leading) {
            return Ok(());
        }
    }
    // What was proposed before may be much, and links slow.
    if goes_on(cluster) {
        return Ok(());
    }
    // An old leader may have gone on for a while, and have made other logs newer.
    let still_able = able_to_lead(cluster, healed);
    let able: Vec<_> = able.intersection(&still_able).collect();
    if able.is_empty() {
        return Ok(());
    }
    Err(format!(
        "liveness: no progress with a lasting {}, although {able:?} could lead",
        shape.name()
    ))
}

/// Proposes at everybody who takes itself for a leader until one of them commits; tells which, in
/// which term.
fn commits_something(
    cluster: &mut Cluster,
    workload: &dyn Workload,
    end: Time,
) -> Option<(NodeId, Term)> {
    let mut proposed: Vec<(NodeId, Term, Ticket)> = Vec::new();
    let committed = |cluster: &Cluster, proposed: &[(NodeId, Term, Ticket)]| {
        let is_done = |(_, _, ticket): &&_| matches!(cluster.outcome(*ticket), Some(Ok(_)));
        let found = proposed.iter().find(is_done);
        found.map(|(node, term, _)| (*node, *term))
    };
    while cluster.now() < end {
        for node in cluster.node_ids() {
            if let Some((term, Role::Leader)) = cluster.state(node)
                && let Ok(accepted) = cluster.propose(node, workload.probe_command())
            {
                proposed.push((node, term, accepted.ticket));
            }
        }
        cluster.run_until(5 * RETRY_MS, |cluster| {
            committed(cluster, &proposed).is_some()
        });
        let done = committed(cluster, &proposed);
        if done.is_some() {
            return done;
        }
    }
    None
}

/// Healed nodes with two-way links to a quorum of such nodes, themselves included, none of whose
/// logs is newer.
fn able_to_lead(cluster: &Cluster, healed: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let last = |node: NodeId| cluster.core(node).map(RaftCore::last_position);
    let newer = |a: LogPosition, b: LogPosition| (a.term, a.index) > (b.term, b.index);
    let is_able = |node: &NodeId| {
        let Some(own) = last(*node) else {
            return false;
        };
        let friends = healed.iter().filter(|peer| {
            *peer == node
                || (cluster.is_open(*node, **peer)
                    && cluster.is_open(**peer, *node)
                    && last(**peer).is_some_and(|theirs| !newer(theirs, own)))
        });
        2 * friends.count() > cluster.node_ids().len()
    };
    healed.iter().copied().filter(is_able).collect()
}
