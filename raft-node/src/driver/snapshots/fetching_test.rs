//! Transfers part by part: order, window, loss, damage, resumption.

use std::time::Duration;

use raft_proto::{LogIndex, Membership, Term};

use super::*;

const TOTAL: u64 = 1_000;

fn policy() -> SnapshotPolicy {
    SnapshotPolicy {
        fetch_window_bytes: 400,
        fetch_part_bytes: 100,
        fetch_retry: Duration::from_millis(1_000),
        fetch_patience: Duration::from_millis(5_000),
        ..SnapshotPolicy::default()
    }
}

fn snapshot() -> SnapshotDescription {
    SnapshotDescription {
        last_included: LogPosition {
            index: LogIndex(7),
            term: Term(2),
        },
        membership: Membership::default(),
        total_bytes: TOTAL,
        checksum: 0,
    }
}

fn fetch(received_bytes: u64) -> Fetch {
    let mut fetch = Fetch::new(FetchId(1), NodeId(2), snapshot(), Time::ZERO);
    assert_eq!(fetch.next_ask(&policy()), None, "its file is not open yet");
    fetch.opened(Time::ZERO, received_bytes);
    fetch
}

fn asks(fetch: &mut Fetch) -> Vec<u64> {
    let asked = std::iter::from_fn(|| fetch.next_ask(&policy()));
    asked.map(|ask| ask.offset).collect()
}

fn part(offset: u64, bytes: usize) -> FetchSnapshotResponse {
    let data = Bytes::from(vec![7; bytes]);
    FetchSnapshotResponse {
        term: Term(3),
        last_included: snapshot().last_included,
        offset,
        total_bytes: TOTAL,
        checksum: crc32fast::hash(&data),
        data,
    }
}

fn stores(arrival: Arrival) -> Vec<u64> {
    match arrival {
        Arrival::Store(parts) => parts.into_iter().map(|(offset, _)| offset).collect(),
        other @ (Arrival::Ignored | Arrival::Gone) => panic!("{other:?}"),
    }
}

#[test]
fn what_is_under_way_or_waits_for_the_disk_fits_the_window() {
    let mut fetch = fetch(0);
    assert_eq!(asks(&mut fetch), [0, 100, 200, 300]);
    let now = Time::from_ms(1);
    assert_eq!(stores(fetch.arrived(now, part(0, 100))), [0]);
    assert_eq!(asks(&mut fetch), [], "the disk has not said anything yet");
    assert_eq!(fetch.stored(now, 100, 0), Some(0));
    assert_eq!(asks(&mut fetch), [400]);
    assert_eq!(fetch.stored(now, 100, 0), None, "reports are rare");
}

#[test]
fn parts_go_to_the_disk_in_order_whatever_order_they_arrive_in() {
    let mut fetch = fetch(0);
    asks(&mut fetch);
    let now = Time::from_ms(1);
    assert_eq!(stores(fetch.arrived(now, part(200, 100))), []);
    assert_eq!(stores(fetch.arrived(now, part(100, 100))), []);
    assert_eq!(fetch.arrived(now, part(100, 100)), Arrival::Ignored);
    assert_eq!(fetch.repeated_bytes, 100);
    assert_eq!(stores(fetch.arrived(now, part(0, 100))), [0, 100, 200]);
}

#[test]
fn the_rest_of_a_short_part_is_asked_for_at_once() {
    let mut fetch = fetch(0);
    asks(&mut fetch);
    let now = Time::from_ms(1);
    assert_eq!(stores(fetch.arrived(now, part(0, 60))), [0]);
    let rest = Ask {
        offset: 60,
        max_bytes: 40,
    };
    assert_eq!(fetch.next_ask(&policy()), Some(rest));
    for offset in [100, 200, 300] {
        assert_eq!(stores(fetch.arrived(now, part(offset, 100))), []);
    }
    assert_eq!(
        stores(fetch.arrived(now, part(60, 40))),
        [60, 100, 200, 300]
    );
}

#[test]
fn damaged_oversized_and_foreign_parts_count_for_nothing() {
    let mut fetch = fetch(0);
    asks(&mut fetch);
    let now = Time::from_ms(1);
    let mut damaged = part(0, 100);
    damaged.checksum ^= 1;
    let mut foreign = part(0, 100);
    foreign.last_included.index = LogIndex(6);
    for bad in [damaged, foreign, part(0, 101), part(0, 0), part(50, 50)] {
        assert_eq!(fetch.arrived(now, bad), Arrival::Ignored);
    }
    let mut gone = part(0, 0);
    gone.total_bytes = 0;
    assert_eq!(fetch.arrived(now, gone), Arrival::Gone);
    assert_eq!(stores(fetch.arrived(now, part(0, 100))), [0]);
}

#[test]
fn a_transfer_resumes_where_its_file_ends_and_completes_once() {
    let mut fetch = fetch(900);
    assert_eq!(asks(&mut fetch), [900]);
    let now = Time::from_ms(1);
    assert_eq!(stores(fetch.arrived(now, part(900, 100))), [900]);
    assert!(!fetch.take_completion());
    fetch.stored(now, 1_000, 1_000);
    assert!(fetch.take_completion());
    assert!(!fetch.take_completion());
    assert_eq!(fetch.deadline(&policy()), None);
}

#[test]
fn silences_grow_and_patience_ends() {
    let policy = policy();
    let mut fetch = fetch(0);
    asks(&mut fetch);
    let mut repeats = Vec::new();
    let mut now = Time::ZERO;
    while !fetch.is_hopeless(now, &policy) {
        now = fetch.deadline(&policy).expect("something is missing");
        if !fetch.overdue(now, &policy).is_empty() {
            repeats.push(now.as_ms());
        }
    }
    assert_eq!(repeats, [1_000, 3_000, 5_000]);
    assert_eq!(now, Time::from_ms(5_000));
    // A new connection asks at once.
    let mut fetch = self::fetch(0);
    asks(&mut fetch);
    assert_eq!(fetch.reconnected(Time::from_ms(10)).len(), 4);
}
