//! The comparisons that are going on, who has reported, and what stands of what was found.

use std::collections::{BTreeMap, BTreeSet};

use raft_core::{IndexRange, Time};
use raft_proto::{Comparison, ComparisonReport, LogIndex, LogPosition, NodeId};

use super::verdict::{self, Blame, Compared, Difference, Verdict};

/// Comparisons remembered, the latest ones: a member that is so far behind is not waited for.
const MAX_ROUNDS: usize = 16;
/// Findings remembered; more than a few say nothing more.
const MAX_STANDING: usize = 64;

/// One comparison.
struct Round {
    entry: LogPosition,
    /// What is compared, and until when reports are waited for; `None` before this node has applied
    /// the entry.
    opened: Option<(Comparison, Time)>,
    reports: BTreeMap<NodeId, ComparisonReport>,
    told: Vec<Difference>,
    is_over: bool,
}

/// A comparison that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComparisonOutcome {
    /// The entry that carried it.
    pub entry: LogPosition,
    /// The entries that were to be compared, beside the states; none if the log was empty.
    pub range: Option<IndexRange>,
    /// The members that have reported, in order.
    pub reported: Vec<NodeId>,
    /// Those that have not, in order.
    pub silent: Vec<NodeId>,
    /// What differs.
    pub differences: Vec<Difference>,
}

/// What came of looking at a comparison.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Found now.
    pub(super) found: Vec<Difference>,
    /// It has just ended.
    pub(super) ended: Option<ComparisonOutcome>,
}

/// All that this node knows of comparisons.
#[derive(Default)]
pub(super) struct Rounds {
    rounds: BTreeMap<LogIndex, Round>,
    /// The last one that this node has reached.
    newest: LogIndex,
    standing: Vec<Difference>,
    last: Option<ComparisonOutcome>,
}

impl Rounds {
    /// This node has applied the entry of a comparison.
    pub(super) fn open(&mut self, entry: LogPosition, comparison: Comparison, until: Time) {
        self.newest = self.newest.max(entry.index);
        let round = self.round(entry);
        round.opened = Some((comparison, until));
        // A restarted node reaches it again.
        round.is_over = false;
    }

    /// Takes a report; whether it is about a comparison that is remembered.
    pub(super) fn take(&mut self, from: NodeId, report: ComparisonReport) -> bool {
        let index = report.entry.index;
        let is_known = index > self.newest || self.rounds.contains_key(&index);
        if !is_known || report.sections.len() as u64 > Comparison::MAX_SECTIONS {
            return false;
        }
        let round = self.round(report.entry);
        if round.entry == report.entry {
            round.reports.insert(from, report);
        }
        self.rounds.contains_key(&index)
    }

    fn round(&mut self, entry: LogPosition) -> &mut Round {
        if self.rounds.len() >= MAX_ROUNDS && !self.rounds.contains_key(&entry.index) {
            self.rounds.pop_first();
        }
        self.rounds.entry(entry.index).or_insert(Round {
            entry,
            opened: None,
            reports: BTreeMap::new(),
            told: Vec::new(),
            is_over: false,
        })
    }

    /// Whether this is the last one that this node has reached.
    pub(super) fn is_newest(&self, index: LogIndex) -> bool {
        self.newest == index
    }

    /// The next time at which a comparison is given up waiting for.
    pub(super) fn deadline(&self) -> Option<Time> {
        let open = self.rounds.values().filter(|round| !round.is_over);
        open.filter_map(|round| Some(round.opened?.1)).min()
    }

    /// The comparisons whose time is over.
    pub(super) fn due(&self, now: Time) -> Vec<LogIndex> {
        let open = self.rounds.iter().filter(|(_, round)| !round.is_over);
        let due = open.filter(|(_, round)| round.opened.is_some_and(|(_, until)| until <= now));
        due.map(|(index, _)| *index).collect()
    }

    /// Judges a comparison anew.
    pub(super) fn judge(&mut self, now: Time, index: LogIndex, members: &BTreeSet<NodeId>) -> News {
        let mut news = News::default();
        let Some(round) = self.rounds.get_mut(&index) else {
            return news;
        };
        let Some((comparison, until)) = round.opened else {
            return news;
        };
        let has_reported = |id: &NodeId| round.reports.contains_key(id);
        let ends = !round.is_over && (until <= now || members.iter().all(has_reported));
        round.is_over |= ends;
        let mut verdict = verdict::judge(round.entry, comparison, members, &round.reports);
        // More reports may still tell who is wrong.
        let is_over = round.is_over;
        verdict
            .differences
            .retain(|difference| is_over || difference.blame == Blame::Named);
        let told = &round.told;
        let is_new = |difference: &&Difference| !told.contains(difference);
        news.found = verdict.differences.iter().filter(is_new).cloned().collect();
        round.told.clone_from(&verdict.differences);
        if ends {
            let (reported, silent) = members.iter().copied().partition(|id| has_reported(id));
            let outcome = ComparisonOutcome {
                entry: round.entry,
                range: IndexRange::new(comparison.first, comparison.last),
                reported,
                silent,
                differences: verdict.differences.clone(),
            };
            news.ended = Some(outcome.clone());
            self.last = Some(outcome);
        }
        self.remember(index, &verdict);
        news
    }

    /// Keeps what was found, and drops what this comparison shows to be healed.
    fn remember(&mut self, index: LogIndex, verdict: &Verdict) {
        self.standing.retain(|difference| {
            let is_older = difference.entry.index <= index;
            !is_older || !is_healed(difference, verdict)
        });
        for difference in &verdict.differences {
            let is_same = |known: &Difference| {
                known.compared == difference.compared && known.nodes == difference.nodes
            };
            self.standing.retain(|known| !is_same(known));
            self.standing.push(difference.clone());
        }
        let excess = self.standing.len().saturating_sub(MAX_STANDING);
        self.standing.drain(..excess);
    }

    /// Nothing up to here is in this node's log any more, so differences in it are history.
    pub(super) fn compacted(&mut self, base: LogIndex) {
        self.standing
            .retain(|difference| match difference.compared {
                Compared::State => true,
                Compared::Log(range) => range.last > base,
            });
    }

    /// What was found and not seen healed.
    pub(super) fn standing(&self) -> &[Difference] {
        &self.standing
    }

    /// The comparison that ended last.
    pub(super) const fn last(&self) -> Option<&ComparisonOutcome> {
        self.last.as_ref()
    }
}

/// Whether all nodes of a difference have by now what most members have.
fn is_healed(difference: &Difference, verdict: &Verdict) -> bool {
    let is_sound = |sound: &BTreeSet<NodeId>| difference.nodes.iter().all(|id| sound.contains(id));
    match difference.compared {
        Compared::State => is_sound(&verdict.sound_states),
        Compared::Log(IndexRange { first, last }) => {
            let mut next = first;
            for (range, sound) in &verdict.sound_logs {
                if range.first <= next && next <= range.last && is_sound(sound) {
                    next = range.last.next();
                }
            }
            next > last
        }
    }
}

#[cfg(test)]
mod tests {
    use raft_proto::Term;

    use super::*;

    const UNTIL: Time = Time(100);

    fn entry(index: u64) -> LogPosition {
        LogPosition {
            index: LogIndex(index),
            term: Term(2),
        }
    }

    fn of(first: u64, last: u64) -> Comparison {
        Comparison {
            first: LogIndex(first),
            last: LogIndex(last),
        }
    }

    fn members() -> BTreeSet<NodeId> {
        (1..=3).map(NodeId).collect()
    }

    fn report(index: u64, state: u64, sections: &[u64]) -> ComparisonReport {
        ComparisonReport {
            entry: entry(index),
            state: Some(state),
            sections: sections.iter().copied().map(Some).collect(),
        }
    }

    /// Node `from` reports; what is found and whether that ended it.
    fn hear(rounds: &mut Rounds, from: u64, report: ComparisonReport) -> (Vec<String>, bool) {
        let index = report.entry.index;
        if !rounds.take(NodeId(from), report) {
            return (Vec::new(), false);
        }
        let news = rounds.judge(Time::ZERO, index, &members());
        let found = news.found.iter().map(ToString::to_string).collect();
        (found, news.ended.is_some())
    }

    #[test]
    fn a_node_is_named_as_soon_as_it_is_certain_and_once() {
        let mut rounds = Rounds::default();
        rounds.open(entry(9), of(1, 2), UNTIL);
        assert_eq!(hear(&mut rounds, 1, report(9, 7, &[1, 2])), (vec![], false));
        // It may be either of the two.
        assert_eq!(hear(&mut rounds, 3, report(9, 7, &[1, 3])), (vec![], false));
        let named = "entries 2 to 2 in the log of n3 differ from those of most members";
        let told = hear(&mut rounds, 2, report(9, 7, &[1, 2]));
        assert_eq!(told, (vec![named.to_owned()], true));
        assert_eq!(hear(&mut rounds, 2, report(9, 7, &[1, 2])), (vec![], false));
        assert_eq!(rounds.standing().len(), 1);
    }

    #[test]
    fn what_stays_undecided_is_told_at_the_end() {
        let mut rounds = Rounds::default();
        rounds.open(entry(9), of(1, 0), UNTIL);
        hear(&mut rounds, 1, report(9, 7, &[]));
        assert_eq!(hear(&mut rounds, 3, report(9, 8, &[])), (vec![], false));
        assert_eq!(
            (rounds.deadline(), rounds.due(Time(99))),
            (Some(UNTIL), vec![])
        );
        assert_eq!(rounds.due(UNTIL), [LogIndex(9)]);
        let news = rounds.judge(UNTIL, LogIndex(9), &members());
        assert_eq!(news.found.len(), 1);
        let outcome = news.ended.expect("its time is over");
        assert_eq!(
            (outcome.reported, outcome.silent),
            (vec![NodeId(1), NodeId(3)], vec![NodeId(2)])
        );
        assert_eq!(rounds.deadline(), None);
        // A report that comes late still names the one that is wrong.
        let late = hear(&mut rounds, 2, report(9, 7, &[]));
        assert_eq!(
            late.0,
            ["the state of n3 differs from that of most members, as of entry 9"]
        );
    }

    #[test]
    fn reports_may_come_before_the_entry() {
        let mut rounds = Rounds::default();
        assert_eq!(hear(&mut rounds, 2, report(9, 7, &[])), (vec![], false));
        assert_eq!(hear(&mut rounds, 3, report(9, 8, &[])), (vec![], false));
        assert_eq!(rounds.deadline(), None);
        rounds.open(entry(9), of(1, 0), UNTIL);
        let told = hear(&mut rounds, 1, report(9, 7, &[]));
        assert_eq!(told.0.len(), 1);
        // Of comparisons that were long ago nothing is kept.
        assert_eq!(hear(&mut rounds, 2, report(8, 9, &[])), (vec![], false));
        assert_eq!(rounds.rounds.len(), 1);
    }

    #[test]
    fn memory_is_bounded() {
        let mut rounds = Rounds::default();
        for index in 1..1_000 {
            rounds.take(NodeId(2), report(index, 7, &[]));
            assert!(rounds.rounds.len() <= MAX_ROUNDS);
        }
        assert!(!rounds.take(NodeId(2), report(2_000, 7, &[0; 65])));
        rounds.open(entry(2_000), of(1, 0), UNTIL);
        for index in 2_001..2_200 {
            rounds.open(entry(index), of(1, 0), UNTIL);
            hear(&mut rounds, 1, report(index, 7, &[]));
            hear(&mut rounds, 2, report(index, 7, &[]));
            hear(&mut rounds, 3, report(index, index, &[]));
            assert!(rounds.rounds.len() <= MAX_ROUNDS);
        }
        assert_eq!(rounds.standing().len(), 1, "one node, one state");
    }

    #[test]
    fn a_finding_stands_until_a_later_comparison_shows_it_healed() {
        let mut rounds = Rounds::default();
        let round = |rounds: &mut Rounds, index, comparison, third: ComparisonReport| {
            rounds.open(entry(index), comparison, UNTIL);
            hear(rounds, 1, report(index, 7, &[1, 2]));
            hear(rounds, 2, report(index, 7, &[1, 2]));
            hear(rounds, 3, third);
        };
        round(&mut rounds, 9, of(3, 4), report(9, 8, &[1, 5]));
        assert_eq!(rounds.standing().len(), 2);
        // Other entries are compared: the log's difference stands, the state's is over.
        round(&mut rounds, 19, of(5, 6), report(19, 7, &[1, 2]));
        let standing = rounds.standing();
        assert_eq!(standing.len(), 1);
        assert!(matches!(standing[0].compared, Compared::Log(_)));
        // The node cannot read them: that is no proof.
        let mut silent = report(29, 7, &[1, 2]);
        silent.sections[1] = None;
        round(&mut rounds, 29, of(3, 4), silent);
        assert_eq!(rounds.standing().len(), 1);
        round(&mut rounds, 39, of(3, 4), report(39, 7, &[1, 2]));
        assert_eq!(rounds.standing(), []);
        round(&mut rounds, 49, of(3, 4), report(49, 7, &[1, 5]));
        rounds.compacted(LogIndex(3));
        assert_eq!(rounds.standing().len(), 1);
        rounds.compacted(LogIndex(4));
        assert_eq!(rounds.standing(), []);
    }
}
