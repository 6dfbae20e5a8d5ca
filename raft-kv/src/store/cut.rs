//! One cut of the store, taken in parts while writes go on.
//!
//! The cut is every version that was kept when it began: history first, then the live records in
//! the order of their keys. Nothing is copied at the beginning. History is pinned: a version that
//! is compacted before the cut has come to it is held until it has. Of the live records a cursor
//! knows how far it has come. A record behind the cursor may change, for it was taken; one that was
//! written after the cut began is no part of it. What is left is a record before the cursor that
//! is of the cut and is replaced or deleted for the first time: it is stashed for the cursor.
//! Whatever comes after it under this key is newer than the cut. So live records that are in the
//! cut and the stash have no key in common, and together they are what lived at the beginning.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::record::Record;
use super::{Retention, Store};
use crate::operation::Revision;
use crate::snapshot::{Block, SupersededRef};

/// Most records that are looked at for one block: those newer than the cut are passed over.
const SCAN_MAX: usize = 4096;

/// What the store was when a cut began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CutSummary {
    pub(crate) revision: Revision,
    pub(crate) oldest: Revision,
    pub(crate) retention: Retention,
    /// Versions in history.
    pub(crate) superseded: u64,
    /// Live keys.
    pub(crate) live: u64,
    /// [`Store::hash`].
    pub(crate) hash: u64,
}

/// A cut that is being taken.
#[derive(Debug)]
pub(super) struct Cut {
    /// The store's revision when it began.
    at: Revision,
    /// Live records of the cut that were not taken yet.
    left: u64,
    /// The key up to which live records were taken.
    taken: Option<Box<[u8]>>,
    /// Records of the cut behind that key that were replaced or deleted since.
    stash: BTreeMap<Box<[u8]>, Record>,
}

impl Store {
    /// Begins a cut of everything that can be read now.
    pub(crate) fn begin_cut(&mut self) -> CutSummary {
        assert!(self.cut.is_none(), "one cut at a time");
        self.history.pin();
        self.cut = Some(Cut {
            at: self.revision,
            left: self.key_count(),
            taken: None,
            stash: BTreeMap::new(),
        });
        CutSummary {
            revision: self.revision,
            oldest: self.oldest,
            retention: self.retention,
            superseded: self.history.len(),
            live: self.key_count(),
            hash: self.hash(),
        }
    }

    /// Appends the next block of the cut to `out`, of about `room` bytes. Returns whether there was
    /// one.
    pub(crate) fn cut_block(&mut self, out: &mut Vec<u8>, room: usize) -> bool {
        self.history_block(out, room) || self.live_block(out, room)
    }

    /// Lets go of what the cut has pinned.
    pub(crate) fn end_cut(&mut self) {
        self.cut = None;
        self.history.unpin();
    }

    /// Stashes a record that has just been replaced or deleted, if the cut still needs it.
    pub(super) fn keep_for_cut(&mut self, old: &Record) {
        let Some(cut) = &mut self.cut else {
            return;
        };
        let is_taken = cut.taken.as_deref().is_some_and(|taken| old.key() <= taken);
        if old.mod_revision() <= cut.at && !is_taken {
            cut.stash.insert(old.key().into(), old.clone());
        }
    }

    fn history_block(&mut self, out: &mut Vec<u8>, room: usize) -> bool {
        let mut versions = Vec::new();
        let mut bytes = 0;
        for version in self.history.pinned() {
            if bytes >= room {
                break;
            }
            let pair = version.record.to_pair();
            bytes += pair.reply_bytes();
            let until = version.until;
            versions.push(SupersededRef { until, pair });
        }
        let count = versions.len();
        if count == 0 {
            return false;
        }
        Block::Superseded(versions).append_to(out);
        self.history.take_pinned(count);
        true
    }

    /// May append a block without a pair, if many records are newer than the cut.
    fn live_block(&mut self, out: &mut Vec<u8>, room: usize) -> bool {
        let Some(cut) = self.cut.as_mut().filter(|cut| cut.left > 0) else {
            return false;
        };
        let from = match &cut.taken {
            Some(taken) => Bound::Excluded(&taken[..]),
            None => Bound::Unbounded,
        };
        let mut live = self.live.range(from, Bound::Unbounded).peekable();
        let mut stashed = cut.stash.values().peekable();
        let mut pairs = Vec::new();
        let mut bytes = 0;
        let mut reached: &[u8] = b"";
        for _ in 0..SCAN_MAX {
            if bytes >= room {
                break;
            }
            // Under the key of a stashed record there may be a newer live one.
            let next = match (live.peek(), stashed.peek()) {
                (Some(l), Some(s)) if s.key() <= l.key() => stashed.next(),
                (None, Some(_)) => stashed.next(),
                (Some(_) | None, _) => live.next(),
            };
            let Some(record) = next else {
                break;
            };
            reached = record.key();
            if record.mod_revision() <= cut.at {
                let pair = record.to_pair();
                bytes += pair.reply_bytes();
                pairs.push(pair);
            }
        }
        assert!(!reached.is_empty(), "what is left of a cut is somewhere");
        cut.left = cut
            .left
            .checked_sub(pairs.len() as u64)
            .unwrap_or_else(|| panic!("a cut has the records that there were when it began"));
        let taken: Box<[u8]> = reached.into();
        Block::Live(pairs).append_to(out);
        while let Some(first) = cut.stash.first_entry() {
            if *first.key() > taken {
                break;
            }
            first.remove();
        }
        cut.taken = Some(taken);
        true
    }
}
