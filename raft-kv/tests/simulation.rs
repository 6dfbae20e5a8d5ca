//! The service in the simulator: random trouble while clients use every kind of write, with
//! sessions and without; `cargo xtask sim --workload kv` runs as many seeds as you like.
#![cfg(feature = "simulation")]

use raft_kv::simulation::KvWorkload;
use raft_sim::TraceDepth;
use raft_sim::campaign::{Plan, run};

/// Seeds in an ordinary run.
const SEEDS: u64 = 20;

#[test]
fn random_trouble() {
    let number = |name| {
        let text = std::env::var(name).ok()?;
        text.parse().ok()
    };
    let seeds = match number("RAFT_SIM_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=number("RAFT_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let (mut operations, mut acknowledged) = (0, 0);
    for seed in seeds {
        let plan = Plan::draw(seed);
        let play = || run(&plan, &KvWorkload::boxed, TraceDepth::Latest(50));
        let report = play().unwrap_or_else(|failure| {
            failure.trace.iter().for_each(|event| eprintln!("{event}"));
            panic!(
                "seed {seed} after {} ms: {}",
                failure.at_ms, failure.message
            )
        });
        assert_eq!(report.undecided, 0, "seed {seed}");
        operations += report.operations;
        acknowledged += report.acknowledged_after_fault;
        if seed == 1 {
            assert_eq!(play(), Ok(report), "seed {seed} is not repeatable");
        }
    }
    println!("{operations} operations, {acknowledged} writes acknowledged after the first fault");
}
