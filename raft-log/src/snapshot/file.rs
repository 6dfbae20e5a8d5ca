//! An open snapshot file: what it says of itself, and its parts, each checked before it is used.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::error::SnapshotError;
use super::format::{Layout, SnapshotHeader, SnapshotPart, Stamp, TRAILER_BYTES, Trailer};
use super::sequence::Sequence;
use crate::vfs::{Access, BLOCK_BYTES, Vfs, VfsFile};

/// How much is read at once, in bytes.
const READ_BYTES: u64 = 1 << 20;

/// A snapshot file whose header and trailer are valid and agree with its size.
#[derive(Debug)]
pub(crate) struct SnapshotFile {
    pub(crate) path: PathBuf,
    file: Arc<dyn VfsFile>,
    pub(crate) header: SnapshotHeader,
    header_bytes: Vec<u8>,
    pub(crate) layout: Layout,
    stamp: Stamp,
    pub(crate) trailer: Trailer,
}

impl SnapshotFile {
    /// Opens it; `None` if there is no such file.
    pub(crate) fn open(vfs: &dyn Vfs, path: &Path) -> Result<Option<Self>, SnapshotError> {
        let file = match vfs.open(path, Access::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(SnapshotError::file("open", path, error)),
        };
        let size = file
            .size()
            .map_err(|source| SnapshotError::file("read the size of", path, source))?;
        let header_bytes = read_header(file.as_ref(), path, size)?;
        let header = SnapshotHeader::decode(&header_bytes)
            .map_err(|error| SnapshotError::of_header(path, error))?;
        // The trailer is the last block of a file of a possible size.
        let end = size.saturating_sub(TRAILER_BYTES as u64);
        let no_trailer = || SnapshotError::damaged(path, end, SnapshotPart::Trailer);
        let layout = Layout::new(header_bytes.len(), size).ok_or_else(no_trailer)?;
        let mut block = vec![0; TRAILER_BYTES];
        read(file.as_ref(), path, end, &mut block)?;
        let stamp = Stamp::new(&header);
        let trailer = stamp.check_trailer(&block).ok_or_else(no_trailer)?;
        if trailer.chunks != layout.chunks() || !layout.fits_payload(trailer.payload_bytes) {
            return Err(no_trailer());
        }
        Ok(Some(Self {
            path: path.to_path_buf(),
            file,
            header,
            header_bytes,
            layout,
            stamp,
            trailer,
        }))
    }

    /// At most about `max_bytes` of the file from `offset`, up to the end of a part if one ends
    /// there. All parts that are touched are checked.
    pub(crate) fn read_range(&self, offset: u64, max_bytes: u32) -> Result<Bytes, SnapshotError> {
        let total = self.layout.total_bytes();
        if offset >= total || max_bytes == 0 {
            return Ok(Bytes::new());
        }
        let first = self.layout.unit_at(offset).start;
        let wanted = offset.saturating_add(u64::from(max_bytes)).min(total);
        // Ends with a part, so that the next read need not check this one again.
        let cut = match self.layout.run_end(first, wanted - first) {
            cut if cut > offset && cut <= wanted => cut,
            _ => wanted,
        };
        let end = self.layout.unit_at(cut - 1).end;
        // At most the bytes asked for and two parts.
        let mut bytes = vec![0; (end - first) as usize];
        read(self.file.as_ref(), &self.path, first, &mut bytes)?;
        let mut at = first;
        while at < end {
            let unit = self.layout.unit_at(at);
            let range = (unit.start - first) as usize..(unit.end - first) as usize;
            if !self.holds(unit.part, &bytes[range]) {
                return Err(SnapshotError::damaged(&self.path, unit.start, unit.part));
            }
            at = unit.end;
        }
        let range = (offset - first) as usize..(cut - first) as usize;
        Ok(Bytes::from(bytes).slice(range))
    }

    fn holds(&self, part: SnapshotPart, bytes: &[u8]) -> bool {
        match part {
            SnapshotPart::Header => bytes == self.header_bytes,
            SnapshotPart::Chunk(number) => self.stamp.check_chunk(number, bytes).is_some(),
            SnapshotPart::Trailer => self.stamp.check_trailer(bytes) == Some(self.trailer),
        }
    }
}

/// The header at the start of a file, of a bounded length, not decoded yet.
pub(crate) fn read_header(
    file: &dyn VfsFile,
    path: &Path,
    size: u64,
) -> Result<Vec<u8>, SnapshotError> {
    let damaged = || SnapshotError::damaged(path, 0, SnapshotPart::Header);
    if size < BLOCK_BYTES as u64 {
        return Err(damaged());
    }
    let mut bytes = vec![0; BLOCK_BYTES];
    read(file, path, 0, &mut bytes)?;
    let length =
        SnapshotHeader::length(&bytes).map_err(|error| SnapshotError::of_header(path, error))?;
    if size < length as u64 {
        return Err(damaged());
    }
    bytes.resize(length, 0);
    read(file, path, 0, &mut bytes)?;
    Ok(bytes)
}

fn read(
    file: &dyn VfsFile,
    path: &Path,
    offset: u64,
    buffer: &mut [u8],
) -> Result<(), SnapshotError> {
    file.read_at(offset, buffer)
        .map_err(|source| SnapshotError::file("read", path, source))
}

/// Reads the parts of a file in order, many at once, and checks each and all together.
#[derive(Debug)]
pub(crate) struct PartReader {
    source: Arc<SnapshotFile>,
    sequence: Sequence,
    /// Whole parts from `run_start` on.
    run: Vec<u8>,
    run_start: u64,
}

impl PartReader {
    pub(crate) fn new(source: Arc<SnapshotFile>) -> Self {
        let sequence = Sequence::new(
            source.header_bytes.clone(),
            source.layout,
            source.stamp.clone(),
        );
        Self {
            source,
            sequence,
            run: Vec::new(),
            run_start: 0,
        }
    }

    /// Checks the next part and gives the range of its payload in [`PartReader::run`]; `None` at
    /// the end of the file.
    pub(crate) fn next(&mut self) -> Result<Option<Range<usize>>, SnapshotError> {
        let Some(unit) = self.sequence.next() else {
            return Ok(None);
        };
        if unit.start >= self.run_start + self.run.len() as u64 {
            let end = self.sequence.layout().run_end(unit.start, READ_BYTES);
            self.run_start = unit.start;
            // At most READ_BYTES, for no part is longer.
            self.run.resize((end - unit.start) as usize, 0);
            let source = &self.source;
            let filled = read(
                source.file.as_ref(),
                &source.path,
                unit.start,
                &mut self.run,
            );
            if filled.is_err() {
                // What a failed read left is nothing that can be looked at.
                self.run.clear();
            }
            filled?;
        }
        let start = (unit.start - self.run_start) as usize;
        let bytes = &self.run[start..start + unit.bytes()];
        let payload = self
            .sequence
            .accept(bytes)
            .map_err(|unit| SnapshotError::damaged(&self.source.path, unit.start, unit.part))?;
        Ok(Some(start + payload.start..start + payload.end))
    }

    pub(crate) fn run(&self) -> &[u8] {
        &self.run
    }

    pub(crate) fn source(&self) -> &SnapshotFile {
        &self.source
    }

    /// CRC-32 of all that was checked.
    pub(crate) fn checksum(&self) -> u32 {
        self.sequence.checksum()
    }
}
