//! Second by second: how many calls ended how, their latency, and what happened beside them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::history::Fate;

/// What was counted so far.
pub(crate) struct Timeline {
    began: Instant,
    seconds: Mutex<Vec<Second>>,
}

/// One second.
#[derive(Clone, Debug, Default)]
pub(crate) struct Second {
    /// Latencies of the calls that were answered, in microseconds.
    answered_us: Vec<u64>,
    unknown: u64,
    failed: u64,
    events: Vec<String>,
}

impl Timeline {
    pub(crate) fn begin(began: Instant) -> Self {
        let seconds = Mutex::default();
        Self { began, seconds }
    }

    /// A call has just ended.
    pub(crate) fn note(&self, fate: &Fate, took: Duration) {
        self.at_now(|second| match fate {
            // Microseconds of a call fit.
            Fate::Answered(_) => second.answered_us.push(took.as_micros() as u64),
            Fate::Refused(_) => second.failed += 1,
            Fate::Unknown(_) => second.unknown += 1,
        });
    }

    /// Something has just happened.
    pub(crate) fn event(&self, what: String) {
        self.at_now(|second| second.events.push(what));
    }

    /// The whole seconds that are over.
    pub(crate) fn finished(&self) -> Vec<Second> {
        let now = self.began.elapsed().as_secs() as usize;
        let seconds = self.locked();
        let mut finished = seconds[..now.min(seconds.len())].to_vec();
        finished.resize(now, Second::default());
        finished
    }

    /// Everything, the second that is not over too.
    pub(crate) fn all(&self) -> Vec<Second> {
        self.locked().clone()
    }

    fn at_now(&self, change: impl FnOnce(&mut Second)) {
        let now = self.began.elapsed().as_secs() as usize;
        let mut seconds = self.locked();
        if seconds.len() <= now {
            seconds.resize(now + 1, Second::default());
        }
        change(&mut seconds[now]);
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Second>> {
        self.seconds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Second {
    pub(crate) fn answered(&self) -> u64 {
        self.answered_us.len() as u64
    }

    pub(crate) const fn unknown(&self) -> u64 {
        self.unknown
    }

    pub(crate) const fn failed(&self) -> u64 {
        self.failed
    }

    /// A line for people, `number` seconds after the beginning.
    pub(crate) fn line(&self, number: usize) -> String {
        let ms = |percent| match percentile(&self.answered_us, percent) {
            Some(us) => format!("{:8.1}", us as f64 / 1_000.0),
            None => format!("{:>8}", "-"),
        };
        let line = format!(
            "{number:4} s  ok {:4}  unknown {:3}  failed {:3}  p50 {} ms  p99 {} ms  {}",
            self.answered(),
            self.unknown,
            self.failed,
            ms(50),
            ms(99),
            self.events.join("; ")
        );
        line.trim_end().to_owned()
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "ok": self.answered(),
            "unknown": self.unknown,
            "failed": self.failed,
            "p50_us": percentile(&self.answered_us, 50),
            "p99_us": percentile(&self.answered_us, 99),
            "events": self.events,
        })
    }
}

/// Latencies of all seconds together, in microseconds: the given percentile.
pub(crate) fn percentile_of(seconds: &[Second], percent: usize) -> Option<u64> {
    let all: Vec<_> = seconds
        .iter()
        .flat_map(|second| &second.answered_us)
        .copied()
        .collect();
    percentile(&all, percent)
}

fn percentile(of: &[u64], percent: usize) -> Option<u64> {
    let mut sorted = of.to_vec();
    sorted.sort_unstable();
    let last = sorted.len().checked_sub(1)?;
    Some(sorted[(sorted.len() * percent / 100).min(last)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_answered() {
        assert_eq!(percentile(&[], 99), None);
        assert_eq!(percentile(&[7], 50), Some(7));
        let many: Vec<u64> = (1..=200).rev().collect();
        assert_eq!(percentile(&many, 50), Some(101));
        assert_eq!(percentile(&many, 99), Some(199));
    }

    #[test]
    fn a_line_says_what_happened_in_its_second() {
        let second = Second {
            answered_us: vec![1_500, 2_500],
            unknown: 1,
            failed: 2,
            events: vec!["kill n1".to_owned(), "n2 leads".to_owned()],
        };
        let line = second.line(12);
        for part in [
            "12 s",
            "ok    2",
            "unknown   1",
            "failed   2",
            "2.5 ms",
            "kill n1; n2 leads",
        ] {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert!(!Second::default().line(0).ends_with(' '));
    }

    #[test]
    fn what_is_noted_is_in_the_second_that_runs() {
        let timeline = Timeline::begin(Instant::now());
        timeline.event("now".to_owned());
        timeline.note(&Fate::Unknown(String::new()), Duration::ZERO);
        let all = timeline.all();
        let unknown: u64 = all.iter().map(Second::unknown).sum();
        assert_eq!(unknown, 1);
        assert!(all.iter().any(|second| second.events == ["now"]));
    }
}
