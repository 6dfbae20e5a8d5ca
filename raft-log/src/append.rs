//! How the log writes a batch, starts the next segment and deletes dead ones.

use std::sync::{Arc, PoisonError, RwLockWriteGuard};

use raft_proto::{GroupId, LogPosition};

use crate::error::{FileError, LogError};
use crate::format::MIN_BATCH_BLOCKS;
use crate::format::batch::{self, Draft, Fixed, Previous, Records, batch_blocks};
use crate::format::metadata::Metadata;
use crate::format::preamble::{Preamble, Predecessor};
use crate::format::seal::{self, Seal};
use crate::index::Index;
use crate::log::{Health, LiveSegment, Log, SyncStats, Tail, Vouching};
use crate::prepare::PreparedSegment;
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
    Mark,
    /// To vouch for the batch before.
    Vouch,
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
        stats: &mut SyncStats,
    ) -> Result<(), LogError> {
        let (count, metadata) = match purpose {
            Purpose::Change => self.staged.next_batch(self.limits()),
            Purpose::Refill => (self.staged.next_refill(self.limits()), Metadata::default()),
            Purpose::Mark | Purpose::Vouch => (0, Metadata::default()),
        };
        let next = Next {
            purpose,
            count,
            metadata,
        };
        self.make_room(&next, stats)?;
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
        let written = file.write(start, &self.buffer).and_then(|()| file.sync());
        self.poison_on_error(written)?;
        self.preparer.note_written(fixed.length);
        self.publish(&fixed, &next.metadata, &file);
        match purpose {
            Purpose::Change => self.staged.advance(count, &self.state),
            Purpose::Refill => self.staged.advance_refill(count, &self.state),
            // What is staged goes on from where it was.
            Purpose::Mark | Purpose::Vouch => {}
        }
        self.tail = Tail {
            end: fixed.end(),
            previous: Some(Previous {
                fixed: fixed.as_previous(),
                metadata: next.metadata,
            }),
            vouching: match purpose {
                Purpose::Change | Purpose::Refill | Purpose::Mark => Vouching::Due,
                Purpose::Vouch => Vouching::Done,
            },
        };
        stats.batches += 1;
        match purpose {
            Purpose::Refill => stats.refilled += count as u64,
            Purpose::Change | Purpose::Mark | Purpose::Vouch => stats.entries += count as u64,
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
            // A segment that stays behind does no harm: nothing leads to it, and the next open
            // tries again.
            if let Err(error) = self.vfs.remove(&dead.file.path) {
                let node = self.identity.node.0;
                tracing::warn!(node, path = %dead.file.path.display(), %error, "cannot delete a dead segment");
            }
        }
        if removed == 0 {
            return Ok(());
        }
        let synced = self.vfs.sync_dir(&self.directory);
        let directory = self.directory.clone();
        self.poison_on_error(
            synced.map_err(|source| FileError::new("sync directory", &directory, source)),
        )
    }

    fn active(&self) -> &LiveSegment {
        // A log is opened with the segment it writes, and removal always leaves that one.
        self.segments.back().expect("a log has an active segment")
    }

    /// Starts the next segment if this one has no room for the batch and what is to be kept free
    /// after it.
    fn make_room(&mut self, next: &Next, stats: &mut SyncStats) -> Result<(), LogError> {
        let draft = draft(
            next,
            &self.staged,
            &self.state,
            &self.tail,
            self.identity.group,
        );
        let reserve = match next.purpose {
            // An empty batch that vouches for this one, and one that raises the mark: a full disk
            // must not keep a compaction from freeing space.
            Purpose::Change | Purpose::Refill => {
                let none = Metadata::default().encoded_bytes();
                batch_blocks(none + next.metadata.encoded_bytes(), 0) + MIN_BATCH_BLOCKS
            }
            Purpose::Mark | Purpose::Vouch => 0,
        };
        let needed = ((draft.blocks() + reserve) * BLOCK_BYTES) as u64;
        if self.room() >= needed {
            return Ok(());
        }
        self.start_segment()?;
        stats.segments += 1;
        assert!(needed <= self.room(), "every batch fits into a new segment");
        Ok(())
    }

    /// Bytes left in the written segment.
    fn room(&self) -> u64 {
        seal::offset(self.active().file.segment_bytes) - self.tail.end
    }

    /// Makes the staged mark durable before what else is staged, if it needs no new segment; says
    /// whether it did.
    pub(crate) fn mark_first(&mut self, stats: &mut SyncStats) -> Result<MarkedFirst, LogError> {
        if self.staged.mark == self.state.mark || !self.has_room_for_empty() {
            return Ok(MarkedFirst::No);
        }
        self.write_batch(Purpose::Mark, stats)?;
        self.remove_dead_segments()?;
        Ok(MarkedFirst::Yes)
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
    fn start_segment(&mut self) -> Result<(), LogError> {
        let old = Arc::clone(&self.active().file);
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
        let salt = self.vfs.random();
        let salt =
            salt.map_err(|source| FileError::new("draw a salt for", &self.directory, source));
        let salt = self.poison_on_error(salt)?;
        let preamble = Preamble {
            segment_bytes: prepared.segment_bytes,
            sequence: old.sequence + 1,
            salt,
            identity: self.identity,
            hard_state: self.state.hard_state,
            mark: self.state.mark,
            base: self.state.last,
            predecessor: Some(Predecessor {
                sequence: old.sequence,
                end: self.tail.end,
            }),
            copied_end: start,
            log_end: self.state.log_end,
            metadata: self.state.metadata.clone(),
        };
        let file = SegmentFile::of_prepared(&prepared, &preamble).publish(
            &preamble,
            self.vfs.as_ref(),
            &self.directory,
        );
        let file = Arc::new(self.poison_on_error(file)?);
        let sealed = old.seal(&Seal {
            successor: file.sequence,
            end: self.tail.end,
            last: self.state.last,
            hard_state: self.state.hard_state,
            log_end: self.state.log_end,
        });
        self.poison_on_error(sealed)?;
        self.segments.push_back(LiveSegment {
            file,
            base: self.state.last,
        });
        self.tail = Tail {
            end: start,
            previous: None,
            vouching: Vouching::Done,
        };
        Ok(())
    }

    /// A full disk is met here, before anything is written; other failures poison.
    fn take_prepared(&mut self) -> Result<PreparedSegment, LogError> {
        self.preparer.take().map_err(|error| {
            if error.is_disk_full() {
                return LogError::DiskFull {
                    segment_bytes: self.options.segment_bytes,
                    directory: self.directory.clone(),
                };
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

/// Whether the mark went ahead of what else is staged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MarkedFirst {
    Yes,
    No,
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
        Purpose::Mark => (staged.hard_state, staged.mark, mark_keeps(staged, state)),
        Purpose::Vouch => (state.hard_state, state.mark, state.last),
    };
    let records = match next.purpose {
        Purpose::Refill => Records::Refill(&staged.refill[..next.count]),
        Purpose::Change | Purpose::Mark | Purpose::Vouch => {
            Records::Append(&staged.entries[..next.count])
        }
    };
    // The end is known once everything that is staged is there, and not earlier.
    let is_last = match next.purpose {
        Purpose::Change => next.count == staged.entries.len(),
        Purpose::Refill => next.count == staged.refill.len() && staged.entries.is_empty(),
        Purpose::Mark | Purpose::Vouch => false,
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
