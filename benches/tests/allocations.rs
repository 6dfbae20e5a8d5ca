//! What replication allocates: nothing for each entry and follower but its share of a vector, and
//! no payload is ever copied between core, buffer and messages.

use allocation_counter::{AllocationInfo, measure};
use benches::cores::Cluster;
use bytes::Bytes;
use raft_proto::{
    AppendRequest, Entry, EntryKind, GroupId, LogIndex, LogPosition, Message, Term, wire,
};

/// Larger than everything else that is kept for an entry together.
const PAYLOAD_BYTES: usize = 16 << 10;
/// Entries per append in the smaller and in the larger case. A vector that grows by doubling
/// reaches twice its size with one allocation more.
const FEW: u64 = 8;
const MANY: u64 = 64;

/// What it takes to commit a batch, once everything that grows has grown.
fn cost(size: u64, batch: u64) -> AllocationInfo {
    let mut cluster = Cluster::new(size, Bytes::from(vec![7; PAYLOAD_BYTES]));
    let warm = || benches::cores::KEPT_ENTRIES / batch + 1;
    for _ in 0..2 * warm() {
        cluster.commit(batch);
    }
    // The least of several: queues that grow with the log's length still double now and then.
    let costs = (0..8).map(|_| {
        measure(|| {
            cluster.commit(batch);
        })
    });
    let least = costs.min_by_key(|cost| cost.bytes_total);
    least.expect("there is one")
}

#[test]
fn no_allocation_for_each_entry_and_follower() {
    let by_batch = |size| {
        let (few, many) = (cost(size, FEW), cost(size, MANY));
        many.count_total.saturating_sub(few.count_total)
    };
    // Two followers and four: what 56 more entries cost each of them.
    for (size, followers) in [(3, 2), (5, 4)] {
        let more = by_batch(size);
        let growths = 4 * u64::from((MANY / FEW).ilog2());
        assert!(
            more <= (followers + 1) * growths,
            "{size} nodes: {more} allocations more for {} entries more",
            MANY - FEW
        );
    }
}

#[test]
fn no_copy_of_a_payload() {
    for size in [3, 5] {
        let cost = cost(size, MANY);
        let per_entry = cost.bytes_total / MANY;
        assert!(
            per_entry < PAYLOAD_BYTES as u64 / 8,
            "{size} nodes: {per_entry} bytes are allocated for each entry of {PAYLOAD_BYTES}"
        );
        let mut cluster = Cluster::new(size, Bytes::from(vec![7; PAYLOAD_BYTES]));
        cluster.commit(1);
        let payloads: Vec<_> = cluster
            .last_payloads()
            .flatten()
            .map(|p| p.as_ptr())
            .collect();
        assert_eq!(payloads.len() as u64, size);
        assert!(
            payloads.iter().all(|p| *p == payloads[0]),
            "they share one payload"
        );
    }
}

#[test]
fn encoding_an_append_copies_no_payload() {
    let payload = Bytes::from(vec![7; PAYLOAD_BYTES]);
    let append = |count| -> Message {
        let entry = |index| Entry {
            index: LogIndex(index),
            term: Term(1),
            kind: EntryKind::Command,
            payload: payload.clone(),
        };
        AppendRequest {
            term: Term(1),
            sequence: 1,
            previous: LogPosition::ZERO,
            commit_index: LogIndex::ZERO,
            entries: (1..=count).map(entry).collect(),
        }
        .into()
    };
    let encoded = |count| {
        let message = append(count);
        measure(|| {
            let frame = wire::encode(GroupId(0), false, &message);
            assert!(frame.is_ok());
        })
    };
    let (few, many) = (encoded(FEW), encoded(MANY));
    let more = many.count_total - few.count_total;
    let growths = 4 * u64::from((MANY / FEW).ilog2());
    assert!(more <= growths, "{more} allocations more for more entries");
    assert!(
        many.bytes_total < PAYLOAD_BYTES as u64,
        "{} bytes",
        many.bytes_total
    );
}
