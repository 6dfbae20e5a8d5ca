//! Reads the compared entries back from the disk, piece by piece, and sums them up by sections.

use raft_core::Time;
use raft_proto::{Comparison, ComparisonReport, Entry, LogIndex, LogPosition};
use xxhash_rust::xxh3::Xxh3;

/// Most payload bytes of one read: short enough that a follower whose entries are read by the same
/// thread does not notice.
pub(super) const READ_BYTES: u64 = 256 << 10;
/// No further read once so many bytes were read: sections that are left over are not compared this
/// time. All replicas read the same entries, so all stop at the same one.
const MAX_BYTES: u64 = 32 << 20;

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing before that time.
    Wait(Time),
    /// Nothing before the read under way is answered.
    Reading,
    /// Read these entries, as many as fit.
    Read { first: LogIndex, last: LogIndex },
    /// All is read.
    Done,
}

/// The comparison that this node has reached and is reading for.
pub(super) struct Reading {
    entry: LogPosition,
    state: Option<u64>,
    comparison: Comparison,
    /// The next entry to read.
    next: LogIndex,
    /// Sums up the section that `next` is in.
    sum: Xxh3,
    sections: Vec<Option<u64>>,
    read_bytes: u64,
    /// The next read may begin.
    due: Time,
    is_under_way: bool,
}

impl Reading {
    pub(super) fn new(
        now: Time,
        entry: LogPosition,
        comparison: Comparison,
        state: Option<u64>,
    ) -> Self {
        Self {
            entry,
            state,
            comparison,
            next: comparison.first,
            sum: Xxh3::new(),
            sections: Vec::new(),
            read_bytes: 0,
            due: now,
            is_under_way: false,
        }
    }

    pub(super) const fn entry(&self) -> LogPosition {
        self.entry
    }

    /// When the next read may begin, if none is under way.
    pub(super) fn deadline(&self) -> Option<Time> {
        (!self.is_under_way).then_some(self.due)
    }

    /// What is to be done. Everything up to `base` is compacted.
    pub(super) fn step(&mut self, now: Time, base: LogIndex) -> Step {
        if self.is_under_way {
            return Step::Reading;
        }
        while self.next <= base && self.section().is_some() {
            self.skip_section();
        }
        let last = self.comparison.last;
        if self.section().is_none() || self.read_bytes >= MAX_BYTES {
            return Step::Done;
        }
        if now < self.due {
            return Step::Wait(self.due);
        }
        self.is_under_way = true;
        let first = self.next;
        Step::Read { first, last }
    }

    /// What a read found, from the entry asked for on; nothing if it is not there any more.
    pub(super) fn take(&mut self, now: Time, entries: &[Entry], bytes_per_second: u64) {
        self.is_under_way = false;
        if entries.is_empty() {
            self.skip_section();
        }
        let mut bytes = 0;
        for entry in entries {
            let Some((_, end)) = self.section() else {
                break;
            };
            assert_eq!(entry.index, self.next, "entries are read in order");
            add(&mut self.sum, entry);
            bytes += (ENTRY_BYTES + entry.payload.len()) as u64;
            self.next = entry.index.next();
            if entry.index == end {
                self.sections.push(Some(self.sum.digest()));
                self.sum.reset();
            }
        }
        self.read_bytes += bytes;
        let nanoseconds = bytes.saturating_mul(1_000_000_000) / bytes_per_second.max(1);
        self.due = Time(now.0.saturating_add(nanoseconds));
    }

    /// The section that is read cannot be.
    pub(super) fn skip_section(&mut self) {
        self.is_under_way = false;
        if let Some((_, end)) = self.section() {
            self.sections.push(None);
            self.sum.reset();
            self.next = end.next();
        }
    }

    /// What was found; and, if not all was looked at, the entry behind which the rest is.
    pub(super) fn finish(mut self) -> (ComparisonReport, Option<LogIndex>) {
        let rest = self.section().map(|(first, end)| {
            // A section that is too large to be ever read whole is passed over.
            if self.sections.is_empty() {
                end
            } else {
                first.previous()
            }
        });
        let report = ComparisonReport {
            entry: self.entry,
            state: self.state,
            sections: std::mem::take(&mut self.sections),
        };
        (report, rest)
    }

    /// First and last entry of the section that is read.
    fn section(&self) -> Option<(LogIndex, LogIndex)> {
        self.comparison.section(self.sections.len() as u64)
    }
}

/// Bytes of an entry besides its payload, in its sum.
const ENTRY_BYTES: usize = 8 + 8 + 1 + 4;

/// Index, term, kind and payload, so that nothing of an entry can differ unnoticed.
fn add(sum: &mut Xxh3, entry: &Entry) {
    let mut head = [0; ENTRY_BYTES];
    head[..8].copy_from_slice(&entry.index.0.to_le_bytes());
    head[8..16].copy_from_slice(&entry.term.0.to_le_bytes());
    head[16] = entry.kind as u8;
    // Messages and records hold payloads below 4 GiB only.
    head[17..].copy_from_slice(&(entry.payload.len() as u32).to_le_bytes());
    sum.update(&head);
    sum.update(&entry.payload);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use raft_proto::{EntryKind, Term};

    use super::*;

    fn entry(index: u64, payload: &'static str) -> Entry {
        Entry {
            index: LogIndex(index),
            term: Term(2),
            kind: EntryKind::Command,
            payload: Bytes::from_static(payload.as_bytes()),
        }
    }

    fn entries(first: u64, last: u64) -> Vec<Entry> {
        (first..=last).map(|index| entry(index, "x")).collect()
    }

    /// Of entries 5 to 200: 64 sections of 4 entries at most.
    fn reading() -> Reading {
        let comparison = Comparison {
            first: LogIndex(5),
            last: LogIndex(200),
        };
        Reading::new(Time::ZERO, LogPosition::ZERO, comparison, Some(7))
    }

    fn read(first: u64) -> Step {
        Step::Read {
            first: LogIndex(first),
            last: LogIndex(200),
        }
    }

    #[test]
    fn sums_do_not_depend_on_how_it_was_read() {
        let mut whole = reading();
        assert_eq!(whole.step(Time::ZERO, LogIndex::ZERO), read(5));
        whole.take(Time::ZERO, &entries(5, 200), u64::MAX);
        assert_eq!(whole.step(Time::ZERO, LogIndex::ZERO), Step::Done);
        let mut pieces = reading();
        for first in (5..=200).step_by(7) {
            assert_eq!(pieces.step(Time::ZERO, LogIndex::ZERO), read(first));
            let last = (first + 6).min(200);
            pieces.take(Time::ZERO, &entries(first, last), u64::MAX);
        }
        let (whole, rest) = whole.finish();
        assert_eq!((&whole, rest), (&pieces.finish().0, None));
        assert_eq!(whole.sections.len(), 49);
        assert!(whole.sections.iter().all(Option::is_some));
    }

    #[test]
    fn anything_that_differs_changes_its_section_only() {
        let sections = |entries: Vec<Entry>| {
            let mut reading = reading();
            reading.step(Time::ZERO, LogIndex::ZERO);
            reading.take(Time::ZERO, &entries, u64::MAX);
            reading.finish().0.sections
        };
        let sound = sections(entries(5, 200));
        let changes: [fn(&mut Entry); 4] = [
            |entry| entry.payload = Bytes::from_static(b"y"),
            |entry| entry.payload = Bytes::from_static(b"xx"),
            |entry| entry.term = Term(3),
            |entry| entry.kind = EntryKind::Noop,
        ];
        for change in changes {
            let mut altered = entries(5, 200);
            change(&mut altered[9]);
            let altered = sections(altered);
            let differing = (0..sound.len()).filter(|at| sound[*at] != altered[*at]);
            assert_eq!(differing.collect::<Vec<_>>(), [2], "entries 13 to 16");
        }
    }

    #[test]
    fn what_cannot_be_read_is_left_out_and_nothing_else() {
        let mut reading = reading();
        // Compacted up to 10, so entries 5 to 8 and 9 to 12 cannot be compared.
        assert_eq!(reading.step(Time::ZERO, LogIndex(10)), read(13));
        reading.take(Time::ZERO, &entries(13, 18), u64::MAX);
        assert_eq!(reading.step(Time::ZERO, LogIndex(10)), read(19));
        reading.skip_section();
        assert_eq!(reading.step(Time::ZERO, LogIndex(10)), read(21));
        reading.take(Time::ZERO, &[], u64::MAX);
        assert_eq!(reading.step(Time::ZERO, LogIndex(10)), read(25));
        reading.take(Time::ZERO, &entries(25, 200), u64::MAX);
        let (report, _) = reading.finish();
        let missing = report.sections.iter().enumerate();
        let missing = missing.filter(|(_, sum)| sum.is_none()).map(|(at, _)| at);
        assert_eq!(missing.collect::<Vec<_>>(), [0, 1, 3, 4]);
        assert_eq!(report.state, Some(7));
    }

    #[test]
    fn reads_keep_the_speed() {
        let mut reading = reading();
        reading.step(Time::ZERO, LogIndex::ZERO);
        reading.take(Time::ZERO, &entries(5, 14), 1_000);
        // 10 entries of 22 bytes at 1000 bytes a second.
        let due = Time(220_000_000);
        assert_eq!(
            reading.step(Time(219_999_999), LogIndex::ZERO),
            Step::Wait(due)
        );
        assert_eq!(reading.deadline(), Some(due));
        assert_eq!(reading.step(due, LogIndex::ZERO), read(15));
        assert_eq!(reading.step(due, LogIndex::ZERO), Step::Reading);
        assert_eq!(reading.deadline(), None);
    }

    #[test]
    fn too_much_is_left_for_the_next_time() {
        let large = |index| Entry {
            payload: vec![0; 12 << 20].into(),
            ..entry(index, "")
        };
        let mut reading = reading();
        for index in 5..=7 {
            assert_eq!(reading.step(Time::ZERO, LogIndex::ZERO), read(index));
            reading.take(Time::ZERO, &[large(index)], u64::MAX);
        }
        assert_eq!(reading.step(Time::ZERO, LogIndex::ZERO), Step::Done);
        let (report, rest) = reading.finish();
        assert_eq!((report.sections.len(), rest), (0, Some(LogIndex(8))));

        let mut reading = super::Reading::new(
            Time::ZERO,
            LogPosition::ZERO,
            Comparison {
                first: LogIndex(5),
                last: LogIndex(20),
            },
            None,
        );
        for index in 5..=7 {
            reading.step(Time::ZERO, LogIndex::ZERO);
            reading.take(Time::ZERO, &[large(index)], u64::MAX);
        }
        let (report, rest) = reading.finish();
        assert_eq!((report.sections.len(), rest), (3, Some(LogIndex(7))));
    }
}
