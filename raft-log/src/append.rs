//! How the log writes a batch, starts the next segment and deletes dead ones.

use std::sync::{Arc, PoisonError, RwLockWriteGuard};

use crate::error::{FileError, LogError};
use crate::format::batch::{self, Draft, Fixed, Previous, batch_blocks};
use crate::format::metadata::Metadata;
use crate::format::preamble::{Preamble, Predecessor};
use crate::format::seal::{self, Seal};
use crate::index::Index;
use crate::log::{Health, LiveSegment, Log, SyncStats, Tail, Vouching};
use crate::prepare::PreparedSegment;
use crate::segment::SegmentFile;
use crate::state::Change;
use crate::vfs::BLOCK_BYTES;

/// Why a batch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To make staged changes durable.
    Change,
    /// To vouch for the batch before.
    Vouch,
}

impl Log {
    /// Writes and syncs one batch of what is staged, and publishes it.
    pub(crate) fn write_batch(
        &mut self,
        purpose: Purpose,
        stats: &mut SyncStats,
    ) -> Result<(), LogError> {
        let (count, metadata) = self.staged.next_batch(self.limits());
        self.make_room(purpose, count, &metadata, stats)?;
        let file = Arc::clone(&self.active().file);
        let start = self.tail.end;
        let draft = Draft {
            group: self.identity.group,
            hard_state: self.staged.hard_state,
            mark: self.staged.mark,
            keep: self.staged.keep,
            entries: &self.staged.entries[..count],
            metadata: &metadata,
            previous: self.tail.previous.as_ref(),
            vouched: start,
        };
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
        self.publish(&fixed, &metadata, &file);
        self.staged.advance(count, &self.state);
        self.tail = Tail {
            end: fixed.end(),
            previous: Some(Previous {
                fixed: fixed.as_previous(),
                metadata,
            }),
            vouching: match purpose {
                Purpose::Change => Vouching::Due,
                Purpose::Vouch => Vouching::Done,
            },
        };
        stats.batches += 1;
        stats.entries += count as u64;
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
                tracing::warn!(path = %dead.file.path.display(), %error, "cannot delete a dead segment");
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

    /// Starts the next segment if this one has no room for the batch and for an empty one that
    /// would vouch for it.
    fn make_room(
        &mut self,
        purpose: Purpose,
        count: usize,
        metadata: &Metadata,
        stats: &mut SyncStats,
    ) -> Result<(), LogError> {
        let draft = Draft {
            group: self.identity.group,
            hard_state: self.staged.hard_state,
            mark: self.staged.mark,
            keep: self.staged.keep,
            entries: &self.staged.entries[..count],
            metadata,
            previous: self.tail.previous.as_ref(),
            vouched: self.tail.end,
        };
        let reserve = match purpose {
            Purpose::Change => {
                let none = Metadata::default().encoded_bytes();
                batch_blocks(none + metadata.encoded_bytes(), 0)
            }
            Purpose::Vouch => 0,
        };
        let needed = ((draft.blocks() + reserve) * BLOCK_BYTES) as u64;
        if self.tail.end + needed <= seal::offset(self.active().file.segment_bytes) {
            return Ok(());
        }
        assert_eq!(purpose, Purpose::Change, "room to vouch is kept free");
        self.start_segment()?;
        stats.segments += 1;
        let room = seal::offset(self.active().file.segment_bytes) - self.tail.end;
        assert!(needed <= room, "every batch fits into a new segment");
        Ok(())
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
            metadata,
        };
        assert!(self.state.accepts(&change), "a batch continues the log");
        self.state.apply(&change);
        let mut index = write_lock(&self.index);
        index.truncate_after(fixed.keep.index);
        index.compact_through(fixed.mark.index);
        index.append(file, &self.offsets);
        assert_eq!(index.last, self.state.last.index, "index and state agree");
    }

    fn poison_on_error<T>(&mut self, outcome: Result<T, FileError>) -> Result<T, LogError> {
        outcome.map_err(|error| {
            self.health = Health::Poisoned;
            error.into()
        })
    }
}

fn write_lock(index: &std::sync::RwLock<Index>) -> RwLockWriteGuard<'_, Index> {
    // A reader that panicked cannot have changed it.
    index.write().unwrap_or_else(PoisonError::into_inner)
}
