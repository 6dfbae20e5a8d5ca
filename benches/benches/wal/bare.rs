//! The floor of a log: checksum, write and fdatasync of as many bytes at the same alignment, round
//! and round over a file that was written with zeros before.

use std::hint::black_box;
use std::sync::Arc;

use raft_log::vfs::{AlignedBuffer, BLOCK_BYTES, RealVfs, Vfs, VfsFile};
use tempfile::TempDir;

/// Size of the file, as large as a segment.
const FILE_BYTES: u64 = 64 << 20;
/// What a batch adds to its payloads: 32 bytes a record and an identity at both ends.
const RECORD_OVERHEAD_BYTES: usize = 32;
const IDENTITY_BYTES: usize = 224;

/// The bytes of a batch, and where they go.
pub(super) struct BareFile {
    _directory: TempDir,
    file: Arc<dyn VfsFile>,
    buffer: AlignedBuffer,
    offset: u64,
    count: u64,
}

impl BareFile {
    /// For batches of so many entries of so many bytes.
    pub(super) fn new(count: u64, bytes: usize) -> Self {
        let directory = super::directory();
        let file = RealVfs.create(&directory.path().join("bare"));
        let file = file.expect("a fresh file is created");
        let zeros = AlignedBuffer::zeroed(256);
        for offset in (0..FILE_BYTES).step_by(zeros.len()) {
            let written = file.write_at(offset, zeros.as_aligned());
            written.expect("there is room");
        }
        file.sync_data().expect("the disk works");
        let batch = count as usize * (bytes + RECORD_OVERHEAD_BYTES) + 2 * IDENTITY_BYTES;
        let mut buffer = AlignedBuffer::zeroed(batch.div_ceil(BLOCK_BYTES).max(2));
        buffer.bytes_mut().fill(7);
        Self {
            _directory: directory,
            file,
            buffer,
            offset: 0,
            count,
        }
    }

    /// One batch; returns how many entries that is.
    pub(super) fn write(&mut self) -> u64 {
        black_box(crc32fast::hash(&self.buffer));
        if self.offset + self.buffer.len() as u64 > FILE_BYTES {
            self.offset = 0;
        }
        let written = self.file.write_at(self.offset, self.buffer.as_aligned());
        written.expect("there is room");
        self.file.sync_data().expect("the disk works");
        self.offset += self.buffer.len() as u64;
        self.count
    }
}
