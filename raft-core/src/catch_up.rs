//! How fast a learner follows: rounds of catching up (thesis §4.2.1).

use raft_proto::LogIndex;

use crate::time::Time;

/// Whether a learner is close enough to the end of the log to become a voter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Not yet, or not any more.
    Behind,
    /// Its last round was shorter than an election timeout: as a voter it will not hold up commits
    /// for longer than that.
    CaughtUp,
}

/// One learner's rounds. In each it receives what was in the log when the round began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CatchUp {
    target: LogIndex,
    started: Time,
    pace: Pace,
}

impl CatchUp {
    pub(crate) const fn new(last: LogIndex, now: Time) -> Self {
        Self {
            target: last,
            started: now,
            pace: Pace::Behind,
        }
    }

    /// The learner holds the log up to `matched`, which ends at `last`.
    pub(crate) fn advance(&mut self, matched: LogIndex, last: LogIndex, now: Time, round_ms: u64) {
        let is_late = now >= self.started.plus_ms(round_ms);
        if matched < self.target {
            if is_late {
                self.pace = Pace::Behind;
            }
            return;
        }
        self.pace = if is_late && last > matched {
            Pace::Behind
        } else {
            Pace::CaughtUp
        };
        self.target = last;
        self.started = now;
    }

    pub(crate) const fn pace(&self) -> Pace {
        self.pace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_short_round_counts() {
        let mut catch_up = CatchUp::new(LogIndex(100), Time::ZERO);
        let mut advance = |matched, last, ms| {
            catch_up.advance(LogIndex(matched), LogIndex(last), Time::from_ms(ms), 200);
            catch_up.pace()
        };
        assert_eq!(advance(50, 120, 300), Pace::Behind);
        assert_eq!(
            advance(100, 150, 400),
            Pace::Behind,
            "the round took too long"
        );
        assert_eq!(advance(150, 160, 500), Pace::CaughtUp);
        assert_eq!(advance(155, 300, 900), Pace::Behind, "it fell back");
        assert_eq!(advance(300, 300, 2000), Pace::CaughtUp, "it has everything");
    }
}
