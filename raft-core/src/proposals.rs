//! Proposals of this node whose outcome is not known yet, as ranges.

use std::collections::VecDeque;

use raft_proto::{LogIndex, Term};

use crate::log_view::LogView;
use crate::output::{Event, IndexRange, ProposalOutcome};

/// Most ranges remembered. A commit of a later term decides all earlier ranges, so more than a
/// few need as many leaderships in a row that commit nothing.
const MAX_RANGES: usize = 1_024;

#[derive(Clone, Copy, Debug)]
struct Proposed {
    range: IndexRange,
    term: Term,
}

/// Undecided proposals, oldest first. They outlive the leadership they were made in, because
/// only a commit at their index decides them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proposals {
    undecided: VecDeque<Proposed>,
}

impl Proposals {
    pub(crate) fn add(&mut self, index: LogIndex, term: Term, events: &mut VecDeque<Event>) {
        if let Some(last) = self.undecided.back_mut()
            && last.term == term
            && last.range.last.next() == index
        {
            last.range.last = index;
            return;
        }
        if self.undecided.len() == MAX_RANGES
            && let Some(oldest) = self.undecided.pop_front()
        {
            report(events, oldest.range, oldest.term, ProposalOutcome::Unknown);
        }
        let range = IndexRange {
            first: index,
            last: index,
        };
        self.undecided.push_back(Proposed { range, term });
    }

    /// Decides everything up to the commit index by the terms that are committed there; and what
    /// is beyond it if a later term is committed before it: terms never decrease along a log, so
    /// no log that has that commit, as all leaders' from now on, can have the proposal.
    pub(crate) fn decide(
        &mut self,
        commit_index: LogIndex,
        log: &LogView,
        events: &mut VecDeque<Event>,
    ) {
        let committed_term = log.term_at(commit_index);
        self.undecided.retain_mut(|proposed| {
            let until = proposed.range.last.min(commit_index);
            if let Some(decided) = IndexRange::new(proposed.range.first, until) {
                decide_range(decided, proposed.term, log, events);
                proposed.range.first = until.next();
            }
            let open = IndexRange::new(proposed.range.first, proposed.range.last);
            match (open, committed_term) {
                (Some(open), Some(by)) if by > proposed.term => {
                    let outcome = ProposalOutcome::Superseded { by };
                    report(events, open, proposed.term, outcome);
                    false
                }
                (Some(_), _) => true,
                (None, _) => false,
            }
        });
    }

    /// Gives up on all of them.
    pub(crate) fn abandon(&mut self, events: &mut VecDeque<Event>) {
        for proposed in self.undecided.drain(..) {
            report(
                events,
                proposed.range,
                proposed.term,
                ProposalOutcome::Unknown,
            );
        }
    }
}

/// Reports a committed range in pieces of equal outcome.
fn decide_range(range: IndexRange, term: Term, log: &LogView, events: &mut VecDeque<Event>) {
    let outcome_at = |index| match log.term_at(index) {
        Some(found) if found == term => ProposalOutcome::Committed,
        Some(by) => ProposalOutcome::Superseded { by },
        // A snapshot covers it. No entry there can be of a later term than the snapshot's last.
        None if log.base().term < term => ProposalOutcome::Superseded {
            by: log.base().term,
        },
        None => ProposalOutcome::Unknown,
    };
    let mut piece = IndexRange {
        first: range.first,
        last: range.first,
    };
    let mut outcome = outcome_at(range.first);
    for index in range.indexes().skip(1) {
        let next = outcome_at(index);
        if next != outcome {
            report(events, piece, term, outcome);
            piece.first = index;
            outcome = next;
        }
        piece.last = index;
    }
    report(events, piece, term, outcome);
}

fn report(events: &mut VecDeque<Event>, range: IndexRange, term: Term, outcome: ProposalOutcome) {
    events.push_back(Event::ProposalsDecided {
        range,
        term,
        outcome,
    });
}
