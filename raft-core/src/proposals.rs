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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recovered::Recovered;
    use raft_proto::Boot;

    fn log(terms: &[u64]) -> LogView {
        let mut log = LogView::new(&Recovered::empty(Boot::default()));
        for term in terms {
            log.append(Term(*term), 0);
        }
        log
    }

    fn decided(proposals: &mut Proposals, commit: u64, log: &LogView) -> Vec<(u64, u64, String)> {
        let mut events = VecDeque::new();
        proposals.decide(LogIndex(commit), log, &mut events);
        let told = events.into_iter().map(|event| {
            let Event::ProposalsDecided { range, outcome, .. } = event else {
                panic!("{event:?}");
            };
            (range.first.0, range.last.0, format!("{outcome:?}"))
        });
        told.collect()
    }

    fn proposed(first: u64, last: u64, term: u64) -> Proposals {
        let mut proposals = Proposals::default();
        for index in first..=last {
            proposals.add(LogIndex(index), Term(term), &mut VecDeque::new());
        }
        proposals
    }

    #[test]
    fn ranges_are_decided_in_pieces() {
        let mut proposals = proposed(2, 5, 3);
        let log = log(&[1, 3, 3, 3, 3]);
        let committed = |first, last| vec![(first, last, "Committed".to_owned())];
        assert_eq!(decided(&mut proposals, 3, &log), committed(2, 3));
        assert_eq!(decided(&mut proposals, 3, &log), []);
        assert_eq!(decided(&mut proposals, 5, &log), committed(4, 5));
    }

    #[test]
    fn a_later_term_committed_before_decides_what_follows() {
        let mut proposals = proposed(2, 9, 3);
        let log = log(&[1, 3, 4]);
        let superseded = format!("{:?}", ProposalOutcome::Superseded { by: Term(4) });
        let told = decided(&mut proposals, 3, &log);
        assert_eq!(
            told,
            [
                (2, 2, "Committed".to_owned()),
                (3, 3, superseded.clone()),
                (4, 9, superseded)
            ]
        );
    }

    #[test]
    fn below_a_snapshot_terms_still_tell_some() {
        let mut log = log(&[1, 3, 4]);
        log.compact_to(LogIndex(3));
        assert_eq!(decided(&mut proposed(2, 2, 3), 3, &log)[0].2, "Unknown");
        let superseded = format!("{:?}", ProposalOutcome::Superseded { by: Term(4) });
        assert_eq!(decided(&mut proposed(2, 2, 5), 3, &log)[0].2, superseded);
    }
}
