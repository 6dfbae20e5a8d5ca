//! The numbers of a session's writes: given out in order, acknowledged without gaps. Pure.

use std::collections::BTreeSet;

use crate::limits::SESSION_WINDOW;
use crate::session::Sequence;

/// Which writes of a session are under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// The last number given out.
    last: u64,
    /// All writes up to this number are finished.
    acknowledged: u64,
    /// Finished writes beyond `acknowledged`.
    finished: BTreeSet<u64>,
}

impl Window {
    /// The number of the next write, and what to acknowledge with it; `None` while the window is
    /// full.
    pub fn begin(&mut self) -> Option<(Sequence, Sequence)> {
        if self.last - self.acknowledged >= SESSION_WINDOW {
            return None;
        }
        self.last += 1;
        Some((Sequence(self.last), Sequence(self.acknowledged)))
    }

    /// A write is finished for its caller: it will not be sent again, whatever its outcome.
    pub fn finish(&mut self, sequence: Sequence) {
        assert!(sequence.0 <= self.last, "only what began can finish");
        assert!(sequence.0 > self.acknowledged, "a write finishes once");
        self.finished.insert(sequence.0);
        while self.finished.remove(&(self.acknowledged + 1)) {
            self.acknowledged += 1;
        }
    }

    /// All writes up to this number are finished.
    #[must_use]
    pub const fn acknowledged(&self) -> Sequence {
        Sequence(self.acknowledged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_finished_without_a_gap_is_acknowledged() {
        let mut window = Window::default();
        for n in 1..=4 {
            assert_eq!(window.begin(), Some((Sequence(n), Sequence(0))));
        }
        window.finish(Sequence(2));
        window.finish(Sequence(4));
        assert_eq!(window.acknowledged(), Sequence(0));
        window.finish(Sequence(1));
        assert_eq!(window.acknowledged(), Sequence(2));
        assert_eq!(window.begin(), Some((Sequence(5), Sequence(2))));
    }

    #[test]
    fn no_more_are_under_way_than_the_server_keeps_replies_for() {
        let mut window = Window::default();
        for _ in 0..SESSION_WINDOW {
            assert!(window.begin().is_some());
        }
        assert_eq!(window.begin(), None);
        // One slow write holds the window, however many others finish.
        (2..=SESSION_WINDOW).for_each(|n| window.finish(Sequence(n)));
        assert_eq!(window.begin(), None);
        window.finish(Sequence(1));
        let begun = window.begin();
        assert_eq!(
            begun,
            Some((Sequence(SESSION_WINDOW + 1), Sequence(SESSION_WINDOW)))
        );
    }
}
