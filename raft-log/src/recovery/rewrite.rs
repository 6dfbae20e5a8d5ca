//! Every open starts a new segment and copies into it what nothing vouches for.
//!
//! The page cache may show bytes that are not on the disk, and what follows them could be synced
//! while they are lost. So the unvouched last batch is written again, elsewhere, under a temporary
//! name, synced, and only then named. A newest segment that is nearly empty is copied whole, so
//! that restarts do not pile up such segments.
//!
//! What is damaged is not copied as if it were whole: the new segment's preamble then states all of
//! the log's identity, that of lost entries included, and what is readable of the unvouched batch
//! follows as refills.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use raft_proto::mutants::{Mutant, is_planted};
use raft_proto::{Entry, LogIndex};

use super::chain::{Chain, LoadedSegment};
use super::replay::Replay;
use super::room::FoundRoom;
use super::scanned::{Extent, Finish, ScannedBatch, Wholeness};
use crate::error::{FileError, OpenError};
use crate::format::batch::{self, Draft, Previous, Records};
use crate::format::metadata::Metadata;
use crate::format::preamble::{Preamble, Predecessor};
use crate::format::record::{self, RECORD_ALIGN};
use crate::format::seal::Seal;
use crate::index::{Index, Place};
use crate::log::{LiveSegment, SegmentRoom, Tail, Vouching};
use crate::options::{LogIdentity, LogOptions, MAX_SEGMENT_BYTES};
use crate::segment::SegmentFile;
use crate::staged::{Limits, next_batch};
use crate::state::LogState;
use crate::vfs::{AlignedBuffer, BLOCK_BYTES, Content, Vfs};

/// What the new segment is to hold.
#[derive(Debug)]
pub(super) struct Plan {
    preamble: Preamble,
    state: LogState,
    copied: Copied,
    limits: Limits,
    segment_bytes: u64,
    /// How many of the loaded segments the new one continues.
    older: usize,
}

/// The segment that an open has started.
#[derive(Debug)]
pub(super) struct NewHead {
    pub(super) segment: LiveSegment,
    copied: CopiedPlaces,
    pub(super) tail: Tail,
    pub(super) older: VecDeque<LiveSegment>,
}

/// What is copied.
#[derive(Clone, Debug)]
enum Copied {
    /// The last entries of the log.
    Tail(Vec<Entry>),
    /// What is readable of the last batch, which fills in or has lost entries.
    Refill(Vec<Entry>),
}

/// Where the copies stand in the new segment.
#[derive(Debug)]
enum CopiedPlaces {
    /// Of the entries after the base.
    Tail(Vec<u32>),
    /// Of these entries, instead of those from this place of the old segment on.
    Refill {
        places: Vec<(LogIndex, u32)>,
        old: (u64, u64),
    },
}

impl Copied {
    fn entries(&self) -> &[Entry] {
        match self {
            Self::Tail(entries) | Self::Refill(entries) => entries,
        }
    }
}

impl NewHead {
    /// Says where the copies stand.
    pub(super) fn place_copy(&self, index: &mut Index) {
        match &self.copied {
            CopiedPlaces::Tail(offsets) => {
                index.truncate_after(self.segment.base.index);
                index.append(&self.segment.file, offsets);
            }
            CopiedPlaces::Refill { places, old } => {
                index.lose_place(old.0, old.1);
                for (entry, offset) in places {
                    index.fill(&self.segment.file, *entry, &[*offset]);
                }
            }
        }
    }
}

/// Where the copy starts and what it continues.
struct Cut {
    first: LogIndex,
    predecessor: Option<Predecessor>,
    older: usize,
    kind: CutKind,
}

/// How the copy is written.
#[derive(Clone, Copy)]
enum CutKind {
    /// As entries.
    Tail,
    /// As refills: the records that stand in the old head from here on.
    Refill,
}

impl Plan {
    pub(super) fn new(
        chain: &Chain,
        replay: &Replay,
        identity: LogIdentity,
        options: &LogOptions,
        copy_whole_bytes: u64,
    ) -> Self {
        let state = replay.state.clone();
        let loaded = &chain.segments;
        let mut cut = match loaded.last() {
            Some(head) => cut_of(head, loaded, replay, copy_whole_bytes),
            None => Cut {
                first: LogIndex::FIRST,
                predecessor: None,
                older: 0,
                kind: CutKind::Tail,
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
        let copied = match (loaded.last(), cut.kind) {
            (Some(head), CutKind::Tail) => Copied::Tail(copy_entries(head, cut.first, replay)),
            (Some(head), CutKind::Refill) => Copied::Refill(copy_records(head, replay)),
            (None, _) => Copied::Tail(Vec::new()),
        };
        let limits = Limits {
            entry_bytes: usize::MAX,
            batch_bytes: options.max_batch_bytes as usize,
            metadata_bytes: LogOptions::metadata_limit(options.segment_bytes),
        };
        let preamble = Preamble {
            segment_bytes: 0,
            sequence: chain.highest + 1,
            salt: 0,
            identity,
            hard_state: state.hard_state,
            mark: state.mark,
            base,
            predecessor: cut.predecessor,
            copied_end: 0,
            log_end: state.log_end,
            metadata,
        };
        Self {
            preamble,
            state,
            copied,
            limits,
            segment_bytes: options.opening_segment_bytes(),
            older: cut.older,
        }
    }

    pub(super) fn copied_entries(&self) -> u64 {
        self.copied.entries().len() as u64
    }

    /// Writes the new segment, seals what it continues, and only then lets it count.
    pub(super) fn write(
        mut self,
        vfs: &dyn Vfs,
        directory: &Path,
        room: &FoundRoom,
        chain: &mut Chain,
    ) -> Result<NewHead, OpenError> {
        let salt = vfs.random();
        self.preamble.salt =
            salt.map_err(|source| FileError::new("draw a salt for", directory, source))?;
        self.preamble.segment_bytes = room.prepared.segment_bytes;
        let file = SegmentFile::of_prepared(&room.prepared, &self.preamble);
        let (copied, tail) = self.copy(&file, chain)?;
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
                predecessor: segment.preamble.predecessor,
                room: SegmentRoom::Any,
            });
        Ok(NewHead {
            segment: LiveSegment {
                file,
                base: self.preamble.base,
                predecessor: self.preamble.predecessor,
                room: room.room,
            },
            copied,
            tail,
            older: older.collect(),
        })
    }

    /// The old head and the segment that is continued get a seal that names the new one, even if
    /// they seem to have one: what shows it may be the page cache. Another one keeps its seal, which
    /// names a segment that is lost: that is what a later open has to see.
    fn seal_older(&self, chain: &Chain, successor: u64) -> Result<(), FileError> {
        for (number, segment) in chain.segments.iter().enumerate() {
            let is_head = number + 1 == chain.segments.len();
            let end = match self.preamble.predecessor {
                Some(continued) if continued.sequence == segment.file.sequence => continued.end,
                Some(_) | None if is_head => segment.scan.end,
                Some(_) | None => continue,
            };
            segment.file.seal(&Seal {
                successor,
                end,
                last: self.state.last,
                hard_state: self.state.hard_state,
                log_end: self.state.log_end,
            })?;
        }
        Ok(())
    }

    /// Writes the copied entries as batches, without a sync.
    fn copy(&self, file: &SegmentFile, chain: &Chain) -> Result<(CopiedPlaces, Tail), FileError> {
        let mut offsets = Vec::new();
        let mut buffer = AlignedBuffer::new();
        let mut tail = Tail {
            end: self.preamble.batches_start(),
            previous: None,
            vouching: Vouching::Done,
        };
        let mut keep = self.preamble.base;
        let mut rest = self.copied.entries();
        while !rest.is_empty() {
            let (count, metadata) = next_batch(rest, self.limits);
            let (batch, after) = rest.split_at(count);
            let (records, metadata) = match self.copied {
                Copied::Tail(_) => (Records::Append(batch), metadata),
                Copied::Refill(_) => (Records::Refill(batch), Metadata::default()),
            };
            let draft = Draft {
                group: self.preamble.identity.group,
                hard_state: self.state.hard_state,
                mark: self.state.mark,
                keep,
                log_end: self.state.log_end,
                records,
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
            keep = fixed.last;
            rest = after;
        }
        Ok((self.places(offsets, chain), tail))
    }

    fn places(&self, offsets: Vec<u32>, chain: &Chain) -> CopiedPlaces {
        match (
            &self.copied,
            self.preamble.predecessor,
            chain.segments.last(),
        ) {
            (Copied::Refill(entries), Some(continued), Some(head)) => CopiedPlaces::Refill {
                places: entries
                    .iter()
                    .map(|entry| entry.index)
                    .zip(offsets)
                    .collect(),
                old: (head.file.sequence, continued.end),
            },
            (Copied::Refill(_) | Copied::Tail(_), _, _) => CopiedPlaces::Tail(offsets),
        }
    }

    /// The size of an opening segment, or more if the preamble and the copy would take over half of it.
    pub(super) fn size(&self) -> u64 {
        let needed = self.needed();
        let size = self.segment_bytes.max((2 * needed).min(MAX_SEGMENT_BYTES));
        assert!(
            needed <= size,
            "a segment holds a preamble and what one segment held"
        );
        size
    }

    /// How large the new segment must be at least, in bytes, for the preamble, the copy and the seal.
    pub(super) fn needed(&self) -> u64 {
        let mut blocks = 0;
        let mut rest = self.copied.entries();
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
        self.preamble.batches_start() + ((blocks + 1) * BLOCK_BYTES) as u64
    }
}

/// What of the newest segment is to be copied.
fn cut_of(
    head: &LoadedSegment,
    loaded: &[LoadedSegment],
    replay: &Replay,
    copy_whole_bytes: u64,
) -> Cut {
    let used = head.scan.end - head.preamble.batches_start();
    let after_last = replay.state.last.index.next();
    if used <= copy_whole_bytes && is_plain(head) {
        let first = replay.index.first_in(head.preamble.sequence);
        return Cut {
            first: first.unwrap_or(after_last),
            predecessor: head.preamble.predecessor,
            older: loaded.len() - 1,
            kind: CutKind::Tail,
        };
    }
    let unvouched = unvouched(head).filter(|_| !is_planted(Mutant::CacheTrusted));
    let (first, end, kind) = match unvouched {
        None => (after_last, head.scan.end, CutKind::Tail),
        Some(batch) => {
            let fixed = &batch.identity.fixed;
            if batch.wholeness == Wholeness::Whole && fixed.refill_count == 0 {
                let first = fixed.keep.index.max(replay.state.mark.index).next();
                (first, fixed.start, CutKind::Tail)
            } else {
                let from = fixed.start;
                (after_last, from, CutKind::Refill)
            }
        }
    };
    let predecessor = Predecessor {
        sequence: head.preamble.sequence,
        end,
    };
    Cut {
        first,
        predecessor: Some(predecessor),
        older: loaded.len(),
        kind,
    }
}

/// Whether the head holds the last entries of the log, all of them readable, and nothing else.
fn is_plain(head: &LoadedSegment) -> bool {
    let batches = &head.scan.batches;
    head.scan.damage.is_empty()
        && head.extent == Extent::Open
        && matches!(head.scan.finish, Finish::Clean | Finish::Torn(_))
        && batches
            .iter()
            .all(|batch| batch.identity.fixed.refill_count == 0)
}

/// The batch of the head that stands alone: each vouches for those before it.
fn unvouched(head: &LoadedSegment) -> Option<&ScannedBatch> {
    let last = head.scan.batches.last()?;
    let is_copied = last.identity.fixed.end() <= head.preamble.copied_end;
    (head.extent == Extent::Open && !is_copied).then_some(last)
}

/// The live entries from `first` on; all of them stand in the newest segment.
fn copy_entries(head: &LoadedSegment, first: LogIndex, replay: &Replay) -> Vec<Entry> {
    let last = replay.state.last.index;
    let located = match replay.index.locate(first, last, usize::MAX) {
        Some(Place::Here(located)) => located,
        Some(Place::Missing(hole)) => unreachable!("entries {hole:?} are copied, and are missing"),
        None => return Vec::new(),
    };
    assert_eq!(
        located.file.sequence, head.preamble.sequence,
        "what is copied stands in the newest segment"
    );
    assert_eq!(
        located.offsets.len() as u64,
        last.since(first) + 1,
        "all that is copied stands together"
    );
    let entry = |offset: &u64| {
        // The newest segment is copied into memory for the scan, so nothing can have changed it.
        read_record(head, *offset).expect("a record that the scan has checked")
    };
    located.offsets.iter().map(entry).collect()
}

/// The readable records of the last batch that are the content of live entries.
fn copy_records(head: &LoadedSegment, replay: &Replay) -> Vec<Entry> {
    let runs = head.scan.batches.last().map(|batch| batch.runs.as_slice());
    let offsets = runs.unwrap_or_default().iter().flat_map(|run| &run.offsets);
    let entries = offsets.filter_map(|units| {
        let entry = read_record(head, u64::from(*units) * RECORD_ALIGN as u64)?;
        let is_live = entry.index > replay.state.mark.index
            && replay.state.position_at(entry.index) == Some(entry.position());
        is_live.then_some(entry)
    });
    entries.collect()
}

fn read_record(head: &LoadedSegment, offset: u64) -> Option<Entry> {
    let record = head.content.get(usize::try_from(offset).ok()?..)?;
    let (header, kind, payload) = record::check(record, &head.file.checksum, offset)?;
    Some(record::entry(
        &header,
        kind,
        Bytes::copy_from_slice(payload),
    ))
}
