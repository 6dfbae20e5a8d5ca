//! Snapshot files wherever they are: what they say, whether all of it is right, their payload.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use raft_proto::{ClusterId, GroupId, LogPosition, Membership, SnapshotDescription};

use super::error::SnapshotError;
use super::file::{PartReader, SnapshotFile, read_header};
use super::format::SnapshotHeader;
use crate::vfs::{Access, Vfs};

/// A snapshot file of which everything was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotSummary {
    /// The cluster whose state it is.
    pub cluster: ClusterId,
    /// The Raft group; reserved, always 0 today.
    pub group: GroupId,
    /// The last entry it covers.
    pub last_included: LogPosition,
    /// The membership at that entry.
    pub membership: Membership,
    /// The state machine's bytes.
    pub payload_bytes: u64,
    /// Number of chunks.
    pub chunks: u64,
    /// CRC-32 over all bytes of the file.
    pub checksum: u32,
    /// Length of the file in bytes.
    pub total_bytes: u64,
}

impl SnapshotSummary {
    /// The description that is offered to peers.
    #[must_use]
    pub fn description(&self) -> SnapshotDescription {
        SnapshotDescription {
            last_included: self.last_included,
            membership: self.membership.clone(),
            total_bytes: self.total_bytes,
            checksum: self.checksum,
        }
    }
}

/// Reads the header of a snapshot file; the rest of the file is not looked at.
///
/// # Errors
/// [`SnapshotError::Damaged`], [`SnapshotError::UnsupportedVersion`], or what the file system says.
pub fn read_snapshot_header(vfs: &dyn Vfs, path: &Path) -> Result<SnapshotHeader, SnapshotError> {
    let file = vfs
        .open(path, Access::Read)
        .map_err(|source| SnapshotError::file("open", path, source))?;
    let size = file
        .size()
        .map_err(|source| SnapshotError::file("read the size of", path, source))?;
    let bytes = read_header(file.as_ref(), path, size)?;
    SnapshotHeader::decode(&bytes).map_err(|error| SnapshotError::of_header(path, error))
}

/// Checks every byte of a snapshot file. It needs about a MiB of memory, whatever the file's size.
///
/// # Errors
/// [`SnapshotError::Damaged`], [`SnapshotError::UnsupportedVersion`], or what the file system says.
pub fn verify_snapshot(vfs: &dyn Vfs, path: &Path) -> Result<SnapshotSummary, SnapshotError> {
    check_all(PartReader::new(open(vfs, path)?))
}

/// The payload of a snapshot file that is in nobody's store.
///
/// # Errors
/// As [`verify_snapshot`], for header and trailer; the rest is checked while it is read.
pub fn open_snapshot_payload(vfs: &dyn Vfs, path: &Path) -> Result<SnapshotPayload, SnapshotError> {
    Ok(SnapshotPayload::new(open(vfs, path)?))
}

fn open(vfs: &dyn Vfs, path: &Path) -> Result<Arc<SnapshotFile>, SnapshotError> {
    let found = SnapshotFile::open(vfs, path)?;
    let missing = || {
        let reason = "there is no such file; check the path";
        let source = io::Error::new(io::ErrorKind::NotFound, reason);
        SnapshotError::file("open", path, source)
    };
    found.map(Arc::new).ok_or_else(missing)
}

/// Reads a file to its end.
pub(crate) fn check_all(mut parts: PartReader) -> Result<SnapshotSummary, SnapshotError> {
    while parts.next()?.is_some() {}
    let source = parts.source();
    let header = source.header.clone();
    Ok(SnapshotSummary {
        cluster: header.cluster,
        group: header.group,
        last_included: header.last_included,
        membership: header.membership,
        payload_bytes: source.trailer.payload_bytes,
        chunks: source.trailer.chunks,
        checksum: parts.checksum(),
        total_bytes: source.layout.total_bytes(),
    })
}

/// The state machine's bytes of a snapshot, in order.
///
/// Each chunk is checked before a byte of it is given out, and the whole file before its end is
/// reported; damage is an error of kind `InvalidData` that carries the [`SnapshotError`]. The file
/// stays readable when the snapshot is removed from its store meanwhile.
#[derive(Debug)]
pub struct SnapshotPayload {
    parts: PartReader,
    /// What was not given out yet of the current chunk.
    left: Range<usize>,
}

impl SnapshotPayload {
    pub(crate) fn new(source: Arc<SnapshotFile>) -> Self {
        Self {
            parts: PartReader::new(source),
            left: 0..0,
        }
    }

    /// What the file says of itself.
    #[must_use]
    pub fn header(&self) -> &SnapshotHeader {
        &self.parts.source().header
    }

    /// How many bytes there are in all.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        self.parts.source().trailer.payload_bytes
    }
}

impl io::Read for SnapshotPayload {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while self.left.is_empty() {
            // Damage does not advance the reader: every later call meets it again.
            match self.parts.next() {
                Ok(Some(payload)) => self.left = payload,
                Ok(None) => return Ok(0),
                Err(SnapshotError::File(error)) => {
                    return Err(io::Error::new(error.source.kind(), error));
                }
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
        let count = self.left.len().min(buffer.len());
        let (from, to) = (self.left.start, self.left.start + count);
        buffer[..count].copy_from_slice(&self.parts.run()[from..to]);
        self.left.start = to;
        Ok(count)
    }
}
