//! The same seed gives the same run, whatever happens in it; another seed another one.

use raft_node::Small;
use raft_proto::NodeId;
use raft_sim::{ClockOptions, Cluster, ClusterOptions, LinkOptions, TraceDepth};

#[path = "support/echo.rs"]
mod echo;

use echo::Echo;

/// What a run leaves: hash, number of records, commands applied.
type Outcome = (u64, u64, usize);

/// Loss, late answers, drifting clocks, clients, a crash in the middle of a write, a partition.
fn eventful(seed: u64, depth: TraceDepth) -> Outcome {
    let mut options = ClusterOptions::new(5)
        .seed(seed)
        .links(LinkOptions::unreliable().with_long_reordering());
    options.clock = ClockOptions {
        drift_ppm_max: 20_000,
    };
    options.trace = depth;
    let mut cluster = Cluster::new(options, |_| Small::boxed(Echo));
    let nodes = cluster.node_ids();
    for _ in 0..5 {
        let nodes = nodes.clone();
        cluster.spawn(move |client| async move {
            for _ in 0..60 {
                let node = client.draw(|random| *random.pick(&nodes));
                // Whatever comes of it.
                let _ = client.write(node, "x".into(), 100).await;
            }
        });
    }
    assert!(cluster.run_until(10_000, |cluster| cluster.leader().is_some()));
    let leader = cluster.leader().expect("it was just seen");
    cluster.propose(leader, "y".into()).expect("it leads");
    cluster.run_for_ms(1);
    cluster.crash(leader);
    cluster.run_for_ms(700);
    cluster.restart(leader);
    cluster.partition(&[&[NodeId(1), NodeId(2)], &[NodeId(3), NodeId(4), NodeId(5)]]);
    cluster.run_for_ms(1500);
    cluster.heal();
    cluster.run_for_ms(3000);
    let applied = cluster.applied_commands().count();
    (cluster.trace_hash(), cluster.trace_len(), applied)
}

#[test]
fn equal_seeds_give_equal_traces() {
    let first = eventful(5, TraceDepth::Latest(10));
    assert!(
        first.1 > 1000 && first.2 > 0,
        "something happens: {first:?}"
    );
    assert_eq!(first, eventful(5, TraceDepth::Full));
    assert_ne!(first, eventful(2, TraceDepth::Latest(10)));
}

#[test]
fn another_thread_gives_the_same_trace() {
    let elsewhere = std::thread::spawn(|| eventful(3, TraceDepth::Latest(10)));
    let here = eventful(3, TraceDepth::Latest(10));
    assert_eq!(elsewhere.join().expect("it ends"), here);
}
