//! How the log writes a batch, starts the next segment and deletes dead ones.

use std::sync::{Arc, PoisonError, RwLockWriteGuard};

use raft_proto::mutants::{Mutant, is_planted};
use raft_proto::{GroupId, LogPosition};

use crate::error::{FileError, LogError};
use crate::format::MIN_BATCH_BLOCKS;
use crate::format::batch::{self, Draft, Fixed, Previous, Records, batch_blocks};
use crate::format::metadata::Metadata;
use crate::format::preamble::{Preamble, Predecessor};
use crate::format::seal::{self, Seal};
use crate::index::Index;
use crate::log::{Health, LiveSegment, Log, SegmentRoom, SyncStats, Tail, Vouching};
use crate::prepare::PreparedSegment;
use crate::reserve::Taker;
use crate::segment::SegmentFile;
use crate::staged::Staged;
use crate::state::{Change, LogState};
use crate::vfs::BLOCK_BYTES;

/// Why a batch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To make staged changes durable.
    Change,
    /// The same, and to fill in missing entries; what is to be appended waits.
    Refill,
    /// To make the staged mark and hard state durable before what else is staged.
    Ahead,
    /// To vouch for the batch before.
    Vouch,
}

/// Which room a batch may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// That of ordinary segments.
    Any,
    /// Also what is kept for the case that the disk is full: it cannot wait.
    Urgent,
}

/// Whether something could be written although there is no room for all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WroteUrgent {
    Yes,
    No,
}

/// The next batch: why, how many of the staged entries or refills, and the metadata of entries.
#[derive(Debug)]
struct Next {
    purpose: Purpose,
    count: usize,
    metadata: Metadata,
}

impl Log {
    /// Writes and syncs one batch of what is staged, and publishes it.
    pub(crate) fn write_batch(
        &mut self,
        purpose: Purpose,
        room: Room,
        stats: &mut SyncStats,
    ) -> Result<(), LogError> {
        let (count, metadata) = match purpose {
            Purpose::Change => self.staged.next_batch(self.limits()),
            Purpose::Refill => (self.staged.next_refill(self.limits()), Metadata::default()),
            Purpose::Ahead | Purpose::Vouch => (0, Metadata::default()),
        };
        let next = Next {
            purpose,
            count,
            metadata,
        };
        self.make_room(&next, room, stats)?;
        let file = Arc::clone(&self.active().file);
        let start = self.tail.end;
        let group = self.identity.group;
        let draft = draft(&next, &self.staged, &self.state, &self.tail, group);
        self.offsets.clear();
        let fixed = batch::encode(
            &draft,
            &file.checksum,
            start,
            &mut self.buffer,
            &mut self.offsets,
        );
        let written = file.write(start, &self.buffer).and_then(|()| {
            if purpose == Purpose::Ahead && is_planted(Mutant::AheadNotSynced) {
                return Ok(());
            }
            file.sync()
        });
        self.poison_on_error(written)?;
        self.preparer.note_written(fixed.length);
        self.publish(&fixed, &next.metadata, &file);
        match purpose {
            Purpose::Change => self.staged.advance(count, &self.state),
            Purpose::Refill => self.staged.advance_refill(count, &self.state),
            // What is staged goes on from where it was.
            Purpose::Ahead | Purpose::Vouch => {}
        }
        self.tail = Tail {
            end: fixed.end(),
            previous: Some(Previous {
                fixed: fixed.as_previous(),
                metadata: next.metadata,
            }),
            vouching: match purpose {
                Purpose::Change | Purpose::Refill | Purpose::Ahead => Vouching::Due,
                Purpose::Vouch => Vouching::Done,
            },
        };
        stats.batches += 1;
        match purpose {
            Purpose::Refill => stats.refilled += count as u64,
            Purpose::Change | Purpose::Ahead | Purpose::Vouch => stats.entries += count as u64,
        }
        stats.bytes += fixed.length;
        Ok(())
    }

    /// Deletes the segments whose entries are all covered by the durable mark.
    pub(crate) fn remove_dead_segments(&mut self) -> Result<(), LogError> {
        let mut removed = 0;
        while self
            .segments
            .get(1)
            .is_some_and(|next| next.base.index <= self.state.mark.index)
        {
            let Some(dead) = self.segments.pop_front() else {
                break;
            };
            removed += 1;
            self.remove_file(&dead);
        }
        if removed == 0 {
            return Ok(());
        }
        self.sync_directory()
    }

    fn active(&self) -> &LiveSegment {
        // A log is opened with the segment it writes, and removal always leaves that one.
        self.segments.back().expect("a log has an active segment")
    }

    /// Starts the next segment if this one has no room for the batch and what is to be kept free
    /// after it.
    fn make_room(
        &mut self,
        next: &Next,
        room: Room,
        stats: &mut SyncStats,
    ) -> Result<(), LogError> {
        let draft = draft(
            next,
            &self.staged,
            &self.state,
            &self.tail,
            self.identity.group,
        );
        let spare = match next.purpose {
            // An empty batch that vouches for this one, and one that raises the mark: a full disk
            // must not keep a compaction from freeing space.
            Purpose::Change | Purpose::Refill => {
                let none = Metadata::default().encoded_bytes();
                batch_blocks(none + next.metadata.encoded_bytes(), 0) + MIN_BATCH_BLOCKS
            }
            Purpose::Ahead | Purpose::Vouch => 0,
        };
        let needed = ((draft.blocks() + spare) * BLOCK_BYTES) as u64;
        // Entries leave the last of the reserve to terms, votes, marks and starts.
        let (taker, kept) = match next.count {
            0 => (Taker::Desperate, 0),
            1.. => (Taker::Modest, self.active().file.segment_bytes / 4),
        };
        match (self.active().room, room) {
            (SegmentRoom::Any, Room::Any | Room::Urgent) if self.room() >= needed => return Ok(()),
            (SegmentRoom::Urgent, Room::Urgent) if self.room() >= needed + kept => return Ok(()),
            (SegmentRoom::Any | SegmentRoom::Urgent, _) => {}
        }
        match room {
            Room::Any => self.continue_elsewhere()?,
            Room::Urgent => self.continue_in_reserve(needed, taker)?,
        }
        stats.segments += 1;
        assert!(needed <= self.room(), "every batch fits into a new segment");
        Ok(())
    }

    /// Continues the log in a segment for whatever is written.
    fn continue_elsewhere(&mut self) -> Result<(), LogError> {
        let bytes = self.state.metadata.encoded_bytes();
        let (start, limit) = (
            Preamble::batches_start_of(bytes),
            self.options.max_preamble_bytes(),
        );
        if start > limit {
            return Err(LogError::MetadataTooLarge {
                bytes: start,
                limit,
            });
        }
        let prepared = self.take_prepared()?;
        self.start_segment(&prepared, SegmentRoom::Any)
    }

    /// Continues it in a file of the reserve, in which `needed` bytes of batches must fit.
    fn continue_in_reserve(&mut self, needed: u64, taker: Taker) -> Result<(), LogError> {
        let start = Preamble::batches_start_of(self.state.metadata.encoded_bytes());
        let least_bytes = start + needed + BLOCK_BYTES as u64;
        let taken = self.preparer.take_reserve(least_bytes, taker);
        let Some(prepared) = self.poison_on_error(taken)? else {
            return Err(self.disk_full());
        };
        let (node, path) = (self.identity.node.0, &self.directory);
        tracing::warn!(node, path = %path.display(), "the disk is full: the log's reserve is used");
        self.start_segment(&prepared, SegmentRoom::Urgent)
    }

    fn disk_full(&self) -> LogError {
        LogError::DiskFull {
            segment_bytes: self.options.segment_bytes,
            directory: self.directory.clone(),
        }
    }

    /// Bytes left in the written segment.
    fn room(&self) -> u64 {
        seal::offset(self.active().file.segment_bytes) - self.tail.end
    }

    /// There is no room for what is staged. Makes of it durable what cannot wait, in the room that is
    /// kept for that: all of it if it is light, else term, vote and mark.
    pub(crate) fn write_urgent(&mut self, stats: &mut SyncStats) -> Result<WroteUrgent, LogError> {
        let has_ahead =
            self.staged.mark != self.state.mark || self.staged.hard_state != self.state.hard_state;
        let mark = self.state.mark;
        let mut outcome = Err(self.disk_full());
        if self.staged.is_light() {
            outcome = self.write_batch(Purpose::Change, Room::Urgent, stats);
        }
        if let (true, Err(LogError::DiskFull { .. })) = (has_ahead, &outcome) {
            outcome = self.write_batch(Purpose::Ahead, Room::Urgent, stats);
        }
        match outcome {
            Ok(()) => {}
            Err(LogError::DiskFull { .. }) => return Ok(WroteUrgent::No),
            Err(error) => return Err(error),
        }
        if self.state.mark != mark {
            self.remove_dead_segments()?;
        }
        Ok(WroteUrgent::Yes)
    }

    /// Whether an empty batch fits, so that it need not start a segment.
    pub(crate) fn has_room_for_empty(&self) -> bool {
        let none = Metadata::default().encoded_bytes();
        let previous = self.tail.previous.as_ref();
        let before = previous.map_or(none, |previous| previous.metadata.encoded_bytes());
        self.room() >= (batch_blocks(none + before, 0) * BLOCK_BYTES) as u64
    }

    /// Continues the log in a new segment. The order matters: the new one is durable before the
    /// old one's seal names it, and the seal is durable before the new one acknowledges anything.
    fn start_segment(
        &mut self,
        prepared: &PreparedSegment,
        room: SegmentRoom,
    ) -> Result<(), LogError> {
        let old = Arc::clone(&self.active().file);
        let start = Preamble::batches_start_of(self.state.metadata.encoded_bytes());
        let salt = self.vfs.random();
        let salt =
            salt.map_err(|source| FileError::new("draw a salt for", &self.directory, source));
        let salt = self.poison_on_error(salt)?;
        let is_spent = self.is_spent();
        let predecessor = match is_spent {
            true => self.active().predecessor,
            false => Some(Predecessor {
                sequence: old.sequence,
                end: self.tail.end,
            }),
        };
        let preamble = Preamble {
            segment_bytes: prepared.segment_bytes,
            sequence: old.sequence + 1,
            salt,
            identity: self.identity,
            hard_state: self.state.hard_state,
            mark: self.state.mark,
            base: self.state.last,
            predecessor,
            copied_end: start,
            log_end: self.state.log_end,
            metadata: self.state.metadata.clone(),
        };
        let file = SegmentFile::of_prepared(prepared, &preamble).publish(
            &preamble,
            self.vfs.as_ref(),
            &self.directory,
        );
        let file = Arc::new(self.poison_on_error(file)?);
        let sealed = self.seal_for(file.sequence, is_spent);
        self.poison_on_error(sealed)?;
        self.segments.push_back(LiveSegment {
            file,
            base: self.state.last,
            predecessor,
            room,
        });
        self.tail = Tail {
            end: start,
            previous: None,
            vouching: Vouching::Done,
        };
        if is_spent {
            self.remove_spent()?;
        }
        Ok(())
    }

    /// Whether the written segment is one of the reserve in which no live entry stands: its successor
    /// says all that it says, and takes its place.
    fn is_spent(&self) -> bool {
        let active = self.active();
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let before = self.segments.iter().rev().nth(1);
        active.room == SegmentRoom::Urgent
            && index.first_in(active.file.sequence).is_none()
            && before.map(|before| before.file.sequence)
                == active.predecessor.map(|before| before.sequence)
    }

    /// Seals the written segment, and the one before it if that is what the new one continues: its
    /// seal names a segment that goes.
    fn seal_for(&self, successor: u64, is_spent: bool) -> Result<(), FileError> {
        let seal = |end| Seal {
            successor,
            end,
            last: self.state.last,
            hard_state: self.state.hard_state,
            log_end: self.state.log_end,
        };
        self.active().file.seal(&seal(self.tail.end))?;
        let continued = self.segments.iter().rev().nth(1);
        match (is_spent, continued, self.active().predecessor) {
            (true, Some(continued), Some(Predecessor { end, .. })) => {
                continued.file.seal(&seal(end))
            }
            (true, _, _) | (false, _, _) => Ok(()),
        }
    }

    /// Deletes the segment before the written one, whose place that has taken.
    fn remove_spent(&mut self) -> Result<(), LogError> {
        let at = self.segments.len() - 2;
        if let Some(spent) = self.segments.remove(at) {
            self.remove_file(&spent);
        }
        self.sync_directory()
    }

    /// A segment that stays behind does no harm: nothing leads to it, and the next open tries again.
    fn remove_file(&self, dead: &LiveSegment) {
        if let Err(error) = self.vfs.remove(&dead.file.path) {
            let node = self.identity.node.0;
            tracing::warn!(node, path = %dead.file.path.display(), %error, "cannot delete a dead segment");
        }
    }

    fn sync_directory(&mut self) -> Result<(), LogError> {
        let synced = self.vfs.sync_dir(&self.directory);
        let directory = self.directory.clone();
        self.poison_on_error(
            synced.map_err(|source| FileError::new("sync directory", &directory, source)),
        )
    }

    /// A full disk is met here, before anything is written; other failures poison.
    fn take_prepared(&mut self) -> Result<PreparedSegment, LogError> {
        self.preparer.take().map_err(|error| {
            if error.is_disk_full() {
                return self.disk_full();
            }
            self.health = Health::Poisoned;
            error.into()
        })
    }

    fn publish(&mut self, fixed: &Fixed, metadata: &Metadata, file: &Arc<SegmentFile>) {
        let change = Change {
            hard_state: fixed.hard_state,
            mark: fixed.mark,
            keep: fixed.keep,
            last: fixed.last,
            log_end: fixed.log_end,
            metadata,
        };
        assert!(self.state.accepts(&change), "a batch continues the log");
        self.state.apply(&change);
        let mut index = write_lock(&self.index);
        index.truncate_after(fixed.keep.index);
        index.compact_through(fixed.mark.index);
        if fixed.refill_count == 0 {
            index.append(file, &self.offsets);
        } else {
            for (entry, offset) in self.staged.refill.iter().zip(&self.offsets) {
                index.fill(file, entry.index, &[*offset]);
            }
        }
        assert_eq!(index.last, self.state.last.index, "index and state agree");
    }

    fn poison_on_error<T>(&mut self, outcome: Result<T, FileError>) -> Result<T, LogError> {
        outcome.map_err(|error| {
            self.health = Health::Poisoned;
            error.into()
        })
    }
}

/// What the next batch is to say.
fn draft<'a>(
    next: &'a Next,
    staged: &'a Staged,
    state: &LogState,
    tail: &'a Tail,
    group: GroupId,
) -> Draft<'a> {
    let (hard_state, mark, keep) = match next.purpose {
        Purpose::Change | Purpose::Refill => (staged.hard_state, staged.mark, staged.keep),
        // The mark may be of a term that only the staged hard state has reached.
        Purpose::Ahead => (staged.hard_state, staged.mark, mark_keeps(staged, state)),
        Purpose::Vouch => (state.hard_state, state.mark, state.last),
    };
    let records = match next.purpose {
        Purpose::Refill => Records::Refill(&staged.refill[..next.count]),
        Purpose::Change | Purpose::Ahead | Purpose::Vouch => {
            Records::Append(&staged.entries[..next.count])
        }
    };
    // The end is known once everything that is staged is there, and not earlier.
    let is_last = match next.purpose {
        Purpose::Change => next.count == staged.entries.len(),
        Purpose::Refill => next.count == staged.refill.len() && staged.entries.is_empty(),
        Purpose::Ahead | Purpose::Vouch => false,
    };
    let log_end = if is_last {
        staged.log_end
    } else {
        state.log_end
    };
    Draft {
        group,
        hard_state,
        mark,
        keep,
        log_end,
        records,
        metadata: &next.metadata,
        previous: tail.previous.as_ref(),
        vouched: tail.end,
    }
}

/// The last durable entry that stays when only the staged mark is made durable: all of them after a
/// compaction, none if a snapshot replaces the log. Truncations wait for what they came with.
fn mark_keeps(staged: &Staged, state: &LogState) -> LogPosition {
    if state.position_at(staged.mark.index) == Some(staged.mark) {
        return state.last;
    }
    assert_eq!(
        staged.keep, staged.mark,
        "a mark that is not in the log replaces it"
    );
    staged.mark
}

fn write_lock(index: &std::sync::RwLock<Index>) -> RwLockWriteGuard<'_, Index> {
    // A reader that panicked cannot have changed it.
    index.write().unwrap_or_else(PoisonError::into_inner)
}
