//! Writes a snapshot: chunks into one reused buffer, large writes, and a name once it is durable.

use std::path::PathBuf;
use std::sync::Arc;

use raft_proto::SnapshotDescription;
use raft_proto::mutants::{Mutant, is_planted};

use super::error::SnapshotError;
use super::format::{
    CHUNK_BYTES, CHUNK_HEADER_BYTES, CHUNK_PAYLOAD_BYTES, Digest, MAX_SNAPSHOT_BYTES,
    SnapshotHeader, Stamp, TRAILER_BYTES, Trailer, chunk_slot_bytes,
};
use super::store::Shared;
use crate::vfs::{AlignedBuffer, BLOCK_BYTES, VfsFile};

/// How much is written and synced at once, in bytes: so that no sync of the log waits for more.
const WRITE_BYTES: usize = 1 << 20;

/// Writes one snapshot. Dropped before [`SnapshotWriter::finish`], it leaves nothing.
#[derive(Debug)]
pub struct SnapshotWriter {
    shared: Arc<Shared>,
    path: PathBuf,
    file: Arc<dyn VfsFile>,
    header: SnapshotHeader,
    stamp: Stamp,
    digest: Digest,
    buffer: AlignedBuffer,
    /// Bytes at the start of the buffer that are whole parts.
    filled: usize,
    /// Payload of the chunk that follows them.
    open_payload: usize,
    /// Bytes in the file.
    written: u64,
    chunks: u64,
    payload_bytes: u64,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Writing,
    /// A write or sync failed: what is in the file is unknown.
    Failed,
    /// It has its name, or the attempt to give it one has said what became of it.
    Published,
}

impl SnapshotWriter {
    pub(crate) fn create(
        shared: Arc<Shared>,
        header: SnapshotHeader,
    ) -> Result<Self, SnapshotError> {
        let header_bytes = header.encode()?;
        let path = shared.temporary_path();
        let file = shared
            .vfs
            .create(&path)
            .map_err(|source| SnapshotError::file("create", &path, source))?;
        let mut buffer = AlignedBuffer::zeroed(header_bytes.len() / BLOCK_BYTES);
        buffer.bytes_mut()[..header_bytes.len()].copy_from_slice(&header_bytes);
        Ok(Self {
            stamp: Stamp::new(&header),
            digest: Digest::default(),
            filled: header_bytes.len(),
            open_payload: 0,
            written: 0,
            chunks: 0,
            payload_bytes: 0,
            stage: Stage::Writing,
            shared,
            path,
            file,
            header,
            buffer,
        })
    }

    /// Appends to the payload. Every MiB it waits for the disk.
    ///
    /// # Errors
    /// [`SnapshotError::TooLarge`], or what the file system says; then nothing more can be written
    /// and the snapshot must be given up.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), SnapshotError> {
        self.check()?;
        while !bytes.is_empty() {
            let count = bytes.len().min(CHUNK_PAYLOAD_BYTES - self.open_payload);
            let (now, later) = bytes.split_at(count);
            let start = self.filled + CHUNK_HEADER_BYTES + self.open_payload;
            self.make_room(start + count);
            self.buffer.bytes_mut()[start..start + count].copy_from_slice(now);
            self.open_payload += count;
            self.payload_bytes += count as u64;
            if self.open_payload == CHUNK_PAYLOAD_BYTES {
                self.close_chunk()?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// Bytes of payload written so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// Completes the snapshot, makes it durable and gives it its name.
    ///
    /// # Errors
    /// What the file system says. Either nothing is stored, or (if the name's durability is in
    /// doubt) the store refuses everything but reading from now on.
    pub fn finish(mut self) -> Result<SnapshotDescription, SnapshotError> {
        self.check()?;
        if self.open_payload > 0 {
            self.close_chunk()?;
        }
        self.write_out()?;
        let trailer = Trailer {
            chunks: self.chunks,
            payload_bytes: self.payload_bytes,
            content: self.digest.content(),
        };
        self.stamp
            .seal_trailer(trailer, &mut self.buffer.bytes_mut()[..TRAILER_BYTES]);
        self.filled = TRAILER_BYTES;
        self.write_out()?;
        self.stage = Stage::Published;
        let published = self.shared.publish(&self.path, self.header.last_included);
        if published.is_err() {
            self.remove_file();
        }
        published?;
        Ok(SnapshotDescription {
            last_included: self.header.last_included,
            membership: self.header.membership.clone(),
            total_bytes: self.written,
            checksum: self.digest.checksum(),
        })
    }

    fn check(&self) -> Result<(), SnapshotError> {
        match self.stage {
            Stage::Writing => Ok(()),
            Stage::Failed | Stage::Published => Err(SnapshotError::Poisoned),
        }
    }

    /// Small snapshots shall not cost the memory of large ones.
    fn make_room(&mut self, bytes: usize) {
        let blocks = bytes.div_ceil(BLOCK_BYTES).next_power_of_two();
        self.buffer.grow(blocks.min(WRITE_BYTES / BLOCK_BYTES));
    }

    /// Completes the chunk under way and makes room for another.
    fn close_chunk(&mut self) -> Result<(), SnapshotError> {
        let slot_bytes = chunk_slot_bytes(self.open_payload);
        let end = self.filled + slot_bytes;
        let slot = &mut self.buffer.bytes_mut()[self.filled..end];
        self.stamp.seal_chunk(self.chunks, self.open_payload, slot);
        self.filled = end;
        self.open_payload = 0;
        self.chunks += 1;
        if WRITE_BYTES - self.filled < CHUNK_BYTES {
            self.write_out()?;
        }
        Ok(())
    }

    /// Writes and syncs what the buffer holds.
    fn write_out(&mut self) -> Result<(), SnapshotError> {
        if self.filled == 0 {
            return Ok(());
        }
        let end = self.written + self.filled as u64;
        if end + TRAILER_BYTES as u64 > MAX_SNAPSHOT_BYTES {
            self.stage = Stage::Failed;
            return Err(SnapshotError::TooLarge);
        }
        let bytes = self
            .buffer
            .as_aligned()
            .first_blocks(self.filled / BLOCK_BYTES);
        self.digest.update(bytes.bytes());
        let mut outcome = self.file.write_at(self.written, bytes);
        if !is_planted(Mutant::SnapshotNotSynced) {
            outcome = outcome.and_then(|()| self.file.sync_data());
        }
        if let Err(source) = outcome {
            self.stage = Stage::Failed;
            return Err(SnapshotError::file("write", &self.path, source));
        }
        self.written = end;
        self.filled = 0;
        Ok(())
    }

    fn remove_file(&self) {
        // Best effort: the next open of the store removes what this does not.
        let _ = self.shared.vfs.remove(&self.path);
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        match self.stage {
            Stage::Writing | Stage::Failed => self.remove_file(),
            Stage::Published => {}
        }
    }
}
