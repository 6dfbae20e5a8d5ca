//! Disks that stall or are slow on all nodes at once, as when the nodes share one: leadership must
//! not go round (D11), because no other node could do better.

use raft_node::Small;
use raft_proto::{NodeId, Term};
use raft_sim::{Cluster, ClusterOptions, Latency, ProcessOptions};

#[path = "support/echo.rs"]
mod echo;

use echo::Echo;

const SEEDS: u64 = 5;

/// A cluster with a leader, and clients that write all the time.
fn cluster(seed: u64) -> Cluster {
    let options = ClusterOptions::new(3).seed(seed);
    let mut cluster = Cluster::new(options, |_| Small::boxed(Echo));
    assert!(cluster.run_until(10_000, |cluster| cluster.leader().is_some()));
    cluster.run_for_ms(1_000);
    for _ in 0..3 {
        let nodes = cluster.node_ids();
        cluster.spawn(move |client| async move {
            loop {
                let node = client.draw(|random| *random.pick(&nodes));
                // Whatever comes of it.
                let _ = client.write(node, "x".into(), 500).await;
                client.sleep_ms(20).await;
            }
        });
    }
    cluster
}

fn leadership(cluster: &Cluster) -> (NodeId, Term) {
    let leader = cluster.leader().expect("there is a leader");
    let core = cluster.core(leader).expect("it runs");
    (leader, core.term())
}

fn applied(cluster: &Cluster) -> usize {
    cluster.applied_commands().count()
}

#[test]
fn a_stall_of_all_disks_moves_nobody() {
    for seed in 1..=SEEDS {
        let mut cluster = cluster(seed);
        let (nodes, led) = (cluster.node_ids(), leadership(&cluster));
        for round in 0..5 {
            nodes.iter().for_each(|node| cluster.stall_disk(*node));
            // Three times as long as a stall takes to be noticed.
            cluster.run_for_ms(5_000);
            assert_eq!(leadership(&cluster), led, "seed {seed}, stall {round}");
            let before = applied(&cluster);
            nodes.iter().for_each(|node| cluster.resume_disk(*node));
            cluster.run_for_ms(3_000);
            assert!(
                applied(&cluster) > before,
                "seed {seed}, after stall {round}"
            );
            assert_eq!(
                leadership(&cluster),
                led,
                "seed {seed}, after stall {round}"
            );
        }
    }
}

/// Every sync takes about as long as a stall takes to be noticed, so at any moment some node is ahead
/// of the leader's disk.
#[test]
fn one_slow_disk_for_all_lets_writes_go_on_under_few_leaders() {
    for seed in 1..=SEEDS {
        let mut cluster = cluster(seed);
        let (before, (_, term)) = (applied(&cluster), leadership(&cluster));
        for node in cluster.node_ids() {
            let slow = ProcessOptions {
                sync: Latency::us(1_000_000, 2_000_000),
                ..ProcessOptions::default()
            };
            cluster.set_process(node, slow);
        }
        cluster.run_for_ms(120_000);
        let written = applied(&cluster) - before;
        let newest = cluster.node_ids().into_iter().map(|node| {
            let core = cluster.core(node).expect("it runs");
            core.term()
        });
        let terms = newest.max().map_or(0, |newest| newest.0 - term.0);
        println!("seed {seed}: {written} writes, {terms} more terms");
        assert!(written >= 60, "seed {seed}: {written} writes in 120 s");
        assert!(terms <= 3, "seed {seed}: {terms} terms in 120 s");
    }
}
