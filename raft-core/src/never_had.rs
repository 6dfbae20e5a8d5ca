//! What nobody has: when the end of a log whose content is lost may be dropped, because it was never
//! committed and never will be (D6).

use raft_proto::{LogIndex, Membership, NodeId, Term};

use crate::core::RaftCore;
use crate::output::{IndexRange, RepairNews};
use crate::quorum::MajorityConfig;

/// A counted voter's word that it does not have an entry, nor anything after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Denial {
    /// The first entry of this log that it does not have.
    pub(crate) lacks_from: LogIndex,
    /// Its durable term then.
    pub(crate) term: Term,
}

impl RaftCore {
    /// Drops the end of the log from the first missing entry on that too many voters never had for
    /// it to be committed, now or ever, by what this node has acknowledged.
    ///
    /// An entry is committed by a majority of the configuration in force at its index, if that is
    /// joint of its incoming half (the next configuration is appended only after this one is
    /// committed, and its quorums contain majorities of that half, too). So `n - quorum + 1` voters
    /// of it that lack the entry meet every such majority. One that lacks it *at a durable term
    /// later than the last term of this log* has not acknowledged it to any leader to whom this
    /// node may have, and never will: acknowledgements are of the term in which they are given, and
    /// this node has none for the entry of a term later than its log's last one. What a later leader
    /// does with the entry, it does without this node's old word. A voter whose directory was cleared
    /// since is another one under the same id, whose word counts only for configurations that name
    /// it. See `docs/DECISIONS.md`, "Repair".
    pub(crate) fn drop_what_nobody_has(&mut self) -> bool {
        let last_term = self.log.last().term;
        let denials: Vec<(NodeId, LogIndex)> = (self.repair.denials.iter())
            .filter(|(_, denial)| denial.term > last_term)
            .map(|(id, denial)| (*id, denial.lacks_from))
            .collect();
        let mut candidates = Vec::new();
        for hole in self.holes.ranges() {
            candidates.push(hole.first);
            let inside = denials.iter().map(|(_, index)| *index);
            candidates.extend(inside.filter(|index| hole.contains(*index)));
        }
        candidates.sort_unstable();
        let found = candidates.into_iter().find(|index| {
            let is_open = *index > self.commit_index.max(self.verified);
            is_open && self.holes.is_open(*index) && self.is_denied(*index, &denials)
        });
        let Some(first) = found else {
            return false;
        };
        let last = self.log.last_index();
        self.truncate_from(first);
        self.report_repair(RepairNews::Dropped(IndexRange { first, last }));
        true
    }

    fn is_denied(&self, index: LogIndex, denials: &[(NodeId, LogIndex)]) -> bool {
        let Some(membership) = self.members.at(index) else {
            return false;
        };
        let voters = &membership.voters;
        let quorum = MajorityConfig::new(voters.iter().copied()).quorum();
        let life_of = |id: &NodeId, at: &Membership| at.members.get(id)?.incarnation;
        let current = self.members.current();
        let is_same_life = |id: &NodeId| {
            let life = life_of(id, membership);
            life.is_none() || life == life_of(id, current)
        };
        let lacking = denials
            .iter()
            .filter(|(id, from)| voters.contains(id) && *from <= index && is_same_life(id))
            .count();
        lacking > voters.len() - quorum
    }

    /// Denials at terms in which this node may have acknowledged the entry prove nothing. If that
    /// is what is lacking, this node begins a later term, once for an end of its log, and asks
    /// again: whoever hears from no leader takes the term over before it answers.
    pub(crate) fn raise_term_for_denials(&mut self) -> bool {
        let last_term = self.log.last().term;
        let before = self.repair.denials.len();
        self.repair.denials.retain(|_, d| d.term > last_term);
        if self.repair.denials.len() == before {
            return false;
        }
        if self.term() <= last_term && self.is_voter_in(self.members.current()) {
            self.become_follower(last_term.next(), None);
        }
        true
    }
}
