//! Replicas are compared while they work: one that differs is named by all, whoever it is, and
//! nobody is named without a reason, whatever goes wrong.

use std::time::Duration;

use bytes::Bytes;
use raft_node::{Applied, Blame, Compared, ComparisonPolicy, Small, SmallState};
use raft_proto::NodeId;
use raft_sim::campaign::{Plan, run};
use raft_sim::registers::Registers;
use raft_sim::{Cluster, ClusterOptions, TraceDepth};

/// Trouble in an ordinary run.
const SEEDS: u64 = 25;
/// The command that a node with the planted bug applies in its own way.
const FATAL: u64 = 20;

/// Sums up commands; the bug shows in nothing but the state.
struct Sum {
    commands: u64,
    sum: u64,
    has_bug: bool,
}

impl SmallState for Sum {
    fn apply(&mut self, _applied: Applied<'_>) -> Bytes {
        self.commands += 1;
        let by = if self.has_bug && self.commands == FATAL {
            2
        } else {
            1
        };
        self.sum += by;
        Bytes::new()
    }

    fn query(&mut self, query: &Bytes) -> Bytes {
        query.clone()
    }

    fn state_hash(&self) -> Option<u64> {
        Some(self.sum)
    }

    fn save(&self) -> Bytes {
        Bytes::new()
    }

    fn load(&mut self, _saved: &[u8]) -> std::io::Result<()> {
        Ok(())
    }
}

/// A cluster that compares twice a second, with a bug in one of its nodes, and a client that writes.
fn cluster(seed: u64, nodes: u64, with_bug: Option<NodeId>) -> Cluster {
    let mut options = ClusterOptions::new(nodes).seed(seed);
    options.limits.comparison = ComparisonPolicy {
        interval: Some(Duration::from_millis(500)),
        patience: Duration::from_secs(2),
        ..ComparisonPolicy::default()
    };
    let mut cluster = Cluster::new(options, move |node| {
        Small::boxed(Sum {
            commands: 0,
            sum: 0,
            has_bug: with_bug == Some(node),
        })
    });
    let nodes = cluster.node_ids();
    cluster.spawn(move |client| async move {
        loop {
            let node = client.draw(|random| *random.pick(&nodes));
            // Whatever comes of it.
            let _ = client.write(node, "x".into(), 300).await;
            client.sleep_ms(20).await;
        }
    });
    cluster
}

fn has_found(cluster: &Cluster, by: NodeId, odd: NodeId) -> bool {
    let status = cluster.comparison(by);
    status.is_some_and(|status| {
        status.differences.iter().any(|difference| {
            difference.compared == Compared::State
                && difference.blame == Blame::Named
                && difference.nodes == [odd]
        })
    })
}

#[test]
fn a_state_machine_with_a_bug_is_named_by_every_node() {
    for seed in 1..=6 {
        let nodes = if seed % 2 == 0 { 3 } else { 5 };
        // The same whether it leads or follows.
        let odd = NodeId(1 + seed % nodes);
        let mut cluster = cluster(seed, nodes, Some(odd));
        let all = cluster.node_ids();
        let all_know = |cluster: &Cluster| all.iter().all(|by| has_found(cluster, *by, odd));
        assert!(
            cluster.run_until(30_000, all_know),
            "seed {seed}: {:?}",
            all.iter()
                .map(|id| cluster.comparison(*id))
                .collect::<Vec<_>>()
        );
        // It is not forgotten when another node leads.
        let leader = cluster.leader().expect("there is a leader");
        cluster.crash(leader);
        cluster.run_for_ms(5_000);
        cluster.restart(leader);
        let again = |cluster: &Cluster| has_found(cluster, leader, odd);
        assert!(
            cluster.run_until(30_000, again),
            "seed {seed}: after {leader} restarts"
        );
    }
}

#[test]
fn healthy_replicas_are_compared_again_and_again_and_none_is_named() {
    let mut cluster = cluster(7, 3, None);
    let mut last = None;
    for _ in 0..10 {
        let before = last;
        let ended = |cluster: &Cluster| {
            let status = cluster.comparison(NodeId(1)).unwrap_or_default();
            status.last.is_some_and(|outcome| {
                Some(outcome.entry.index) > before && outcome.silent.is_empty()
            })
        };
        assert!(cluster.run_until(10_000, ended), "after {last:?}");
        let status = cluster.comparison(NodeId(1)).expect("it runs");
        assert_eq!(status.differences, []);
        last = status.last.map(|outcome| outcome.entry.index);
    }
    // The whole log was gone through: what is compared last is not far behind its end.
    let status = cluster.comparison(NodeId(1)).expect("it runs");
    let compared = status
        .last
        .and_then(|outcome| outcome.range)
        .expect("a log");
    assert!(compared.last > raft_proto::LogIndex(50), "{compared:?}");
}

/// `RAFT_SIM_SEEDS=300` for more of them.
#[test]
fn nobody_is_named_in_trouble() {
    let seeds = std::env::var("RAFT_SIM_SEEDS").ok();
    let seeds = seeds.and_then(|text| text.parse().ok()).unwrap_or(SEEDS);
    let mut compared = 0;
    for seed in 1..=seeds {
        let mut plan = Plan::draw(seed);
        plan.world.compare_every_ms = Some(1_000);
        let report = run(&plan, &Registers::boxed, TraceDepth::Latest(0));
        let report = report.unwrap_or_else(|failure| panic!("seed {seed}: {}", failure.message));
        let mark = raft_sim::Mark::ReplicasCompared;
        compared += report.tally.marks.get(&mark).copied().unwrap_or(0);
    }
    assert!(
        compared > 2 * seeds,
        "{compared} comparisons of all members"
    );
}
