//! What a broken or hostile peer may send: every case is refused with an error of its own kind.
#![allow(
    clippy::unwrap_used,
    reason = "in test helpers too, a panic is the failure"
)]

mod samples;

use bytes::{Bytes, BytesMut};
use raft_proto::envelope::FIRST_CLIENT_KIND;
use raft_proto::{
    CodecError, FrameError, FrameHeader, GroupId, LogIndex, Message, Term, codec, frame, wire,
};

const MAX_BODY_BYTES: u32 = 1 << 20;

fn read(bytes: impl Into<Bytes>) -> Result<Message, Box<dyn std::error::Error>> {
    let (header, body) = frame::split(&bytes.into(), MAX_BODY_BYTES)?;
    Ok(wire::decode(&header, &body)?)
}

fn header(kind: u8, head_bytes: usize, body_bytes: usize) -> FrameHeader {
    FrameHeader {
        body_bytes: body_bytes as u32,
        kind,
        flags: 0,
        group: GroupId(0),
        head_bytes: head_bytes as u32,
    }
}

/// Decodes a body whose head is the encoding of `head`, followed by `payload`.
fn decode_parts(
    kind: u8,
    head: &impl serde::Serialize,
    payload: &[u8],
) -> Result<Message, CodecError> {
    let mut body = Vec::new();
    codec::encode(head, &mut body).unwrap();
    let head_bytes = body.len();
    body.extend_from_slice(payload);
    wire::decode(&header(kind, head_bytes, body.len()), &body.into())
}

#[test]
fn a_frame_cut_anywhere_is_incomplete_and_never_misread() {
    for sample in samples::all() {
        let bytes = sample.encode().to_vec();
        for cut in 0..bytes.len() {
            let mut buffer = BytesMut::from(&bytes[..cut]);
            assert_eq!(frame::take(&mut buffer, MAX_BODY_BYTES), Ok(None));
            assert_eq!(buffer, bytes[..cut], "{} cut at {cut}", sample.name);
            assert!(matches!(
                frame::split(&Bytes::copy_from_slice(&bytes[..cut]), MAX_BODY_BYTES),
                Err(FrameError::Truncated { present, .. }) if present == cut
            ));
        }
    }
}

#[test]
fn a_head_cut_anywhere_is_refused() {
    for sample in samples::all() {
        let bytes = sample.encode().to_vec();
        let (whole, body) = frame::split(&bytes.into(), MAX_BODY_BYTES).unwrap();
        for cut in 0..whole.head_bytes as usize {
            let short = header(whole.kind, cut, cut);
            let outcome = wire::decode(&short, &body.slice(..cut));
            assert!(
                outcome.is_err(),
                "{} cut at {cut}: {outcome:?}",
                sample.name
            );
        }
    }
}

#[test]
fn bytes_after_a_head_are_refused() {
    for sample in samples::all() {
        let bytes = sample.encode().to_vec();
        let (whole, body) = frame::split(&bytes.into(), MAX_BODY_BYTES).unwrap();
        let (head, payload) = body.split_at(whole.head_bytes as usize);
        let longer = Bytes::from([head, &[0], payload].concat());
        let header = header(whole.kind, head.len() + 1, longer.len());
        assert_eq!(
            wire::decode(&header, &longer),
            Err(CodecError::Trailing(1)),
            "{}",
            sample.name
        );
    }
}

#[test]
fn payload_bytes_that_nobody_claims_are_refused() {
    // These two take whatever payload there is.
    let takes_all = ["AdoptRequest", "FetchSnapshotResponse"];
    for sample in samples::all() {
        if takes_all.contains(&sample.message.name()) {
            continue;
        }
        let bytes = sample.encode().to_vec();
        let (whole, body) = frame::split(&bytes.into(), MAX_BODY_BYTES).unwrap();
        let longer = Bytes::from([&body[..], &[0]].concat());
        let header = header(whole.kind, whole.head_bytes as usize, longer.len());
        assert!(
            matches!(
                wire::decode(&header, &longer),
                Err(CodecError::PayloadLength { claimed, present }) if claimed + 1 == present
            ),
            "{}",
            sample.name
        );
    }
}

#[test]
fn bytes_after_a_single_frame_are_refused() {
    let mut bytes = samples::all()[0].encode().to_vec();
    bytes.extend_from_slice(b"xyz");
    assert_eq!(
        frame::split(&bytes.into(), MAX_BODY_BYTES),
        Err(FrameError::Trailing { extra: 3 })
    );
}

#[test]
fn another_version_is_told_apart_from_garbage() {
    let mut bytes = samples::all()[0].encode().to_vec();
    bytes[4] = frame::VERSION + 1;
    let found = frame::VERSION + 1;
    let error = FrameError::UnsupportedVersion { found };
    assert_eq!(
        read(bytes.clone()).unwrap_err().to_string(),
        error.to_string()
    );
    let mut buffer = BytesMut::from(&bytes[..]);
    assert_eq!(frame::take(&mut buffer, MAX_BODY_BYTES), Err(error));
}

#[test]
fn an_unknown_kind_is_named() {
    let known: Vec<u8> = Message::KINDS.iter().map(|(kind, ..)| *kind).collect();
    for kind in (0..=u8::MAX).filter(|kind| !known.contains(kind)) {
        assert_eq!(
            wire::decode(&header(kind, 0, 0), &Bytes::new()),
            Err(CodecError::UnknownKind(kind))
        );
    }
    assert!(!known.contains(&FIRST_CLIENT_KIND));
}

#[test]
fn a_body_beyond_the_limit_is_refused_before_it_arrives() {
    let huge = header(20, 0, u32::MAX as usize).to_bytes();
    let mut buffer = BytesMut::from(&huge[..]);
    let error = FrameError::TooLarge {
        found: u32::MAX,
        limit: MAX_BODY_BYTES,
    };
    assert_eq!(frame::take(&mut buffer, MAX_BODY_BYTES), Err(error));
    assert!(buffer.capacity() < 1 << 16, "nothing was allocated for it");
}

#[test]
fn counts_that_the_bytes_cannot_hold_are_refused() {
    // Each claims 2^61 elements in its list and ends there.
    let bomb = 1u64 << 61;
    let wanted = (1u64, bomb);
    assert_eq!(decode_parts(32, &wanted, b""), Err(CodecError::Malformed));
    let runs = (1u64, 1u64, 0u64, 0u64, 0u64, bomb);
    assert_eq!(decode_parts(20, &runs, b""), Err(CodecError::Malformed));
    let voters = (1u64, bomb);
    assert_eq!(decode_parts(3, &voters, b""), Err(CodecError::Malformed));
}

/// The head of an append request: term 9, sequence 1, previous, commit 0, runs, shapes.
fn append(
    previous: (u64, u64),
    runs: &[(u64, u64)],
    shapes: &[(u8, u32)],
    payload: &[u8],
) -> Result<Message, CodecError> {
    let head = (9u64, 1u64, previous, 0u64, runs, shapes);
    decode_parts(20, &head, payload)
}

#[test]
fn entries_that_no_log_can_hold_are_refused() {
    let malformed = Err(CodecError::Malformed);
    assert!(append((4, 2), &[(2, 1), (3, 1)], &[(1, 1), (1, 1)], b"ab").is_ok());
    // A run of a billion billion entries, and runs that do not add up to the entries.
    assert_eq!(append((4, 2), &[(2, 1 << 60)], &[(1, 0)], b""), malformed);
    assert_eq!(append((4, 2), &[(2, 1)], &[(1, 0), (1, 0)], b""), malformed);
    assert_eq!(append((4, 2), &[(2, 0)], &[], b""), malformed);
    // Terms that fall, within the message and against the entry before it.
    assert_eq!(
        append((4, 2), &[(3, 1), (2, 1)], &[(0, 0); 2], b""),
        malformed
    );
    assert_eq!(append((4, 2), &[(1, 1)], &[(0, 0)], b""), malformed);
    // One run written as two.
    assert_eq!(
        append((4, 2), &[(3, 1), (3, 1)], &[(0, 0); 2], b""),
        malformed
    );
    // A kind that does not exist, and an index beyond all.
    assert_eq!(append((4, 2), &[(2, 1)], &[(3, 0)], b""), malformed);
    let last = (raft_proto::ids::MAX_COUNT, 2);
    assert_eq!(append(last, &[(2, 1)], &[(0, 0)], b""), malformed);
}

#[test]
fn lengths_that_overflow_do_not_wrap_to_what_is_there() {
    let shapes = [(1, u32::MAX), (1, 2)];
    let claimed = u64::from(u32::MAX) + 2;
    assert_eq!(
        append((0, 0), &[(1, 2)], &shapes, b"x"),
        Err(CodecError::PayloadLength {
            claimed,
            present: 1
        })
    );
}

#[test]
fn as_many_entries_as_promised_fit_whatever_they_look_like() {
    let count = wire::MAX_ENTRIES_PER_MESSAGE as u64;
    let base = 1u64 << 40;
    // A term of its own for every entry is the most that a head can need.
    let entries = (1..=count).map(|n| raft_proto::Entry {
        index: LogIndex(base + n),
        term: Term(base + n),
        kind: raft_proto::EntryKind::Command,
        payload: Bytes::new(),
    });
    let message = Message::AppendRequest(raft_proto::AppendRequest {
        term: Term(base + count),
        sequence: u64::MAX,
        previous: raft_proto::LogPosition {
            index: LogIndex(base),
            term: Term(base),
        },
        commit_index: LogIndex(base),
        entries: entries.collect(),
    });
    let encoded = wire::encode(GroupId(0), false, &message).unwrap();
    assert_eq!(read(encoded.to_vec()).unwrap(), message);
}

#[test]
#[should_panic(expected = "entries leave a gap")]
fn a_gap_between_entries_is_never_sent() {
    let mut message = append_of(&[42, 43]);
    message.entries[1].index = LogIndex(44);
    let _never = wire::encode(GroupId(0), false, &message.into());
}

#[test]
#[should_panic(expected = "terms of entries fall")]
fn falling_terms_are_never_sent() {
    let mut message = append_of(&[42, 43]);
    message.entries[1].term = Term(1);
    let _never = wire::encode(GroupId(0), false, &message.into());
}

fn append_of(indexes: &[u64]) -> raft_proto::AppendRequest {
    let entry = |index: &u64| raft_proto::Entry {
        index: LogIndex(*index),
        term: Term(2),
        kind: raft_proto::EntryKind::Noop,
        payload: Bytes::new(),
    };
    raft_proto::AppendRequest {
        term: Term(2),
        sequence: 1,
        previous: raft_proto::LogPosition {
            index: LogIndex(indexes[0] - 1),
            term: Term(2),
        },
        commit_index: LogIndex::ZERO,
        entries: indexes.iter().map(entry).collect(),
    }
}
