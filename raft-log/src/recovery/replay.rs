//! Applies the batches of all live segments in order: the state of the log and where entries are.

use std::sync::Arc;

use raft_proto::LogIndex;

use super::scan::ScannedBatch;
use crate::format::metadata::Metadata;
use crate::format::preamble::Preamble;
use crate::index::Index;
use crate::segment::SegmentFile;
use crate::state::{Change, LogState};

/// The log as read so far.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(crate) state: LogState,
    pub(crate) index: Index,
    /// Payload bytes of the entries from `sizes_from` on.
    sizes: Vec<u32>,
    sizes_from: LogIndex,
}

/// Checksums hold, and yet a batch does not continue what came before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contradiction;

impl Replay {
    /// Starts with the oldest live segment.
    pub(crate) fn start(preamble: &Preamble) -> Self {
        Self {
            state: LogState {
                hard_state: preamble.hard_state,
                mark: preamble.mark,
                last: preamble.base,
                metadata: preamble.metadata.clone(),
            },
            // Entries up to the base are in older segments, which are gone: the end of the log
            // will show that they are compacted away.
            index: Index::empty(preamble.base.index),
            sizes: Vec::new(),
            sizes_from: preamble.base.index.next(),
        }
    }

    /// A log that has no segment yet.
    pub(crate) fn of_nothing() -> Self {
        Self {
            state: LogState::default(),
            index: Index::empty(LogIndex::ZERO),
            sizes: Vec::new(),
            sizes_from: LogIndex::FIRST,
        }
    }

    /// Goes on in the next segment.
    pub(crate) fn enter(&mut self, preamble: &Preamble) -> Result<(), Contradiction> {
        let nothing = Metadata::default();
        self.apply(&Change {
            hard_state: preamble.hard_state,
            mark: preamble.mark,
            keep: preamble.base,
            last: preamble.base,
            metadata: &nothing,
        })
    }

    /// Applies a batch.
    pub(crate) fn batch(
        &mut self,
        batch: &ScannedBatch,
        file: &Arc<SegmentFile>,
    ) -> Result<(), Contradiction> {
        let fixed = &batch.identity.fixed;
        self.apply(&Change {
            hard_state: fixed.hard_state,
            mark: fixed.mark,
            keep: fixed.keep,
            last: fixed.last,
            metadata: &batch.identity.metadata,
        })?;
        self.index.append(file, &batch.offsets);
        self.sizes.extend(&batch.sizes);
        Ok(())
    }

    fn apply(&mut self, change: &Change<'_>) -> Result<(), Contradiction> {
        if !self.state.accepts(change) {
            return Err(Contradiction);
        }
        self.state.apply(change);
        self.index.truncate_after(change.keep.index);
        self.index.compact_through(change.mark.index);
        let kept = change.keep.index.next().since(self.sizes_from) as usize;
        self.sizes.truncate(kept);
        // A truncation may reach back before the oldest segment; the entries that replace them
        // are here, and are covered by the final mark.
        self.sizes_from = self.sizes_from.min(change.keep.index.next());
        if change.mark.index >= self.sizes_from {
            let dead = change.mark.index.next().since(self.sizes_from) as usize;
            self.sizes.drain(..dead.min(self.sizes.len()));
            self.sizes_from = change.mark.index.next();
        }
        Ok(())
    }

    /// Payload bytes of each live entry, in order.
    pub(crate) fn sizes(&self) -> &[u32] {
        &self.sizes
    }
}
