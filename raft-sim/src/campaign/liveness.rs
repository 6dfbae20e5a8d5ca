//! Liveness mode: when the trouble is over for a core of the cluster, the core must go on.
//!
//! A random core of at least a quorum is healed: processes run, links among them are open and good,
//! disks work, clocks are right; what was damaged on them stays so. Every other fault is frozen as
//! it is, for good. Within about 50 election timeouts one leader is stable, requests to the core are
//! answered, the logs of the core are equal, and its nodes are whole and counted. If the core does
//! not hold a good copy of everything that its nodes know of ([`good_copies`]), nothing is due until
//! the others are healed, too.
//!
//! A partition may stay instead, see [`lasting_partition`]; the core is healed after that.

use std::collections::BTreeSet;

use raft_core::{RaftCore, Time};
use raft_node::ReadConsistency;
use raft_proto::{Membership, NodeId, ProtocolVersion, Term};

use super::good_copies;
use super::lasting_partition;
use super::operator::committed_membership;
use super::plan::{Ending, Plan, STREAM_CORE};
use super::workload::Workload;
use crate::cluster::{Cluster, CrashKind, StartFailure};
use crate::disk::Corruption;
use crate::marks::Mark;
use crate::options::LinkOptions;
use crate::random::{Random, Stream};

/// How many of the longest election timeouts recovery may take.
const ELECTION_TIMEOUTS: u64 = 50;
/// How long a leader must stay to count as stable, in milliseconds.
pub(super) const STABLE_MS: u64 = 2_000;
/// How many times that a leader with frozen faults may take to get anywhere at all.
const ADVANCE_LOOKS: u32 = 5;
/// How often a request is repeated that was refused, in milliseconds.
pub(super) const RETRY_MS: u64 = 100;
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
    let survivors = heal(cluster, &nodes.iter().copied().collect())?;
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
    let usable = |node: &NodeId| cluster.is_formed(*node) && !cluster.is_cleared(*node);
    let usable: Vec<_> = nodes.iter().copied().filter(usable).collect();
    cluster.freeze();
    if plan.ending == Ending::LastingPartition {
        let is_sound = |node: &NodeId| !cluster.was_corrupted(*node);
        let sound = usable.iter().copied().filter(is_sound).collect();
        let healed = heal(cluster, &sound)?;
        lasting_partition::demand(cluster, &healed, workload, &mut random)?;
    }
    if plan.ending == Ending::Everybody {
        let all = heal(cluster, &usable.into_iter().collect())?;
        let lacking = lacking(cluster, &all);
        cut_half_linked(cluster, &all);
        let members = settled_members(cluster)?;
        let core: BTreeSet<_> = all.intersection(&members).copied().collect();
        return recover(cluster, &core, &lacking, workload);
    }
    if random.per_mille(400) {
        // Nobody has looked at this yet, if there may be more damage at all.
        let _ = cluster.corrupt(*random.pick(&usable), Corruption::BitRot);
    }
    let quorum = nodes.len() as u64 / 2 + 1;
    let mut core = usable.clone();
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
    let core = heal(cluster, &core)?;
    let lacked = lacking(cluster, &core);
    cut_half_linked(cluster, &core);
    // What was lost is known once everybody has looked at its log.
    cluster.run_for_ms(cluster.longest_election_timeout_ms());
    if good_copies::are_in(cluster, &core) {
        match recover(cluster, &core, &lacked, workload) {
            // Rot may be found late.
            Err(_) if !good_copies::are_in(cluster, &core) => {}
            recovered => return recovered,
        }
    }
    // With everybody there is a quorum of sound nodes, which hold everything that is committed.
    let core = heal(cluster, &usable.into_iter().collect())?;
    let lacked = lacking(cluster, &core);
    cut_half_linked(cluster, &core);
    recover(cluster, &core, &lacked, workload)
}

/// Makes everything about these nodes good but what they have stored; returns those that run then: a
/// node whose disk was damaged may say so, and stay down. Damaged ones start anew, so that they notice.
/// If there are any, all are upgraded: builds
/// that speak the oldest version know nothing of repair, and nobody is healed by them.
fn heal(cluster: &mut Cluster, core: &BTreeSet<NodeId>) -> Result<BTreeSet<NodeId>, String> {
    let mut running = core.clone();
    let is_damaged = core.iter().any(|node| cluster.was_corrupted(*node));
    cluster.heal_among(core);
    for &node in core {
        cluster.put_back(node);
        cluster.resume(node);
        cluster.set_disk_room(node, None);
        cluster.calm_disk(node);
        cluster.resume_disk(node);
        cluster.set_disk_failing(node, 0, 0);
        cluster.reset_process(node);
        let is_old = cluster.version(node) != Some(ProtocolVersion::NEWEST);
        if is_damaged && is_old {
            cluster.set_version(node, ProtocolVersion::NEWEST);
        }
        if cluster.was_corrupted(node) || (is_damaged && is_old) {
            cluster.crash_by(node, CrashKind::Killed);
        }
        if !cluster.is_running(node) {
            match cluster.try_restart(node) {
                Ok(()) => {}
                Err(StartFailure::Damaged(_)) => {
                    running.remove(&node);
                }
                Err(error @ StartFailure::Disk(_)) => {
                    return Err(format!("{node} does not start on a healed disk: {error}"));
                }
            }
        }
        cluster.set_clock_rate(node, 1_000_000);
        for &peer in core.iter().filter(|peer| **peer != node) {
            cluster.set_link(node, peer, LinkOptions::reliable());
        }
    }
    cluster.set_client_links(LinkOptions::reliable());
    Ok(running)
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
    let seen: Vec<_> = nodes
        .filter_map(|node| Some((node, cluster.core(node)?)))
        .map(|(node, core)| {
            let (membership, log) = (core.membership(), core.last_position());
            let counts = !core.is_uncounted();
            (node, core.role(), core.term(), log, counts, membership)
        })
        .collect();
    Err(format!(
        "liveness: nobody settles who the members are: {seen:?}"
    ))
}

pub(super) fn deadline(cluster: &Cluster) -> Time {
    let longest = cluster.longest_election_timeout_ms();
    cluster.now().plus_ms(ELECTION_TIMEOUTS * longest)
}

fn recover(
    cluster: &mut Cluster,
    core: &BTreeSet<NodeId>,
    lacked: &BTreeSet<NodeId>,
    workload: &dyn Workload,
) -> Result<(), String> {
    let end = deadline(cluster);
    let leader = stable_leader(cluster, core, workload, end)?;
    let write = match write_at(cluster, core, workload, end) {
        // Much may wait before it, and frozen faults slow this leader down.
        Err(_) if !core.contains(&leader) && advances(cluster, core, leader) => return Ok(()),
        written => written?,
    };
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
            && core.iter().all(|node| is_repaired(cluster, *node))
            && all.is_some_and(|(last, commit, applied)| {
                last.1 == commit && applied == commit && commit >= write
            })
    };
    if cluster.run_until(left, agree) {
        if !core.is_disjoint(lacked) {
            cluster.note_reached(Mark::CoreRepaired);
        }
        return Ok(());
    }
    let ends: Vec<_> = core
        .iter()
        .filter_map(|node| Some((*node, cluster.core(*node)?)))
        .map(|(node, core)| {
            let missing: Vec<_> = core.missing().collect();
            let lacks = (missing, core.lost_snapshot(), core.is_uncounted());
            (node, core.last_position(), core.commit_index(), lacks)
        })
        .collect();
    Err(format!(
        "liveness: the logs of the core {core:?} under leader {leader} do not become equal and \
         whole: {ends:?}"
    ))
}

/// Whether something is being committed.
pub(super) fn goes_on(cluster: &mut Cluster) -> bool {
    let before = cluster.committed();
    cluster.run_for_ms(STABLE_MS);
    cluster.committed() > before
}

/// Whether, before long, something is committed or a copy of the leader's log grows: a leader commits
/// nothing until a quorum has what was there before its term.
fn advances(cluster: &mut Cluster, core: &BTreeSet<NodeId>, leader: NodeId) -> bool {
    let copies = |cluster: &Cluster| {
        let leading = cluster.core(leader)?;
        let peers = leading.peers().filter(|peer| core.contains(&peer.id));
        let held: Vec<_> = peers.map(|peer| (peer.id, peer.match_index)).collect();
        Some((leading.term(), held))
    };
    let before = copies(cluster);
    (0..ADVANCE_LOOKS).any(|_| {
        let is_committing = goes_on(cluster);
        let now = copies(cluster);
        let grows = before.as_ref().zip(now).is_some_and(|(before, now)| {
            let pairs = before.1.iter().zip(&now.1);
            before.0 == now.0 && pairs.into_iter().any(|(a, b)| a.0 == b.0 && a.1 < b.1)
        });
        is_committing || grows
    })
}

/// Those that are not repaired.
fn lacking(cluster: &Cluster, nodes: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let lacks = |node: &&NodeId| !is_repaired(cluster, **node);
    nodes.iter().filter(lacks).copied().collect()
}

/// Whether a node runs, has all content of its log and its state, and counts.
fn is_repaired(cluster: &Cluster, node: NodeId) -> bool {
    let core = cluster.core(node);
    core.is_some_and(|core| core.is_whole() && !core.is_uncounted())
}

/// Cuts nodes off from the core that only half reach it: what is then due is the subject of
/// [`lasting_partition`].
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
    let leader = cluster.leader();
    let peers: Vec<_> = leader
        .and_then(|leader| cluster.core(leader))
        .into_iter()
        .flat_map(RaftCore::peers)
        .collect();
    Err(format!(
        "liveness: the core {core:?} has no stable leader, but {seen:?}; {leader:?} sees {peers:?}"
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
        let leader = followed(cluster, core);
        let proposed = leader.and_then(|(_, leader)| {
            let command = workload.probe_command();
            cluster.propose(leader, command).ok()
        });
        let Some(proposed) = proposed else {
            cluster.run_for_ms(RETRY_MS);
            continue;
        };
        let left = end.ms_since(cluster.now());
        let ticket = proposed.ticket;
        // A leader whose clock stands still never says what became of it; the core goes on without.
        cluster.run_until(left, |cluster| {
            cluster.outcome(ticket).is_some() || followed(cluster, core) != leader
        });
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
