//! Random histories: cores under drops, duplicates, reordering, slow disks and crashes that lose
//! what was not durable; every safety invariant after every step, and progress once all is well.
//!
//! A seed is reproduced with `RAFT_CORE_SEED=n cargo test -p raft-core --test random`;
//! `RAFT_CORE_SEEDS=n` tries more of them.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use raft_core::{
    Config, Event, IndexRange, MembershipChange, ProposalOutcome, ReadId, RepairNews, Role,
    SnapshotContent, Time,
};
use raft_proto::{HardState, LogIndex, NodeId, Promotion, Term};
use support::node::last_membership;
use support::{Cluster, Envelope, Node};

/// Seeds that every test run tries.
const SEEDS: u64 = 800;
/// Steps of chaos per seed.
const STEPS: u64 = 500;

/// Xorshift; the test's own, so that it shares nothing with what it tests.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.roll(from.len() as u64) as usize])
    }
}

/// What clients were told, checked against the one committed chain.
#[derive(Default)]
struct Oracle {
    /// Reads that wait, with what was committed when they were asked.
    reads: BTreeMap<(NodeId, ReadId), u64>,
    /// Proposals that wait, by node.
    proposals: BTreeSet<(NodeId, Term, LogIndex)>,
    next_read: u64,
    served: u64,
    decided: u64,
    changes: u64,
    fetched: u64,
    refilled: u64,
    covered: u64,
    dropped: u64,
    recounted: u64,
    /// Nodes that are to take a snapshot for somebody who lost what it covers.
    wanted: BTreeSet<NodeId>,
}

impl Oracle {
    fn take_events(&mut self, cluster: &mut Cluster) {
        let ids: Vec<NodeId> = cluster.nodes.keys().copied().collect();
        for id in ids {
            for event in cluster.events(id.0) {
                self.check(id, &event, cluster);
            }
        }
    }

    fn check(&mut self, id: NodeId, event: &Event, cluster: &Cluster) {
        let committed = cluster.invariants.committed();
        match event {
            Event::ReadReady { id: read, index } => {
                let at_least = self
                    .reads
                    .remove(&(id, *read))
                    .expect("a read that was asked");
                assert!(index.0 >= at_least, "a read at {id} misses a commit");
                self.served += 1;
            }
            Event::ReadFailed { id: read, .. } => {
                assert!(
                    self.reads.remove(&(id, *read)).is_some(),
                    "a read ends once"
                );
            }
            Event::ProposalsDecided {
                range,
                term,
                outcome,
            } => {
                let base = cluster.nodes[&id].core.base_position().index;
                for index in range.indexes() {
                    assert!(
                        self.proposals.remove(&(id, *term, index)),
                        "a proposal is decided once"
                    );
                    let found = committed.get(index.0 as usize - 1).map(|entry| entry.term);
                    match outcome {
                        ProposalOutcome::Committed => assert_eq!(found, Some(*term)),
                        ProposalOutcome::Superseded { by } => {
                            assert_ne!(found, Some(*term));
                            let mut until =
                                committed.iter().take_while(|entry| entry.index <= index);
                            let is_later = by > term && until.any(|entry| entry.term == *by);
                            let is_covered = index < base && by < term;
                            assert!(found == Some(*by) || is_later || is_covered);
                        }
                        ProposalOutcome::Unknown => {
                            assert!(index < base, "neither stopped nor covered by a snapshot");
                        }
                    }
                    self.decided += 1;
                }
            }
            Event::SnapshotWanted { .. } => {
                self.wanted.insert(id);
            }
            Event::PeerViolated { peer, violation } => {
                panic!("{id} accuses {peer} of {violation:?}")
            }
            Event::Repair(RepairNews::Lost(lost)) => {
                let cluster = cluster.describe();
                panic!("{id} gives up {lost:?} although a good copy is left\n{cluster}")
            }
            Event::Repair(RepairNews::Refilled(_)) => self.refilled += 1,
            Event::Repair(RepairNews::Covered(_)) => self.covered += 1,
            Event::Repair(RepairNews::Dropped(_)) => self.dropped += 1,
            Event::CountsAgain => self.recounted += 1,
            Event::Repair(RepairNews::Missing(_) | RepairNews::SnapshotLost(_))
            | Event::RoleChanged { .. }
            | Event::LeaderChanged { .. }
            | Event::MembershipChanged { .. }
            | Event::TransferEnded { .. }
            | Event::SnapshotOffered { .. }
            | Event::Halted => {}
        }
    }

    fn forget(&mut self, id: NodeId) {
        self.reads.retain(|(node, _), _| *node != id);
        self.proposals.retain(|(node, _, _)| *node != id);
    }
}

fn running(cluster: &Cluster) -> Vec<NodeId> {
    let up = cluster.nodes.iter().filter(|(_, node)| node.is_up);
    up.map(|(id, _)| *id).collect()
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Deliver,
    Persist,
    Time,
    Propose,
    Read,
    Transfer,
    Member,
    Crash,
    Restart,
    Partition,
    Snapshot,
    Fetch,
    /// Durable entries rot.
    Rot,
    /// A node that is down loses its snapshot.
    LoseSnapshot,
    /// A node that is down loses the end of its log, and its newest votes.
    LoseEnd,
}

/// What the disks of one seed do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disks {
    Good,
    Rot,
    Lose,
    Both,
}

/// How likely each step is in one seed: swarm testing, so that some histories have slow disks,
/// some many elections, some many crashes.
fn draw_weights(dice: &mut Dice, disks: Disks) -> Vec<(Step, u64)> {
    let mut of = |step, choices: [u64; 3]| (step, choices[dice.roll(3) as usize]);
    let rot = u64::from(matches!(disks, Disks::Rot | Disks::Both));
    let lose = u64::from(matches!(disks, Disks::Lose | Disks::Both));
    let mut weights = vec![
        of(Step::Deliver, [30, 80, 160]),
        of(Step::Persist, [6, 25, 60]),
        of(Step::Time, [4, 10, 20]),
        of(Step::Propose, [1, 8, 20]),
        of(Step::Read, [1, 4, 10]),
        of(Step::Transfer, [0, 1, 8]),
        of(Step::Member, [0, 4, 12]),
        of(Step::Crash, [0, 2, 8]),
        of(Step::Restart, [3, 5, 10]),
        of(Step::Partition, [0, 2, 6]),
        of(Step::Snapshot, [0, 6, 20]),
        of(Step::Fetch, [2, 6, 20]),
        of(Step::Rot, [2 * rot, 8 * rot, 20 * rot]),
        of(Step::LoseSnapshot, [rot, 2 * rot, 6 * rot]),
        of(Step::LoseEnd, [lose, 4 * lose, 10 * lose]),
    ];
    if lose > 0 {
        // While a node does not count, an operator who removes others can leave no quorum.
        weights.retain(|(step, _)| *step != Step::Member);
        weights.push((Step::Crash, 8));
        weights.push((Step::Restart, 10));
    }
    weights
}

fn draw_step(dice: &mut Dice, weights: &[(Step, u64)]) -> Step {
    let total = weights.iter().map(|(_, weight)| weight).sum();
    let mut roll = dice.roll(total);
    for (step, weight) in weights {
        if roll < *weight {
            return *step;
        }
        roll -= weight;
    }
    unreachable!("a roll is below the total")
}

/// What a seed is about.
struct World {
    cluster: Cluster,
    oracle: Oracle,
    dice: Dice,
    /// Of 100 messages, so many are picked out of order; some of those are lost or doubled.
    chaos: u64,
    /// Nodes of one side: messages between the sides are lost.
    side: BTreeSet<NodeId>,
}

fn step(world: &mut World, next: Step) {
    let World {
        cluster,
        oracle,
        dice,
        chaos,
        side,
    } = world;
    let up = running(cluster);
    let all: Vec<NodeId> = cluster.nodes.keys().copied().collect();
    match next {
        Step::Deliver => deliver_some(cluster, dice, *chaos, side),
        Step::Persist => {
            if let Some(id) = dice.pick(&up) {
                cluster.persist_one(id);
            }
        }
        Step::Time => pass_time(cluster, dice, &up),
        Step::Propose => propose(cluster, dice, oracle, &up),
        Step::Read => {
            if let Some(id) = dice.pick(&up) {
                ask_read(cluster, oracle, id);
            }
        }
        Step::Transfer => {
            let target = dice.pick(&all);
            if let (Some(id), Some(to)) = (cluster.leader(), target) {
                let now = cluster.now;
                let _refused = cluster.node(id.0).core.transfer_leadership(now, to);
                cluster.collect(id);
            }
        }
        Step::Member => change_members(cluster, dice, oracle),
        Step::Partition => {
            side.clear();
            if dice.roll(2) == 0 {
                side.extend(all.iter().filter(|_| dice.roll(2) == 0));
            }
        }
        Step::Snapshot => {
            if let Some(id) = dice.pick(&up) {
                take_snapshot(cluster, dice, id);
            }
        }
        Step::Fetch => {
            if let Some(id) = dice.pick(&up) {
                fetch(cluster, dice, id);
            }
        }
        Step::Crash => {
            if let Some(id) = dice.pick(&up) {
                let kept = dice.roll(3) as usize;
                cluster.node(id.0).crash(kept);
                cluster.node(id.0).events.clear();
                oracle.forget(id);
            }
        }
        Step::Restart => {
            if let Some(id) = dice.pick(&all)
                && !cluster.nodes[&id].is_up
            {
                cluster.restart(id.0);
                connect(cluster, id);
            }
        }
        Step::Rot => {
            if let Some(id) = dice.pick(&all) {
                rot(cluster, dice, id);
            }
        }
        Step::LoseSnapshot => {
            if let Some(id) = dice.pick(&all) {
                lose_snapshot(cluster, id);
            }
        }
        Step::LoseEnd => {
            if let Some(id) = dice.pick(&all) {
                lose_end(cluster, dice, id);
            }
        }
    }
    oracle.take_events(cluster);
    take_wanted_snapshots(cluster, oracle);
}

/// Everybody hears that a node is connected.
fn connect(cluster: &mut Cluster, id: NodeId) {
    let now = cluster.now;
    let boot = cluster.nodes[&id].core.boot();
    for other in running(cluster) {
        if other != id {
            let other_boot = cluster.nodes[&other].core.boot();
            cluster.node(other.0).core.handle_peer_up(now, id, boot);
            cluster
                .node(id.0)
                .core
                .handle_peer_up(now, other, other_boot);
            cluster.collect(other);
        }
    }
    cluster.collect(id);
}

/// Whether another node still has what node `id` has at an index: the entry itself, or, if that is
/// compacted there, a snapshot that covers it.
fn is_elsewhere(cluster: &Cluster, id: NodeId, index: u64) -> bool {
    let own = &cluster.nodes[&id].disk.entries[index as usize - 1];
    let membership = last_membership(&cluster.nodes[&id].disk.entries);
    let is_good = |node: &Node| {
        let disk = &node.disk;
        let is_same = disk.entries.get(index as usize - 1) == Some(own);
        let is_read = match index < disk.first_index {
            true => disk.snapshot_content == SnapshotContent::Whole,
            false => !disk.missing.contains(&LogIndex(index)),
        };
        is_same && is_read
    };
    let is_member = |other: &NodeId| {
        let members = membership.as_ref().map(|(_, membership)| membership);
        members.is_some_and(|members| members.is_voter(*other))
    };
    let mut others = cluster.nodes.iter().filter(|(other, _)| **other != id);
    others.any(|(other, node)| is_member(other) && is_good(node))
}

/// Whether nobody but node `id` has an entry, and enough others are sure of that: it is not committed,
/// and is dropped or overwritten.
fn is_nobodys(cluster: &Cluster, id: NodeId, index: u64) -> bool {
    let entries = &cluster.nodes[&id].disk.entries;
    let own = &entries[index as usize - 1];
    let voters = last_membership(entries).map_or(0, |(_, membership)| membership.voters.len());
    let mut others = cluster.nodes.iter().filter(|(other, _)| **other != id);
    let lacks_it = |node: &Node| {
        let disk = &node.disk;
        disk.counted && disk.entries.get(index as usize - 1) != Some(own)
    };
    let is_open = index > cluster.invariants.committed().len() as u64;
    voters > 1 && is_open && others.all(|(_, node)| lacks_it(node))
}

fn rot(cluster: &mut Cluster, dice: &mut Dice, id: NodeId) {
    let disk = &cluster.nodes[&id].disk;
    let (base, last) = (disk.first_index, disk.entries.len() as u64);
    if last < base {
        return;
    }
    let first = base + dice.roll(last - base + 1);
    let wanted = first..=last.min(first + dice.roll(4));
    let kept = wanted
        .take_while(|index| is_elsewhere(cluster, id, *index) || is_nobodys(cluster, id, *index));
    let Some(end) = kept.last() else {
        return;
    };
    let now = cluster.now;
    let range = IndexRange::new(LogIndex(first), LogIndex(end)).expect("not empty");
    cluster.node(id.0).rot(now, range);
    if cluster.nodes[&id].is_up {
        cluster.collect(id);
    }
}

fn lose_snapshot(cluster: &mut Cluster, id: NodeId) {
    let node = &cluster.nodes[&id];
    let Some(snapshot) = node.disk.snapshot.as_ref().filter(|_| !node.is_up) else {
        return;
    };
    let covered = snapshot.last_included.index.0;
    // Nothing of the log is left that only the snapshot knew the beginning of.
    let is_all_elsewhere = (1..=covered).all(|index| is_elsewhere(cluster, id, index));
    if is_all_elsewhere {
        let disk = &mut cluster.node(id.0).disk;
        disk.first_index = covered + 1;
        disk.snapshot_content = SnapshotContent::Lost;
    }
}

fn lose_end(cluster: &mut Cluster, dice: &mut Dice, id: NodeId) {
    let node = &cluster.nodes[&id];
    let is_first = cluster.nodes.values().all(|node| node.disk.counted);
    let size = node.core.membership().voters.len();
    if node.is_up || !is_first || size < 3 {
        return;
    }
    let disk = &node.disk;
    let covered = disk
        .snapshot
        .as_ref()
        .map_or(1, |s| s.last_included.index.0);
    let last = disk.entries.len() as u64;
    let from = covered + 1 + dice.roll(last + 1 - covered);
    let committed = cluster.invariants.committed().len() as u64;
    let is_needed = |index: u64| {
        let awaited = |node: &Node| node.disk.missing.contains(&LogIndex(index));
        index <= committed || cluster.nodes.values().any(awaited)
    };
    let is_safe = |index: u64| is_elsewhere(cluster, id, index) || !is_needed(index);
    // A node that misses what nobody has needs everybody else's word for that.
    let waits = |node: &Node| node.disk.missing.iter().any(|index| index.0 > committed);
    if !(from..=last).all(is_safe) || cluster.nodes.values().any(waits) {
        return;
    }
    let kept_term = disk.entries[from as usize - 2].term;
    let term = kept_term.0 + dice.roll(disk.hard_state.term.0 - kept_term.0 + 1);
    let had = disk.entries.clone();
    let hard_state = HardState {
        term: Term(term),
        vote: None,
    };
    cluster.node(id.0).lose_end(LogIndex(from), hard_state);
    cluster.invariants.node_lost_its_end(id, had);
}

/// Snapshots for those who need one: nothing is compacted for them.
fn take_wanted_snapshots(cluster: &mut Cluster, oracle: &mut Oracle) {
    let now = cluster.now;
    for id in std::mem::take(&mut oracle.wanted) {
        if cluster.nodes[&id].is_up {
            cluster.node(id.0).take_snapshot(now);
            cluster.collect(id);
        }
    }
}

fn deliver_some(cluster: &mut Cluster, dice: &mut Dice, chaos: u64, side: &BTreeSet<NodeId>) {
    if cluster.network.is_empty() {
        return;
    }
    // Mostly in order, sometimes any message.
    let choices = cluster.network.len() as u64;
    let at = match dice.roll(100) < chaos {
        true => dice.roll(choices) as usize,
        false => 0,
    };
    let envelope: Envelope = cluster.network.remove(at);
    if side.contains(&envelope.from) != side.contains(&envelope.to) {
        return;
    }
    match dice.roll(100) {
        roll if roll < chaos / 3 => {}
        roll if roll < chaos / 2 => {
            cluster.network.push(envelope.clone());
            cluster.deliver(&envelope);
        }
        _ => {
            cluster.deliver(&envelope);
        }
    }
    // A queue is bounded, as in life.
    let excess = cluster.network.len().saturating_sub(60);
    cluster.network.drain(..excess);
}

fn pass_time(cluster: &mut Cluster, dice: &mut Dice, up: &[NodeId]) {
    let deadlines = up
        .iter()
        .filter_map(|id| cluster.nodes[id].core.poll_timeout());
    let Some(deadline) = deadlines.min() else {
        return;
    };
    cluster.now = match dice.roll(3) {
        // A node's clock runs ahead, or it is starved of messages: its timer fires first.
        0 => {
            let Some(id) = dice.pick(up) else { return };
            let own = cluster.nodes[&id].core.poll_timeout();
            cluster.now.max(own.unwrap_or(deadline))
        }
        1 => cluster.now.max(deadline),
        _ => Time(cluster.now.0 + dice.roll(40_000_000)),
    };
    let now = cluster.now;
    let is_due = |id: &NodeId| {
        let deadline = cluster.nodes[id].core.poll_timeout();
        deadline.is_some_and(|deadline| deadline <= now)
    };
    let due: Vec<NodeId> = up.iter().copied().filter(is_due).collect();
    if let Some(id) = dice.pick(&due) {
        cluster.tick(id);
    }
}

fn propose(cluster: &mut Cluster, dice: &mut Dice, oracle: &mut Oracle, up: &[NodeId]) {
    let leads = |id: &&NodeId| cluster.nodes[*id].core.role() == Role::Leader;
    let leading: Vec<NodeId> = up.iter().filter(leads).copied().collect();
    let Some(id) = dice.pick(&leading) else {
        return;
    };
    let now = cluster.now;
    for _ in 0..=dice.roll(3) {
        let payload = format!("{}", dice.roll(1_000_000));
        let term = cluster.nodes[&id].core.term();
        if let Ok(index) = cluster.node(id.0).propose(now, &payload) {
            oracle.proposals.insert((id, term, index));
        }
    }
    cluster.collect(id);
}

fn take_snapshot(cluster: &mut Cluster, dice: &mut Dice, id: NodeId) {
    let now = cluster.now;
    let node = cluster.node(id.0);
    if let Some(last) = node.take_snapshot(now) {
        let kept = dice.roll(4);
        node.compact(now, last.index.0.saturating_sub(kept));
        cluster.collect(id);
    }
}

/// A snapshot offered arrives, or its transfer fails.
fn fetch(cluster: &mut Cluster, dice: &mut Dice, id: NodeId) {
    if dice.roll(8) == 0 && cluster.nodes[&id].offered.is_some() {
        let now = cluster.now;
        cluster.node(id.0).offered = None;
        cluster.node(id.0).core.handle_snapshot_failed(now);
        cluster.collect(id);
    } else {
        cluster.fetch(id);
    }
}

fn change_members(cluster: &mut Cluster, dice: &mut Dice, oracle: &mut Oracle) {
    let Some(leader) = cluster.leader() else {
        return;
    };
    let all: Vec<NodeId> = cluster.nodes.keys().copied().collect();
    let mut changes = Vec::new();
    for _ in 0..=dice.roll(2) {
        let Some(id) = dice.pick(&all) else {
            return;
        };
        let membership = cluster.nodes[&leader].core.membership();
        changes.push(match dice.roll(3) {
            _ if !membership.contains(id) => MembershipChange::AddLearner {
                id,
                member: support::member(id.0).1,
                promotion: [Promotion::Auto, Promotion::Manual][dice.roll(2) as usize],
            },
            0 => MembershipChange::Remove(id),
            _ if membership.learners.contains_key(&id) => MembershipChange::Promote(id),
            _ => MembershipChange::Demote(id),
        });
    }
    let now = cluster.now;
    let core = &mut cluster.node(leader.0).core;
    if let Ok(position) = core.propose_membership(now, &changes) {
        oracle
            .proposals
            .insert((leader, position.term, position.index));
        oracle.changes += 1;
    }
    cluster.collect(leader);
}

fn ask_read(cluster: &mut Cluster, oracle: &mut Oracle, id: NodeId) {
    let now = cluster.now;
    let committed = cluster.invariants.committed().len() as u64;
    oracle.next_read += 1;
    let read = ReadId(oracle.next_read);
    if cluster.node(id.0).core.read_index(now, read).is_ok() {
        oracle.reads.insert((id, read), committed);
    }
    cluster.collect(id);
}

/// Everything works again: within a few seconds one leader, equal logs, no open question.
fn converge(cluster: &mut Cluster, oracle: &mut Oracle) {
    for id in cluster.nodes.keys().copied().collect::<Vec<_>>() {
        if !cluster.nodes[&id].is_up {
            cluster.restart(id.0);
        }
    }
    for id in running(cluster) {
        connect(cluster, id);
    }
    cluster.fetches = true;
    cluster.settle();
    for _ in 0..20 {
        cluster.run_for(500);
        oracle.take_events(cluster);
        take_wanted_snapshots(cluster, oracle);
    }
    let Some(leader) = cluster.leader() else {
        panic!("no leader once all is well:\n{}", cluster.describe());
    };
    let term = cluster.nodes[&leader].core.term();
    let index = LogIndex(cluster.propose(leader.0, "last"));
    oracle.proposals.insert((leader, term, index));
    cluster.settle();
    let membership = cluster.nodes[&leader].core.membership().clone();
    assert!(!membership.is_joint(), "a change hangs");
    let served = oracle.served;
    for id in membership.members.keys() {
        ask_read(cluster, oracle, *id);
        cluster.settle();
    }
    cluster.run_for(400);
    oracle.take_events(cluster);
    let members = membership.members.len() as u64;
    assert!(
        oracle.served >= served + members,
        "every member serves reads:\n{}",
        cluster.describe()
    );
    let log = cluster.nodes[&leader].log.clone();
    assert_eq!(
        log.last().map(|entry| &entry.payload[..]),
        Some(&b"last"[..])
    );
    for (id, node) in &cluster.nodes {
        if !membership.contains(*id) {
            continue;
        }
        assert_eq!(node.log, log, "{id} has another log");
        assert_eq!(node.applied, log, "{id} has not applied all");
        assert!(node.core.is_whole(), "{id} is not healed");
        assert!(node.disk.counted, "{id} does not count again");
        let covered = node.disk.snapshot.as_ref();
        let covered = covered.map_or(LogIndex::ZERO, |s| s.last_included.index);
        let mut missing = node.disk.missing.iter();
        assert!(missing.all(|index| *index <= covered), "{id} misses some");
        assert_eq!(node.disk.snapshot_content, SnapshotContent::Whole);
    }
    assert!(oracle.reads.is_empty(), "a read hangs");
    // A removed node may never learn what became of its proposals.
    let mut members = oracle.proposals.iter().map(|(node, ..)| node);
    assert!(
        !members.any(|id| membership.contains(*id)),
        "a proposal hangs"
    );
}

fn run_seed(seed: u64) -> Oracle {
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let size = [3, 3, 5, 2, 1][dice.roll(5) as usize];
    let chaos = [0, 10, 40, 90][dice.roll(4) as usize];
    let window = 1 + dice.roll(4) as usize;
    let append_bytes = 1 + dice.roll(30);
    let configure = |config: &mut Config| {
        config.seed = seed;
        config.max_inflight_messages = window;
        config.max_append_bytes = append_bytes;
    };
    let mut cluster = Cluster::new(size, configure);
    for id in size + 1..=size + dice.roll(3) {
        cluster.add_spare(id, configure);
    }
    let disks = [Disks::Good, Disks::Rot, Disks::Lose, Disks::Both][dice.roll(4) as usize];
    let weights = draw_weights(&mut dice, disks);
    let mut world = World {
        cluster,
        oracle: Oracle::default(),
        dice,
        chaos,
        side: BTreeSet::new(),
    };
    for _ in 0..STEPS {
        let next = draw_step(&mut world.dice, &weights);
        step(&mut world, next);
    }
    converge(&mut world.cluster, &mut world.oracle);
    world.oracle.fetched = world.cluster.fetched;
    world.oracle
}

#[test]
fn random_histories_are_safe_and_end_well() {
    if let Ok(seed) = std::env::var("RAFT_CORE_SEED") {
        run_seed(seed.parse().expect("a number"));
        return;
    }
    let seeds = match std::env::var("RAFT_CORE_SEEDS") {
        Ok(seeds) => seeds.parse().expect("a number"),
        Err(_) => SEEDS,
    };
    let mut served = 0;
    let mut decided = 0;
    let mut changes = 0;
    let mut fetched = 0;
    let (mut refilled, mut covered, mut dropped, mut recounted) = (0, 0, 0, 0);
    for seed in 0..seeds {
        let Ok(oracle) = std::panic::catch_unwind(|| run_seed(seed)) else {
            panic!("failed; reproduce it with RAFT_CORE_SEED={seed}");
        };
        served += oracle.served;
        decided += oracle.decided;
        changes += oracle.changes;
        fetched += oracle.fetched;
        refilled += oracle.refilled;
        covered += oracle.covered;
        dropped += oracle.dropped;
        recounted += oracle.recounted;
    }
    assert!(refilled > SEEDS / 2, "only {refilled} holes were refilled");
    assert!(covered > SEEDS / 40, "only {covered} snapshots healed");
    assert!(dropped > 0, "nothing was dropped that nobody has");
    assert!(recounted > SEEDS / 20, "only {recounted} nodes count again");
    assert!(
        fetched > SEEDS / 16,
        "only {fetched} snapshots were fetched"
    );
    // The histories must reach what they are meant to test.
    assert!(served > SEEDS * 3, "only {served} reads were served");
    assert!(decided > SEEDS * 3, "only {decided} proposals were decided");
    assert!(changes > SEEDS / 12, "only {changes} changes of membership");
}
