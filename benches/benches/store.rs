//! The key/value store alone, on one thread: puts, reads of the past, a snapshot under writes, and
//! what it all takes in memory.
//!
//! ```text
//! cargo bench -p benches --bench store [keys]
//! ```
//!
//! Prints one line a figure. Values have 256 bytes, keys 16, in no particular order. Times are
//! processor time, so that other programs disturb them less, but for those of single calls.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_kv::command::{Command, Query};
use raft_kv::machine::KvMachine;
use raft_kv::operation::{KeyRange, Operation, RangeQuery, Revision};
use raft_proto::{LogIndex, Term};

const KEYS: u64 = 1_000_000;
const PUTS: u64 = 1_000_000;
const PAST_READS: u64 = 100_000;
const VALUE_BYTES: usize = 256;
/// Length of the slices in which the snapshot is taken, in bytes.
const SLICE_BYTES: usize = 64 << 10;
/// Puts between two slices.
const PUTS_PER_SLICE: u64 = 100;

/// Numbers that look random, the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

struct Bench {
    machine: KvMachine,
    index: LogIndex,
    keys: u64,
    numbers: Numbers,
}

impl Bench {
    fn put(&mut self, number: u64) {
        let key = key(number);
        let operation = Operation::Put {
            key: key.as_bytes(),
            value: &[number as u8; VALUE_BYTES],
        };
        let origin = None;
        let command = Command::Write { origin, operation }.encode().to_bytes();
        self.index = self.index.next();
        black_box(self.machine.apply(self.index, Term(1), &command));
    }

    fn put_any(&mut self) {
        let number = self.numbers.next() % self.keys;
        self.put(number);
    }

    fn read_the_past(&mut self) {
        let key = key(self.numbers.next() % self.keys);
        let mut query = RangeQuery::new(KeyRange::One(key.as_bytes()));
        let status = self.machine.status();
        let span = status.revision.0 - status.oldest_revision.0;
        query.revision = Revision(status.oldest_revision.0 + self.numbers.next() % span);
        black_box(self.machine.query(&Query::Range(query).to_bytes()));
    }
}

/// The key of a number: neighbours in number are none in order.
fn key(number: u64) -> String {
    format!(
        "key/{:012}",
        number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24
    )
}

/// Anonymous resident memory of this process, in bytes.
fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.expect("the kernel says it in KiB") << 10
}

/// Processor time that this thread has taken.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("this is Linux");
    let ns = stat
        .split_whitespace()
        .next()
        .and_then(|ns| ns.parse().ok());
    Duration::from_nanos(ns.expect("the kernel says it in nanoseconds"))
}

/// The processor time of some work.
fn time(work: impl FnOnce()) -> Duration {
    let start = processor_time();
    work();
    processor_time() - start
}

fn per(duration: Duration, count: u64) -> u128 {
    duration.as_nanos() / u128::from(count)
}

fn main() {
    let asked = std::env::args().skip(1).find_map(|keys| keys.parse().ok());
    let keys = asked.unwrap_or(KEYS);
    let before = anonymous_bytes();
    let mut bench = Bench {
        machine: KvMachine::default(),
        index: LogIndex(0),
        keys,
        numbers: Numbers(0x2545_f491_4f6c_dd1d),
    };
    let took = time(|| (0..keys).for_each(|number| bench.put(number)));
    println!("new keys        {:>8} ns a put", per(took, keys));
    let taken = anonymous_bytes() - before;
    println!("memory          {:>8} bytes a key", taken / keys);

    let took = time(|| (0..PUTS).for_each(|_| bench.put_any()));
    println!("existing keys   {:>8} ns a put", per(took, PUTS));
    let taken = anonymous_bytes() - before;
    println!("with history    {:>8} bytes a key", taken / keys);

    let took = time(|| (0..PAST_READS).for_each(|_| bench.read_the_past()));
    println!("past            {:>8} ns a read", per(took, PAST_READS));

    let snapshot = snapshot(&mut bench);
    let mut restored = KvMachine::default();
    let took = time(|| {
        let outcome = restored.restore(&mut &snapshot[..]);
        outcome.expect("the snapshot is whole");
    });
    let ms = took.as_millis();
    println!(
        "restore         {ms:>8} ms, {} keys",
        restored.status().keys
    );
}

/// Takes a snapshot while writes go on, and says how long its slices take.
fn snapshot(bench: &mut Bench) -> Bytes {
    let mut bytes = Vec::new();
    let (mut puts, mut longest) = (Duration::ZERO, Duration::ZERO);
    let mut count = 0;
    let began = processor_time();
    let start = Instant::now();
    bench.machine.begin_snapshot();
    println!("begin           {:>8} ns", start.elapsed().as_nanos());
    loop {
        let start = Instant::now();
        let part = bench.machine.snapshot_part(SLICE_BYTES);
        longest = longest.max(start.elapsed());
        let Some(part) = part else {
            break;
        };
        bytes.extend_from_slice(&part);
        count += 1;
        puts += time(|| (0..PUTS_PER_SLICE).for_each(|_| bench.put_any()));
    }
    bench.machine.end_snapshot();
    let slices = processor_time() - began - puts;
    let mb = bytes.len() as f64 / 1e6;
    println!(
        "slices          {:>8} us longest of {count}, {:.0} MB/s of {mb:.0} MB",
        longest.as_micros(),
        mb / slices.as_secs_f64()
    );
    let puts = per(puts, count * PUTS_PER_SLICE);
    println!("while it lasts  {puts:>8} ns a put");
    bytes.into()
}
