//! Real servers on hosts of their own, partitioned in every shape: symmetric, one-way and bridge.
//! What all clients saw together is linearizable, and writes go through where they must.
//!
//! A machine without network namespaces prints SKIPPED; `cargo xtask test --require-netns` makes
//! that a failure.

mod trouble;

use std::time::Duration;

use raft_chaos::{Fault, Network, Round, Shape};
use trouble::{has_namespaces, survive};

/// Twice the longest election timeout: whoever hears no leader has campaigned by then.
const HOLD: Duration = Duration::from_millis(1_500);

fn cut(shape: Shape) -> Round {
    held(vec![Fault::Partition(shape)])
}

fn held(faults: Vec<Fault>) -> Round {
    let hold = HOLD;
    Round {
        hold,
        ..Round::of(faults)
    }
}

fn survive_on_hosts(test: &str, nodes: u64, rounds: Vec<Round>) {
    if has_namespaces(test) {
        survive(nodes, Network::Namespaces, rounds);
    }
}

#[test]
fn three_servers_are_cut_off_both_ways() {
    let rounds = vec![
        cut(Shape::Isolate { place: 0 }),
        cut(Shape::Isolate { place: 1 }),
        held(vec![Fault::Unplug { place: 0 }]),
        // Nobody reaches a majority.
        held(vec![
            Fault::Partition(Shape::Isolate { place: 0 }),
            Fault::Kill { places: vec![1] },
        ]),
    ];
    survive_on_hosts("three_servers_are_cut_off_both_ways", 3, rounds);
}

#[test]
fn three_servers_are_cut_off_one_way() {
    let rounds = vec![
        cut(Shape::Deaf { place: 0 }),
        cut(Shape::Mute { place: 0 }),
        cut(Shape::Deaf { place: 1 }),
        cut(Shape::Mute { place: 1 }),
        cut(Shape::OneWay { from: vec![0, 1] }),
    ];
    survive_on_hosts("three_servers_are_cut_off_one_way", 3, rounds);
}

#[test]
fn three_servers_are_joined_by_one() {
    let rounds = vec![
        cut(Shape::Bridge { middle: 1 }),
        cut(Shape::Bridge { middle: 0 }),
    ];
    survive_on_hosts("three_servers_are_joined_by_one", 3, rounds);
}

#[test]
fn five_servers_are_parted_in_every_shape() {
    let rounds = vec![
        cut(Shape::Halves { left: vec![0, 1] }),
        cut(Shape::Bridge { middle: 0 }),
        cut(Shape::Bridge { middle: 2 }),
        cut(Shape::Ring),
        cut(Shape::OneWay { from: vec![0, 1] }),
        cut(Shape::OneWay {
            from: vec![2, 3, 4],
        }),
        held(vec![
            Fault::Partition(Shape::Isolate { place: 0 }),
            Fault::Pause { place: 1 },
        ]),
    ];
    survive_on_hosts("five_servers_are_parted_in_every_shape", 5, rounds);
}

#[test]
fn a_full_disk_is_survived() {
    let rounds = vec![held(vec![Fault::FillDisk])];
    survive_on_hosts("a_full_disk_is_survived", 3, rounds);
}
