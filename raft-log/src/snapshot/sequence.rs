//! Checks the parts of a snapshot file one after the other: each by itself, and at the end that
//! they are all there, in order, and belong together.

use std::ops::Range;

use super::format::{CHUNK_PAYLOAD_BYTES, Digest, Layout, SnapshotPart, Stamp, Trailer, Unit};

/// How far a file was checked.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    header_bytes: Vec<u8>,
    layout: Layout,
    stamp: Stamp,
    digest: Digest,
    at: u64,
    payload_bytes: u64,
}

impl Sequence {
    /// Nothing was checked yet of the file that starts with these bytes.
    pub(crate) fn new(header_bytes: Vec<u8>, layout: Layout, stamp: Stamp) -> Self {
        Self {
            header_bytes,
            layout,
            stamp,
            digest: Digest::default(),
            at: 0,
            payload_bytes: 0,
        }
    }

    /// The end of what was checked, in bytes; a part starts there.
    pub(crate) const fn at(&self) -> u64 {
        self.at
    }

    /// The next part; `None` at the end.
    pub(crate) fn next(&self) -> Option<Unit> {
        (self.at < self.layout.total_bytes()).then(|| self.layout.unit_at(self.at))
    }

    pub(crate) const fn layout(&self) -> Layout {
        self.layout
    }

    /// CRC-32 of everything checked so far.
    pub(crate) fn checksum(&self) -> u32 {
        self.digest.checksum()
    }

    /// Takes the next part and says where its payload is in `bytes`. If it is not what belongs
    /// there nothing changes.
    pub(crate) fn accept(&mut self, bytes: &[u8]) -> Result<Range<usize>, Unit> {
        let unit = self.layout.unit_at(self.at);
        assert!(bytes.len() == unit.bytes(), "a part is taken whole");
        let payload = self.check(unit.part, bytes).ok_or(unit)?;
        self.digest.update(bytes);
        self.at = unit.end;
        self.payload_bytes += payload.len() as u64;
        Ok(payload)
    }

    fn check(&self, part: SnapshotPart, bytes: &[u8]) -> Option<Range<usize>> {
        match part {
            SnapshotPart::Header => (bytes == self.header_bytes).then_some(0..0),
            SnapshotPart::Chunk(number) => {
                let payload = self.stamp.check_chunk(number, bytes)?;
                // Only the last chunk may have room left: the bytes follow from the payload.
                let is_last = number + 1 == self.layout.chunks();
                (is_last || payload.len() == CHUNK_PAYLOAD_BYTES).then_some(payload)
            }
            SnapshotPart::Trailer => {
                let expected = Trailer {
                    chunks: self.layout.chunks(),
                    payload_bytes: self.payload_bytes,
                    content: self.digest.content(),
                };
                (self.stamp.check_trailer(bytes) == Some(expected)).then_some(0..0)
            }
        }
    }
}
