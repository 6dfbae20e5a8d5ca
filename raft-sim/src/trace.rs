//! What happened, in order: a hash of all of it, and the latest part for people.

use std::collections::VecDeque;
use std::fmt;

use raft_core::Time;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// How much of a run is kept to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceDepth {
    /// The latest records, as many as given.
    Latest(usize),
    /// Everything.
    Full,
}

/// One thing that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When, in virtual time.
    pub time: Time,
    /// Where: the id of the node, 0 for the world.
    pub node: u64,
    /// What kind of thing.
    pub what: &'static str,
    /// Which one of that kind, for instance the name of a message.
    pub name: &'static str,
    /// Named numbers; unused ones have no name.
    pub numbers: [(&'static str, u64); 4],
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.time.0 as f64 / 1e6;
        write!(f, "{ms:>12.3} n{} {} {}", self.node, self.what, self.name)?;
        for (name, number) in self.numbers {
            if !name.is_empty() {
                write!(f, " {name}={number}")?;
            }
        }
        Ok(())
    }
}

/// Hash and tail of the records.
pub(crate) struct Trace {
    hash: u64,
    recent: VecDeque<Record>,
    depth: TraceDepth,
    count: u64,
}

impl Trace {
    pub(crate) fn new(depth: TraceDepth) -> Self {
        Self {
            hash: 0,
            recent: VecDeque::new(),
            depth,
            count: 0,
        }
    }

    pub(crate) fn add(&mut self, record: Record) {
        self.count += 1;
        // What the numbers are called follows from what happened.
        let [first, second, third, fourth] = record.numbers.map(|(_, number)| number);
        let numbers = [record.time.0, record.node, first, second, third, fourth];
        let mut packed = [0; 48];
        for (bytes, number) in packed.chunks_exact_mut(8).zip(numbers) {
            bytes.copy_from_slice(&number.to_le_bytes());
        }
        self.add_bytes(&packed);
        self.add_bytes(record.what.as_bytes());
        self.add_bytes(record.name.as_bytes());
        match self.depth {
            TraceDepth::Full => {}
            TraceDepth::Latest(0) => return,
            TraceDepth::Latest(count) => {
                if self.recent.len() == count {
                    self.recent.pop_front();
                }
            }
        }
        self.recent.push_back(record);
    }

    /// Bytes that happened, for instance the content of a message.
    pub(crate) fn add_bytes(&mut self, bytes: &[u8]) {
        self.hash = xxh3_64_with_seed(bytes, self.hash);
    }

    pub(crate) fn set_depth(&mut self, depth: TraceDepth) {
        self.depth = depth;
        if let TraceDepth::Latest(count) = depth {
            while self.recent.len() > count {
                self.recent.pop_front();
            }
        }
    }

    pub(crate) fn digest(&self) -> u64 {
        self.hash
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn recent(&self) -> impl Iterator<Item = &Record> {
        self.recent.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(ms: u64, number: u64) -> Record {
        Record {
            time: Time::from_ms(ms),
            node: 2,
            what: "send",
            name: "Heartbeat",
            numbers: [("to", number), ("", 0), ("", 0), ("", 0)],
        }
    }

    #[test]
    fn any_difference_changes_the_hash_and_the_depth_does_not() {
        let digest = |depth, records: &[Record]| {
            let mut trace = Trace::new(depth);
            records.iter().for_each(|r| trace.add(*r));
            trace.digest()
        };
        let records = [record(1, 1), record(2, 3)];
        let full = digest(TraceDepth::Full, &records);
        assert_eq!(full, digest(TraceDepth::Latest(1), &records));
        assert_eq!(full, digest(TraceDepth::Latest(0), &records));
        assert_ne!(
            full,
            digest(TraceDepth::Full, &[record(1, 1), record(2, 4)])
        );
        assert_ne!(
            full,
            digest(TraceDepth::Full, &[record(2, 3), record(1, 1)])
        );
    }

    #[test]
    fn records_read_well_and_only_the_latest_are_kept() {
        let mut trace = Trace::new(TraceDepth::Latest(2));
        (1..=3).for_each(|ms| trace.add(record(ms, ms)));
        let lines: Vec<_> = trace.recent().map(ToString::to_string).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1].trim(), "3.000 n2 send Heartbeat to=3");
        assert_eq!(trace.count(), 3);
    }
}
