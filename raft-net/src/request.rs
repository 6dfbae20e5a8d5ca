//! The client protocol's frames: the usual header, whose head starts with a request id.

use bytes::{Buf, Bytes};
use raft_proto::frame::HEADER_BYTES;
use raft_proto::{FrameHeader, GroupId};

use crate::error::ProtocolError;
use crate::queue::Batch;

/// Length of the request id, in bytes.
pub(crate) const ID_BYTES: usize = 8;
/// Kind of the first frame in both directions; applications use other kinds.
pub(crate) const KIND_WELCOME: u8 = 0;
/// The id of the welcome.
pub(crate) const WELCOME_ID: u64 = 0;

/// A frame that is about to be queued.
pub(crate) struct Outgoing<'a> {
    pub(crate) id: u64,
    pub(crate) kind: u8,
    pub(crate) head: &'a [u8],
    pub(crate) payloads: &'a [Bytes],
}

impl Outgoing<'_> {
    /// Bytes of the body, request id included.
    fn body_bytes(&self) -> usize {
        ID_BYTES + self.head.len() + self.payloads.iter().map(Bytes::len).sum::<usize>()
    }

    /// Bytes of the frame, if its body is at most `limit` long.
    pub(crate) fn frame_bytes(&self, limit: u32) -> Option<usize> {
        let body = self.body_bytes();
        (body <= limit as usize).then_some(HEADER_BYTES + body)
    }

    /// Appends the frame; its length was checked by [`frame_bytes`](Self::frame_bytes).
    pub(crate) fn append_to(&self, batch: &mut Batch) {
        let header = FrameHeader {
            body_bytes: self.body_bytes() as u32,
            kind: self.kind,
            flags: 0,
            group: GroupId(0),
            head_bytes: (ID_BYTES + self.head.len()) as u32,
        };
        batch.push_parts(&header, &self.id.to_le_bytes(), self.head, self.payloads);
    }
}

/// The request id of a received frame, and what follows it.
pub(crate) fn split(header: &FrameHeader, mut body: Bytes) -> Result<(u64, Bytes), ProtocolError> {
    if (header.head_bytes as usize) < ID_BYTES {
        return Err(ProtocolError::NoRequestId(header.head_bytes));
    }
    let id = body.get_u64_le();
    Ok((id, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_round_trip() {
        let payloads = [Bytes::from_static(b"pay"), Bytes::from_static(b"load")];
        let outgoing = Outgoing {
            id: 77,
            kind: 3,
            head: b"head",
            payloads: &payloads,
        };
        assert_eq!(outgoing.frame_bytes(18), None);
        assert_eq!(outgoing.frame_bytes(19), Some(35));
        let mut batch = Batch::default();
        outgoing.append_to(&mut batch);
        assert_eq!(batch.bytes(), 35);
        let bytes = Bytes::from(batch.into_chunks().concat());
        let (header, body) = raft_proto::frame::split(&bytes, 19).unwrap();
        assert_eq!((header.kind, header.head_bytes), (3, 12));
        let (id, rest) = split(&header, body).unwrap();
        assert_eq!((id, &rest[..]), (77, &b"headpayload"[..]));
    }

    #[test]
    fn a_frame_without_an_id_is_refused() {
        let header = FrameHeader {
            body_bytes: 9,
            kind: 1,
            flags: 0,
            group: GroupId(0),
            head_bytes: 7,
        };
        let body = Bytes::from_static(b"123456789");
        assert_eq!(split(&header, body), Err(ProtocolError::NoRequestId(7)));
    }
}
