//! The example of a user's own state machine, workload and invariant.

#[path = "../examples/bank.rs"]
mod bank;

use bank::{Bug, check};

#[test]
fn the_bank_of_the_example_keeps_its_promises() {
    for seed in 1..=6 {
        let report = check(seed, Bug::None);
        let report = report.unwrap_or_else(|failure| panic!("seed {seed}: {}", failure.message));
        assert!(report.operations > 100, "{}", report.operations);
    }
}

/// Nodes that start from a snapshot, or get one, have less money than the others.
#[test]
fn a_bug_of_the_state_machine_is_found() {
    let found = (1..=40).find_map(|seed| check(seed, Bug::ForgetsAnAccount).err());
    let message = found.expect("no seed finds it").message;
    assert!(message.contains("state"), "{message}");
}
