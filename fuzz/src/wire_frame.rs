//! Decodes frames of arbitrary bytes, as a peer may send them. What decodes is encoded again, and
//! that decodes to the same message.

use bytes::{Bytes, BytesMut};
use raft_proto::frame::{self, FLAG_UNCOUNTED};
use raft_proto::wire;

/// The largest body that is accepted, in bytes.
const MAX_BODY_BYTES: u32 = 1 << 20;

/// Runs one input: the bytes of a stream.
pub fn run(data: &[u8]) {
    let mut buffer = BytesMut::from(data);
    // Each round takes a frame off the front.
    while let Ok(Some((header, body))) = frame::take(&mut buffer, MAX_BODY_BYTES) {
        assert!(header.body_bytes <= MAX_BODY_BYTES);
        let Ok(message) = wire::decode(&header, &body) else {
            return;
        };
        let is_uncounted = header.flags & FLAG_UNCOUNTED != 0;
        let encoded = wire::encode(header.group, is_uncounted, &message);
        let encoded = encoded.expect("what fits into a frame fits into one again");
        let bytes = Bytes::from(encoded.to_vec());
        let (again, body) = frame::split(&bytes, u32::MAX).expect("what we encode is a frame");
        assert_eq!((again.kind, again.group), (header.kind, header.group));
        assert_eq!(wire::decode(&again, &body).as_ref(), Ok(&message));
    }
}
