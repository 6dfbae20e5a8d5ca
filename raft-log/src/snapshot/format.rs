//! The bytes of a snapshot file, described in `docs/SNAPSHOT_FORMAT.md`: pure encoders and checks.

use std::fmt;
use std::ops::Range;

use raft_proto::membership::MAX_MEMBERSHIP_BYTES;
use raft_proto::{ClusterId, CodecError, GroupId, LogIndex, LogPosition, Membership, Term};
use xxhash_rust::xxh3::Xxh3;

use crate::format::blocks;
use crate::format::bytes::{Reader, Writer};
use crate::format::version::{self, START_BYTES, VersionError};
use crate::vfs::BLOCK_BYTES;

/// The format version of snapshot files; there is only one so far.
pub const SNAPSHOT_VERSION: u32 = 1;
/// Bytes of a chunk on disk: every chunk but the last has exactly so many.
pub const CHUNK_BYTES: usize = 64 << 10;
/// Bytes before the payload of a chunk.
pub const CHUNK_HEADER_BYTES: usize = 24;
/// Payload of a full chunk, in bytes.
pub const CHUNK_PAYLOAD_BYTES: usize = CHUNK_BYTES - CHUNK_HEADER_BYTES;
/// Bytes of the trailer.
pub const TRAILER_BYTES: usize = BLOCK_BYTES;
/// Largest snapshot file, in bytes.
pub const MAX_SNAPSHOT_BYTES: u64 = 1 << 40;
/// Largest header, in bytes: five blocks hold the largest membership.
pub const MAX_HEADER_BYTES: usize = 5 * BLOCK_BYTES;

const MAGIC: [u8; 8] = *b"RAFTSNAP";
const CHUNK_MAGIC: [u8; 8] = *b"RAFTCHNK";
const TRAILER_MAGIC: [u8; 8] = *b"RAFTSEND";
/// Bytes of a header before the membership.
const HEADER_FIXED_BYTES: usize = 64;
/// Bytes of a trailer that are not always zero.
const TRAILER_FIXED_BYTES: usize = 40;
/// Where the checksum of a chunk or trailer stands: after the magic.
const CHECKSUM: Range<usize> = 8..12;

const _: () = assert!(CHUNK_BYTES.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(blocks(HEADER_FIXED_BYTES + MAX_MEMBERSHIP_BYTES) == 5);

/// What the header of a snapshot file says: whose it is and what it covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotHeader {
    /// The cluster whose state it is.
    pub cluster: ClusterId,
    /// The Raft group; reserved, always 0 today.
    pub group: GroupId,
    /// The last entry it covers.
    pub last_included: LogPosition,
    /// The membership at that entry.
    pub membership: Membership,
}

/// Why a header cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    Damaged,
    UnsupportedVersion(u32),
}

impl SnapshotHeader {
    /// Its bytes: whole blocks. The same header always has the same bytes.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, CodecError> {
        let membership = self.membership.to_bytes()?;
        if membership.len() > MAX_MEMBERSHIP_BYTES {
            return Err(CodecError::TooLarge(membership.len()));
        }
        let length = blocks(HEADER_FIXED_BYTES + membership.len()) * BLOCK_BYTES;
        let mut rest = Writer::new();
        // At most five blocks, and at most MAX_MEMBERSHIP_BYTES.
        rest.u32(length as u32);
        rest.bytes(&self.cluster.0);
        rest.u32(self.group.0);
        rest.u32(membership.len() as u32);
        rest.u64(self.last_included.index.0);
        rest.u64(self.last_included.term.0);
        rest.bytes(&membership);
        let mut rest = rest.into_vec();
        rest.resize(length - START_BYTES - 4, 0);
        let mut out = Writer::new();
        out.bytes(&version::encode(MAGIC, SNAPSHOT_VERSION));
        out.u32(crc32fast::hash(&rest));
        out.bytes(&rest);
        Ok(out.into_vec())
    }

    /// How long the header is that starts with this block; bounded, but not proven yet.
    pub(crate) fn length(first_block: &[u8]) -> Result<usize, HeaderError> {
        let mut input = Reader::new(first_block);
        let start = input.array().ok_or(HeaderError::Damaged)?;
        version::check(start, MAGIC, SNAPSHOT_VERSION).map_err(|error| match error {
            VersionError::Damaged => HeaderError::Damaged,
            VersionError::Unsupported(found) => HeaderError::UnsupportedVersion(found),
        })?;
        let _checksum = input.u32().ok_or(HeaderError::Damaged)?;
        let length = input.u32().ok_or(HeaderError::Damaged)? as usize;
        let possible = (BLOCK_BYTES..=MAX_HEADER_BYTES).contains(&length);
        if possible && length.is_multiple_of(BLOCK_BYTES) {
            Ok(length)
        } else {
            Err(HeaderError::Damaged)
        }
    }

    /// The header with these bytes, all of them.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        if Self::length(bytes)? != bytes.len() {
            return Err(HeaderError::Damaged);
        }
        let found = Self::parse(bytes).ok_or(HeaderError::Damaged)?;
        // A header has one way to be written, so that its bytes follow from what it says.
        match found.encode() {
            Ok(encoded) if encoded == bytes && found.membership.validate().is_ok() => Ok(found),
            Ok(_) | Err(_) => Err(HeaderError::Damaged),
        }
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut input = Reader::new(bytes);
        input.bytes(START_BYTES + 4 + 4)?;
        let cluster = ClusterId(input.array()?);
        let group = GroupId(input.u32()?);
        let membership_bytes = input.u32()? as usize;
        let last_included = LogPosition {
            index: LogIndex(input.u64()?),
            term: Term(input.u64()?),
        };
        let membership = Membership::from_bytes(input.bytes(membership_bytes)?).ok()?;
        Some(Self {
            cluster,
            group,
            last_included,
            membership,
        })
    }
}

/// A part of a snapshot file that is checked as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotPart {
    /// Whose it is and what it covers.
    Header,
    /// A part of the payload, by its running number from 0.
    Chunk(u64),
    /// How much there is, and the checksum of all of it.
    Trailer,
}

impl fmt::Display for SnapshotPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => write!(f, "its header"),
            Self::Chunk(number) => write!(f, "chunk {number}"),
            Self::Trailer => write!(f, "its trailer"),
        }
    }
}

/// Where the parts of a file are. It follows from the lengths of header and file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    header_bytes: u64,
    total_bytes: u64,
}

/// A part and the bytes it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    pub(crate) part: SnapshotPart,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Unit {
    pub(crate) fn bytes(self) -> usize {
        // No part is longer than a chunk.
        (self.end - self.start) as usize
    }
}

impl Layout {
    /// `None` if no file can have these lengths.
    pub(crate) fn new(header_bytes: usize, total_bytes: u64) -> Option<Self> {
        let header_bytes = header_bytes as u64;
        let least = header_bytes + TRAILER_BYTES as u64;
        let possible = (least..=MAX_SNAPSHOT_BYTES).contains(&total_bytes);
        (possible && total_bytes.is_multiple_of(BLOCK_BYTES as u64)).then_some(Self {
            header_bytes,
            total_bytes,
        })
    }

    pub(crate) const fn total_bytes(self) -> u64 {
        self.total_bytes
    }

    pub(crate) const fn chunks(self) -> u64 {
        (self.trailer_start() - self.header_bytes).div_ceil(CHUNK_BYTES as u64)
    }

    /// Whether a payload of so many bytes has this layout.
    pub(crate) fn fits_payload(self, payload_bytes: u64) -> bool {
        let (full, rest) = (
            payload_bytes / CHUNK_PAYLOAD_BYTES as u64,
            payload_bytes % CHUNK_PAYLOAD_BYTES as u64,
        );
        // Less than a chunk.
        let last = match rest as usize {
            0 => 0,
            rest => chunk_slot_bytes(rest),
        };
        let chunks = full
            .checked_mul(CHUNK_BYTES as u64)
            .and_then(|bytes| bytes.checked_add(last as u64));
        chunks == Some(self.trailer_start() - self.header_bytes)
    }

    /// The part at `offset`, which lies in the file.
    pub(crate) fn unit_at(self, offset: u64) -> Unit {
        assert!(offset < self.total_bytes, "the offset lies in the file");
        if offset < self.header_bytes {
            return Unit {
                part: SnapshotPart::Header,
                start: 0,
                end: self.header_bytes,
            };
        }
        if offset >= self.trailer_start() {
            return Unit {
                part: SnapshotPart::Trailer,
                start: self.trailer_start(),
                end: self.total_bytes,
            };
        }
        let number = (offset - self.header_bytes) / CHUNK_BYTES as u64;
        let start = self.header_bytes + number * CHUNK_BYTES as u64;
        Unit {
            part: SnapshotPart::Chunk(number),
            start,
            end: (start + CHUNK_BYTES as u64).min(self.trailer_start()),
        }
    }

    /// The end of the last whole part that ends within `bytes` of `start`, where a part starts; of
    /// the first one if that is longer.
    pub(crate) fn run_end(self, start: u64, bytes: u64) -> u64 {
        let limit = start.saturating_add(bytes);
        if limit >= self.total_bytes {
            return self.total_bytes;
        }
        let cut = self.unit_at(limit).start;
        if cut > start {
            cut
        } else {
            self.unit_at(start).end
        }
    }

    const fn trailer_start(self) -> u64 {
        self.total_bytes - TRAILER_BYTES as u64
    }
}

/// Bytes on disk of a chunk with so much payload.
pub(crate) const fn chunk_slot_bytes(payload_bytes: usize) -> usize {
    blocks(CHUNK_HEADER_BYTES + payload_bytes) * BLOCK_BYTES
}

/// What a trailer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(crate) chunks: u64,
    pub(crate) payload_bytes: u64,
    /// XXH3-64 of all bytes before the trailer.
    pub(crate) content: u64,
}

/// Computes the checksums of one snapshot's chunks and trailer: all start from whose it is and what
/// it covers, so that a part of another snapshot never passes.
#[derive(Clone, Debug)]
pub(crate) struct Stamp(crc32fast::Hasher);

impl Stamp {
    pub(crate) fn new(header: &SnapshotHeader) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&header.cluster.0);
        hasher.update(&header.group.0.to_le_bytes());
        hasher.update(&header.last_included.index.0.to_le_bytes());
        hasher.update(&header.last_included.term.0.to_le_bytes());
        Self(hasher)
    }

    fn of(&self, bytes: &[u8]) -> u32 {
        let mut hasher = self.0.clone();
        hasher.update(&bytes[..CHECKSUM.start]);
        hasher.update(&bytes[CHECKSUM.end..]);
        hasher.finalize()
    }

    /// Completes the chunk in `slot`, whose payload is in place.
    pub(crate) fn seal_chunk(&self, number: u64, payload_bytes: usize, slot: &mut [u8]) {
        assert!(payload_bytes > 0, "no chunk is empty");
        assert!(
            slot.len() == chunk_slot_bytes(payload_bytes),
            "a chunk takes whole blocks"
        );
        slot[..8].copy_from_slice(&CHUNK_MAGIC);
        // At most 64 KiB.
        slot[12..16].copy_from_slice(&(payload_bytes as u32).to_le_bytes());
        slot[16..24].copy_from_slice(&number.to_le_bytes());
        slot[CHUNK_HEADER_BYTES + payload_bytes..].fill(0);
        let checksum = self.of(slot);
        slot[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Where the payload is in `slot`, if that is this chunk.
    pub(crate) fn check_chunk(&self, number: u64, slot: &[u8]) -> Option<Range<usize>> {
        let mut input = Reader::new(slot);
        let magic: [u8; 8] = input.array()?;
        let checksum = input.u32()?;
        let length = input.u32()? as usize;
        let found = input.u64()?;
        let possible = (1..=CHUNK_PAYLOAD_BYTES).contains(&length)
            && chunk_slot_bytes(length) == slot.len()
            && (magic, found) == (CHUNK_MAGIC, number);
        (possible && self.of(slot) == checksum)
            .then_some(CHUNK_HEADER_BYTES..CHUNK_HEADER_BYTES + length)
    }

    /// Writes the trailer over `block`.
    pub(crate) fn seal_trailer(&self, trailer: Trailer, block: &mut [u8]) {
        assert!(block.len() == TRAILER_BYTES, "a trailer takes one block");
        block.fill(0);
        block[..8].copy_from_slice(&TRAILER_MAGIC);
        block[16..24].copy_from_slice(&trailer.chunks.to_le_bytes());
        block[24..32].copy_from_slice(&trailer.payload_bytes.to_le_bytes());
        block[32..TRAILER_FIXED_BYTES].copy_from_slice(&trailer.content.to_le_bytes());
        let checksum = self.of(block);
        block[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
    }

    /// The trailer in `block`, if it is this snapshot's.
    pub(crate) fn check_trailer(&self, block: &[u8]) -> Option<Trailer> {
        let mut input = Reader::new(block);
        let magic: [u8; 8] = input.array()?;
        let checksum = input.u32()?;
        let _zero = input.u32()?;
        let trailer = Trailer {
            chunks: input.u64()?,
            payload_bytes: input.u64()?,
            content: input.u64()?,
        };
        (magic == TRAILER_MAGIC && self.of(block) == checksum).then_some(trailer)
    }
}

/// Both checksums over the bytes of a file, in order.
#[derive(Clone, Default)]
pub(crate) struct Digest {
    checksum: crc32fast::Hasher,
    content: Xxh3,
}

impl Digest {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.checksum.update(bytes);
        self.content.update(bytes);
    }

    /// CRC-32 of all bytes so far.
    pub(crate) fn checksum(&self) -> u32 {
        self.checksum.clone().finalize()
    }

    /// XXH3-64 of all bytes so far.
    pub(crate) fn content(&self) -> u64 {
        self.content.digest()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Digest").finish_non_exhaustive()
    }
}
