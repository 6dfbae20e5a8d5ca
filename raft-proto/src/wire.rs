//! Messages to frames and back. Payloads travel as slices beside the structured head: encoding
//! shares them, decoding slices the received frame, neither copies them.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError};
use crate::entry::{Entry, EntryKind, LogPosition};
use crate::frame::{FLAG_UNCOUNTED, FrameHeader, HEADER_BYTES};
use crate::ids::{GroupId, LogIndex, Term};
use crate::message::{
    AdoptRequest, AppendRequest, FetchEntriesResponse, FetchSnapshotResponse, Message,
};

/// Most bytes a frame's body may have by construction: `u32::MAX` less the header.
pub const MAX_BODY_BYTES: usize = (u32::MAX as usize) - HEADER_BYTES;

/// A frame ready to be sent: header and head in one piece, payloads beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedFrame {
    /// Frame header and structured head.
    pub head: Bytes,
    /// Payloads in order.
    pub payloads: Vec<Bytes>,
}

impl EncodedFrame {
    /// Length of the whole frame, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.head.len() + self.payloads.iter().map(Bytes::len).sum::<usize>()
    }

    /// Never true: a frame has a header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.head.is_empty()
    }

    /// The pieces to write, in order, without empty ones.
    pub fn chunks(self) -> impl Iterator<Item = Bytes> {
        std::iter::once(self.head).chain(self.payloads.into_iter().filter(|p| !p.is_empty()))
    }

    /// The frame in one piece; copies, so for tests and small frames.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = self.head.to_vec();
        for payload in &self.payloads {
            bytes.extend_from_slice(payload);
        }
        bytes
    }
}

/// Entries without payloads, at a known first index: term runs by count, kinds and lengths.
#[derive(Serialize, Deserialize)]
struct EntriesHead {
    /// Term and number of entries of each run.
    runs: Vec<(Term, u64)>,
    /// Kind and payload length of each entry.
    shapes: Vec<(u8, u32)>,
}

#[derive(Serialize, Deserialize)]
struct AppendHead {
    term: Term,
    sequence: u64,
    previous: LogPosition,
    commit_index: LogIndex,
    entries: EntriesHead,
}

#[derive(Serialize, Deserialize)]
struct FetchSnapshotHead {
    term: Term,
    last_included: LogPosition,
    offset: u64,
    total_bytes: u64,
    checksum: u32,
}

#[derive(Serialize, Deserialize)]
struct FetchEntriesHead {
    term: Term,
    never_had: Vec<LogPosition>,
    unavailable: Vec<LogPosition>,
    /// Position, kind and payload length of each entry.
    entries: Vec<(LogPosition, u8, u32)>,
}

/// Encodes a message.
///
/// # Errors
/// [`CodecError::TooLarge`] if the structured part exceeds the codec's limit.
pub fn encode(
    group: GroupId,
    uncounted: bool,
    message: &Message,
) -> Result<EncodedFrame, CodecError> {
    let mut head = vec![0; HEADER_BYTES];
    let payloads = encode_body(message, &mut head)?;
    let head_bytes = head.len() - HEADER_BYTES;
    let body_bytes = head_bytes + payloads.iter().map(Bytes::len).sum::<usize>();
    if body_bytes > MAX_BODY_BYTES {
        return Err(CodecError::TooLarge(body_bytes));
    }
    let header = FrameHeader {
        // Both fit: they are at most MAX_BODY_BYTES.
        body_bytes: body_bytes as u32,
        kind: message.kind(),
        flags: if uncounted { FLAG_UNCOUNTED } else { 0 },
        group,
        head_bytes: head_bytes as u32,
    };
    head[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
    Ok(EncodedFrame {
        head: head.into(),
        payloads,
    })
}

fn encode_body(message: &Message, head: &mut Vec<u8>) -> Result<Vec<Bytes>, CodecError> {
    match message {
        Message::AppendRequest(m) => {
            let entries = shapes_of(&m.entries);
            let append = AppendHead {
                term: m.term,
                sequence: m.sequence,
                previous: m.previous,
                commit_index: m.commit_index,
                entries,
            };
            codec::encode(&append, head)?;
            return Ok(m.entries.iter().map(|e| e.payload.clone()).collect());
        }
        Message::FetchEntriesResponse(m) => {
            let shape = |e: &Entry| (e.position(), e.kind as u8, e.payload.len() as u32);
            let fetched = FetchEntriesHead {
                term: m.term,
                never_had: m.never_had.clone(),
                unavailable: m.unavailable.clone(),
                entries: m.entries.iter().map(shape).collect(),
            };
            codec::encode(&fetched, head)?;
            return Ok(m.entries.iter().map(|e| e.payload.clone()).collect());
        }
        Message::FetchSnapshotResponse(m) => {
            let fetched = FetchSnapshotHead {
                term: m.term,
                last_included: m.last_included,
                offset: m.offset,
                total_bytes: m.total_bytes,
                checksum: m.checksum,
            };
            codec::encode(&fetched, head)?;
            return Ok(vec![m.data.clone()]);
        }
        Message::AdoptRequest(m) => return Ok(vec![m.first_entry.clone()]),
        Message::Hello(m) => codec::encode(m, head)?,
        Message::HelloResponse(m) => codec::encode(m, head)?,
        Message::GatherRequest(m) => codec::encode(m, head)?,
        Message::GatherResponse(m) => codec::encode(m, head)?,
        Message::AdoptResponse(m) => codec::encode(m, head)?,
        Message::PreVoteRequest(m) => codec::encode(m, head)?,
        Message::PreVoteResponse(m) => codec::encode(m, head)?,
        Message::VoteRequest(m) => codec::encode(m, head)?,
        Message::VoteResponse(m) => codec::encode(m, head)?,
        Message::Heartbeat(m) => codec::encode(m, head)?,
        Message::HeartbeatResponse(m) => codec::encode(m, head)?,
        Message::TimeoutNow(m) => codec::encode(m, head)?,
        Message::ReadIndexRequest(m) => codec::encode(m, head)?,
        Message::ReadIndexResponse(m) => codec::encode(m, head)?,
        Message::AppendResponse(m) => codec::encode(m, head)?,
        Message::InstallSnapshotRequest(m) => codec::encode(m, head)?,
        Message::InstallSnapshotResponse(m) => codec::encode(m, head)?,
        Message::FetchSnapshotRequest(m) => codec::encode(m, head)?,
        Message::FetchEntriesRequest(m) => codec::encode(m, head)?,
    }
    Ok(Vec::new())
}

fn shapes_of(entries: &[Entry]) -> EntriesHead {
    let mut runs: Vec<(Term, u64)> = Vec::new();
    for entry in entries {
        match runs.last_mut() {
            Some((term, count)) if *term == entry.term => *count += 1,
            Some(_) | None => runs.push((entry.term, 1)),
        }
    }
    let shape = |e: &Entry| (e.kind as u8, e.payload.len() as u32);
    EntriesHead {
        runs,
        shapes: entries.iter().map(shape).collect(),
    }
}

/// Decodes the body of a frame.
///
/// # Errors
/// [`CodecError`]; the stream must then be closed.
pub fn decode(header: &FrameHeader, body: &Bytes) -> Result<Message, CodecError> {
    let head_bytes = (header.head_bytes as usize).min(body.len());
    let head = &body[..head_bytes];
    let payload = body.slice(head_bytes..);
    match header.kind {
        5 => {
            return Ok(AdoptRequest {
                first_entry: take_all(head, payload)?,
            }
            .into());
        }
        20 => return decode_append(head, payload),
        31 => return decode_fetch_snapshot(head, payload),
        33 => return decode_fetch_entries(head, payload),
        _ => {}
    }
    check_payload(0, &payload)?;
    match header.kind {
        1 => plain(head, Message::Hello),
        2 => plain(head, Message::HelloResponse),
        3 => plain(head, Message::GatherRequest),
        4 => plain(head, Message::GatherResponse),
        6 => plain(head, Message::AdoptResponse),
        10 => plain(head, Message::PreVoteRequest),
        11 => plain(head, Message::PreVoteResponse),
        12 => plain(head, Message::VoteRequest),
        13 => plain(head, Message::VoteResponse),
        14 => plain(head, Message::Heartbeat),
        15 => plain(head, Message::HeartbeatResponse),
        16 => plain(head, Message::TimeoutNow),
        17 => plain(head, Message::ReadIndexRequest),
        18 => plain(head, Message::ReadIndexResponse),
        21 => plain(head, Message::AppendResponse),
        22 => plain(head, Message::InstallSnapshotRequest),
        23 => plain(head, Message::InstallSnapshotResponse),
        30 => plain(head, Message::FetchSnapshotRequest),
        32 => plain(head, Message::FetchEntriesRequest),
        unknown => Err(CodecError::UnknownKind(unknown)),
    }
}

fn plain<T: DeserializeOwned>(
    head: &[u8],
    variant: impl FnOnce(T) -> Message,
) -> Result<Message, CodecError> {
    codec::decode_exact(head).map(variant)
}

fn take_all(head: &[u8], payload: Bytes) -> Result<Bytes, CodecError> {
    match head.len() {
        0 => Ok(payload),
        rest => Err(CodecError::Trailing(rest)),
    }
}

fn check_payload(claimed: u64, payload: &Bytes) -> Result<(), CodecError> {
    let present = payload.len() as u64;
    if claimed == present {
        Ok(())
    } else {
        Err(CodecError::PayloadLength { claimed, present })
    }
}

fn decode_append(head: &[u8], mut payload: Bytes) -> Result<Message, CodecError> {
    let append: AppendHead = codec::decode_exact(head)?;
    let EntriesHead { runs, shapes } = append.entries;
    check_payload(
        shapes.iter().map(|(_, len)| u64::from(*len)).sum(),
        &payload,
    )?;
    let mut entries = Vec::with_capacity(shapes.len());
    let mut index = append.previous.index;
    let mut shapes = shapes.into_iter();
    for (term, count) in runs {
        for _ in 0..count {
            let (kind, len) = shapes.next().ok_or(CodecError::Malformed)?;
            index = LogIndex(index.0.checked_add(1).ok_or(CodecError::Malformed)?);
            entries.push(Entry {
                index,
                term,
                kind: EntryKind::from_number(kind).ok_or(CodecError::Malformed)?,
                payload: payload.split_to(len as usize),
            });
        }
    }
    if shapes.next().is_some() {
        return Err(CodecError::Malformed);
    }
    Ok(AppendRequest {
        term: append.term,
        sequence: append.sequence,
        previous: append.previous,
        commit_index: append.commit_index,
        entries,
    }
    .into())
}

fn decode_fetch_snapshot(head: &[u8], data: Bytes) -> Result<Message, CodecError> {
    let fetched: FetchSnapshotHead = codec::decode_exact(head)?;
    Ok(FetchSnapshotResponse {
        term: fetched.term,
        last_included: fetched.last_included,
        offset: fetched.offset,
        total_bytes: fetched.total_bytes,
        checksum: fetched.checksum,
        data,
    }
    .into())
}

fn decode_fetch_entries(head: &[u8], mut payload: Bytes) -> Result<Message, CodecError> {
    let fetched: FetchEntriesHead = codec::decode_exact(head)?;
    let claimed = fetched.entries.iter().map(|(_, _, len)| u64::from(*len));
    check_payload(claimed.sum(), &payload)?;
    let mut entries = Vec::with_capacity(fetched.entries.len());
    for (position, kind, len) in fetched.entries {
        entries.push(Entry {
            index: position.index,
            term: position.term,
            kind: EntryKind::from_number(kind).ok_or(CodecError::Malformed)?,
            payload: payload.split_to(len as usize),
        });
    }
    Ok(FetchEntriesResponse {
        term: fetched.term,
        entries,
        never_had: fetched.never_had,
        unavailable: fetched.unavailable,
    }
    .into())
}
