//! Messages to frames and back. Payloads travel as slices beside the structured head: encoding
//! shares them, decoding slices the received frame, neither copies them.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError};
use crate::entry::{Entry, EntryKind, LogPosition};
use crate::envelope::Message;
use crate::frame::{FLAG_UNCOUNTED, FrameHeader, HEADER_BYTES};
use crate::ids::{GroupId, LogIndex, MAX_COUNT, Term};
use crate::message::{
    AdoptRequest, AdoptResponse, AppendRequest, AppendResponse, ComparisonReport,
    DescribeSnapshotRequest, DescribeSnapshotResponse, FetchEntriesRequest, FetchEntriesResponse,
    FetchSnapshotRequest, FetchSnapshotResponse, GatherAbandoned, GatherRequest, GatherResponse,
    Heartbeat, HeartbeatResponse, Hello, HelloResponse, InstallSnapshotRequest,
    InstallSnapshotResponse, PreVoteRequest, PreVoteResponse, ReadIndexRequest, ReadIndexResponse,
    RecountOffer, RecountRequest, RecountResponse, TimeoutNow, VoteRequest, VoteResponse,
};

/// Most bytes a frame's body may have by construction: `u32::MAX` less the header.
pub const MAX_BODY_BYTES: usize = (u32::MAX as usize) - HEADER_BYTES;

/// This many entries, or wanted positions, always fit one message's head
/// ([`codec::MAX_HEAD_BYTES`]), whatever their terms and lengths. Whoever packs a message by
/// payload bytes alone must also stop here: empty entries cost nothing there, and up to 24 bytes
/// each in a head.
pub const MAX_ENTRIES_PER_MESSAGE: usize = 32_768;

const _: () = assert!(MAX_ENTRIES_PER_MESSAGE * 24 + 1024 < codec::MAX_HEAD_BYTES);

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

/// Encodes a message; its payloads are shared, not copied.
///
/// # Errors
/// [`CodecError::TooLarge`] if the structured part exceeds [`codec::MAX_HEAD_BYTES`] or the body
/// [`MAX_BODY_BYTES`].
///
/// # Panics
/// If the entries of an [`AppendRequest`] do not follow its `previous` without a gap, or their
/// terms fall: no log has such entries (§5.3), and the receiver could not tell.
///
/// ```
/// use bytes::Bytes;
/// use raft_proto::{wire, AppendRequest, Entry, EntryKind, GroupId, LogIndex, LogPosition, Term};
///
/// let payload = Bytes::from_static(b"set x = 1");
/// let append = AppendRequest {
///     term: Term(2),
///     sequence: 1,
///     previous: LogPosition::ZERO,
///     commit_index: LogIndex::ZERO,
///     entries: vec![Entry {
///         index: LogIndex::FIRST,
///         term: Term(2),
///         kind: EntryKind::Command,
///         payload: payload.clone(),
///     }],
/// };
/// let frame = wire::encode(GroupId(0), false, &append.into())?;
/// assert_eq!(frame.payloads[0].as_ptr(), payload.as_ptr());
/// # Ok::<(), raft_proto::CodecError>(())
/// ```
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
            let append = AppendHead {
                term: m.term,
                sequence: m.sequence,
                previous: m.previous,
                commit_index: m.commit_index,
                entries: shapes_of(m.previous, &m.entries),
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
        Message::GatherAbandoned(m) => codec::encode(m, head)?,
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
        Message::DescribeSnapshotRequest(m) => codec::encode(m, head)?,
        Message::DescribeSnapshotResponse(m) => codec::encode(m, head)?,
        Message::RecountRequest(m) => codec::encode(m, head)?,
        Message::RecountOffer(m) => codec::encode(m, head)?,
        Message::RecountResponse(m) => codec::encode(m, head)?,
        Message::ComparisonReport(m) => codec::encode(m, head)?,
    }
    Ok(Vec::new())
}

fn shapes_of(previous: LogPosition, entries: &[Entry]) -> EntriesHead {
    let mut runs: Vec<(Term, u64)> = Vec::new();
    let mut before = previous;
    for entry in entries {
        assert_eq!(entry.index, before.index.next(), "entries leave a gap");
        assert!(entry.term >= before.term, "terms of entries fall");
        before = entry.position();
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

/// Decodes the body of a frame, as [`crate::frame::take`] or [`crate::frame::split`] gave it.
/// Payloads are slices of `body`, so a message keeps the buffer alive that it was received in.
///
/// # Errors
/// [`CodecError`]; the stream must then be closed.
pub fn decode(header: &FrameHeader, body: &Bytes) -> Result<Message, CodecError> {
    let head_bytes = (header.head_bytes as usize).min(body.len());
    let head = &body[..head_bytes];
    let payload = body.slice(head_bytes..);
    match header.kind {
        AdoptRequest::KIND => return decode_adopt(head, payload),
        AppendRequest::KIND => return decode_append(head, payload),
        FetchSnapshotResponse::KIND => return decode_fetch_snapshot(head, payload),
        FetchEntriesResponse::KIND => return decode_fetch_entries(head, payload),
        _ => {}
    }
    check_payload(0, &payload)?;
    match header.kind {
        Hello::KIND => plain(head, Message::Hello),
        HelloResponse::KIND => plain(head, Message::HelloResponse),
        GatherRequest::KIND => plain(head, Message::GatherRequest),
        GatherResponse::KIND => plain(head, Message::GatherResponse),
        AdoptResponse::KIND => plain(head, Message::AdoptResponse),
        GatherAbandoned::KIND => plain(head, Message::GatherAbandoned),
        PreVoteRequest::KIND => plain(head, Message::PreVoteRequest),
        PreVoteResponse::KIND => plain(head, Message::PreVoteResponse),
        VoteRequest::KIND => plain(head, Message::VoteRequest),
        VoteResponse::KIND => plain(head, Message::VoteResponse),
        Heartbeat::KIND => plain(head, Message::Heartbeat),
        HeartbeatResponse::KIND => plain(head, Message::HeartbeatResponse),
        TimeoutNow::KIND => plain(head, Message::TimeoutNow),
        ReadIndexRequest::KIND => plain(head, Message::ReadIndexRequest),
        ReadIndexResponse::KIND => plain(head, Message::ReadIndexResponse),
        AppendResponse::KIND => plain(head, Message::AppendResponse),
        InstallSnapshotRequest::KIND => plain(head, Message::InstallSnapshotRequest),
        InstallSnapshotResponse::KIND => plain(head, Message::InstallSnapshotResponse),
        FetchSnapshotRequest::KIND => plain(head, Message::FetchSnapshotRequest),
        FetchEntriesRequest::KIND => plain(head, Message::FetchEntriesRequest),
        DescribeSnapshotRequest::KIND => plain(head, Message::DescribeSnapshotRequest),
        DescribeSnapshotResponse::KIND => plain(head, Message::DescribeSnapshotResponse),
        RecountRequest::KIND => plain(head, Message::RecountRequest),
        RecountOffer::KIND => plain(head, Message::RecountOffer),
        RecountResponse::KIND => plain(head, Message::RecountResponse),
        ComparisonReport::KIND => plain(head, Message::ComparisonReport),
        unknown => Err(CodecError::UnknownKind(unknown)),
    }
}

fn plain<T: DeserializeOwned>(
    head: &[u8],
    variant: impl FnOnce(T) -> Message,
) -> Result<Message, CodecError> {
    codec::decode_exact(head).map(variant)
}

fn decode_adopt(head: &[u8], first_entry: Bytes) -> Result<Message, CodecError> {
    match head.len() {
        0 => Ok(AdoptRequest { first_entry }.into()),
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
    let LogPosition {
        mut index,
        term: mut last_term,
    } = append.previous;
    let mut shapes = shapes.into_iter();
    for (position, (term, count)) in runs.into_iter().enumerate() {
        // The first run may go on in the term of `previous`; each further one begins a later term.
        let is_later = term > last_term || (position == 0 && term == last_term);
        if !is_later || count == 0 {
            return Err(CodecError::Malformed);
        }
        last_term = term;
        for _ in 0..count {
            let (kind, len) = shapes.next().ok_or(CodecError::Malformed)?;
            if index.0 >= MAX_COUNT {
                return Err(CodecError::Malformed);
            }
            index = index.next();
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
