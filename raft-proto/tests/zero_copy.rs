//! Payload bytes are never copied: encoding shares them, decoding slices the received frame.
#![allow(
    clippy::unwrap_used,
    reason = "in test helpers too, a panic is the failure"
)]

mod samples;

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use raft_proto::{Message, frame, wire};

/// The payloads of a message, in the order in which they are sent.
fn payloads(message: &Message) -> Vec<&Bytes> {
    match message {
        Message::AppendRequest(m) => m.entries.iter().map(|e| &e.payload).collect(),
        Message::FetchEntriesResponse(m) => m.entries.iter().map(|e| &e.payload).collect(),
        Message::FetchSnapshotResponse(m) => vec![&m.data],
        Message::AdoptRequest(m) => vec![&m.first_entry],
        Message::Hello(_)
        | Message::HelloResponse(_)
        | Message::GatherRequest(_)
        | Message::GatherResponse(_)
        | Message::AdoptResponse(_)
        | Message::GatherAbandoned(_)
        | Message::PreVoteRequest(_)
        | Message::PreVoteResponse(_)
        | Message::VoteRequest(_)
        | Message::VoteResponse(_)
        | Message::Heartbeat(_)
        | Message::HeartbeatResponse(_)
        | Message::TimeoutNow(_)
        | Message::ReadIndexRequest(_)
        | Message::ReadIndexResponse(_)
        | Message::AppendResponse(_)
        | Message::InstallSnapshotRequest(_)
        | Message::InstallSnapshotResponse(_)
        | Message::FetchSnapshotRequest(_)
        | Message::FetchEntriesRequest(_)
        | Message::DescribeSnapshotRequest(_)
        | Message::DescribeSnapshotResponse(_)
        | Message::RecountRequest(_)
        | Message::RecountOffer(_)
        | Message::RecountResponse(_)
        | Message::ComparisonReport(_) => Vec::new(),
    }
}

fn addresses(bytes: &[u8]) -> Range<usize> {
    let start = bytes.as_ptr().addr();
    start..start + bytes.len()
}

#[test]
fn encoding_shares_every_payload() {
    let mut shared = 0;
    for sample in samples::all() {
        let encoded = sample.encode();
        let before = payloads(&sample.message);
        assert_eq!(encoded.payloads.len(), before.len(), "{}", sample.name);
        for (sent, given) in encoded.payloads.iter().zip(before) {
            assert_eq!(addresses(sent), addresses(given), "{}", sample.name);
            shared += 1;
        }
    }
    assert!(shared >= 6, "the samples have payloads to look at");
}

#[test]
fn decoding_slices_the_received_frame() {
    let mut sliced = 0;
    for sample in samples::all() {
        let encoded = sample.encode();
        let mut received = BytesMut::from(&encoded.to_vec()[..]);
        let buffer = addresses(&received);
        let (header, body) = frame::take(&mut received, 1 << 20).unwrap().unwrap();
        assert_eq!(addresses(&body).start, buffer.start + frame::HEADER_BYTES);
        let message = wire::decode(&header, &body).unwrap();
        for payload in payloads(&message).into_iter().filter(|p| !p.is_empty()) {
            let place = addresses(payload);
            assert!(
                buffer.start <= place.start && place.end <= buffer.end,
                "{} lies outside the frame",
                sample.name
            );
            sliced += 1;
        }
    }
    assert!(sliced >= 5, "the samples have payloads to look at");
}

#[test]
fn the_pieces_to_write_are_the_frame() {
    for sample in samples::all() {
        let encoded = sample.encode();
        let whole = encoded.to_vec();
        assert_eq!(encoded.len(), whole.len());
        let pieces: Vec<Bytes> = encoded.chunks().collect();
        assert!(pieces.iter().all(|piece| !piece.is_empty()));
        assert_eq!(pieces.concat(), whole);
    }
}
