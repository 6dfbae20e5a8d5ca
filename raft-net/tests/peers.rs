//! Two or three nodes over real sockets: classes, restarts, refusals, bounds.

mod support;

use raft_proto::{
    AppendRequest, Class, Entry, EntryKind, FetchSnapshotResponse, LogIndex, LogPosition, Message,
    Term,
};
use support::{NodeSetup, connected_pair, heartbeat};

fn append(sequence: u64, payload_bytes: &[usize]) -> Message {
    let entry = |(at, bytes): (usize, &usize)| Entry {
        index: LogIndex(at as u64 + 1),
        term: Term(1),
        kind: EntryKind::Command,
        payload: vec![at as u8; *bytes].into(),
    };
    Message::AppendRequest(AppendRequest {
        term: Term(1),
        sequence,
        previous: LogPosition::default(),
        commit_index: LogIndex(0),
        entries: payload_bytes.iter().enumerate().map(entry).collect(),
    })
}

fn snapshot_part(offset: u64, bytes: usize) -> Message {
    Message::FetchSnapshotResponse(FetchSnapshotResponse {
        term: Term(1),
        last_included: LogPosition::default(),
        offset,
        total_bytes: 1 << 40,
        checksum: 0,
        data: vec![7; bytes].into(),
    })
}

#[tokio::test]
async fn two_nodes_exchange_every_class_both_ways() {
    let (mut one, mut two) = connected_pair(NodeSetup::new(1), NodeSetup::new(2)).await;
    let messages = [
        heartbeat(1),
        append(1, &[]),
        append(2, &[0, 1, 100, 5000, 300_000]),
        snapshot_part(0, 1 << 20),
        snapshot_part(1 << 20, 10),
    ];
    {
        let (from, to) = (&one, &mut two);
        for message in &messages {
            from.transport.send(to.id, message, true).unwrap();
        }
        let mut received = Vec::new();
        for _ in &messages {
            let (peer, uncounted, message) = to.next_message().await;
            assert!(uncounted);
            assert_eq!(peer, from.id);
            received.push(message);
        }
        for class in Class::ALL {
            let of_class = |all: &[Message]| -> Vec<Message> {
                all.iter().filter(|m| m.class() == class).cloned().collect()
            };
            assert_eq!(of_class(&received), of_class(&messages), "{class:?}");
        }
    }
    two.transport
        .send(one.id, &snapshot_part(3, 9), false)
        .unwrap();
    assert_eq!(
        one.next_message().await,
        (two.id, false, snapshot_part(3, 9))
    );
}
