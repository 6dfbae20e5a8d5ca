//! Liveness mode: when the trouble is over for a core of the cluster, the core must go on.
//!
//! A random core of at least a quorum of sound nodes is healed: processes run, links among them
//! are open and good, disks work, clocks are right. Every other fault is frozen as it is, for good.
//! Within about 50 election timeouts one leader is stable, requests to the core are answered, and
//! the logs of the core are equal.
//!
//! With a partition that stays, progress is required if some node has two-way links to a quorum
//! whose logs are no newer than its own (or if the one that leads has); otherwise nothing is, and
//! the core is healed after that.

use std::collections::BTreeSet;

use raft_core::{RaftCore, Role, Time};
use raft_node::ReadConsistency;
use raft_proto::{LogPosition, Membership, NodeId, Term};

use super::operator::committed_membership;
use super::plan::{Ending, Plan, STREAM_CORE};
use super::workload::Workload;
use crate::cluster::{Cluster, Ticket};
use crate::network::Shape;
use crate::options::LinkOptions;
use crate::random::{Random, Stream};

/// How many of the longest election timeouts recovery may take.
const ELECTION_TIMEOUTS: u64 = 50;
/// How long a leader must stay to count as stable, in milliseconds.
const STABLE_MS: u64 = 2_000;
/// How often a request is repeated that was refused, in milliseconds.
const RETRY_MS: u64 = 100;
/// How often something is written while no leader is stable, in milliseconds.
const PROBE_MS: u64 = 1_000;
/// How often the state of the core is looked at, in milliseconds.
const LOOK_MS: u64 = 20;

/// Whether a cluster went on after the trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recovery {
    WentOn,
    /// It cannot, because of damage that nodes have reported.
    Halted,
}

/// Ends the trouble and demands progress.
pub(super) fn demand(
    cluster: &mut Cluster,
    plan: &Plan,
    workload: &dyn Workload,
) -> Result<Recovery, String> {
    match plan.ending {
        Ending::Survivors => go_on_or_halt(cluster, workload),
        Ending::Core | Ending::Everybody | Ending::LastingPartition => {
            demand_progress(cluster, plan, workload)?;
            Ok(Recovery::WentOn)
        }
    }
}

/// Starts everybody that does not report damage. If these are a quorum they must go on; if not, the
/// damage of the others is known, and nobody has lost anything silently.
fn go_on_or_halt(cluster: &mut Cluster, workload: &dyn Workload) -> Result<Recovery, String> {
    cluster.freeze();
    let nodes = cluster.node_ids();
    let mut survivors = BTreeSet::new();
    for node in nodes.iter().copied() {
        if heal(cluster, &BTreeSet::from([node])).is_ok() {
            survivors.insert(node);
        } else if !cluster.is_damaged(node) {
            return Err(format!("halt: {node} is down and does not say why"));
        }
    }
    cluster.heal_among(&survivors);
    if 2 * survivors.len() <= nodes.len() {
        return Ok(Recovery::Halted);
    }
    // A single node may still wait for what only a damaged one has.
    let end = deadline(cluster);
    let committed = write_at(cluster, &survivors, workload, end);
    match committed {
        Ok(_) => Ok(Recovery::WentOn),
        // Damage may be met as late as that.
        Err(_) if survivors.iter().any(|node| !cluster.is_running(*node)) => Ok(Recovery::Halted),
        Err(error) => Err(error),
    }
}

fn demand_progress(
    cluster: &mut Cluster,
    plan: &Plan,
    workload: &dyn Workload,
) -> Result<(), String> {
    let mut random = Random::stream(plan.seed, Stream::Nemesis(STREAM_CORE));
    let nodes = cluster.node_ids();
    let sound: Vec<_> = nodes
        .iter()
        .copied()
        .filter(|node| cluster.is_formed(*node) && !cluster.was_corrupted(*node))
        .collect();
    cluster.freeze();
    if plan.ending == Ending::LastingPartition {
        let healed: BTreeSet<_> = sound.iter().copied().collect();
        heal(cluster, &healed)?;
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
        cluster.begin_partition_around(shape, around, &mut random);
        progress_despite_partition(cluster, &healed, workload, shape)?;
    }
    if plan.ending == Ending::Everybody {
        let all = sound.into_iter().collect();
        heal(cluster, &all)?;
        cut_half_linked(cluster, &all);
        let members = settled_members(cluster)?;
        let core: BTreeSet<_> = all.intersection(&members).copied().collect();
        return recover(cluster, &core, workload);
    }
    let quorum = nodes.len() as u64 / 2 + 1;
    let mut core = sound;
    random.shuffle(&mut core);
    let size = random.between(quorum, core.len() as u64) as usize;
    core.truncate(size);
    let core: BTreeSet<_> = core.into_iter().collect();
    if let Some(leader) = cluster.leader()
        && !core.contains(&leader)
        && random.per_mille(500)
    {
        // Its disk hangs for good, and its heartbeats go on (D11).
        cluster.stall_disk(leader);
        cluster.resume(leader);
    }
    heal(cluster, &core)?;
    cut_half_linked(cluster, &core);
    recover(cluster, &core, workload)
}

/// Makes everything about these nodes good.
fn heal(cluster: &mut Cluster, core: &BTreeSet<NodeId>) -> Result<(), String> {
    cluster.heal_among(core);
    for &node in core {
        cluster.put_back(node);
        cluster.resume(node);
        cluster.set_disk_room(node, None);
        cluster.calm_disk(node);
        cluster.resume_disk(node);
        cluster.set_disk_failing(node, 0, 0);
        cluster.reset_process(node);
        if !cluster.is_running(node) {
            let started = cluster.try_restart(node);
            started.map_err(|error| format!("{node} does not start on a sound disk: {error}"))?;
        }
        cluster.set_clock_rate(node, 1_000_000);
        for &peer in core.iter().filter(|peer| **peer != node) {
            cluster.set_link(node, peer, LinkOptions::reliable());
        }
    }
    cluster.set_client_links(LinkOptions::reliable());
    Ok(())
}

/// The members, once a leader knows who they are, no change is under way, and that stays so.
fn settled_members(cluster: &mut Cluster) -> Result<BTreeSet<NodeId>, String> {
    let end = deadline(cluster);
    let mut since: Option<(Membership, Time)> = None;
    while cluster.now() < end {
        cluster.run_for_ms(LOOK_MS);
        let now = cluster.now();
        since = match (committed_membership(cluster), since) {
            (None, _) => None,
            (Some(found), Some((before, at))) if found == before => Some((before, at)),
            (Some(found), _) => Some((found, now)),
        };
        if let Some((found, at)) = &since
            && now.ms_since(*at) >= STABLE_MS
        {
            return Ok(found.members.keys().copied().collect());
        }
    }
    let nodes = cluster.node_ids().into_iter();
    let seen: Vec<_> = nodes.map(|node| cluster.state(node)).collect();
    Err(format!(
        "liveness: nobody settles who the members are: {seen:?}"
    ))
}

fn deadline(cluster: &Cluster) -> Time {
    let longest = cluster.longest_election_timeout_ms();
    cluster.now().plus_ms(ELECTION_TIMEOUTS * longest)
}

fn recover(
    cluster: &mut Cluster,
    core: &BTreeSet<NodeId>,
    workload: &dyn Workload,
) -> Result<(), String> {
    let end = deadline(cluster);
    let leader = stable_leader(cluster, core, workload, end)?;
    let write = write_at(cluster, core, workload, end)?;
    if !core.contains(&leader) {
        // Frozen faults may slow down everything that this leader does: progress is all it owes.
        return Ok(());
    }
    answered_reads(cluster, core, workload, end)?;
    let left = end.ms_since(cluster.now());
    let agree = |cluster: &Cluster| {
        let logs = core.iter().map(|node| cluster.core(*node));
        let ends: BTreeSet<_> = logs
            .map(|core| {
                core.map(|core| {
                    let commit = core.commit_index();
                    let last = core.last_position();
                    ((last.term, last.index), commit, core.applied_index())
                })
            })
            .collect();
        let all = ends.first().copied().flatten();
        ends.len() == 1
            && all.is_some_and(|(last, commit, applied)| {
                last.1 == commit && applied == commit && commit >= write
            })
    };
    if cluster.run_until(left, agree) {
        return Ok(());
    }
    let ends: Vec<_> = core
        .iter()
        .filter_map(|node| Some((*node, cluster.core(*node)?)))
        .map(|(node, core)| (node, core.last_position(), core.commit_index()))
        .collect();
    Err(format!(
        "liveness: the logs of the core {core:?} under leader {leader} do not become equal: {ends:?}"
    ))
}

/// Cuts nodes off from the core that only half reach it: what is then due is the subject of
/// [`progress_despite_partition`].
fn cut_half_linked(cluster: &mut Cluster, core: &BTreeSet<NodeId>) {
    let others = cluster.node_ids();
    for other in others.into_iter().filter(|node| !core.contains(node)) {
        let is_whole = core
            .iter()
            .all(|node| cluster.is_open(*node, other) && cluster.is_open(other, *node));
        if !is_whole {
            for node in core {
                cluster.cut(*node, other);
                cluster.cut(other, *node);
            }
        }
    }
}

/// Waits until the whole core follows one leader, itself in the core or not, for a while.
fn stable_leader(
    cluster: &mut Cluster,
    core: &BTreeSet<NodeId>,
    workload: &dyn Workload,
    end: Time,
) -> Result<NodeId, String> {
    let mut since = None;
    let mut probed = cluster.now();
    while cluster.now() < end {
        cluster.run_for_ms(LOOK_MS);
        let now = cluster.now();
        if let Some(leader) = cluster.leader()
            && now.ms_since(probed) >= PROBE_MS
        {
            // Only a write shows a leader that its disk hangs, and clients do write.
            probed = now;
            let _ = cluster.propose(leader, workload.probe_command());
        }
        since = match (followed(cluster, core), since) {
            (None, _) => None,
            (Some(found), Some((before, at))) if found == before => Some((before, at)),
            (Some(found), _) => Some((found, now)),
        };
        if let Some(((_, leader), at)) = since
            && now.ms_since(at) >= STABLE_MS
        {
            return Ok(leader);
        }
    }
    let seen: Vec<_> = core.iter().map(|node| cluster.state(*node)).collect();
    Err(format!(
        "liveness: the core {core:?} has no stable leader, but {seen:?}"
    ))
}

/// The leader that the whole core follows, and its term.
fn followed(cluster: &Cluster, core: &BTreeSet<NodeId>) -> Option<(Term, NodeId)> {
    let mut leaders = core.iter().map(|node| {
        let core = cluster.core(*node)?;
        Some((core.term(), core.leader()?))
    });
    let first = leaders.next().flatten()?;
    leaders.all(|other| other == Some(first)).then_some(first)
}

/// Writes something new through the leader that the core follows; returns where it stands.
fn write_at(
    cluster: &mut Cluster,
    core: &BTreeSet<NodeId>,
    workload: &dyn Workload,
    end: Time,
) -> Result<raft_proto::LogIndex, String> {
    while cluster.now() < end {
        let proposed = followed(cluster, core).and_then(|(_, leader)| {
            let command = workload.probe_command();
            cluster.propose(leader, command).ok()
        });
        let Some(proposed) = proposed else {
            cluster.run_for_ms(RETRY_MS);
            continue;
        };
        let left = end.ms_since(cluster.now());
        let ticket = proposed.ticket;
        cluster.run_until(left, |cluster| cluster.outcome(ticket).is_some());
        if matches!(cluster.outcome(ticket), Some(Ok(_))) {
            return Ok(proposed.position.index);
        }
    }
    let leader = followed(cluster, core).and_then(|(_, leader)| cluster.core(leader));
    let peers: Vec<_> = leader.into_iter().flat_map(RaftCore::peers).collect();
    Err(format!(
        "liveness: a write to the healed core is not answered; its leader sees {peers:?}"
    ))
}

/// Every node of the core answers a linearizable read.
fn answered_reads(
    cluster: &mut Cluster,
    core: &BTreeSet<NodeId>,
    workload: &dyn Workload,
    end: Time,
) -> Result<(), String> {
    let level = ReadConsistency::Linearizable;
    for &node in core {
        let mut answered = false;
        while !answered && cluster.now() < end {
            let ticket = cluster.query(node, workload.probe_query(), level);
            let left = end.ms_since(cluster.now());
            cluster.run_until(left, |cluster| cluster.outcome(ticket).is_some());
            answered = matches!(cluster.outcome(ticket), Some(Ok(_)));
            if !answered {
                cluster.run_for_ms(RETRY_MS);
            }
        }
        if !answered {
            return Err(format!(
                "liveness: {node} of the healed core answers no read"
            ));
        }
    }
    Ok(())
}

/// Demands a committed write if some node could lead for good.
fn progress_despite_partition(
    cluster: &mut Cluster,
    healed: &BTreeSet<NodeId>,
    workload: &dyn Workload,
    shape: Shape,
) -> Result<(), String> {
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
