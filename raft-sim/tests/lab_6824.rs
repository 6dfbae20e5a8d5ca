//! MIT 6.824's Raft tests, by name and with the lab's bounds, each over several seeds: elections
//! (2A), agreement (2B), persistence (2C), snapshots (2D).
//!
//! `RAFT_SIM_SEED=7 cargo test -p raft-sim --test lab_6824 figure_8` runs one seed.

#[path = "lab_6824/harness.rs"]
mod harness;
#[path = "lab_6824/snapshots.rs"]
mod snapshots;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use bytes::Bytes;
use harness::{ELECTION_MS, Lab, Retry, for_seeds};
use raft_proto::{LogIndex, NodeId};
use raft_sim::{LinkOptions, SimClient};

#[test]
fn initial_election() {
    for_seeds(20, |seed| {
        let mut lab = Lab::new(3, seed);
        lab.elect_in_time();
        lab.check_one_leader();
        lab.run_ms(50);
        let term = lab.check_terms();
        // Without failures, leader and term stay.
        lab.run_ms(2 * ELECTION_MS);
        assert_eq!(lab.check_terms(), term);
        lab.check_one_leader();
    });
}

#[test]
fn reelection() {
    for_seeds(20, |seed| {
        let mut lab = Lab::new(3, seed);
        let first = lab.check_one_leader();
        lab.disconnect([first]);
        lab.check_one_leader();
        // An old leader that comes back disturbs nobody.
        lab.connect([first]);
        let second = lab.check_one_leader();
        let other = lab.after(second, 1);
        lab.disconnect([second, other]);
        lab.run_ms(2 * ELECTION_MS);
        lab.check_no_leader();
        lab.connect([other]);
        lab.check_one_leader();
        lab.connect([second]);
        lab.check_one_leader();
    });
}

#[test]
fn many_election() {
    for_seeds(10, |seed| {
        let mut lab = Lab::new(7, seed);
        lab.check_one_leader();
        for _ in 0..10 {
            let nodes = lab.nodes.clone();
            let victims = [(); 3].map(|()| *lab.cluster.random().pick(&nodes));
            lab.disconnect(victims);
            // Either the leader is still there, or the others elect one.
            lab.check_one_leader();
            lab.connect(victims);
        }
        lab.check_one_leader();
    });
}

#[test]
fn basic_agree() {
    for_seeds(20, |seed| {
        let mut lab = Lab::new(3, seed);
        for ordinal in 1..=3 {
            let next = lab.cluster.last_applied().next();
            assert_eq!(lab.n_committed(next), 0, "committed before it was proposed");
            let index = lab.one(3, Retry::No);
            assert_eq!(lab.ordinal(index), ordinal);
        }
    });
}

#[test]
fn rpc_bytes() {
    for_seeds(20, |seed| {
        let mut lab = Lab::new(3, seed);
        lab.one(3, Retry::No);
        let before = lab.cluster.traffic().bytes;
        let mut sent = 0;
        for _ in 0..10 {
            let command = Bytes::from(lab.cluster.random().bytes(5000));
            lab.agree(&command, 3, Retry::No);
            sent += command.len() as u64;
        }
        let used = lab.cluster.traffic().bytes - before;
        let bound = 3 * sent + 50_000;
        assert!(used <= bound, "{used} bytes for {sent} bytes of commands");
    });
}

#[test]
fn follower_failure() {
    for_seeds(20, |seed| {
        let mut lab = Lab::new(3, seed);
        lab.one(3, Retry::No);
        let leader = lab.check_one_leader();
        lab.disconnect([lab.after(leader, 1)]);
        lab.one(2, Retry::No);
        lab.run_ms(ELECTION_MS);
        lab.one(2, Retry::No);
        let leader = lab.check_one_leader();
        lab.disconnect([lab.after(leader, 1), lab.after(leader, 2)]);
        let (index, _) = lab.start(leader).expect("it leads");
        lab.run_ms(2 * ELECTION_MS);
        assert_eq!(lab.n_committed(index), 0, "committed without a majority");
    });
}

#[test]
fn leader_failure() {
    for_seeds(20, |seed| {
        let mut lab = Lab::new(3, seed);
        lab.one(3, Retry::No);
        let first = lab.check_one_leader();
        lab.disconnect([first]);
        lab.one(2, Retry::Yes);
        lab.run_ms(ELECTION_MS);
        lab.one(2, Retry::No);
        let second = lab.check_one_leader();
        lab.disconnect([second]);
        let applied = lab.cluster.last_applied();
        for node in lab.nodes.clone() {
            lab.start(node);
        }
        lab.run_ms(2 * ELECTION_MS);
        assert_eq!(
            lab.n_committed(applied.next()),
            0,
            "committed without a majority"
        );
    });
}

#[test]
fn fail_agree() {
    for_seeds(20, |seed| {
        let mut lab = Lab::new(3, seed);
        lab.one(3, Retry::No);
        let leader = lab.check_one_leader();
        let follower = lab.after(leader, 1);
        lab.disconnect([follower]);
        lab.one(2, Retry::No);
        lab.one(2, Retry::No);
        lab.run_ms(ELECTION_MS);
        lab.one(2, Retry::No);
        lab.one(2, Retry::No);
        lab.connect([follower]);
        lab.one(3, Retry::Yes);
        lab.run_ms(ELECTION_MS);
        lab.one(3, Retry::Yes);
    });
}

#[test]
fn fail_no_agree() {
    for_seeds(20, |seed| {
        let mut lab = Lab::new(5, seed);
        lab.one(5, Retry::No);
        let leader = lab.check_one_leader();
        let followers = [1, 2, 3].map(|offset| lab.after(leader, offset));
        lab.disconnect(followers);
        let (index, lost) = lab.start(leader).expect("it leads");
        lab.run_ms(2 * ELECTION_MS);
        assert_eq!(lab.n_committed(index), 0, "committed without a majority");
        lab.connect(followers);
        // The majority may have elected a leader that never saw the entry.
        let leader = lab.check_one_leader();
        let (again, _) = lab.start(leader).expect("it leads");
        assert!(again >= index, "{again} is before {index}");
        let last = lab.one(5, Retry::Yes);
        let copies = lab
            .cluster
            .applied_commands()
            .filter(|a| a.command == lost)
            .count();
        assert!(copies <= 1 && last > again);
    });
}

#[test]
fn concurrent_starts() {
    for_seeds(20, |seed| {
        let mut lab = Lab::new(3, seed);
        let agreed = (0..5).any(|_| {
            let leader = lab.check_one_leader();
            let term = lab.cluster.state(leader).expect("it runs").0;
            let started: Vec<_> = (0..5).filter_map(|_| lab.start(leader)).collect();
            if started.len() < 5 {
                return false;
            }
            for (index, _) in &started {
                lab.wait(*index, 3);
            }
            let stayed = lab
                .nodes
                .iter()
                .all(|node| lab.cluster.state(*node).is_some_and(|s| s.0 == term));
            if stayed {
                for (index, command) in &started {
                    let applied = lab.cluster.applied_command(*index).expect("it was applied");
                    assert_eq!(applied.command, command);
                }
            }
            stayed
        });
        assert!(agreed, "the term changed too often");
    });
}

#[test]
fn rejoin() {
    for_seeds(20, |seed| {
        let mut lab = Lab::new(3, seed);
        lab.one(3, Retry::Yes);
        let first = lab.check_one_leader();
        lab.disconnect([first]);
        // Entries that will never be committed.
        for _ in 0..3 {
            lab.start(first);
        }
        lab.one(2, Retry::Yes);
        let second = lab.check_one_leader();
        lab.disconnect([second]);
        lab.connect([first]);
        lab.one(2, Retry::Yes);
        lab.connect([second]);
        lab.one(3, Retry::Yes);
    });
}

#[test]
fn backup() {
    for_seeds(10, |seed| {
        let mut lab = Lab::new(5, seed);
        lab.one(5, Retry::Yes);
        let first = lab.check_one_leader();
        let pair = [0, 1].map(|offset| lab.after(first, offset));
        let trio = [2, 3, 4].map(|offset| lab.after(first, offset));
        lab.disconnect(trio);
        for _ in 0..50 {
            lab.start(first).expect("it leads");
        }
        lab.run_ms(ELECTION_MS / 2);
        lab.disconnect(pair);
        lab.connect(trio);
        for _ in 0..50 {
            lab.one(3, Retry::Yes);
        }
        let second = lab.check_one_leader();
        let other = trio
            .into_iter()
            .find(|node| *node != second)
            .expect("two others");
        lab.disconnect([other]);
        for _ in 0..50 {
            lab.start(second).expect("it leads");
        }
        lab.run_ms(ELECTION_MS / 2);
        lab.disconnect(lab.nodes.clone());
        lab.connect([pair[0], pair[1], other]);
        for _ in 0..50 {
            lab.one(3, Retry::Yes);
        }
        lab.connect(lab.nodes.clone());
        lab.one(5, Retry::Yes);
    });
}

#[test]
fn count() {
    for_seeds(20, |seed| {
        let mut lab = Lab::new(3, seed);
        lab.check_one_leader();
        let for_election = lab.cluster.traffic().requests;
        assert!(
            (1..=30).contains(&for_election),
            "{for_election} RPCs to elect a leader"
        );
        let counted = (0..5).any(|_| count_agreement(&mut lab));
        assert!(counted, "the term changed too often");
    });
}

/// Counts the RPCs of ten entries and of an idle second; `false` if the term changed meanwhile.
fn count_agreement(lab: &mut Lab) -> bool {
    const ENTRIES: usize = 10;
    let leader = lab.check_one_leader();
    let term = lab.check_terms();
    let before = lab.cluster.traffic().requests;
    let Some((first, _)) = lab.start(leader) else {
        return false;
    };
    for at in 1..ENTRIES + 2 {
        let Some((index, _)) = lab.start(leader) else {
            return false;
        };
        assert_eq!(index, first.plus(at as u64), "one index for each command");
    }
    lab.wait(first.plus(ENTRIES as u64 + 1), 3);
    let for_entries = lab.cluster.traffic().requests - before;
    if lab.check_terms() != term {
        return false;
    }
    let bound = (ENTRIES as u64 + 1 + 3) * 3;
    assert!(
        for_entries <= bound,
        "{for_entries} RPCs for {ENTRIES} entries"
    );
    let before = lab.cluster.traffic().requests;
    lab.run_ms(1000);
    let idle = lab.cluster.traffic().requests - before;
    assert!(idle <= 60, "{idle} RPCs in an idle second");
    true
}

#[test]
fn persist1() {
    for_seeds(20, |seed| {
        let mut lab = Lab::new(3, seed);
        lab.one(3, Retry::Yes);
        for node in lab.nodes.clone() {
            lab.restart(node);
        }
        lab.one(3, Retry::Yes);
        let first = lab.check_one_leader();
        lab.restart(first);
        lab.one(3, Retry::Yes);
        let second = lab.check_one_leader();
        lab.disconnect([second]);
        let index = lab.one(2, Retry::Yes);
        lab.restart(second);
        lab.connect([second]);
        lab.wait(index, 3);
        let third = lab.after(lab.cluster.leader().expect("one leads"), 1);
        lab.disconnect([third]);
        lab.one(2, Retry::Yes);
        lab.restart(third);
        lab.connect([third]);
        lab.one(3, Retry::Yes);
    });
}

#[test]
fn persist2() {
    for_seeds(20, |seed| {
        let mut lab = Lab::new(5, seed);
        for _ in 0..5 {
            lab.one(5, Retry::Yes);
            let leader = lab.check_one_leader();
            let [n1, n2, n3, n4] = [1, 2, 3, 4].map(|offset| lab.after(leader, offset));
            lab.disconnect([n1, n2]);
            lab.one(3, Retry::Yes);
            lab.disconnect([leader, n3, n4]);
            lab.restart(n1);
            lab.restart(n2);
            lab.connect([n1, n2]);
            lab.run_ms(ELECTION_MS);
            lab.restart(n3);
            lab.connect([n3]);
            lab.one(3, Retry::Yes);
            lab.connect([n4, leader]);
        }
        lab.one(5, Retry::Yes);
    });
}

#[test]
fn persist3() {
    for_seeds(20, |seed| {
        let mut lab = Lab::new(3, seed);
        lab.one(3, Retry::Yes);
        let leader = lab.check_one_leader();
        let [follower, apart] = [1, 2].map(|offset| lab.after(leader, offset));
        lab.disconnect([apart]);
        lab.one(2, Retry::Yes);
        lab.cluster.crash(leader);
        lab.cluster.crash(follower);
        lab.connect([apart]);
        lab.cluster.restart(leader);
        lab.one(2, Retry::Yes);
        lab.cluster.restart(follower);
        lab.one(3, Retry::Yes);
    });
}

/// Proposes at every node; returns the last one that took it.
fn start_everywhere(lab: &mut Lab) -> Option<NodeId> {
    let nodes = lab.nodes.clone();
    let taken = nodes.into_iter().filter(|node| lab.start(*node).is_some());
    taken.last()
}

/// A pause as in the lab's Figure 8 tests: mostly short, sometimes half an election bound.
fn pause(lab: &mut Lab) {
    let random = lab.cluster.random();
    let limit = if random.per_mille(100) {
        ELECTION_MS / 2
    } else {
        13
    };
    let ms = random.below(limit);
    lab.run_ms(ms);
}

#[test]
fn figure_8() {
    for_seeds(3, |seed| {
        let mut lab = Lab::new(5, seed);
        lab.one(1, Retry::Yes);
        for _ in 0..1000 {
            let leader = start_everywhere(&mut lab);
            pause(&mut lab);
            if let Some(leader) = leader {
                lab.cluster.crash(leader);
            }
            let up = lab
                .nodes
                .iter()
                .filter(|node| lab.cluster.is_running(**node))
                .count();
            let nodes = lab.nodes.clone();
            let lucky = *lab.cluster.random().pick(&nodes);
            if up < 3 && !lab.cluster.is_running(lucky) {
                lab.cluster.restart(lucky);
            }
        }
        lab.bring_all_back();
        lab.one(5, Retry::Yes);
    });
}

#[test]
fn figure_8_unreliable() {
    for_seeds(2, |seed| {
        let links = LinkOptions::unreliable();
        let mut lab = Lab::with_links(5, seed, links);
        lab.one(1, Retry::Yes);
        for iteration in 0..1000 {
            if iteration == 200 {
                lab.cluster.set_links(links.with_long_reordering());
            }
            let leader = start_everywhere(&mut lab).filter(|node| lab.cluster.is_connected(*node));
            pause(&mut lab);
            if let Some(leader) = leader
                && lab.cluster.random().per_mille(ELECTION_MS / 2)
            {
                lab.disconnect([leader]);
            }
            let up = lab
                .nodes
                .iter()
                .filter(|node| lab.cluster.is_connected(**node))
                .count();
            let nodes = lab.nodes.clone();
            let lucky = *lab.cluster.random().pick(&nodes);
            if up < 3 {
                lab.connect([lucky]);
            }
        }
        lab.bring_all_back();
        lab.one(5, Retry::Yes);
    });
}

/// Sends a command to one node after the other until one of them confirms it.
async fn insist(client: &SimClient, nodes: &[NodeId], command: Bytes) {
    for attempt in 0..1000 {
        let node = nodes[(attempt + client.id() as usize) % nodes.len()];
        match client.write(node, command.clone(), 1000).await {
            Ok(_) => return,
            Err(_) => client.sleep_ms(20).await,
        }
    }
    panic!("{command:?} was never confirmed");
}

#[test]
fn unreliable_agree() {
    for_seeds(5, |seed| {
        let mut lab = Lab::with_links(5, seed, LinkOptions::unreliable());
        for iteration in 1..50 {
            for concurrent in 0..4 {
                let nodes = lab.nodes.clone();
                let command = Bytes::from(format!("{iteration}/{concurrent}"));
                lab.cluster
                    .spawn(|client| async move { insist(&client, &nodes, command).await });
            }
            lab.one(1, Retry::Yes);
        }
        lab.cluster.set_links(LinkOptions::reliable());
        assert!(
            lab.cluster
                .run_until(30_000, |cluster| cluster.clients_running() == 0)
        );
        lab.one(5, Retry::Yes);
        for iteration in 1..50 {
            for concurrent in 0..4 {
                let command = Bytes::from(format!("{iteration}/{concurrent}"));
                let mut applied = lab.cluster.applied_commands();
                assert!(applied.any(|a| a.command == command), "{command:?} is lost");
            }
        }
    });
}

/// A client of the churn tests: proposes wherever it can, remembers what was confirmed.
async fn churn_client(
    client: SimClient,
    nodes: Vec<NodeId>,
    stop: Rc<Cell<bool>>,
    confirmed: Rc<RefCell<BTreeSet<Bytes>>>,
) {
    let mut number = 0;
    while !stop.get() {
        number += 1;
        let command = Bytes::from(format!("client {} command {number}", client.id()));
        let node = client.draw(|random| *random.pick(&nodes));
        match client.write(node, command.clone(), 380).await {
            Ok(_) => {
                confirmed.borrow_mut().insert(command);
            }
            Err(_) => client.sleep_ms(79 + client.id() * 17).await,
        }
    }
}

/// Returns how many commands were confirmed.
fn churn(seed: u64, links: LinkOptions) -> usize {
    let mut lab = Lab::with_links(5, seed, links);
    let stop = Rc::new(Cell::new(false));
    let confirmed = Rc::new(RefCell::new(BTreeSet::new()));
    for _ in 0..3 {
        let (nodes, stop, confirmed) = (lab.nodes.clone(), Rc::clone(&stop), Rc::clone(&confirmed));
        lab.cluster
            .spawn(|client| churn_client(client, nodes, stop, confirmed));
    }
    for _ in 0..20 {
        let nodes = lab.nodes.clone();
        let mut pick = |chance| {
            let random = lab.cluster.random();
            let node = *random.pick(&nodes);
            random.per_mille(chance).then_some(node)
        };
        let [away, back, dead] = [pick(200), pick(500), pick(200)];
        lab.disconnect(away);
        if let Some(back) = back {
            if !lab.cluster.is_running(back) {
                lab.cluster.restart(back);
            }
            lab.connect([back]);
        }
        if let Some(dead) = dead {
            lab.cluster.crash(dead);
        }
        lab.run_ms(ELECTION_MS * 7 / 10);
    }
    lab.run_ms(ELECTION_MS);
    lab.cluster.set_links(LinkOptions::reliable());
    lab.bring_all_back();
    stop.set(true);
    assert!(
        lab.cluster
            .run_until(10_000, |cluster| cluster.clients_running() == 0)
    );
    lab.run_ms(ELECTION_MS);
    let last = lab.one(5, Retry::Yes);
    assert!(lab.n_committed(last) == 5 && last > LogIndex::FIRST);
    let applied: BTreeSet<Bytes> = lab
        .cluster
        .applied_commands()
        .map(|a| a.command.clone())
        .collect();
    let confirmed = confirmed.borrow();
    let lost: Vec<_> = confirmed.difference(&applied).collect();
    assert!(lost.is_empty(), "confirmed, and not in the log: {lost:?}");
    confirmed.len()
}

/// Churns for several seeds. Some leave no quorum for most of the time, but not all.
fn churn_for_seeds(links: LinkOptions) {
    let confirmed = Cell::new(0);
    for_seeds(10, |seed| {
        confirmed.set(confirmed.get() + churn(seed, links))
    });
    assert!(confirmed.get() > 0, "nothing was confirmed");
}

#[test]
fn reliable_churn() {
    churn_for_seeds(LinkOptions::reliable());
}

#[test]
fn unreliable_churn() {
    churn_for_seeds(LinkOptions::unreliable());
}
