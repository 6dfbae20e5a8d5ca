//! The log: stage, sync, compact, vouch.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use raft_proto::{HardState, LogIndex, LogPosition, NodeId};

use crate::append::{Purpose, Room, WroteUrgent};
use crate::damage::{Hole, LogEnd};
use crate::dir::DataDir;
use crate::error::{LogError, OpenError};
use crate::format::batch::Previous;
use crate::format::preamble::Predecessor;
use crate::index::Index;
use crate::options::{LogIdentity, LogOptions};
use crate::prepare::SegmentPreparer;
use crate::reader::LogReader;
use crate::recovery::{self, Recovered};
use crate::segment::SegmentFile;
use crate::staged::{Limits, LogWrite, Staged};
use crate::state::LogState;
use crate::vfs::{AlignedBuffer, LockGuard, Vfs};

/// A write-ahead log, owned by the one thread that writes it.
///
/// [`Log::stage`] buffers, [`Log::sync`] makes everything staged durable by one write and one
/// fdatasync. [`Log::reader`] gives handles that read what is durable from any thread.
///
/// A failed write or sync poisons the log: every later call that would make something durable
/// returns [`LogError::Poisoned`].
#[derive(Debug)]
pub struct Log {
    pub(crate) vfs: Arc<dyn Vfs>,
    pub(crate) directory: PathBuf,
    pub(crate) identity: LogIdentity,
    pub(crate) options: LogOptions,
    pub(crate) state: LogState,
    pub(crate) staged: Staged,
    /// Segments that may hold live entries, oldest first; the last one is written.
    pub(crate) segments: VecDeque<LiveSegment>,
    pub(crate) tail: Tail,
    pub(crate) index: Arc<RwLock<Index>>,
    pub(crate) preparer: SegmentPreparer,
    pub(crate) buffer: AlignedBuffer,
    pub(crate) offsets: Vec<u32>,
    pub(crate) health: Health,
    /// Released last, when nothing writes any more.
    pub(crate) _lock: Arc<dyn LockGuard>,
}

/// A segment of the live log.
#[derive(Debug)]
pub(crate) struct LiveSegment {
    pub(crate) file: Arc<SegmentFile>,
    /// The last entry before its batches.
    pub(crate) base: LogPosition,
    /// What it continues.
    pub(crate) predecessor: Option<Predecessor>,
    pub(crate) room: SegmentRoom,
}

/// What a segment's room is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SegmentRoom {
    /// Whatever is written.
    Any,
    /// It was taken from the reserve: it is for what cannot wait until the disk has room.
    Urgent,
}

/// Where the written segment goes on.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) end: u64,
    /// The last batch of this segment.
    pub(crate) previous: Option<Previous>,
    pub(crate) vouching: Vouching,
}

/// Whether a later write says that the last batch was synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vouching {
    Done,
    Due,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Sound,
    Poisoned,
}

/// What a sync did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncStats {
    /// Batches written, each with its own fdatasync.
    pub batches: u32,
    /// Entries appended.
    pub entries: u64,
    /// Missing entries filled in.
    pub refilled: u64,
    /// Bytes of these batches.
    pub bytes: u64,
    /// Segments started on the way.
    pub segments: u32,
}

impl Log {
    /// Opens the log of a data directory, or creates it, and reports what is durable in it.
    ///
    /// What no later write vouched for is copied into a new segment and synced before it is
    /// reported, so that the report never rests on the page cache alone. A torn last batch is
    /// dropped; it was never acknowledged.
    ///
    /// # Errors
    /// [`OpenError`]: a foreign or damaged log, a full disk, or what the file system says.
    pub fn open(
        dir: &DataDir,
        identity: LogIdentity,
        options: LogOptions,
    ) -> Result<(Self, Recovered), OpenError> {
        recovery::open(dir, identity, options)
    }

    /// Buffers a write for the next [`Log::sync`]. Truncating entries that are still buffered
    /// drops them; they are never written.
    ///
    /// # Errors
    /// [`LogError::Poisoned`], or the reason why this write is refused; then nothing is staged.
    pub fn stage(&mut self, write: LogWrite) -> Result<(), LogError> {
        self.check_health()?;
        let limits = self.limits();
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        self.staged.stage(write, &self.state, &index, limits)
    }

    /// Marks entries up to `through` as covered by a durable snapshot, from the next
    /// [`Log::sync`] on; that sync also deletes the segments that are no longer needed. If the log
    /// has another entry at `through`, or ends before it, all entries go and the log continues
    /// after `through`, as the installation of a snapshot requires (§7); it then names no
    /// membership until an entry brings one. An older mark than the current one changes nothing.
    /// Call it only once a snapshot at or behind `through` is stored.
    ///
    /// # Errors
    /// [`LogError::Poisoned`].
    pub fn compact_prefix(&mut self, through: LogPosition) -> Result<(), LogError> {
        self.check_health()?;
        self.staged.compact(through, &self.state);
        Ok(())
    }

    /// Makes everything staged durable: one write and one fdatasync, more only if it exceeds
    /// `max_batch_bytes`. Does nothing if nothing is staged.
    ///
    /// # Errors
    /// [`LogError::DiskFull`] and [`LogError::MetadataTooLarge`] leave the rest staged and may be
    /// repeated, best after [`Log::compact_prefix`]. Term, vote and mark go ahead of the rest then:
    /// ask [`Log::hard_state`] what is durable. Any other error poisons the log.
    pub fn sync(&mut self) -> Result<SyncStats, LogError> {
        self.check_health()?;
        let mut stats = SyncStats::default();
        let mark = self.state.mark;
        while self.staged.changes(&self.state) {
            let purpose = match self.staged.refill.is_empty() {
                true => Purpose::Change,
                false => Purpose::Refill,
            };
            let written = self.write_batch(purpose, Room::Any, &mut stats);
            // What a full disk has a reserve for must not wait for what it has no room for; and a
            // compaction frees space and metadata.
            if let Err(LogError::DiskFull { .. } | LogError::MetadataTooLarge { .. }) = &written
                && self.write_urgent(&mut stats)? == WroteUrgent::Yes
            {
                continue;
            }
            written?;
        }
        if self.state.mark != mark {
            self.remove_dead_segments()?;
        }
        Ok(stats)
    }

    /// Whether the last batch rests on its own fdatasync alone, so that an idle log should call
    /// [`Log::vouch_if_idle`] (within 10 ms, says the design).
    #[must_use]
    pub fn needs_vouching(&self) -> bool {
        self.tail.vouching == Vouching::Due && self.health == Health::Sound
    }

    /// Vouches for the last batch by an empty one, if nothing is staged that would do so and the
    /// segment has room. Damage to the last batch is then told from a torn write.
    ///
    /// # Errors
    /// As [`Log::sync`].
    pub fn vouch_if_idle(&mut self) -> Result<SyncStats, LogError> {
        self.check_health()?;
        let mut stats = SyncStats::default();
        if !self.needs_vouching() || self.staged.changes(&self.state) {
            return Ok(stats);
        }
        if self.has_room_for_empty() {
            self.write_batch(Purpose::Vouch, Room::Urgent, &mut stats)?;
        } else {
            // The next segment's start will vouch for it; until then there is no way.
            self.tail.vouching = Vouching::Done;
        }
        Ok(stats)
    }

    /// The durable term and vote.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        self.state.hard_state
    }

    /// Whether the durable term and vote are the newest ones that were staged.
    #[must_use]
    pub fn is_hard_state_durable(&self) -> bool {
        self.staged.hard_state == self.state.hard_state
    }

    /// The first durable entry that is not compacted away; one after the last if there is none.
    #[must_use]
    pub fn first_index(&self) -> LogIndex {
        self.state.mark.index.next()
    }

    /// The last durable entry.
    #[must_use]
    pub fn last(&self) -> LogPosition {
        self.state.last
    }

    /// The last entry once everything staged is durable.
    #[must_use]
    pub fn last_staged(&self) -> LogPosition {
        self.staged.last()
    }

    /// Everything up to here is covered by a snapshot; zero if none was taken.
    #[must_use]
    pub fn snapshot(&self) -> LogPosition {
        self.state.mark
    }

    /// Whose log this is.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.identity.node
    }

    /// Size of all segments of the live log, in bytes; the prepared one and the reserve are not
    /// counted.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.segments
            .iter()
            .map(|segment| segment.file.segment_bytes)
            .sum()
    }

    /// Entries whose content is lost and not filled in yet, in order.
    #[must_use]
    pub fn missing(&self) -> Vec<Hole> {
        self.reader().missing()
    }

    /// Whether the log knows where it ends, durably.
    #[must_use]
    pub fn end(&self) -> LogEnd {
        self.state.log_end
    }

    /// Takes the content of these entries for lost, as far as they are in the log: they were found
    /// damaged by a read ([`crate::ReadError::Corrupt`]) or by a scrub. They can be refilled then.
    /// It is not durable; an open finds damage by itself.
    pub fn report_rot(&mut self, first: LogIndex, last: LogIndex) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.lose(first, last);
    }

    /// A handle that reads durable entries from any thread while this log is written.
    #[must_use]
    pub fn reader(&self) -> LogReader {
        LogReader::new(Arc::clone(&self.index))
    }

    pub(crate) fn check_health(&self) -> Result<(), LogError> {
        match self.health {
            Health::Sound => Ok(()),
            Health::Poisoned => Err(LogError::Poisoned),
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            entry_bytes: self.options.max_entry_bytes as usize,
            // A batch is at most half of a segment of 2^30 bytes.
            batch_bytes: self.options.max_batch_bytes as usize,
            metadata_bytes: LogOptions::metadata_limit(self.options.segment_bytes),
        }
    }
}
