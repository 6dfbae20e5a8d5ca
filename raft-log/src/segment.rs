//! Segment files: their names, their making from prepared ones, their seals.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft_proto::MAX_COUNT;
use raft_proto::mutants::{Mutant, is_planted};

use crate::error::FileError;
use crate::format::checksum::Checksum;
use crate::format::preamble::Preamble;
use crate::format::seal::{self, Seal};
use crate::prepare::PreparedSegment;
use crate::vfs::{AlignedBuffer, BLOCK_BYTES, Vfs, VfsFile};

/// Suffix of segment files.
const SEGMENT_SUFFIX: &str = ".wal";

/// The highest sequence that a log goes on from: no log gets there, and what follows must have
/// numbers left.
pub(crate) const LAST_SEQUENCE: u64 = MAX_COUNT - (1 << 40);

/// An open segment file.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    pub(crate) sequence: u64,
    pub(crate) path: PathBuf,
    pub(crate) segment_bytes: u64,
    pub(crate) checksum: Checksum,
    pub(crate) file: Arc<dyn VfsFile>,
}

/// The file of the segment with this sequence.
pub(crate) fn path_of(directory: &Path, sequence: u64) -> PathBuf {
    directory.join(format!("{sequence:016x}{SEGMENT_SUFFIX}"))
}

/// The sequence in a segment's file name; `None` for any other file.
pub(crate) fn sequence_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SEGMENT_SUFFIX)?;
    let sequence = u64::from_str_radix(digits, 16).ok()?;
    let is_ours = format!("{sequence:016x}") == digits && (1..=MAX_COUNT).contains(&sequence);
    is_ours.then_some(sequence)
}

impl SegmentFile {
    /// The segment that `prepared` is to become with this preamble; nothing is written yet.
    pub(crate) fn of_prepared(prepared: &PreparedSegment, preamble: &Preamble) -> Self {
        Self {
            sequence: preamble.sequence,
            path: prepared.path.clone(),
            segment_bytes: preamble.segment_bytes,
            checksum: Checksum::new(preamble.salt, preamble.sequence),
            file: Arc::clone(&prepared.file),
        }
    }

    /// Writes the preamble, makes everything written so far durable, and only then gives the
    /// segment its name, durably.
    pub(crate) fn publish(
        mut self,
        preamble: &Preamble,
        vfs: &dyn Vfs,
        directory: &Path,
    ) -> Result<Self, FileError> {
        let bytes = preamble.encode();
        let mut buffer = AlignedBuffer::zeroed(bytes.len().div_ceil(BLOCK_BYTES));
        buffer.bytes_mut()[..bytes.len()].copy_from_slice(&bytes);
        self.write(0, &buffer)?;
        if !is_planted(Mutant::SegmentNamedUnsynced) {
            self.sync()?;
        }
        let path = path_of(directory, self.sequence);
        vfs.rename(&self.path, &path)
            .map_err(|source| FileError::new("rename a segment to", &path, source))?;
        if is_planted(Mutant::NoDirectoryFsync) {
            self.path = path;
            return Ok(self);
        }
        vfs.sync_dir(directory)
            .map_err(|source| FileError::new("sync directory", directory, source))?;
        self.path = path;
        Ok(self)
    }

    /// Writes a whole buffer.
    pub(crate) fn write(&self, offset: u64, buffer: &AlignedBuffer) -> Result<(), FileError> {
        let end = offset + buffer.len() as u64;
        assert!(
            end <= self.segment_bytes,
            "a write stays within its segment"
        );
        let written = self.file.write_at(offset, buffer.as_aligned());
        written.map_err(|source| FileError::new("write", &self.path, source))
    }

    /// Makes what was written durable.
    pub(crate) fn sync(&self) -> Result<(), FileError> {
        if is_planted(Mutant::NoFsync) {
            return Ok(());
        }
        let synced = self.file.sync_data();
        if is_planted(Mutant::FsyncErrorIgnored) {
            return Ok(());
        }
        synced.map_err(|source| FileError::new("sync", &self.path, source))
    }

    /// Durably names the segment that continues this one. The seal fills one sector, so it is
    /// there or not; writing it again with another successor is as safe as writing it once.
    pub(crate) fn seal(&self, seal: &Seal) -> Result<(), FileError> {
        let offset = seal::offset(self.segment_bytes);
        let mut block = AlignedBuffer::zeroed(1);
        seal::encode(seal, &self.checksum, offset, block.bytes_mut());
        self.write(offset, &block)?;
        self.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_names_are_segments() {
        let path = path_of(Path::new("d"), 0x1f);
        assert_eq!(path, Path::new("d/000000000000001f.wal"));
        assert_eq!(sequence_of("000000000000001f.wal"), Some(0x1f));
        for other in [
            "1f.wal",
            "000000000000001F.wal",
            "0000000000000000.wal",
            "ffffffffffffffff.wal",
            "x.tmp",
        ] {
            assert_eq!(sequence_of(other), None, "{other}");
        }
    }
}
