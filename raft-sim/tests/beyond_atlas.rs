//! More disks are damaged than a cluster can be sure to bear: it heals what its nodes have from each
//! other, or stops and says so, and nothing that it has acknowledged is silently gone. `cargo xtask sim --beyond-atlas` runs more of it.

use raft_sim::TraceDepth;
use raft_sim::campaign::{Plan, run};
use raft_sim::registers::Registers;

#[test]
fn damage_beyond_the_atlas_is_healed_or_halts_loudly_and_loses_nothing_silently() {
    let mut damaged = 0;
    for seed in 1..=20 {
        let plan = Plan::draw_beyond_atlas(seed);
        let report = run(&plan, &Registers::boxed, TraceDepth::Latest(100));
        let report = report.unwrap_or_else(|failure| {
            failure
                .trace
                .iter()
                .for_each(|record| eprintln!("{record}"));
            panic!(
                "seed {seed} after {} ms: {}",
                failure.at_ms, failure.message
            )
        });
        let faults = report.tally.faults.iter();
        let hits = faults.filter(|(kind, _)| ["bit-rot", "misdirected-write"].contains(kind));
        damaged += hits.map(|(_, count)| *count).sum::<u64>();
    }
    assert!(damaged > 20, "only {damaged} times");
}
