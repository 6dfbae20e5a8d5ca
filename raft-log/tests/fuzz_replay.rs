//! Replays stored inputs of the fuzz target `log_open`, and random ones, with the code of the target.
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
#![allow(
    dead_code,
    unreachable_pub,
    reason = "the fuzz targets are a crate of their own, and use more of it"
)]

use std::path::Path;

mod support;

#[path = "../../fuzz/src/flat.rs"]
mod flat;
#[path = "../../fuzz/src/input.rs"]
mod input;
#[path = "../../fuzz/src/log_open.rs"]
mod log_open;
#[path = "../../fuzz/src/snapshot_file.rs"]
mod snapshot_file;

use support::Choices;

/// The stored inputs of a target; at least one.
fn stored(target: &str) -> Vec<Vec<u8>> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let mut paths: Vec<_> = std::fs::read_dir(corpus)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

fn random(seed: u64, count: usize) -> Vec<Vec<u8>> {
    let mut choices = Choices(seed);
    let mut input = || {
        let length = choices.next() % 90;
        (0..length).map(|_| (choices.next() >> 32) as u8).collect()
    };
    (0..count).map(|_| input()).collect()
}

#[test]
fn logs_of_arbitrary_files_open_or_are_refused() {
    for input in stored("log_open").iter().chain(&random(7, 200)) {
        log_open::run(input);
    }
}

#[test]
fn snapshots_of_arbitrary_bytes_are_whole_or_refused() {
    for input in stored("snapshot_file").iter().chain(&random(9, 300)) {
        snapshot_file::run(input);
    }
}
