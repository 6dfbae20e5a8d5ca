//! When to take a snapshot, and how much of the log to keep behind it.

use std::time::Duration;

use raft_core::{ENTRY_OVERHEAD_BYTES, Time};
use raft_proto::Entry;
use thiserror::Error;

use super::super::after;

/// Longest pause between two attempts after failures.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// When a node takes snapshots, how much of the log it keeps behind them, and how it moves them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotPolicy {
    /// A snapshot is due once this many bytes of entries were applied since the last one.
    /// Entries count with their payload and a fixed amount.
    pub max_log_bytes: u64,
    /// It is also due once this many entries were applied since.
    pub max_log_entries: u64,
    /// But for bytes alone not before they are this share of the last snapshot's size, in percent:
    /// a large state is not written again for every few changes to it (thesis §5.1.3).
    pub growth_percent: u64,
    /// Shortest pause between the end of one snapshot and the beginning of the next. It is never
    /// shorter than the last one took.
    pub min_pause: Duration,
    /// Entries at the end of the log that compaction keeps for followers a little behind.
    pub keep_entries: u64,
    /// As many bytes of them at most.
    pub keep_bytes: u64,
    /// What compaction keeps at most, in bytes of entries, for connected followers that are
    /// further behind, and for those that fetch a snapshot: so that they need not fetch the next one
    /// right after it.
    pub max_retained_bytes: u64,
    /// About how much of a cut is taken at once, in bytes, between two batches of commands.
    pub part_bytes: usize,
    /// How fast a snapshot is taken at most, in bytes per second: so that its writing leaves the
    /// disk and the processor to the log and to requests.
    pub save_bytes_per_second: u64,
    /// Most bytes of a snapshot that are on the way to this node at a time.
    pub fetch_window_bytes: u32,
    /// Most bytes asked for at once.
    pub fetch_part_bytes: u32,
    /// How long nothing of a snapshot may arrive before what is missing is asked for again.
    pub fetch_retry: Duration,
    /// How long nothing may arrive before the transfer is given up.
    pub fetch_patience: Duration,
}

impl Default for SnapshotPolicy {
    fn default() -> Self {
        Self {
            max_log_bytes: 64 << 20,
            max_log_entries: 1_000_000,
            growth_percent: 50,
            min_pause: Duration::from_secs(5),
            keep_entries: 10_000,
            keep_bytes: 16 << 20,
            max_retained_bytes: 1 << 30,
            part_bytes: 128 << 10,
            save_bytes_per_second: 64 << 20,
            fetch_window_bytes: 128 << 10,
            fetch_part_bytes: 32 << 10,
            fetch_retry: Duration::from_secs(1),
            fetch_patience: Duration::from_secs(10),
        }
    }
}

/// Why a [`SnapshotPolicy`] cannot work.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// A limit that lets nothing through.
    #[error("{0} must not be zero")]
    Zero(&'static str),
    /// The window cannot hold what is asked for at once.
    #[error(
        "fetch_part_bytes of {part_bytes} exceeds fetch_window_bytes of {window_bytes}: nothing \
         could ever be asked for"
    )]
    PartBeyondWindow {
        /// The part configured, in bytes.
        part_bytes: u32,
        /// The window configured, in bytes.
        window_bytes: u32,
    },
}

/// Pauses after failures in a row: a second, and twice as long each time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Another failure: returns when to try again.
    pub(super) fn failed(&mut self, now: Time) -> Time {
        let pause = Duration::from_secs(1 << self.failures.min(6));
        self.failures = self.failures.saturating_add(1);
        after(now, pause.min(MAX_BACKOFF))
    }
}

impl SnapshotPolicy {
    /// Refuses what cannot work.
    ///
    /// # Errors
    /// The first problem found.
    pub fn validate(&self) -> Result<(), PolicyError> {
        let limits = [
            ("max_log_bytes", self.max_log_bytes),
            ("max_log_entries", self.max_log_entries),
            ("part_bytes", self.part_bytes as u64),
            ("save_bytes_per_second", self.save_bytes_per_second),
            ("fetch_part_bytes", u64::from(self.fetch_part_bytes)),
        ];
        if let Some((name, _)) = limits.iter().find(|(_, limit)| *limit == 0) {
            return Err(PolicyError::Zero(name));
        }
        if self.fetch_retry.is_zero() || self.fetch_patience.is_zero() {
            return Err(PolicyError::Zero("fetch_retry and fetch_patience"));
        }
        if self.fetch_part_bytes > self.fetch_window_bytes {
            return Err(PolicyError::PartBeyondWindow {
                part_bytes: self.fetch_part_bytes,
                window_bytes: self.fetch_window_bytes,
            });
        }
        Ok(())
    }
}

/// What was applied since a cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Growth {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

impl Growth {
    pub(crate) fn add(&mut self, entry: &Entry) {
        self.entries += 1;
        self.bytes += entry.payload.len() as u64 + ENTRY_OVERHEAD_BYTES;
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            entries: self.entries - earlier.entries,
            bytes: self.bytes - earlier.bytes,
        }
    }
}

/// Watches what is applied, and says when a snapshot is due.
pub(super) struct Schedule {
    /// Since the newest snapshot's cut.
    growth: Growth,
    /// Bytes of the newest snapshot.
    snapshot_bytes: u64,
    not_before: Time,
    failures: Backoff,
    /// Somebody needs one, whatever has grown.
    is_wanted: bool,
}

impl Schedule {
    pub(super) fn new(snapshot_bytes: u64) -> Self {
        Self {
            growth: Growth::default(),
            snapshot_bytes,
            not_before: Time::ZERO,
            failures: Backoff::default(),
            is_wanted: false,
        }
    }

    pub(super) fn applied(&mut self, entry: &Entry) {
        self.growth.add(entry);
    }

    pub(super) fn growth(&self) -> Growth {
        self.growth
    }

    pub(super) fn want(&mut self) {
        self.is_wanted = true;
    }

    pub(super) fn is_due(&self, now: Time, policy: &SnapshotPolicy) -> bool {
        (self.is_wanted || self.has_grown(policy)) && now >= self.not_before
    }

    /// When to look again; `None` if nothing is due however late it gets.
    pub(super) fn deadline(&self, policy: &SnapshotPolicy) -> Option<Time> {
        (self.is_wanted || self.has_grown(policy)).then_some(self.not_before)
    }

    fn has_grown(&self, policy: &SnapshotPolicy) -> bool {
        let share = u128::from(self.snapshot_bytes) * u128::from(policy.growth_percent) / 100;
        let has_bytes =
            self.growth.bytes >= policy.max_log_bytes && u128::from(self.growth.bytes) >= share;
        has_bytes || self.growth.entries >= policy.max_log_entries
    }

    /// A snapshot is durable whose cut was made `at_cut` after the one before.
    pub(super) fn saved(
        &mut self,
        now: Time,
        began: Time,
        at_cut: Growth,
        bytes: u64,
        policy: &SnapshotPolicy,
    ) {
        self.growth = self.growth.since(at_cut);
        self.snapshot_bytes = bytes;
        self.failures = Backoff::default();
        self.is_wanted = false;
        let took = Duration::from_nanos(now.0.saturating_sub(began.0));
        self.not_before = after(now, took.max(policy.min_pause));
    }

    /// It could not be written: the next attempt waits, twice as long each time.
    pub(super) fn failed(&mut self, now: Time) {
        self.not_before = self.failures.failed(now);
    }

    /// The whole state was replaced by a snapshot of this size.
    pub(super) fn replaced(&mut self, bytes: u64) {
        self.growth = Growth::default();
        self.snapshot_bytes = bytes;
        self.is_wanted = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use raft_proto::{EntryKind, LogIndex, Term};

    fn entry() -> Entry {
        Entry {
            index: LogIndex(1),
            term: Term(1),
            kind: EntryKind::Command,
            payload: Bytes::from_static(&[0; 36]),
        }
    }

    fn policy() -> SnapshotPolicy {
        SnapshotPolicy {
            max_log_bytes: 300,
            max_log_entries: 10,
            ..SnapshotPolicy::default()
        }
    }

    #[test]
    fn one_is_due_by_bytes_or_by_entries() {
        let policy = policy();
        let mut schedule = Schedule::new(0);
        for _ in 0..2 {
            schedule.applied(&entry());
        }
        assert!(!schedule.is_due(Time::ZERO, &policy));
        schedule.applied(&entry());
        assert!(schedule.is_due(Time::ZERO, &policy), "300 bytes");
        // The last one was large: bytes alone wait for their share of it.
        let mut schedule = Schedule::new(100_000);
        for _ in 0..9 {
            schedule.applied(&entry());
        }
        assert!(!schedule.is_due(Time::ZERO, &policy));
        schedule.applied(&entry());
        assert!(schedule.is_due(Time::ZERO, &policy), "10 entries");
    }

    #[test]
    fn none_follows_right_after_another() {
        let policy = policy();
        let mut schedule = Schedule::new(0);
        for _ in 0..5 {
            schedule.applied(&entry());
        }
        let at_cut = schedule.growth();
        for _ in 0..4 {
            schedule.applied(&entry());
        }
        let (began, ended) = (Time::from_ms(1_000), Time::from_ms(9_000));
        schedule.saved(ended, began, at_cut, 1, &policy);
        assert_eq!(schedule.deadline(&policy), Some(Time::from_ms(17_000)));
        assert!(!schedule.is_due(Time::from_ms(16_999), &policy));
        assert!(schedule.is_due(Time::from_ms(17_000), &policy));
    }

    #[test]
    fn failures_back_off_and_forget_nothing() {
        let policy = policy();
        let mut schedule = Schedule::new(0);
        for _ in 0..3 {
            schedule.applied(&entry());
        }
        let mut pauses = Vec::new();
        let mut now = Time::ZERO;
        for _ in 0..8 {
            schedule.failed(now);
            let due = schedule.deadline(&policy).expect("it stays due");
            pauses.push(due.ms_since(now) / 1_000);
            now = due;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn policies_that_cannot_work_are_refused() {
        assert_eq!(SnapshotPolicy::default().validate(), Ok(()));
        let zero = SnapshotPolicy {
            part_bytes: 0,
            ..SnapshotPolicy::default()
        };
        assert_eq!(zero.validate(), Err(PolicyError::Zero("part_bytes")));
        let narrow = SnapshotPolicy {
            fetch_window_bytes: 1,
            ..SnapshotPolicy::default()
        };
        let refused = narrow.validate();
        assert!(matches!(refused, Err(PolicyError::PartBeyondWindow { .. })));
    }
}
