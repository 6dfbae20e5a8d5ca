//! The same seed gives the same run, whatever happens in it; another seed another one.

mod common;

use common::{Lab, Retry};
use raft_sim::LinkOptions;

/// Loss, reordering, a crash in the middle of writes, a partition, clients.
fn eventful(seed: u64) -> (u64, u64) {
    let mut lab = Lab::with_links(5, seed, LinkOptions::unreliable().with_long_reordering());
    for _ in 0..5 {
        let nodes = lab.nodes.clone();
        lab.cluster.spawn(move |client| async move {
            for _ in 0..20 {
                let node = client.draw(|random| *random.pick(&nodes));
                // Whatever comes of it.
                let _ = client.write(node, "x".into(), 100).await;
            }
        });
    }
    lab.one(3, Retry::Yes);
    let leader = lab.check_one_leader();
    lab.start(leader);
    lab.run_ms(1);
    lab.cluster.crash(leader);
    lab.run_ms(700);
    lab.cluster.restart(leader);
    let (left, right) = lab
        .nodes
        .clone()
        .split_at_checked(2)
        .map(|(l, r)| (l.to_vec(), r.to_vec()))
        .unwrap();
    lab.cluster.partition(&[&left, &right]);
    lab.run_ms(1500);
    lab.cluster.heal();
    lab.one(5, Retry::Yes);
    (lab.cluster.trace_hash(), lab.cluster.trace_len())
}

#[test]
fn equal_seeds_give_equal_traces() {
    let first = eventful(1);
    assert!(first.1 > 1000, "much happens: {first:?}");
    assert_eq!(first, eventful(1));
    assert_ne!(first, eventful(2));
}

#[test]
fn another_thread_gives_the_same_trace() {
    let other = std::thread::spawn(|| eventful(3)).join().unwrap();
    assert_eq!(eventful(3), other);
}
