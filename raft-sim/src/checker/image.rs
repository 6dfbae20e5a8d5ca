//! The durable image of a node's log, how changes of the log change it, and what a crash may leave.

use raft_log::LogWrite;
use raft_proto::{Entry, HardState, LogIndex, LogPosition, Term};

use super::commit_chain::Committed;

/// A change of a node's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogChange {
    /// A write of the core.
    Write {
        /// First, the log starts anew after this position, which a snapshot covers.
        install: Option<LogPosition>,
        /// Then this.
        write: LogWrite,
    },
    /// Everything up to here is compacted.
    Compact(LogPosition),
}

/// What a node says of its disk when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartView {
    /// Term and vote.
    pub hard_state: HardState,
    /// The last entry before the log.
    pub mark: LogIndex,
    /// Terms of the log's entries.
    pub terms: Vec<Term>,
    /// The end of the snapshot that the state machine starts from.
    pub snapshot: Option<LogPosition>,
    /// Whether it takes part in what is counted.
    pub standing: Standing,
}

/// What a node that starts says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has everything that it ever made durable, by index and term.
    Counted,
    /// The same, but for snapshots that cannot be read any more; an older one and the log have what
    /// they covered.
    SnapshotOlder,
    /// The same, but for the snapshot that its log begins with.
    SnapshotLost,
    /// It does not know what it lacks: it counts for nothing until it holds what others do.
    Uncounted,
}

/// The durable image of a node's log, as far as the checker cares. What is compacted was committed,
/// so the terms are those of a whole log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) hard_state: HardState,
    pub(super) mark: LogIndex,
    pub(super) terms: Vec<Term>,
}

impl Image {
    pub(super) fn apply(&mut self, chain: &[Committed], change: &LogChange) {
        match change {
            LogChange::Compact(position) => self.mark = self.mark.max(position.index),
            LogChange::Write { install, write } => {
                if let Some(position) = install {
                    self.terms = terms_of(chain, position.index);
                    self.mark = position.index;
                }
                self.write(write);
            }
        }
    }

    /// The end of it, for a person.
    pub(super) fn summary(&self) -> String {
        let (state, mark) = (self.hard_state, self.mark);
        let (last, term) = (self.terms.len(), self.terms.last());
        let vote = state.vote.map_or(0, |vote| vote.0);
        let last_term = term.map_or(0, |term| term.0);
        let now = state.term.0;
        format!("entries {mark} to {last}@{last_term} in term {now} with vote {vote}")
    }

    fn write(&mut self, write: &LogWrite) {
        if let Some(first) = write.truncate_from {
            self.terms.truncate(first.0 as usize - 1);
        }
        for entry in &write.entries {
            // A write may also replace a suffix without saying so.
            self.terms.truncate(entry.index.0 as usize - 1);
            self.terms.push(entry.term);
        }
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
    }
}

/// The terms of the first entries of the chain.
pub(super) fn terms_of(chain: &[Committed], last: LogIndex) -> Vec<Term> {
    let terms = chain.iter().map(|committed| committed.term);
    terms.take(last.0 as usize).collect()
}

pub(super) fn entries_of(change: &LogChange) -> &[Entry] {
    match change {
        LogChange::Write { write, .. } => &write.entries,
        LogChange::Compact(_) => &[],
    }
}

/// Whether a node may come back with `found`, if it had `before` and crashed while these changes
/// were under way.
pub(super) fn is_expected(
    chain: &[Committed],
    before: &Image,
    in_flight: &[LogChange],
    found: &Image,
) -> bool {
    if found == before || is_ahead(before, in_flight, found) {
        return true;
    }
    let mut after = before.clone();
    let mut kept = before.terms.len();
    let mut hard_states = vec![before.hard_state];
    let mut marks = vec![before.mark];
    let mut is_prefix = false;
    for change in in_flight {
        let removed = match change {
            LogChange::Write {
                install: Some(position),
                ..
            } => {
                kept = position.index.0 as usize;
                None
            }
            LogChange::Write { write, .. } => write.truncate_from,
            LogChange::Compact(_) => None,
        };
        if let Some(first) = removed {
            kept = kept.min(first.0 as usize - 1);
        }
        after.apply(chain, change);
        hard_states.push(after.hard_state);
        marks.push(after.mark);
        // All of it is one batch, or a few in order if it is too long for one.
        is_prefix |= after.terms.starts_with(&found.terms) && found.terms.len() >= kept;
    }
    is_prefix && hard_states.contains(&found.hard_state) && marks.contains(&found.mark)
}

/// Whether term, vote and a compaction went ahead of everything else that was under way, as they may
/// on a full disk: a compaction covers committed entries only, and a term without the entries before it
/// is as if their messages had been lost.
fn is_ahead(before: &Image, in_flight: &[LogChange], found: &Image) -> bool {
    let mut hard_states = vec![before.hard_state];
    let mut marks = vec![before.mark];
    for change in in_flight {
        match change {
            LogChange::Write { write, .. } => hard_states.extend(write.hard_state),
            LogChange::Compact(position) => marks.push(before.mark.max(position.index)),
        }
    }
    found.terms == before.terms
        && hard_states.contains(&found.hard_state)
        && marks.contains(&found.mark)
}

/// The images that these changes lead through, the first and the last included.
pub(super) fn images_of(
    chain: &[Committed],
    before: &Image,
    in_flight: &[LogChange],
) -> Vec<Image> {
    let mut images = vec![before.clone()];
    for change in in_flight {
        let mut next = images[images.len() - 1].clone();
        next.apply(chain, change);
        images.push(next);
    }
    images
}

/// Whether a node may come back with `found`, if it had received this snapshot and not yet
/// installed it: only if its log did not have the snapshot's end. The term may have been raised
/// for the snapshot.
pub(super) fn is_installed_late(before: &Image, found: &Image, snapshot: LogPosition) -> bool {
    let index = snapshot.index;
    let held = before.terms.get(index.0 as usize - 1);
    let raised = HardState {
        term: snapshot.term,
        vote: None,
    };
    let is_raised = before.hard_state.term < snapshot.term && found.hard_state == raised;
    held != Some(&snapshot.term)
        && found.mark == index
        && found.terms.len() as u64 == index.0
        && (found.hard_state == before.hard_state || is_raised)
}
