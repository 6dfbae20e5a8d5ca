//! One log entry on disk: a 32-byte header and the payload, padded to eight bytes.

use bytes::Bytes;
use raft_proto::mutants::{Mutant, is_planted};
use raft_proto::{Entry, EntryKind, GroupId, LogIndex, Term};

use super::bytes::Reader;
use super::checksum::Checksum;

/// Length of a record's header, in bytes.
pub(crate) const RECORD_HEADER_BYTES: usize = 32;
/// Records start at multiples of this many bytes.
pub(crate) const RECORD_ALIGN: usize = 8;

/// What a record's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) checksum: u32,
    pub(crate) payload_bytes: u32,
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
    pub(crate) kind: u8,
    pub(crate) group: GroupId,
}

/// The bytes a record with this payload takes, padding included.
pub(crate) const fn record_bytes(payload_bytes: usize) -> usize {
    (RECORD_HEADER_BYTES + payload_bytes).next_multiple_of(RECORD_ALIGN)
}

/// Writes a record to the front of `out`, which belongs to file offset `offset`; returns its
/// length in bytes. The padding is left as it is: zero.
pub(crate) fn encode(
    entry: &Entry,
    group: GroupId,
    checksum: &Checksum,
    offset: u64,
    out: &mut [u8],
) -> usize {
    let length = entry.payload.len();
    let mut header = [0; RECORD_HEADER_BYTES];
    // `LogOptions::max_entry_bytes` is a u32.
    header[4..8].copy_from_slice(&(length as u32).to_le_bytes());
    header[8..16].copy_from_slice(&entry.index.0.to_le_bytes());
    header[16..24].copy_from_slice(&entry.term.0.to_le_bytes());
    header[24] = entry.kind as u8;
    header[28..32].copy_from_slice(&group.0.to_le_bytes());
    let sum = checksum.of(offset, &header[4..], &entry.payload);
    header[..4].copy_from_slice(&sum.to_le_bytes());
    out[..RECORD_HEADER_BYTES].copy_from_slice(&header);
    out[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + length].copy_from_slice(&entry.payload);
    record_bytes(length)
}

/// The header at the front of `bytes`; not checked, its length may be anything.
pub(crate) fn header(bytes: &[u8]) -> Option<RecordHeader> {
    let mut input = Reader::new(bytes.get(..RECORD_HEADER_BYTES)?);
    let checksum = input.u32()?;
    let payload_bytes = input.u32()?;
    let index = LogIndex(input.u64()?);
    let term = Term(input.u64()?);
    let [kind, ..] = input.array::<4>()?;
    let group = GroupId(input.u32()?);
    Some(RecordHeader {
        checksum,
        payload_bytes,
        index,
        term,
        kind,
        group,
    })
}

/// Checks the record at the front of `bytes`, which belongs to file offset `offset`; `None` if it
/// is not whole.
pub(crate) fn check<'a>(
    bytes: &'a [u8],
    checksum: &Checksum,
    offset: u64,
) -> Option<(RecordHeader, EntryKind, &'a [u8])> {
    let header = header(bytes)?;
    let end = RECORD_HEADER_BYTES.checked_add(header.payload_bytes as usize)?;
    let payload = bytes.get(RECORD_HEADER_BYTES..end)?;
    let sum = checksum.of(offset, &bytes[4..RECORD_HEADER_BYTES], payload);
    if sum != header.checksum && !is_planted(Mutant::ContentUnchecked) {
        return None;
    }
    Some((header, EntryKind::from_number(header.kind)?, payload))
}

/// Makes an entry of a checked record.
pub(crate) fn entry(header: &RecordHeader, kind: EntryKind, payload: Bytes) -> Entry {
    Entry {
        index: header.index,
        term: header.term,
        kind,
        payload,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Entry {
        Entry {
            index: LogIndex(7),
            term: Term(3),
            kind: EntryKind::Command,
            payload: Bytes::from_static(b"hello"),
        }
    }

    #[test]
    fn every_field_and_the_place_are_covered() {
        let checksum = Checksum::new(11, 2);
        let mut bytes = [0; 64];
        let length = encode(&sample(), GroupId(0), &checksum, 4096, &mut bytes);
        assert_eq!(length, 40);
        let (header, kind, payload) = check(&bytes, &checksum, 4096).unwrap();
        assert_eq!(
            entry(&header, kind, Bytes::copy_from_slice(payload)),
            sample()
        );
        for byte in 0..37 {
            let mut damaged = bytes;
            damaged[byte] ^= 1;
            assert_eq!(check(&damaged, &checksum, 4096), None, "byte {byte}");
        }
        assert_eq!(check(&bytes, &checksum, 4104), None);
        assert_eq!(check(&bytes, &Checksum::new(12, 2), 4096), None);
        assert_eq!(check(&bytes, &Checksum::new(11, 3), 4096), None);
        assert_eq!(check(&bytes[..36], &checksum, 4096), None);
    }
}
