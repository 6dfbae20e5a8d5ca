//! Random histories: cores under drops, duplicates, reordering, slow disks and crashes that lose
//! what was not durable; every safety invariant after every step, and progress once all is well.
//!
//! A seed is reproduced with `RAFT_CORE_SEED=n cargo test -p raft-core --test random`.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use raft_core::{Event, ProposalOutcome, ReadId, Role, Time};
use raft_proto::{LogIndex, NodeId, Term};
use support::{Cluster, Envelope};

/// Seeds that every test run tries.
const SEEDS: u64 = 1_500;
/// Steps of chaos per seed.
const STEPS: u64 = 350;

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
                for index in range.indexes() {
                    assert!(
                        self.proposals.remove(&(id, *term, index)),
                        "a proposal is decided once"
                    );
                    let found = committed.get(index.0 as usize - 1).map(|entry| entry.term);
                    match outcome {
                        ProposalOutcome::Committed => assert_eq!(found, Some(*term)),
                        ProposalOutcome::Superseded { by } => {
                            assert!(by > term && found != Some(*term));
                            let until = committed.iter().take_while(|entry| entry.index <= index);
                            assert!(until.last().is_some_and(|entry| entry.term >= *by));
                        }
                        ProposalOutcome::Unknown => panic!("nothing stopped this node"),
                    }
                    self.decided += 1;
                }
            }
            Event::PeerViolated { peer, violation } => {
                panic!("{id} accuses {peer} of {violation:?}")
            }
            Event::RoleChanged { .. }
            | Event::LeaderChanged { .. }
            | Event::MembershipChanged { .. }
            | Event::TransferEnded { .. }
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
    Crash,
    Restart,
}

/// How likely each step is in one seed: swarm testing, so that some histories have slow disks,
/// some many elections, some many crashes.
fn draw_weights(dice: &mut Dice) -> Vec<(Step, u64)> {
    let mut of = |step, choices: [u64; 3]| (step, choices[dice.roll(3) as usize]);
    vec![
        of(Step::Deliver, [20, 50, 100]),
        of(Step::Persist, [4, 15, 40]),
        of(Step::Time, [3, 10, 30]),
        of(Step::Propose, [1, 8, 20]),
        of(Step::Read, [1, 4, 10]),
        of(Step::Transfer, [0, 1, 8]),
        of(Step::Crash, [0, 2, 8]),
        of(Step::Restart, [3, 5, 10]),
    ]
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

fn step(cluster: &mut Cluster, dice: &mut Dice, oracle: &mut Oracle, next: Step, chaos: u64) {
    let up = running(cluster);
    let all: Vec<NodeId> = cluster.nodes.keys().copied().collect();
    match next {
        Step::Deliver => deliver_some(cluster, dice, chaos),
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
            }
        }
    }
    oracle.take_events(cluster);
}

fn deliver_some(cluster: &mut Cluster, dice: &mut Dice, chaos: u64) {
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
    let deadlines = up.iter().filter_map(|id| {
        let deadline = cluster.nodes[id].core.poll_timeout()?;
        Some((deadline, *id))
    });
    let Some((deadline, first)) = deadlines.min() else {
        return;
    };
    let late = Time(cluster.now.0 + dice.roll(40_000_000));
    cluster.now = match dice.roll(3) {
        0 => cluster.now.max(deadline),
        _ => late,
    };
    if cluster.now >= deadline {
        cluster.tick(first);
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
    cluster.settle();
    cluster.run_for(5_000);
    let leader = cluster.leader().expect("a leader once all is well");
    let term = cluster.nodes[&leader].core.term();
    let index = LogIndex(cluster.propose(leader.0, "last"));
    oracle.proposals.insert((leader, term, index));
    cluster.settle();
    for id in cluster.nodes.keys().copied().collect::<Vec<_>>() {
        ask_read(cluster, oracle, id);
        cluster.settle();
    }
    let served = oracle.served;
    cluster.run_for(400);
    oracle.take_events(cluster);
    assert!(
        oracle.served >= served + cluster.nodes.len() as u64,
        "every node serves reads"
    );
    let log = cluster.nodes[&leader].log.clone();
    assert_eq!(
        log.last().map(|entry| &entry.payload[..]),
        Some(&b"last"[..])
    );
    for (id, node) in &cluster.nodes {
        assert_eq!(node.log, log, "{id} has another log");
        assert_eq!(node.applied, log, "{id} has not applied all");
    }
    assert!(oracle.reads.is_empty(), "a read hangs");
    assert!(oracle.proposals.is_empty(), "a proposal hangs");
}

fn run_seed(seed: u64) -> Oracle {
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let size = [3, 3, 5, 2, 1][dice.roll(5) as usize];
    let chaos = [0, 10, 40, 90][dice.roll(4) as usize];
    let window = 1 + dice.roll(4) as usize;
    let append_bytes = 1 + dice.roll(30);
    let mut cluster = Cluster::new(size, |config| {
        config.seed = seed;
        config.max_inflight_messages = window;
        config.max_append_bytes = append_bytes;
    });
    let mut oracle = Oracle::default();
    let weights = draw_weights(&mut dice);
    for _ in 0..STEPS {
        let next = draw_step(&mut dice, &weights);
        step(&mut cluster, &mut dice, &mut oracle, next, chaos);
    }
    converge(&mut cluster, &mut oracle);
    oracle
}

#[test]
fn random_histories_are_safe_and_end_well() {
    if let Ok(seed) = std::env::var("RAFT_CORE_SEED") {
        run_seed(seed.parse().expect("a number"));
        return;
    }
    let mut served = 0;
    let mut decided = 0;
    for seed in 0..SEEDS {
        let Ok(oracle) = std::panic::catch_unwind(|| run_seed(seed)) else {
            panic!("failed; reproduce it with RAFT_CORE_SEED={seed}");
        };
        served += oracle.served;
        decided += oracle.decided;
    }
    // The histories must reach what they are meant to test.
    assert!(served > SEEDS * 4, "only {served} reads were served");
    assert!(decided > SEEDS * 3, "only {decided} proposals were decided");
}
