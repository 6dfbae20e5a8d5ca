//! Log time: how much time the leaders of a cluster have seen go by, as their commands tell.
//!
//! Replicas may not look at their own clocks, or they would expire sessions at different points.
//! Commands carry the monotonic time of the leader that proposed them; within a term the
//! differences are added up. Clocks of two leaders cannot be compared, so a new term continues
//! from the last logged time.

use raft_proto::Term;
use serde::{Deserialize, Serialize};

/// Milliseconds on a leader's monotonic clock; comparable only within one term.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct LeaderTime(pub u64);

/// Milliseconds of log time since the cluster was formed.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct LogTime(pub u64);

impl LogTime {
    /// The time `ms` milliseconds later.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

/// The clock of the replicated log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogClock {
    now: LogTime,
    term: Term,
    /// The latest stamp of `term`'s leader, if it has stamped a command yet.
    last_stamp: Option<LeaderTime>,
    /// When the first command of `term` was applied: nothing expires earlier than one full
    /// time-to-live after it, for sessions could not reach a leader while there was none.
    term_began: LogTime,
}

impl LogClock {
    /// Notes the term of a command that is about to be applied.
    pub fn observe_term(&mut self, term: Term) {
        assert!(term >= self.term, "terms do not fall along the log (§5.3)");
        if term > self.term {
            self.term = term;
            self.last_stamp = None;
            self.term_began = self.now;
        }
    }

    /// Advances by what passed on the leader's clock since its previous stamp. Stamps may arrive
    /// out of order, for commands are proposed concurrently; an older one changes nothing.
    pub fn observe_stamp(&mut self, stamp: LeaderTime) {
        if let Some(last) = self.last_stamp {
            self.now = self.now.plus_ms(stamp.0.saturating_sub(last.0));
        }
        self.last_stamp = self.last_stamp.max(Some(stamp));
    }

    /// The log time.
    #[must_use]
    pub const fn now(&self) -> LogTime {
        self.now
    }

    /// Whether something last active at `active` has outlived `ttl_ms`.
    #[must_use]
    pub fn has_expired(&self, active: LogTime, ttl_ms: u64) -> bool {
        active.max(self.term_began).plus_ms(ttl_ms) < self.now
    }

    /// Whether a clock can be like this.
    pub(super) fn is_consistent(&self) -> bool {
        self.term_began <= self.now
    }

    /// What a hash over all replicated state must cover.
    pub(super) fn summary(&self) -> [u64; 4] {
        // Without a stamp counts as -1, which no clock shows.
        let stamp = self.last_stamp.map_or(u64::MAX, |stamp| stamp.0);
        [self.now.0, self.term.0, stamp, self.term_began.0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_advances_by_differences_within_a_term() {
        let mut clock = LogClock::default();
        clock.observe_term(Term(1));
        clock.observe_stamp(LeaderTime(5_000));
        assert_eq!(clock.now(), LogTime(0));
        clock.observe_stamp(LeaderTime(5_300));
        clock.observe_stamp(LeaderTime(5_100));
        clock.observe_stamp(LeaderTime(5_400));
        assert_eq!(clock.now(), LogTime(400));
    }

    #[test]
    fn a_new_leader_continues_and_grants_a_full_ttl() {
        let mut clock = LogClock::default();
        clock.observe_term(Term(1));
        clock.observe_stamp(LeaderTime(1_000));
        clock.observe_stamp(LeaderTime(1_900));
        // The next leader's clock shows something else altogether.
        clock.observe_term(Term(4));
        clock.observe_stamp(LeaderTime(77));
        assert_eq!(clock.now(), LogTime(900));
        clock.observe_stamp(LeaderTime(77 + 1_000));
        assert!(!clock.has_expired(LogTime(0), 1_000), "granted from 900 on");
        clock.observe_stamp(LeaderTime(77 + 1_001));
        assert!(clock.has_expired(LogTime(0), 1_000));
    }
}
