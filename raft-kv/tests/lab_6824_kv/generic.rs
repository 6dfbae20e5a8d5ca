//! The lab's generic test: clerks at work while servers are cut off from each other and die.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use raft_kv::machine::KvMachine;
use raft_sim::{Cluster, ClusterOptions, LinkOptions};

use super::clerk::{Clerk, Reach};
use super::history::History;
use super::snapshots;

/// How often the lab repeats work, partitions and crash.
const ROUNDS: u64 = 3;
/// How long clerks work in each round, in milliseconds.
const ROUND_MS: u64 = 5_000;
/// The lab's election bound, in milliseconds.
const ELECTION_MS: u64 = 1_000;

/// Whether servers die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crashes {
    Nobody,
    /// All at once, at the end of each round.
    Everybody,
}

/// Whether servers are cut off from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Partitions {
    Never,
    /// Two random groups, others every second or so.
    Random,
}

/// Which keys clerks use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keys {
    /// Each clerk has one of its own, and knows what must be in it.
    Own,
    /// All use all.
    Shared,
}

/// Whether servers take snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Snapshots {
    /// Not before their logs are far longer than any here.
    Never,
    /// As soon as they can at the lab's size, and their logs stay short.
    Often,
}

/// A generic test, but for its seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    clients: u64,
    servers: u64,
    links: LinkOptions,
    crashes: Crashes,
    partitions: Partitions,
    keys: Keys,
    snapshots: Snapshots,
}

/// Runs a scenario for each of the first seeds (`RAFT_SIM_SEEDS` says how many), or only for the
/// one in `RAFT_SIM_SEED`.
pub(crate) fn for_seeds(count: u64, scenario: impl Fn(u64)) {
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|value| value.parse().ok())
    };
    match number("RAFT_SIM_SEED") {
        Some(seed) => scenario(seed),
        None => (1..=number("RAFT_SIM_SEEDS").unwrap_or(count)).for_each(scenario),
    }
}

pub(crate) fn kv_cluster(servers: u64, seed: u64, links: LinkOptions) -> Cluster {
    let options = ClusterOptions::new(servers).seed(seed).links(links);
    Cluster::new(options, |_| Box::new(KvMachine::default()))
}

/// Lets all clerks finish, within a generous bound.
pub(crate) fn finish(cluster: &mut Cluster) {
    let finished = cluster.run_until(60_000, |cluster| cluster.clients_running() == 0);
    assert!(
        finished,
        "{} clerks wait for ever",
        cluster.clients_running()
    );
}

/// Expects each append of a client in the value exactly once, and in order.
pub(crate) fn assert_appends(value: &str, client: u64, count: u64) {
    let mut from = 0;
    for number in 0..count {
        let wanted = format!("x {client} {number} y");
        let at = value.find(&wanted);
        let at = at.unwrap_or_else(|| panic!("{wanted} is missing in {value}"));
        assert_eq!(
            value.rfind(&wanted),
            Some(at),
            "{wanted} counts twice in {value}"
        );
        assert!(at >= from, "{wanted} is out of order in {value}");
        from = at + wanted.len();
    }
}

impl Scenario {
    pub(crate) fn new(clients: u64) -> Self {
        Self {
            clients,
            servers: 5,
            links: LinkOptions::reliable(),
            crashes: Crashes::Nobody,
            partitions: Partitions::Never,
            keys: Keys::Own,
            snapshots: Snapshots::Never,
        }
    }

    pub(crate) fn snapshots(self, snapshots: Snapshots) -> Self {
        Self { snapshots, ..self }
    }

    pub(crate) fn servers(self, servers: u64) -> Self {
        Self { servers, ..self }
    }

    pub(crate) fn links(self, links: LinkOptions) -> Self {
        Self { links, ..self }
    }

    pub(crate) fn crashes(self, crashes: Crashes) -> Self {
        Self { crashes, ..self }
    }

    pub(crate) fn partitions(self, partitions: Partitions) -> Self {
        Self { partitions, ..self }
    }

    pub(crate) fn keys(self, keys: Keys) -> Self {
        Self { keys, ..self }
    }

    pub(crate) fn run(self, seed: u64) {
        let mut cluster = match self.snapshots {
            Snapshots::Never => kv_cluster(self.servers, seed, self.links),
            Snapshots::Often => snapshots::cluster(self.servers, seed, self.links),
        };
        let history = History::default();
        let reach: Reach = Rc::new(RefCell::new(cluster.node_ids()));
        let mut expected = BTreeMap::new();
        for _ in 0..ROUNDS {
            let stop = Rc::new(Cell::new(false));
            for _ in 0..self.clients {
                let (reach, history) = (Rc::clone(&reach), history.clone());
                let (stop, keys, clients) = (Rc::clone(&stop), self.keys, self.clients);
                let appended = Rc::new(Cell::new(0));
                let count = Rc::clone(&appended);
                let id = cluster.spawn(|client| async move {
                    let clerk = Clerk::new(client, reach, history);
                    match keys {
                        Keys::Own => work_on_own_key(clerk, &stop, &count).await,
                        Keys::Shared => work_on_shared_keys(clerk, &stop, clients).await,
                    }
                });
                expected.insert(id, appended);
            }
            self.disturb(&mut cluster);
            stop.set(true);
            if self.crashes == Crashes::Everybody {
                crash_everybody(&mut cluster);
            }
            finish(&mut cluster);
            if self.snapshots == Snapshots::Often {
                snapshots::check_log_sizes(&mut cluster);
            }
        }
        if self.keys == Keys::Own {
            check_own_keys(&mut cluster, &reach, &history, expected);
        }
        let asked = history.len() as u64;
        assert!(asked >= 20 * self.clients, "only {asked} operations");
        history.assert_linearizable();
    }

    /// Lets the clerks work for a round.
    fn disturb(self, cluster: &mut Cluster) {
        match self.partitions {
            Partitions::Never => cluster.run_for_ms(ROUND_MS),
            Partitions::Random => {
                let end = cluster.now().plus_ms(ROUND_MS);
                cluster.run_for_ms(ELECTION_MS / 2);
                while cluster.now() < end {
                    partition_randomly(cluster);
                    let pause = ELECTION_MS + cluster.random().below(200);
                    cluster.run_for_ms(pause);
                }
                cluster.heal();
                cluster.run_for_ms(ELECTION_MS);
            }
        }
    }
}

fn partition_randomly(cluster: &mut Cluster) {
    let nodes = cluster.node_ids();
    let (left, right): (Vec<_>, Vec<_>) = nodes
        .into_iter()
        .partition(|_| cluster.random().per_mille(500));
    cluster.partition(&[&left, &right]);
}

fn crash_everybody(cluster: &mut Cluster) {
    let nodes = cluster.node_ids();
    nodes.iter().for_each(|node| cluster.crash(*node));
    cluster.run_for_ms(ELECTION_MS);
    nodes.iter().for_each(|node| cluster.restart(*node));
}

/// Appends to the clerk's own key and reads it: nobody else does, so it is known what is there.
async fn work_on_own_key(mut clerk: Clerk, stop: &Cell<bool>, appended: &Cell<u64>) {
    let me = clerk.client.id();
    let key = me.to_string();
    let mut last = String::new();
    clerk.put(&key, "").await;
    while !stop.get() {
        if clerk.client.draw(|random| random.per_mille(500)) {
            let value = format!("x {me} {} y", appended.get());
            clerk.append(&key, &value).await;
            last.push_str(&value);
            appended.set(appended.get() + 1);
        } else {
            let found = clerk.get(&key).await;
            assert_eq!(found.as_deref(), Some(last.as_bytes()), "clerk {me}");
        }
        think(&clerk).await;
    }
}

async fn work_on_shared_keys(mut clerk: Clerk, stop: &Cell<bool>, keys: u64) {
    let me = clerk.client.id();
    let mut number = 0;
    while !stop.get() {
        let (dice, key) = clerk.client.draw(|r| (r.below(1000), r.below(keys)));
        let key = format!("shared {key}");
        number += 1;
        match dice {
            0..500 => clerk.append(&key, &format!("x {me} {number} y")).await,
            500..600 => clerk.put(&key, &format!("x {me} {number} y")).await,
            _ => {
                clerk.get(&key).await;
            }
        }
        think(&clerk).await;
    }
}

async fn think(clerk: &Clerk) {
    let ms = clerk.client.draw(|random| random.below(30));
    clerk.client.sleep_ms(ms).await;
}

/// Every append that a clerk was told of is there, once and in order.
fn check_own_keys(
    cluster: &mut Cluster,
    reach: &Reach,
    history: &History,
    expected: BTreeMap<u64, Rc<Cell<u64>>>,
) {
    for (client, appended) in expected {
        let (reach, history) = (Rc::clone(reach), history.clone());
        cluster.spawn(move |reader| async move {
            let mut clerk = Clerk::new(reader, reach, history);
            let found = clerk.get(&client.to_string()).await.expect("it was put");
            let value = String::from_utf8(found.to_vec()).expect("text");
            assert_appends(&value, client, appended.get());
            assert_eq!(value.matches('y').count() as u64, appended.get());
        });
    }
    finish(cluster);
}
