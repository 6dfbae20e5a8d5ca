//! Replays stored inputs of the fuzz target `core_inputs`, and random ones, with the code of the target.
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
#![allow(
    dead_code,
    unreachable_pub,
    clippy::wildcard_enum_match_arm,
    reason = "the fuzz targets are a crate of their own, and use more of it"
)]

use std::path::Path;

#[path = "../../fuzz/src/core_inputs.rs"]
mod core_inputs;
#[path = "../../fuzz/src/input.rs"]
mod input;

/// The next of a sequence of numbers (splitmix64).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[test]
fn stored_sequences_of_inputs_break_no_invariant() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/core_inputs");
    let mut inputs = 0;
    let (mut leaders, mut committed) = (0, 0);
    for entry in std::fs::read_dir(corpus).unwrap() {
        let reached = core_inputs::run(&std::fs::read(entry.unwrap().path()).unwrap());
        leaders += reached.leaders;
        committed += reached.committed;
        inputs += 1;
    }
    assert!(inputs > 20);
    assert!(leaders > 60 && committed > 60, "{leaders} {committed}");
}

#[test]
fn random_sequences_of_inputs_break_no_invariant() {
    let mut state = 11;
    let mut committed = 0;
    for _ in 0..600 {
        let length = next(&mut state) % 1200;
        let bytes: Vec<u8> = (0..length).map(|_| next(&mut state) as u8).collect();
        committed += core_inputs::run(&bytes).committed;
    }
    assert!(committed > 600, "{committed}");
}
