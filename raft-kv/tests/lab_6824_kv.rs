//! MIT 6.824's key/value tests, by name and with the lab's bounds: the real
//! store and sessions on the real driver, core and log, in virtual time. Every history is checked
//! for linearizability, and appends for counting exactly once.
//!
//! `RAFT_SIM_SEED=7 cargo test -p raft-kv --test lab_6824_kv linearizable` runs one seed.

#[path = "lab_6824_kv/clerk.rs"]
mod clerk;
#[path = "lab_6824_kv/generic.rs"]
mod generic;
#[path = "lab_6824_kv/history.rs"]
mod history;
#[path = "lab_6824_kv/snapshots.rs"]
mod snapshots;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use clerk::{Clerk, Reach};
use generic::{Crashes, Keys, Partitions, Scenario, assert_appends, finish, for_seeds, kv_cluster};
use history::History;
use raft_sim::{Cluster, LinkOptions};

const UNRELIABLE: LinkOptions = LinkOptions::unreliable();

/// The lab's election bound, in milliseconds.
const ELECTION_MS: u64 = 1_000;

#[test]
fn basic() {
    for_seeds(3, |seed| Scenario::new(1).run(seed));
}

#[test]
fn concurrent() {
    for_seeds(3, |seed| Scenario::new(5).run(seed));
}

#[test]
fn unreliable() {
    for_seeds(3, |seed| Scenario::new(5).links(UNRELIABLE).run(seed));
}

#[test]
fn unreliable_one_key() {
    const CLIENTS: u64 = 5;
    const APPENDS: u64 = 10;
    for_seeds(3, |seed| {
        let mut cluster = kv_cluster(3, seed, UNRELIABLE);
        let history = History::default();
        let reach = everywhere(&cluster);
        play(&mut cluster, &reach, &history, async |clerk| {
            clerk.put("k", "").await
        });
        finish(&mut cluster);
        for _ in 0..CLIENTS {
            play(&mut cluster, &reach, &history, async |clerk| {
                let me = clerk.client.id();
                for number in 0..APPENDS {
                    clerk.append("k", &format!("x {me} {number} y")).await;
                }
            });
        }
        finish(&mut cluster);
        let value = read(&mut cluster, &reach, &history, "k");
        // The clerk that wrote the empty value was number 1.
        for client in 2..2 + CLIENTS {
            assert_appends(&value, client, APPENDS);
        }
        history.assert_linearizable();
    });
}

#[test]
fn one_partition() {
    for_seeds(5, |seed| {
        let mut cluster = kv_cluster(5, seed, LinkOptions::reliable());
        let history = History::default();
        let all = everywhere(&cluster);
        play(&mut cluster, &all, &history, async |clerk| {
            clerk.put("1", "13").await
        });
        finish(&mut cluster);
        // The leader is in the minority.
        let leader = cluster.leader().expect("one leads");
        let mut nodes = cluster.node_ids();
        nodes.sort_by_key(|node| *node != leader);
        let (minority, majority) = (nodes[..2].to_vec(), nodes[2..].to_vec());
        cluster.partition(&[&minority, &majority]);

        // The majority goes on.
        let in_majority: Reach = Rc::new(RefCell::new(majority));
        play(&mut cluster, &in_majority, &history, async |clerk| {
            clerk.put("1", "14").await
        });
        finish(&mut cluster);
        assert_eq!(read(&mut cluster, &in_majority, &history, "1"), "14");

        // The minority does not.
        let in_minority: Reach = Rc::new(RefCell::new(minority));
        play(&mut cluster, &in_minority, &history, async |clerk| {
            clerk.put("1", "15").await
        });
        play(&mut cluster, &in_minority, &history, async |clerk| {
            clerk.get("1").await;
        });
        cluster.run_for_ms(ELECTION_MS);
        assert_eq!(cluster.clients_running(), 2, "the minority answered");
        assert_eq!(peek(&mut cluster, &in_majority, &history, "1"), "14");
        play(&mut cluster, &in_majority, &history, async |clerk| {
            clerk.put("1", "16").await
        });
        assert!(cluster.run_until(5_000, |cluster| cluster.clients_running() == 2));
        assert_eq!(peek(&mut cluster, &in_majority, &history, "1"), "16");

        // After the partition heals, what waits is answered.
        cluster.heal();
        *in_minority.borrow_mut() = cluster.node_ids();
        assert!(cluster.run_until(4_000, |cluster| cluster.clients_running() == 0));
        assert_eq!(read(&mut cluster, &all, &history, "1"), "15");
        history.assert_linearizable();
    });
}

#[test]
fn many_partitions_one_client() {
    for_seeds(3, |seed| {
        Scenario::new(1).partitions(Partitions::Random).run(seed)
    });
}

#[test]
fn many_partitions_many_clients() {
    for_seeds(3, |seed| {
        Scenario::new(5).partitions(Partitions::Random).run(seed)
    });
}

#[test]
fn persist_one_client() {
    for_seeds(3, |seed| {
        Scenario::new(1).crashes(Crashes::Everybody).run(seed)
    });
}

#[test]
fn persist_concurrent() {
    for_seeds(3, |seed| {
        Scenario::new(5).crashes(Crashes::Everybody).run(seed)
    });
}

#[test]
fn persist_concurrent_unreliable() {
    let scenario = Scenario::new(5)
        .links(UNRELIABLE)
        .crashes(Crashes::Everybody);
    for_seeds(3, |seed| scenario.run(seed));
}

#[test]
fn persist_partition() {
    let scenario = Scenario::new(5)
        .crashes(Crashes::Everybody)
        .partitions(Partitions::Random);
    for_seeds(3, |seed| scenario.run(seed));
}

#[test]
fn persist_partition_unreliable() {
    let scenario = Scenario::new(5)
        .links(UNRELIABLE)
        .crashes(Crashes::Everybody)
        .partitions(Partitions::Random);
    for_seeds(3, |seed| scenario.run(seed));
}

#[test]
fn linearizable() {
    let scenario = Scenario::new(15)
        .servers(7)
        .links(UNRELIABLE)
        .crashes(Crashes::Everybody)
        .partitions(Partitions::Random)
        .keys(Keys::Shared);
    for_seeds(2, |seed| scenario.run(seed));
}

#[test]
fn speed() {
    const OPERATIONS: u64 = 1_000;
    const MS_MAX: u64 = 33;
    for_seeds(2, |seed| {
        let mut cluster = kv_cluster(3, seed, LinkOptions::reliable());
        let history = History::default();
        let reach = everywhere(&cluster);
        let took_ms = Rc::new(Cell::new(0));
        let took = Rc::clone(&took_ms);
        play(&mut cluster, &reach, &history, async move |clerk| {
            // Waits for a leader, and registers.
            clerk.put("x", "").await;
            let start = clerk.client.now();
            for number in 0..OPERATIONS {
                clerk.append("x", &format!("x 1 {number} y")).await;
            }
            took.set(clerk.client.now().ms_since(start));
        });
        assert!(cluster.run_until(OPERATIONS * MS_MAX + 10_000, |c| c.clients_running() == 0));
        let ms = took_ms.get();
        assert!(
            ms <= OPERATIONS * MS_MAX,
            "{OPERATIONS} operations took {ms} ms"
        );
        assert_appends(&read(&mut cluster, &reach, &history, "x"), 1, OPERATIONS);
        history.assert_linearizable();
    });
}

fn everywhere(cluster: &Cluster) -> Reach {
    Rc::new(RefCell::new(cluster.node_ids()))
}

/// Plays a clerk that may talk to the nodes within reach.
fn play(
    cluster: &mut Cluster,
    reach: &Reach,
    history: &History,
    work: impl AsyncFnOnce(&mut Clerk) + 'static,
) {
    let (reach, history) = (Rc::clone(reach), history.clone());
    cluster.spawn(|client| async move {
        work(&mut Clerk::new(client, reach, history)).await;
    });
}

/// Reads a key after every other clerk has finished.
fn read(cluster: &mut Cluster, reach: &Reach, history: &History, key: &'static str) -> String {
    let value = peek(cluster, reach, history, key);
    finish(cluster);
    value
}

/// Reads a key while other clerks may be stuck.
fn peek(cluster: &mut Cluster, reach: &Reach, history: &History, key: &'static str) -> String {
    let value = Rc::new(RefCell::new(None));
    let found = Rc::clone(&value);
    play(cluster, reach, history, async move |clerk| {
        let read = clerk.get(key).await.unwrap_or_default();
        *found.borrow_mut() = Some(String::from_utf8(read.to_vec()).expect("text"));
    });
    assert!(
        cluster.run_until(10_000, |_| value.borrow().is_some()),
        "{key} is not read"
    );
    value.borrow_mut().take().expect("it was read")
}
