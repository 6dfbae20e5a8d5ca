//! Two or three nodes over real sockets: classes, restarts, refusals, bounds.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test panics when it fails, and picks the events it waits for"
)]

mod support;

use std::time::Duration;

use quinn::{TransportConfig, VarInt};
use raft_net::{CloseCode, SendError};
use raft_proto::{
    AppendRequest, Class, Entry, EntryKind, FetchSnapshotResponse, Hello, HelloResponse, LogIndex,
    LogPosition, Message, NodeId, Term,
};
use support::raw::{Raw, read_message};
use support::{Authority, Event, Node, NodeSetup, boot, connected_pair, heartbeat, introduce};

/// A wait that no test reaches: whatever happens is not caused by silence.
const NEVER: Duration = Duration::from_secs(600);

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

/// Every message of `messages` arrives, in its class's order.
async fn assert_arrive(from: &Node, to: &mut Node, messages: &[Message]) {
    for message in messages {
        from.transport.send(to.id, message, true).unwrap();
    }
    let mut received = Vec::new();
    for _ in messages {
        let (peer, uncounted, message) = to.next_message().await;
        assert!(uncounted);
        assert_eq!(peer, from.id);
        received.push(message);
    }
    for class in Class::ALL {
        let of_class = |all: &[Message]| -> Vec<Message> {
            all.iter().filter(|m| m.class() == class).cloned().collect()
        };
        assert_eq!(of_class(&received), of_class(messages), "{class:?}");
    }
}

fn one_of_each() -> Vec<Message> {
    vec![
        heartbeat(1),
        append(1, &[]),
        append(2, &[0, 1, 100, 5000, 300_000]),
        snapshot_part(0, 1 << 20),
        snapshot_part(1 << 20, 10),
        heartbeat(2),
    ]
}

#[tokio::test]
async fn every_class_flows_both_ways() {
    let (mut one, mut two) = connected_pair(NodeSetup::new(1), NodeSetup::new(2)).await;
    assert_arrive(&one, &mut two, &one_of_each()).await;
    assert_arrive(&two, &mut one, &one_of_each()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_nodes_on_many_threads() {
    let authority = Authority::new();
    let mut nodes: Vec<_> = (1..=3)
        .map(|id| NodeSetup::new(id).start(&authority))
        .collect();
    introduce(&nodes.iter().collect::<Vec<_>>());
    for node in &mut nodes {
        let mut missing: Vec<_> = (1..=3).map(NodeId).filter(|id| *id != node.id).collect();
        while !missing.is_empty() {
            let up = node.until("the others", |event| match event {
                Event::Up(id, _) => Some(id),
                _ => None,
            });
            let up = up.await;
            missing.retain(|id| *id != up);
        }
    }
    let [one, two, three] = &mut nodes[..] else {
        unreachable!()
    };
    assert_arrive(one, two, &one_of_each()).await;
    assert_arrive(three, two, &one_of_each()).await;
    assert_arrive(two, one, &one_of_each()).await;
}

#[tokio::test]
async fn a_node_that_nobody_named_is_answered_once_it_is_admitted() {
    let authority = Authority::new();
    let mut one = NodeSetup::new(1).start(&authority);
    let mut stranger = NodeSetup::new(7).start(&authority);
    let unknown = one.transport.send(stranger.id, &heartbeat(1), false);
    assert_eq!(unknown, Err(SendError::UnknownPeer(stranger.id)));
    stranger.transport.set_peers(&[one.named()]);
    one.until_up(stranger.id).await;
    stranger.until_up(one.id).await;
    assert_arrive(&one, &mut stranger, &one_of_each()).await;
}

#[tokio::test]
async fn a_restarted_peer_replaces_its_old_connection_at_once() {
    let authority = Authority::new();
    let patient = |id, counter| {
        let mut setup = NodeSetup::new(id);
        setup.boot = boot(counter);
        setup.configure = Box::new(|config| config.timing.election_timeout_max = NEVER);
        setup
    };
    for (staying, restarting) in [(1, 2), (2, 1)] {
        let mut stays = patient(staying, 1).start(&authority);
        // The first life runs on a runtime of its own, which is stopped without a word to anybody.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let mut first_life = {
            let _inside = runtime.enter();
            patient(restarting, 1).start(&authority)
        };
        introduce(&[&stays, &first_life]);
        assert_eq!(stays.until_up(first_life.id).await, boot(1));
        first_life.until_up(stays.id).await;
        runtime.shutdown_background();

        let mut second_life = patient(restarting, 2).start(&authority);
        second_life.transport.set_peers(&[stays.named()]);
        stays.until_down(first_life.id).await;
        assert_eq!(stays.until_up(second_life.id).await, boot(2));
        second_life.until_up(stays.id).await;
        assert_arrive(&stays, &mut second_life, &one_of_each()).await;
        assert_arrive(&second_life, &mut stays, &one_of_each()).await;
    }
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_down_and_is_looked_for() {
    let authority = Authority::new();
    let impatient = |id, counter| {
        let mut setup = NodeSetup::new(id);
        setup.boot = boot(counter);
        setup.configure = Box::new(|config| {
            config.timing.election_timeout_max = Duration::from_millis(100);
        });
        setup
    };
    let mut stays = impatient(1, 1).start(&authority);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let mut dies = {
        let _inside = runtime.enter();
        impatient(2, 1).start(&authority)
    };
    introduce(&[&stays, &dies]);
    stays.until_up(dies.id).await;
    dies.until_up(stays.id).await;
    runtime.shutdown_background();
    stays.until_down(dies.id).await;
    let outcome = stays.transport.send(dies.id, &heartbeat(1), false);
    assert_eq!(outcome, Err(SendError::NotConnected(dies.id)));
    // It comes back elsewhere and dials nobody: it is found at its new address.
    let mut back = impatient(2, 2).start(&authority);
    stays.transport.set_peers(&[back.named()]);
    assert_eq!(stays.until_up(back.id).await, boot(2));
    back.until_up(stays.id).await;
    assert_arrive(&stays, &mut back, &one_of_each()).await;
}

/// The control stream of a raw peer's connection, after hello and answer.
async fn greeted(raw: &Raw) -> quinn::RecvStream {
    let mut control = raw.connection.accept_uni().await.unwrap();
    let hello = read_message(&mut control).await;
    assert!(matches!(
        hello,
        Message::Hello(Hello {
            receiver: NodeId(3),
            ..
        })
    ));
    let answer = read_message(&mut control).await;
    assert_eq!(answer, HelloResponse { refusal: None }.into());
    control
}

#[tokio::test]
async fn a_second_connection_of_the_same_boot_takes_over_without_loss() {
    let authority = Authority::new();
    let mut one = NodeSetup::new(1).start(&authority);
    let plain = TransportConfig::default;
    let (old, mut old_sender) = Raw::admitted(&authority, 3, one.id, one.address, plain()).await;
    one.until_up(NodeId(3)).await;
    let mut old_control = greeted(&old).await;
    one.transport.send(NodeId(3), &heartbeat(1), false).unwrap();
    assert_eq!(read_message(&mut old_control).await, heartbeat(1));

    let (new, _sender) = Raw::admitted(&authority, 3, one.id, one.address, plain()).await;
    let mut new_control = greeted(&new).await;
    // The lower id decides, and finishes the old connection in order.
    assert_eq!(old_control.read_to_end(0).await.unwrap(), Vec::<u8>::new());
    // What is still under way on the old connection arrives.
    let late = support::raw::frame(&heartbeat(2));
    old_sender.write_all(&late).await.unwrap();
    let arrived = one.until("the late message", |event| match event {
        Event::Message(_, _, message) => Some(message),
        Event::Down(_) => panic!("the peer was never down"),
        _ => None,
    });
    assert_eq!(arrived.await, heartbeat(2));
    one.transport.send(NodeId(3), &heartbeat(3), false).unwrap();
    assert_eq!(read_message(&mut new_control).await, heartbeat(3));
    old_sender.finish().unwrap();
    let mut append = old.connection.open_uni().await.unwrap();
    append.finish().unwrap();
    assert_eq!(old.close_code().await, CloseCode::Replaced);
    assert_eq!(one.transport.stats().peers[0].connections, 2);
}

#[tokio::test]
async fn nodes_that_dial_each_other_at_once_settle_without_loss() {
    for _ in 0..10 {
        let (one, two) = connected_pair(NodeSetup::new(1), NodeSetup::new(2)).await;
        let (mut one, mut two) = (one, two);
        for round in 0..50 {
            for (from, to) in [(&one, &two), (&two, &one)] {
                from.transport
                    .send(to.id, &heartbeat(round), false)
                    .unwrap();
            }
            for node in [&mut one, &mut two] {
                let arrived = node.until("a heartbeat", |event| match event {
                    Event::Message(_, _, message) => Some(message),
                    Event::Down(peer) => panic!("{peer} was down"),
                    _ => None,
                });
                assert_eq!(arrived.await, heartbeat(round));
            }
        }
    }
}

#[tokio::test]
async fn full_queues_drop_and_count() {
    let mut setup = NodeSetup::new(1);
    setup.configure = Box::new(|config| {
        config.limits.append_queue.messages = 10;
        config.limits.bulk_queue.bytes = 50_000;
    });
    let (one, mut two) = connected_pair(setup, NodeSetup::new(2)).await;
    // Nothing else runs on this thread between these calls, so nothing is written.
    let full = Err(SendError::QueueFull(two.id));
    for sequence in 0..15 {
        let outcome = one.transport.send(two.id, &append(sequence, &[10]), true);
        assert_eq!(outcome, if sequence < 10 { Ok(()) } else { full.clone() });
    }
    for at in 0..7 {
        let outcome = one.transport.send(two.id, &snapshot_part(at, 10_000), true);
        assert_eq!(outcome, if at < 4 { Ok(()) } else { full.clone() });
    }
    let stats = &one.transport.stats().peers[0];
    assert_eq!(stats.dropped, [0, 5, 3]);
    assert_eq!(stats.queued_messages, [0, 10, 4]);
    assert!(stats.queued_bytes[2] <= 50_000);
    // The rest is delivered, and there is room again.
    for _ in 0..14 {
        two.next_message().await;
    }
    assert_arrive(&one, &mut two, &[append(99, &[10]), snapshot_part(99, 10)]).await;
}

#[tokio::test]
async fn frames_beyond_the_limit_are_not_sent() {
    let mut setup = NodeSetup::new(1);
    setup.configure = Box::new(|config| config.limits.max_frame_bytes = 10_000);
    let (one, mut two) = connected_pair(setup, NodeSetup::new(2)).await;
    let outcome = one.transport.send(two.id, &append(1, &[10_000]), false);
    assert!(matches!(
        outcome,
        Err(SendError::TooLarge { limit: 10_016, .. })
    ));
    assert_arrive(&one, &mut two, &[append(2, &[9_000])]).await;
}

/// Bulk bytes that arrive between sending a heartbeat and its arrival, amid a flood of which
/// `sent` counts the bytes.
async fn bulk_before_heartbeat(one: &Node, two: &mut Node, sent: &mut u64) -> usize {
    const PART: usize = 16 << 10;
    let count = |event: &Event| match event {
        Event::Message(_, _, Message::FetchSnapshotResponse(m)) => m.data.len(),
        _ => 0,
    };
    // Well under way before the heartbeat is sent.
    let mut flowing = 0;
    while flowing < 4 << 20 {
        let part = snapshot_part(*sent, PART);
        while one.transport.send(two.id, &part, false).is_ok() {
            *sent += PART as u64;
        }
        flowing += two.until("bulk", |event| Some(count(&event))).await;
    }
    while let Ok(event) = two.events.try_recv() {
        assert!(count(&event) > 0);
    }
    one.transport.send(two.id, &heartbeat(9), false).unwrap();
    let mut between = 0;
    two.until("the heartbeat", |event| {
        between += count(&event);
        matches!(event, Event::Message(_, _, Message::Heartbeat(_))).then_some(())
    })
    .await;
    let received = two.transport.stats().peers[0].received_bytes[Class::Bulk as usize];
    assert!(
        received + (1 << 20) < *sent,
        "the flood was over too early: {received} of {sent}"
    );
    between
}

#[tokio::test]
async fn bulk_traffic_does_not_delay_a_heartbeat() {
    let (one, mut two) = connected_pair(NodeSetup::new(1), NodeSetup::new(2)).await;
    let mut sent = 0;
    for _ in 0..20 {
        let between = bulk_before_heartbeat(&one, &mut two, &mut sent).await;
        let credit = 128 << 10;
        assert!(
            between <= 2 * credit,
            "{between} bytes went before the heartbeat"
        );
    }
}

#[tokio::test]
async fn a_peer_that_reads_nothing_is_disconnected() {
    let authority = Authority::new();
    let mut setup = NodeSetup::new(1);
    setup.configure = Box::new(|config| {
        config.timing.election_timeout_max = Duration::from_millis(100);
    });
    let mut one = setup.start(&authority);
    let mut narrow = TransportConfig::default();
    narrow.stream_receive_window(VarInt::from_u32(10_000));
    let (raw, _sender) = Raw::admitted(&authority, 3, one.id, one.address, narrow).await;
    one.until_up(NodeId(3)).await;
    one.transport
        .send(NodeId(3), &append(1, &[1_000_000]), false)
        .unwrap();
    assert_eq!(raw.close_code().await, CloseCode::Stalled);
    one.until_down(NodeId(3)).await;
    let outcome = one.transport.send(NodeId(3), &heartbeat(1), false);
    assert_eq!(outcome, Err(SendError::NotConnected(NodeId(3))));
}

#[tokio::test]
async fn a_removed_peer_is_disconnected_and_can_come_back() {
    let authority = Authority::new();
    let mut one = NodeSetup::new(1).start(&authority);
    let mut two = NodeSetup::new(2).start(&authority);
    one.transport.set_peers(&[two.named()]);
    one.until_up(two.id).await;
    two.until_up(one.id).await;
    two.transport.set_peers(&[one.named()]);
    two.transport.set_peers(&[]);
    one.until_down(two.id).await;
    two.until_down(one.id).await;
    // Node 1 still names node 2 and dials it.
    one.until_up(two.id).await;
    two.until_up(one.id).await;
    assert_arrive(&two, &mut one, &one_of_each()).await;
}

#[tokio::test]
async fn an_orderly_shutdown_delivers_what_is_queued() {
    let (one, mut two) = connected_pair(NodeSetup::new(1), NodeSetup::new(2)).await;
    for round in 0..100 {
        one.transport
            .send(two.id, &heartbeat(round), false)
            .unwrap();
    }
    one.transport.shutdown().await;
    for round in 0..100 {
        assert_eq!(two.next_message().await.2, heartbeat(round));
    }
    two.until_down(one.id).await;
    assert!(one.transport.send(two.id, &heartbeat(0), false).is_err());
}
