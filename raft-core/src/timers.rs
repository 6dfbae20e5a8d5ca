//! Deadlines by timer.

use crate::time::Time;

/// Everything a core waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// Time to (pre-)campaign: followers and candidates.
    Election,
    /// Next heartbeats, and the check that a quorum is in contact: leaders.
    Heartbeat,
    /// A leadership transfer is given up.
    Transfer,
    /// The oldest read is given up, or a forwarded read is asked again.
    Read,
    /// The next peer is asked for what this node has lost.
    Repair,
}

impl Timer {
    pub(crate) const ALL: [Self; 5] = [
        Self::Election,
        Self::Heartbeat,
        Self::Transfer,
        Self::Read,
        Self::Repair,
    ];
}

/// One optional deadline per timer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timers {
    deadlines: [Option<Time>; Timer::ALL.len()],
}

impl Timers {
    pub(crate) fn set(&mut self, timer: Timer, deadline: Time) {
        self.deadlines[timer as usize] = Some(deadline);
    }

    pub(crate) fn stop(&mut self, timer: Timer) {
        self.deadlines[timer as usize] = None;
    }

    pub(crate) fn deadline(&self, timer: Timer) -> Option<Time> {
        self.deadlines[timer as usize]
    }

    /// Stops the timer and tells whether it was due.
    pub(crate) fn take_due(&mut self, timer: Timer, now: Time) -> bool {
        let is_due = self.deadline(timer).is_some_and(|deadline| deadline <= now);
        if is_due {
            self.stop(timer);
        }
        is_due
    }

    pub(crate) fn next(&self) -> Option<Time> {
        self.deadlines.iter().flatten().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_deadline_comes_first_and_fires_once() {
        let mut timers = Timers::default();
        timers.set(Timer::Read, Time(5));
        timers.set(Timer::Election, Time(3));
        assert_eq!(timers.next(), Some(Time(3)));
        assert!(!timers.take_due(Timer::Election, Time(2)));
        assert!(timers.take_due(Timer::Election, Time(3)));
        assert!(!timers.take_due(Timer::Election, Time(3)));
        assert_eq!(timers.next(), Some(Time(5)));
    }
}
