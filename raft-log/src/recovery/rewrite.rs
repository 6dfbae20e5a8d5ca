//! Every open starts a new segment and copies into it what nothing vouches for.
//!
//! The page cache may show bytes that are not on the disk, and what follows them could be synced
//! while they are lost. So the unvouched last batch is written again, elsewhere, under a temporary
//! name, synced, and only then named. A newest segment that is nearly empty is copied whole, so
//! that restarts do not pile up such segments.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use raft_proto::{Entry, LogIndex, LogPosition};

use super::chain::{Chain, LoadedSegment};
use super::replay::Replay;
use crate::error::{FileError, OpenError};
use crate::format::batch::{self, Draft, Previous};
use crate::format::metadata::Metadata;
use crate::format::preamble::{Preamble, Predecessor};
use crate::format::record;
use crate::format::seal::Seal;
use crate::log::{LiveSegment, Log, Tail, Vouching};
use crate::options::{LogIdentity, LogOptions, MAX_SEGMENT_BYTES};
use crate::prepare::ZeroedFiles;
use crate::segment::{SegmentFile, path_of};
use crate::staged::{Limits, Staged, next_batch};
use crate::state::LogState;
use crate::vfs::{AlignedBuffer, BLOCK_BYTES, Content, Vfs};

/// What the new segment is to hold.
#[derive(Debug)]
pub(super) struct Plan {
    preamble: Preamble,
    state: LogState,
    entries: Vec<Entry>,
    limits: Limits,
    segment_bytes: u64,
    /// How many of the loaded segments the new one continues.
    older: usize,
}

/// The segment that an open has started.
#[derive(Debug)]
pub(super) struct NewHead {
    pub(super) file: Arc<SegmentFile>,
    pub(super) base: LogPosition,
    /// Offsets of the copied entries, which follow `base`.
    pub(super) offsets: Vec<u32>,
    pub(super) tail: Tail,
    pub(super) older: VecDeque<LiveSegment>,
}

/// Where the copy starts and what it continues.
struct Cut {
    first: LogIndex,
    predecessor: Option<Predecessor>,
    older: usize,
}

impl Plan {
    pub(super) fn new(
        chain: &Chain,
        replay: &Replay,
        identity: LogIdentity,
        options: &LogOptions,
    ) -> Self {
        let state = replay.state.clone();
        let loaded = &chain.segments;
        let mut cut = match loaded.last() {
            Some(head) => cut_of(head, loaded, replay, options),
            None => Cut {
                first: LogIndex::FIRST,
                predecessor: None,
                older: 0,
            },
        };
        let before = cut.first.previous();
        let Some(base) = state.position_at(before) else {
            unreachable!("the copy starts within the live log or right after it");
        };
        if base.index <= state.mark.index {
            cut.predecessor = None;
            cut.older = 0;
        }
        let mut metadata = state.metadata.clone();
        metadata.truncate_after(base.index);
        let entries = loaded
            .last()
            .map_or_else(Vec::new, |head| copy_entries(head, cut.first, replay));
        let limits = Limits {
            entry_bytes: usize::MAX,
            batch_bytes: options.max_batch_bytes as usize,
            metadata_bytes: LogOptions::metadata_limit(options.segment_bytes),
        };
        let newest = chain.sequences.last().copied().unwrap_or(0);
        let preamble = Preamble {
            segment_bytes: 0,
            sequence: newest + 1,
            salt: 0,
            identity,
            hard_state: state.hard_state,
            mark: state.mark,
            base,
            predecessor: cut.predecessor,
            copied_end: 0,
            metadata,
        };
        Self {
            preamble,
            state,
            entries,
            limits,
            segment_bytes: options.opening_segment_bytes(),
            older: cut.older,
        }
    }

    pub(super) fn copied_entries(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Writes the new segment, seals what it continues, and only then lets it count.
    pub(super) fn write(
        mut self,
        vfs: &dyn Vfs,
        directory: &Path,
        files: &mut ZeroedFiles,
        chain: &mut Chain,
    ) -> Result<NewHead, OpenError> {
        let salt = vfs.random();
        self.preamble.salt =
            salt.map_err(|source| FileError::new("draw a salt for", directory, source))?;
        self.preamble.segment_bytes = self.size();
        let prepared = files
            .make(self.preamble.segment_bytes)
            .map_err(|error| disk_full(error, self.preamble.segment_bytes, directory))?;
        let file = SegmentFile::of_prepared(&prepared, &self.preamble);
        let (offsets, tail) = self.copy(&file)?;
        self.preamble.copied_end = tail.end;
        let file = Arc::new(file.publish(&self.preamble, vfs, directory)?);
        // Segments are not written while they are mapped.
        for segment in &mut chain.segments {
            segment.content = Content::copied(Vec::new());
        }
        self.seal_older(chain, file.sequence)?;
        let older = chain
            .segments
            .drain(..)
            .take(self.older)
            .map(|segment| LiveSegment {
                file: segment.file,
                base: segment.preamble.base,
            });
        Ok(NewHead {
            file,
            base: self.preamble.base,
            offsets,
            tail,
            older: older.collect(),
        })
    }

    /// The old head and the segment that is continued get a seal that names the new one, even if
    /// they seem to have one: what shows it may be the page cache.
    fn seal_older(&self, chain: &Chain, successor: u64) -> Result<(), FileError> {
        let continued = self.older.checked_sub(1);
        for (number, segment) in chain.segments.iter().enumerate() {
            let is_head = number + 1 == chain.segments.len();
            if !is_head && Some(number) != continued {
                continue;
            }
            let end = match self.preamble.predecessor {
                Some(continued) if continued.sequence == segment.file.sequence => continued.end,
                Some(_) | None => segment.scan.end,
            };
            segment.file.seal(&Seal {
                successor,
                end,
                last: self.state.last,
                hard_state: self.state.hard_state,
            })?;
        }
        Ok(())
    }

    /// Writes the copied entries as batches, without a sync.
    fn copy(&mut self, file: &SegmentFile) -> Result<(Vec<u32>, Tail), FileError> {
        let mut staged = Staged {
            hard_state: self.state.hard_state,
            mark: self.state.mark,
            keep: self.preamble.base,
            entries: std::mem::take(&mut self.entries),
        };
        let mut offsets = Vec::new();
        let mut buffer = AlignedBuffer::new();
        let mut tail = Tail {
            end: self.preamble.batches_start(),
            previous: None,
            vouching: Vouching::Done,
        };
        while !staged.entries.is_empty() {
            let (count, metadata) = staged.next_batch(self.limits);
            let draft = Draft {
                group: self.preamble.identity.group,
                hard_state: staged.hard_state,
                mark: staged.mark,
                keep: staged.keep,
                entries: &staged.entries[..count],
                metadata: &metadata,
                previous: tail.previous.as_ref(),
                vouched: tail.end,
            };
            let fixed = batch::encode(&draft, &file.checksum, tail.end, &mut buffer, &mut offsets);
            file.write(tail.end, &buffer)?;
            tail.end = fixed.end();
            tail.previous = Some(Previous {
                fixed: fixed.as_previous(),
                metadata,
            });
            staged.keep = fixed.last;
            staged.entries.drain(..count);
        }
        Ok((offsets, tail))
    }

    /// The size of an opening segment, or more if the preamble and the copy would take over half of it.
    fn size(&self) -> u64 {
        let mut blocks = 0;
        let mut rest = self.entries.as_slice();
        let mut previous = Metadata::default().encoded_bytes();
        while !rest.is_empty() {
            let (count, metadata) = next_batch(rest, self.limits);
            let (batch, after) = rest.split_at(count);
            let records = batch
                .iter()
                .map(|entry| record::record_bytes(entry.payload.len()));
            let own = metadata.encoded_bytes();
            blocks += batch::batch_blocks(own + previous, records.sum());
            previous = own;
            rest = after;
        }
        let needed = self.preamble.batches_start() + ((blocks + 1) * BLOCK_BYTES) as u64;
        let size = self.segment_bytes.max((2 * needed).min(MAX_SEGMENT_BYTES));
        assert!(
            needed <= size,
            "a segment holds a preamble and what one segment held"
        );
        size
    }
}

/// What of the newest segment is to be copied.
fn cut_of(
    head: &LoadedSegment,
    loaded: &[LoadedSegment],
    replay: &Replay,
    options: &LogOptions,
) -> Cut {
    let used = head.scan.end - head.preamble.batches_start();
    let after_last = replay.state.last.index.next();
    if used <= options.copy_whole_bytes() {
        let first = replay.index.first_in(head.preamble.sequence);
        return Cut {
            first: first.unwrap_or(after_last),
            predecessor: head.preamble.predecessor,
            older: loaded.len() - 1,
        };
    }
    // Each batch vouches for those before it, so only the last one can stand alone.
    let last = head.scan.batches.last().map(|batch| &batch.identity.fixed);
    let unvouched = last.filter(|fixed| fixed.end() > head.preamble.copied_end);
    let live_from = |first: LogIndex| first.max(replay.state.mark.index.next());
    Cut {
        first: unvouched.map_or(after_last, |fixed| live_from(fixed.keep.index.next())),
        predecessor: Some(Predecessor {
            sequence: head.preamble.sequence,
            end: unvouched.map_or(head.scan.end, |fixed| fixed.start),
        }),
        older: loaded.len(),
    }
}

/// The live entries from `first` on; all of them stand in the newest segment.
fn copy_entries(head: &LoadedSegment, first: LogIndex, replay: &Replay) -> Vec<Entry> {
    let last = replay.state.last.index;
    let Some(located) = replay.index.locate(first, last, usize::MAX) else {
        return Vec::new();
    };
    assert_eq!(
        located.file.sequence, head.preamble.sequence,
        "what is copied stands in the newest segment"
    );
    let entry = |offset: &u64| {
        let record = head.content.get(*offset as usize..).unwrap_or_default();
        let checked = record::check(record, &head.file.checksum, *offset);
        // The newest segment is copied into memory for the scan, so nothing can have changed it.
        let (header, kind, payload) = checked.expect("a record that the scan has checked");
        record::entry(&header, kind, Bytes::copy_from_slice(payload))
    };
    located.offsets.iter().map(entry).collect()
}

fn disk_full(error: FileError, segment_bytes: u64, directory: &Path) -> OpenError {
    if error.is_disk_full() {
        OpenError::DiskFull {
            segment_bytes,
            directory: PathBuf::from(directory),
        }
    } else {
        error.into()
    }
}

impl Log {
    /// Deletes the segment files that were there before the open and are no part of the log now.
    pub(super) fn remove_strangers(&self, before: &[u64]) -> Result<(), FileError> {
        let lives = |sequence: &u64| {
            let mut live = self.segments.iter();
            live.any(|segment| segment.file.sequence == *sequence)
        };
        let mut removed = 0;
        for sequence in before.iter().filter(|sequence| !lives(sequence)) {
            let path = path_of(&self.directory, *sequence);
            self.vfs
                .remove(&path)
                .map_err(|source| FileError::new("remove", &path, source))?;
            removed += 1;
        }
        if removed == 0 {
            return Ok(());
        }
        let synced = self.vfs.sync_dir(&self.directory);
        synced.map_err(|source| FileError::new("sync directory", &self.directory, source))
    }
}
