//! Receives a snapshot into a part file that outlives the process: every part is checked before it
//! is written, and counted only when it is durable.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft_proto::SnapshotDescription;
use raft_proto::mutants::{Mutant, is_planted};

use super::error::SnapshotError;
use super::format::{CHUNK_BYTES, HeaderError, Layout, SnapshotHeader, SnapshotPart, Stamp};
use super::sequence::Sequence;
use super::store::ReceiverTurn;
use crate::vfs::{Access, AlignedBuffer, BLOCK_BYTES, VfsFile};

/// How much is written at once, in bytes.
const WRITE_BYTES: usize = 1 << 20;
/// After how many bytes a sync is due.
const SYNC_BYTES: u64 = 4 << 20;
/// What may have been written since the last sync that succeeded, in bytes: after a restart so much
/// at the end of the part file is written again.
const DOUBTFUL_BYTES: u64 = SYNC_BYTES + WRITE_BYTES as u64 + CHUNK_BYTES as u64;

/// Receives one snapshot. Dropped before [`SnapshotReceiver::finish`], it leaves its part file, with
/// which [`crate::SnapshotStore::receive`] goes on.
#[derive(Debug)]
pub struct SnapshotReceiver {
    turn: ReceiverTurn,
    snapshot: SnapshotDescription,
    path: PathBuf,
    file: Arc<dyn VfsFile>,
    sequence: Sequence,
    buffer: AlignedBuffer,
    /// Bytes at the start of the buffer that are whole, checked parts.
    checked: usize,
    /// Bytes in the buffer.
    filled: usize,
    /// Bytes in the file.
    written: u64,
    /// Bytes in the file that a crash does not take away.
    durable: u64,
    health: Health,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Sound,
    /// A write or sync failed: what is in the file since the last sync is unknown.
    Failed,
}

impl SnapshotReceiver {
    pub(crate) fn open(
        turn: ReceiverTurn,
        snapshot: &SnapshotDescription,
        header: &SnapshotHeader,
        name: &str,
    ) -> Result<Self, SnapshotError> {
        let header_bytes = header.encode()?;
        let total_bytes = snapshot.total_bytes;
        let layout = Layout::new(header_bytes.len(), total_bytes)
            .ok_or(SnapshotError::BadDescription { total_bytes })?;
        let path = turn.shared.directory.join(name);
        let (file, is_new) = match turn.shared.vfs.open(&path, Access::ReadWrite) {
            Ok(file) => (file, IsNew::No),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                (create(&turn, &path)?, IsNew::Yes)
            }
            Err(error) => return Err(SnapshotError::file("open", &path, error)),
        };
        let nothing = Sequence::new(header_bytes, layout, Stamp::new(header));
        let mut receiver = Self {
            sequence: nothing.clone(),
            buffer: AlignedBuffer::zeroed((WRITE_BYTES + CHUNK_BYTES) / BLOCK_BYTES),
            checked: 0,
            filled: 0,
            written: 0,
            durable: 0,
            health: Health::Sound,
            snapshot: snapshot.clone(),
            file,
            path: path.clone(),
            turn,
        };
        if is_new == IsNew::No && receiver.resume()? == Resumed::Unusable {
            receiver.remove_file()?;
            receiver.file = create(&receiver.turn, &path)?;
            receiver.sequence = nothing;
            receiver.written = 0;
        }
        Ok(receiver)
    }

    /// Bytes that a crash does not take away.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.durable
    }

    /// The offset of the byte to ask for next.
    #[must_use]
    pub fn next_offset(&self) -> u64 {
        self.written + self.filled as u64
    }

    /// The snapshot that is received.
    #[must_use]
    pub fn snapshot(&self) -> &SnapshotDescription {
        &self.snapshot
    }

    /// Takes bytes of the file from `offset` on and returns the offset of the byte wanted next.
    /// What is there already is passed over; data after a gap is not taken.
    ///
    /// # Errors
    /// [`SnapshotError::ReceivedDamaged`]: ask for [`SnapshotReceiver::next_offset`] again.
    /// [`SnapshotError::UnsupportedVersion`] if the sender's program is newer.
    /// What the file system says, after which the receiver takes nothing more: drop it and receive
    /// again.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<u64, SnapshotError> {
        self.check_health()?;
        let next = self.next_offset();
        let room = self.snapshot.total_bytes - next;
        let known = match next.checked_sub(offset) {
            // What is known is behind the data: at most as long as it.
            Some(known) => known.min(data.len() as u64) as usize,
            None => return Ok(next),
        };
        let mut data = &data[known..];
        if data.len() as u64 > room {
            // A longer file than described is another one.
            return Err(self.refuse(self.snapshot.total_bytes, SnapshotPart::Trailer));
        }
        while !data.is_empty() {
            let count = data.len().min(self.buffer.len() - self.filled);
            let (now, later) = data.split_at(count);
            self.buffer.bytes_mut()[self.filled..self.filled + count].copy_from_slice(now);
            self.filled += count;
            self.take_parts()?;
            data = later;
        }
        Ok(self.next_offset())
    }

    /// Makes durable what was received and written so far; parts that are not whole yet are not
    /// counted.
    ///
    /// # Errors
    /// As [`SnapshotReceiver::write`].
    pub fn sync(&mut self) -> Result<u64, SnapshotError> {
        self.check_health()?;
        self.write_out()?;
        self.make_durable()?;
        Ok(self.durable)
    }

    /// Checks that all of it is what was described, and stores it under its name.
    ///
    /// # Errors
    /// [`SnapshotError::Incomplete`]; [`SnapshotError::NotAsDescribed`], and the part file is gone;
    /// or what the file system says.
    pub fn finish(mut self) -> Result<(), SnapshotError> {
        self.sync()?;
        let total_bytes = self.snapshot.total_bytes;
        if self.durable < total_bytes {
            return Err(SnapshotError::Incomplete {
                received_bytes: self.durable,
                total_bytes,
            });
        }
        let (expected, found) = (self.snapshot.checksum, self.sequence.checksum());
        if found != expected {
            self.remove_file()?;
            return Err(SnapshotError::NotAsDescribed { expected, found });
        }
        let shared = &self.turn.shared;
        shared.publish(&self.path, self.snapshot.last_included)
    }

    /// Gives the transfer up: removes the part file.
    ///
    /// # Errors
    /// What the file system says.
    pub fn abandon(self) -> Result<(), SnapshotError> {
        self.remove_file()
    }

    /// Checks the parts that are whole now, and writes them once they are many.
    fn take_parts(&mut self) -> Result<(), SnapshotError> {
        while let Some(unit) = self.sequence.next() {
            let end = self.checked + unit.bytes();
            if self.filled < end {
                break;
            }
            let accepted = self.sequence.accept(&self.buffer[self.checked..end]);
            if accepted.is_err() {
                let newer = newer_version(unit.part, &self.buffer[self.checked..end]);
                let damaged = self.refuse(unit.start, unit.part);
                return Err(
                    newer.map_or(damaged, |newer| SnapshotError::of_header(&self.path, newer))
                );
            }
            self.checked = end;
        }
        let is_last = self.sequence.next().is_none();
        if is_last || self.checked >= WRITE_BYTES {
            self.write_out()?;
        }
        if is_last || self.written - self.durable >= SYNC_BYTES {
            self.make_durable()?;
        }
        Ok(())
    }

    /// Forgets what follows the checked parts.
    fn refuse(&mut self, offset: u64, part: SnapshotPart) -> SnapshotError {
        self.filled = self.checked;
        SnapshotError::ReceivedDamaged { offset, part }
    }

    /// Writes the checked parts, which are whole blocks.
    fn write_out(&mut self) -> Result<(), SnapshotError> {
        if self.checked == 0 {
            return Ok(());
        }
        let bytes = self
            .buffer
            .as_aligned()
            .first_blocks(self.checked / BLOCK_BYTES);
        let outcome = self.file.write_at(self.written, bytes);
        self.fail_on_error(outcome)?;
        self.written += self.checked as u64;
        let rest = self.checked..self.filled;
        self.filled = rest.len();
        self.checked = 0;
        self.buffer.bytes_mut().copy_within(rest, 0);
        Ok(())
    }

    fn make_durable(&mut self) -> Result<(), SnapshotError> {
        if self.durable == self.written {
            return Ok(());
        }
        if !is_planted(Mutant::SnapshotNotSynced) {
            let outcome = self.file.sync_data();
            self.fail_on_error(outcome)?;
        }
        // The file's name and size count as durable only after this.
        if let Err(error) = self.turn.shared.sync_directory() {
            self.health = Health::Failed;
            return Err(error);
        }
        self.durable = self.written;
        Ok(())
    }

    fn check_health(&self) -> Result<(), SnapshotError> {
        match self.health {
            Health::Sound => Ok(()),
            Health::Failed => Err(SnapshotError::Poisoned),
        }
    }

    fn fail_on_error(&mut self, outcome: io::Result<()>) -> Result<(), SnapshotError> {
        outcome.map_err(|source| {
            self.health = Health::Failed;
            SnapshotError::file("write", &self.path, source)
        })
    }

    fn remove_file(&self) -> Result<(), SnapshotError> {
        let removed = self.turn.shared.vfs.remove(&self.path);
        removed.map_err(|source| SnapshotError::file("remove", &self.path, source))
    }
}

/// Whether it is the header of a file that only a newer program can read.
fn newer_version(part: SnapshotPart, bytes: &[u8]) -> Option<HeaderError> {
    match (part, SnapshotHeader::length(bytes)) {
        (SnapshotPart::Header, Err(newer @ HeaderError::UnsupportedVersion(_))) => Some(newer),
        (SnapshotPart::Header | SnapshotPart::Chunk(_) | SnapshotPart::Trailer, _) => None,
    }
}

fn create(turn: &ReceiverTurn, path: &Path) -> Result<Arc<dyn VfsFile>, SnapshotError> {
    let created = turn.shared.vfs.create(path);
    created.map_err(|source| SnapshotError::file("create", path, source))
}

/// Whether the part file was created just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IsNew {
    Yes,
    No,
}

/// What became of a part file that was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resumed {
    Continues,
    Unusable,
}

/// Whether parts may follow those that were looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    Whole,
    Last,
}

/// How a receiver goes on after a restart.
///
/// The page cache may show bytes that are not on the disk, and that no later sync will write: those
/// of a sync that failed. They were written after the last sync that succeeded, so they are among
/// the last [`DOUBTFUL_BYTES`] of the file; these are written again. Where parts stop being right
/// earlier than that, it was not a crash that tore them, and nothing of the file is used.
impl SnapshotReceiver {
    fn resume(&mut self) -> Result<Resumed, SnapshotError> {
        let size = self.file.size();
        let size =
            size.map_err(|source| SnapshotError::file("read the size of", &self.path, source))?;
        if size > self.snapshot.total_bytes {
            return Ok(Resumed::Unusable);
        }
        let doubtful = size.saturating_sub(DOUBTFUL_BYTES);
        while self.resume_run(size, doubtful)? == Run::Whole {}
        self.written = self.sequence.at();
        if self.written < doubtful {
            return Ok(Resumed::Unusable);
        }
        self.make_durable()?;
        Ok(Resumed::Continues)
    }

    /// Checks the next parts of the file, and writes them again if they may not be on the disk.
    /// Says whether there may be more.
    fn resume_run(&mut self, size: u64, doubtful: u64) -> Result<Run, SnapshotError> {
        let start = self.sequence.at();
        let Some(first) = self.sequence.next().filter(|unit| unit.end <= size) else {
            return Ok(Run::Last);
        };
        let wanted = (size - start).min(WRITE_BYTES as u64);
        let end = self.sequence.layout().run_end(start, wanted).max(first.end);
        // At most WRITE_BYTES.
        let bytes = (end - start) as usize;
        let read = self
            .file
            .read_at(start, &mut self.buffer.bytes_mut()[..bytes]);
        read.map_err(|source| SnapshotError::file("read", &self.path, source))?;
        let mut right = 0;
        while right < bytes {
            let Some(unit) = self.sequence.next() else {
                break;
            };
            let part = &self.buffer[right..right + unit.bytes()];
            if self.sequence.accept(part).is_err() {
                break;
            }
            right += unit.bytes();
        }
        if start + right as u64 > doubtful && right > 0 {
            let again = self.buffer.as_aligned().first_blocks(right / BLOCK_BYTES);
            let outcome = self.file.write_at(start, again);
            self.fail_on_error(outcome)?;
        }
        Ok(if right == bytes {
            Run::Whole
        } else {
            Run::Last
        })
    }
}
