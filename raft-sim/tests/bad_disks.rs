//! Disks that take damage from being used, up to a tenth of all reads and writes, on as many nodes as a
//! cluster can bear: nodes notice, peers heal them, and nothing is lost. `cargo xtask sim --bad-disks`
//! runs more of it.

use std::collections::BTreeMap;

use raft_sim::TraceDepth;
use raft_sim::campaign::{Plan, run};
use raft_sim::registers::Registers;

/// Seeds in an ordinary run.
const SEEDS: u64 = 20;

/// `RAFT_SIM_SEEDS=n` for more of them, `RAFT_SIM_FROM=n` for others.
#[test]
fn disks_that_their_use_damages_are_healed_and_nothing_is_lost() {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let first = number("RAFT_SIM_FROM").unwrap_or(1);
    let seeds = number("RAFT_SIM_SEEDS").unwrap_or(SEEDS);
    let mut repairs: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut operations, mut virtual_ms) = (0, 0);
    let mut failures = Vec::new();
    for seed in first..first + seeds {
        let plan = Plan::draw_bad_disks(seed);
        match run(&plan, &Registers::boxed, TraceDepth::Latest(0)) {
            Ok(report) => {
                operations += report.operations;
                virtual_ms += report.virtual_ms;
                for (what, count) in report.tally.repairs {
                    *repairs.entry(what).or_default() += count;
                }
            }
            Err(failure) => {
                failures.push(format!("seed {seed}: {}", failure.message));
            }
        }
    }
    println!(
        "{seeds} seeds, {} virtual seconds, {operations} operations: {repairs:?}",
        virtual_ms / 1_000
    );
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let count = |what: &str| repairs.get(what).copied().unwrap_or(0);
    let injected = count("sectors-rotted") + count("blocks-overwritten-by-strays");
    assert!(injected > 10 * seeds, "{injected} times damaged");
    assert!(count("entries-healed") > seeds, "little is healed");
    assert!(count("entries-found-damaged") >= count("entries-healed"));
}
