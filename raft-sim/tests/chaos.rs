//! Random trouble, chosen anew for each seed, while clients work: safety after every event, a
//! linearizable history at the end, and progress soon after the trouble is over.
//!
//! `RAFT_SIM_SEED=7 cargo test -p raft-sim --test chaos` runs one seed, `RAFT_SIM_SEEDS=1000` many.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;
use raft_log::LogOptions;
use raft_node::{Applied, ProposeError, ReadConsistency, StateMachine};
use raft_proto::NodeId;
use raft_sim::checker::linearizability::{Model, Operation, Verdict, check};
use raft_sim::{
    CallError, ClockOptions, Cluster, ClusterOptions, Latency, LinkOptions, ProcessOptions, Random,
    SimClient, Stream, Time,
};

/// Seeds in an ordinary run.
const SEEDS: u64 = 60;
/// How long there is trouble, in milliseconds.
const TROUBLE_MS: u64 = 10_000;
/// How soon after it everybody must agree again: about 50 election timeouts, in milliseconds.
const RECOVERY_MS: u64 = 20_000;
const KEYS: u64 = 3;

/// Registers by key. A write returns what was there before, so that a command that counts twice,
/// or not at all, shows.
#[derive(Default)]
struct Registers(BTreeMap<u8, u64>);

impl StateMachine for Registers {
    fn apply(&mut self, applied: Applied<'_>) -> Bytes {
        let (key, value) = applied.command.split_first().expect("a key and a value");
        let value = u64::from_be_bytes(value.try_into().expect("eight bytes"));
        number(self.0.insert(*key, value).unwrap_or(0))
    }

    fn query(&mut self, query: &Bytes) -> Bytes {
        number(self.0.get(&query[0]).copied().unwrap_or(0))
    }
}

fn number(value: u64) -> Bytes {
    Bytes::copy_from_slice(&value.to_be_bytes())
}

#[derive(Clone, Copy, Debug)]
enum Ask {
    Swap(u8, u64),
    Get(u8),
}

struct RegisterModel;

impl Model for RegisterModel {
    type Part = u8;
    type State = u64;
    type Input = Ask;
    type Output = u64;

    fn part(&self, ask: &Ask) -> u8 {
        match ask {
            Ask::Swap(key, _) | Ask::Get(key) => *key,
        }
    }

    fn initial(&self, _key: &u8) -> u64 {
        0
    }

    fn step(&self, state: &u64, ask: &Ask, seen: Option<&u64>) -> Option<u64> {
        let fits = seen.is_none_or(|seen| seen == state);
        fits.then_some(match ask {
            Ask::Swap(_, value) => *value,
            Ask::Get(_) => *state,
        })
    }
}

type History = Rc<RefCell<Vec<Operation<Ask, u64>>>>;

/// What certainly had no effect need not be in the history.
fn had_no_effect(error: &CallError) -> bool {
    match error {
        CallError::TimedOut | CallError::Propose(ProposeError::Unknown) => false,
        CallError::Propose(_) | CallError::Read(_) => true,
    }
}

/// Asks random nodes for random things until the time is up. Nothing is sent twice.
async fn play(client: SimClient, nodes: Vec<NodeId>, history: History) {
    let mut serial = 0;
    while client.now() < Time::from_ms(TROUBLE_MS) {
        let (key, node) = client.draw(|r| (r.below(KEYS) as u8, *r.pick(&nodes)));
        let called = client.now();
        let is_write = client.draw(|random| random.per_mille(600));
        let (input, outcome) = if is_write {
            serial += 1;
            let value = client.id() * 1_000_000 + serial;
            let mut command = vec![key];
            command.extend_from_slice(&value.to_be_bytes());
            let outcome = client.write(node, command.into(), 400).await;
            (Ask::Swap(key, value), outcome)
        } else {
            let query = Bytes::copy_from_slice(&[key]);
            let level = ReadConsistency::Linearizable;
            (Ask::Get(key), client.read(node, query, level, 400).await)
        };
        let answered = match outcome {
            Ok(reply) => {
                let seen = u64::from_be_bytes(reply[..].try_into().expect("eight bytes"));
                Some((client.now(), seen))
            }
            Err(error) if is_write && !had_no_effect(&error) => None,
            Err(_) => {
                let ms = client.draw(|random| random.below(20));
                client.sleep_ms(ms).await;
                continue;
            }
        };
        history.borrow_mut().push(Operation {
            client: client.id(),
            input,
            called,
            answered,
        });
    }
}

/// The kinds of trouble that a seed has.
struct Swarm {
    crashes: bool,
    crashes_of_all: bool,
    partitions: bool,
    one_way_cuts: bool,
    transfers: bool,
    slow_disks: bool,
    stalls: bool,
    unreliable: bool,
    small_messages: bool,
    small_buffers: bool,
    small_segments: bool,
    pause_ms_max: u64,
}

impl Swarm {
    fn draw(random: &mut Random) -> Self {
        let mut coin = || random.per_mille(500);
        Self {
            crashes: coin(),
            crashes_of_all: coin(),
            partitions: coin(),
            one_way_cuts: coin(),
            transfers: coin(),
            slow_disks: coin(),
            stalls: coin(),
            unreliable: coin(),
            small_messages: coin(),
            small_buffers: coin(),
            small_segments: coin(),
            pause_ms_max: *random.pick(&[30, 300, 1500]),
        }
    }

    fn options(&self, seed: u64, random: &mut Random) -> ClusterOptions {
        let mut options = ClusterOptions::new(*random.pick(&[3, 3, 5])).seed(seed);
        if self.unreliable {
            let unreliable = LinkOptions::unreliable();
            let late = random.per_mille(500);
            options = options.links(if late {
                unreliable.with_long_reordering()
            } else {
                unreliable
            });
        }
        options.clock = ClockOptions {
            drift_ppm_max: *random.pick(&[0, 1_000, 100_000]),
        };
        if self.small_messages {
            options.core.max_append_bytes = 1;
            options.core.max_inflight_messages = 2;
        }
        if self.small_buffers {
            options.limits.entry_buffer_bytes = 1;
            options.limits.max_apply_bytes = 1;
        }
        if self.small_segments {
            options.log = LogOptions::small();
        }
        options
    }

    /// Does one thing to the world.
    fn trouble(&self, cluster: &mut Cluster) {
        let nodes = cluster.node_ids();
        let dice = cluster.random().below(9);
        let [node, other] = [(); 2].map(|()| *cluster.random().pick(&nodes));
        match dice {
            0 if self.crashes => cluster.crash(node),
            1 if self.crashes => {
                if let Some(leader) = cluster.leader() {
                    cluster.crash(leader);
                }
            }
            2 if self.crashes_of_all => nodes.iter().for_each(|node| cluster.crash(*node)),
            3 if self.partitions => {
                let (left, right): (Vec<_>, Vec<_>) =
                    nodes.iter().partition(|_| cluster.random().per_mille(500));
                cluster.partition(&[&left, &right]);
            }
            4 if self.one_way_cuts => cluster.cut(node, other),
            5 if self.transfers => {
                if let Some(leader) = cluster.leader() {
                    // Whatever comes of it.
                    let _ = cluster.transfer_leadership(leader, other);
                }
            }
            6 => cluster.heal(),
            7 if self.stalls => stall_leader(cluster),
            _ => restart_dead(cluster),
        }
    }
}

/// Cuts a leader off while a write of its own hangs: when it comes back, what it wrote is replaced
/// before it was durable.
fn stall_leader(cluster: &mut Cluster) {
    let Some(leader) = cluster.leader() else {
        return;
    };
    let stalled = ProcessOptions {
        sync: Latency::ms(1_000, 3_000),
        ..ProcessOptions::default()
    };
    cluster.set_process(leader, stalled);
    cluster.disconnect(leader);
    cluster.act_after_ms(1_000, move |cluster| {
        cluster.set_process(leader, ProcessOptions::default());
        cluster.connect(leader);
    });
}

fn restart_dead(cluster: &mut Cluster) {
    for node in cluster.node_ids() {
        if !cluster.is_running(node) {
            cluster.restart(node);
        }
    }
}

fn run(seed: u64) {
    let mut random = Random::stream(seed, Stream::Scenario);
    let swarm = Swarm::draw(&mut random);
    let options = swarm.options(seed, &mut random);
    let mut cluster = Cluster::new(options, |_| Box::new(Registers::default()));
    let nodes = cluster.node_ids();
    if swarm.slow_disks {
        for node in &nodes {
            let slowest_us = *random.pick(&[400, 5_000, 400_000, 3_000_000]);
            let latencies = ProcessOptions {
                sync: Latency::us(80, slowest_us),
                ..ProcessOptions::default()
            };
            cluster.set_process(*node, latencies);
        }
    }
    let history = History::default();
    for _ in 0..4 {
        let (nodes, history) = (nodes.clone(), Rc::clone(&history));
        cluster.spawn(|client| play(client, nodes, history));
    }
    while cluster.now() < Time::from_ms(TROUBLE_MS) {
        let pause = cluster.random().below(swarm.pause_ms_max);
        cluster.run_for_ms(pause);
        swarm.trouble(&mut cluster);
    }
    recover(&mut cluster, &nodes);
    // The last calls are in the history only once they have ended.
    assert!(cluster.run_until(1_000, |cluster| cluster.clients_running() == 0));
    let history = without_unseen(&history.borrow());
    let verdict = check(&RegisterModel, &history, 10_000_000);
    if let Verdict::NotLinearizable { part, longest } = &verdict {
        let of_part = |at: &usize| RegisterModel.part(&history[*at].input) == *part;
        for at in (0..history.len()).filter(of_part) {
            let fits = if longest.contains(&at) {
                "fits"
            } else {
                "left"
            };
            eprintln!("{at:>4} {fits} {:?}", history[at]);
        }
    }
    assert_eq!(
        verdict,
        Verdict::Linearizable,
        "{} operations",
        history.len()
    );
}

/// Leaves out writes that nobody knows the outcome of and nobody saw the value of. If they took
/// effect, then right before another one of that kind, so the rest is as linearizable without them;
/// and each of them would double the search.
fn without_unseen(history: &[Operation<Ask, u64>]) -> Vec<Operation<Ask, u64>> {
    let answers = history.iter().filter_map(|operation| operation.answered);
    let seen: BTreeSet<u64> = answers.map(|(_, value)| value).collect();
    let matters = |operation: &&Operation<Ask, u64>| match operation.input {
        Ask::Swap(_, value) => operation.answered.is_some() || seen.contains(&value),
        Ask::Get(_) => true,
    };
    history.iter().filter(matters).cloned().collect()
}

/// After the trouble everybody agrees on something new, soon.
fn recover(cluster: &mut Cluster, nodes: &[NodeId]) {
    cluster.heal();
    cluster.set_links(LinkOptions::reliable());
    restart_dead(cluster);
    for node in nodes {
        cluster.set_process(*node, ProcessOptions::default());
    }
    let end = cluster.now().plus_ms(RECOVERY_MS);
    while cluster.now() < end {
        let left = end.ms_since(cluster.now());
        assert!(
            cluster.run_until(left, |c| c.leader().is_some()),
            "nobody leads"
        );
        let leader = cluster.leader().expect("it was just seen");
        let Ok(proposed) = cluster.propose(leader, vec![255; 9].into()) else {
            cluster.run_for_ms(50);
            continue;
        };
        let index = proposed.position.index;
        let everybody = nodes.len();
        cluster.run_until(2_000, |c| {
            c.applied_by(index) == everybody || matches!(c.outcome(proposed.ticket), Some(Err(_)))
        });
        if cluster.applied_by(index) == everybody {
            return;
        }
    }
    panic!("no agreement within {RECOVERY_MS} ms after the trouble");
}

#[test]
fn random_trouble() {
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|value| value.parse().ok())
    };
    match number("RAFT_SIM_SEED") {
        Some(seed) => run(seed),
        None => (1..=number("RAFT_SIM_SEEDS").unwrap_or(SEEDS)).for_each(run),
    }
}
