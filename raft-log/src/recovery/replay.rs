//! What the log holds by identity, and where its entries stand.
//!
//! The head says the first, all segments the second: a record is an entry's content if index and term
//! are the entry's, wherever it stands. (An entry is what index and term name, §5.3.)

use std::sync::Arc;

use raft_proto::{LogIndex, LogPosition};

use super::chain::LoadedSegment;
use super::salvage::RecordRun;
use super::scanned::ScannedBatch;
use crate::format::metadata::Metadata;
use crate::index::Index;
use crate::segment::SegmentFile;
use crate::state::{Change, LogState};

/// The most entries of a log that lost segments may have held. More is not believed: it would only
/// be a number in a preamble, and sizes are allocated for them.
pub(crate) const MAX_LOST_ENTRIES: u64 = 1 << 27;

/// The log as read so far.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(crate) state: LogState,
    pub(crate) index: Index,
    /// Payload bytes of the entries from `sizes_from` on; 0 for missing ones.
    sizes: Vec<u32>,
    sizes_from: LogIndex,
}

/// Checksums hold, and yet a batch does not continue what came before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contradiction;

impl Replay {
    /// A log that has no segment yet.
    pub(crate) fn of_nothing() -> Self {
        Self {
            state: LogState::default(),
            index: Index::empty(LogIndex::ZERO),
            sizes: Vec::new(),
            sizes_from: LogIndex::FIRST,
        }
    }

    /// What the head's preamble says, with the content that older segments (oldest first) hold.
    /// Entries up to `mark` will be compacted away by the head and are not looked for.
    pub(crate) fn start(
        head: &LoadedSegment,
        older: &[LoadedSegment],
        mark: LogPosition,
    ) -> Result<Self, Contradiction> {
        let preamble = &head.preamble;
        let floor = preamble.mark.index.max(mark.index).min(preamble.base.index);
        let live = preamble.base.index.since(floor);
        let batches = older.iter().flat_map(|segment| &segment.scan.batches);
        let records = batches
            .flat_map(|batch| &batch.runs)
            .map(|run| run.offsets.len() as u64);
        if live > records.sum::<u64>() + MAX_LOST_ENTRIES {
            return Err(Contradiction);
        }
        let mut index = Index::empty(floor);
        index.extend_missing(preamble.base.index);
        let mut replay = Self {
            state: LogState {
                hard_state: preamble.hard_state,
                mark: preamble.mark,
                last: preamble.base,
                log_end: preamble.log_end,
                metadata: preamble.metadata.clone(),
            },
            index,
            sizes: vec![0; live as usize],
            sizes_from: floor.next(),
        };
        // Newest first: of two places the later one counts.
        for segment in older.iter().rev() {
            for batch in segment.scan.batches.iter().rev() {
                replay.place(batch, &segment.file);
            }
        }
        Ok(replay)
    }

    /// Applies a batch of the head.
    pub(crate) fn batch(
        &mut self,
        batch: &ScannedBatch,
        file: &Arc<SegmentFile>,
    ) -> Result<(), Contradiction> {
        let fixed = &batch.identity.fixed;
        let change = Change {
            hard_state: fixed.hard_state,
            mark: fixed.mark,
            keep: fixed.keep,
            last: fixed.last,
            log_end: fixed.log_end,
            metadata: &batch.identity.metadata,
        };
        if !self.state.accepts(&change) || !metadata_fits(&batch.identity.metadata, &change) {
            return Err(Contradiction);
        }
        self.state.apply(&change);
        self.index.truncate_after(change.keep.index);
        self.index.compact_through(change.mark.index);
        self.index.extend_missing(change.last.index);
        self.cut_sizes(change.keep.index, change.mark.index);
        let live = change.last.index.next().since(self.sizes_from);
        self.sizes.resize(live as usize, 0);
        if fixed.refill_count > 0 {
            self.give_way(batch);
        }
        self.place(batch, file);
        Ok(())
    }

    /// Payload bytes of each live entry, in order; 0 for missing ones.
    pub(crate) fn sizes(&self) -> &[u32] {
        &self.sizes
    }

    fn cut_sizes(&mut self, keep: LogIndex, mark: LogIndex) {
        let kept = keep.next().since(self.sizes_from) as usize;
        self.sizes.truncate(kept);
        // A truncation may reach back before the first size; what replaces these entries is here,
        // and the final mark covers them.
        self.sizes_from = self.sizes_from.min(keep.next());
        if mark >= self.sizes_from {
            let dead = mark.next().since(self.sizes_from) as usize;
            self.sizes.drain(..dead.min(self.sizes.len()));
            self.sizes_from = mark.next();
        }
    }

    /// What a refill brings counts, and not what was found wanting, also if that reads well by now:
    /// of two places the later one counts.
    fn give_way(&mut self, batch: &ScannedBatch) {
        for run in &batch.runs {
            if let Some((first, last)) = self.live_part(run) {
                self.index.lose(first, last);
            }
        }
    }

    /// Says where the readable records of a batch stand, as far as they are the log's entries.
    fn place(&mut self, batch: &ScannedBatch, file: &Arc<SegmentFile>) {
        for run in &batch.runs {
            self.place_run(run, file);
        }
    }

    fn place_run(&mut self, run: &RecordRun, file: &Arc<SegmentFile>) {
        let Some((first, last)) = self.live_part(run) else {
            return;
        };
        let slots = first.since(run.first) as usize..=last.since(run.first) as usize;
        for filled in self.index.fill(file, first, &run.offsets[slots]) {
            let count = filled.last.since(filled.first) as usize + 1;
            let from = filled.first.since(run.first) as usize;
            let at = filled.first.since(self.sizes_from) as usize;
            self.sizes[at..at + count].copy_from_slice(&run.sizes[from..from + count]);
        }
    }

    /// The first and last of a run's records that are entries of the log.
    fn live_part(&self, run: &RecordRun) -> Option<(LogIndex, LogIndex)> {
        let end = self.state.last.index;
        let (from, to) = self.state.metadata.range_of(run.term, end)?;
        let first = run.first.max(from).max(self.index.first);
        let last = run.last().min(to).min(self.index.last);
        (first <= last).then_some((first, last))
    }
}

/// Whether what a batch adds is in order behind what stays.
fn metadata_fits(metadata: &Metadata, change: &Change<'_>) -> bool {
    metadata
        .runs
        .first()
        .is_none_or(|run| run.term >= change.keep.term)
        && metadata.covers(change.keep, change.last)
}
