//! A log of 1 GiB: how long opening it takes with and without the page cache, and reading it.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use benches::contest::{Options, median};
use raft_proto::LogIndex;
use rustix::fs::{Advice, fadvise};

use super::ours::Ours;

/// Payload of the log in bytes.
const LOG_BYTES: u64 = 1 << 30;
/// Entries per sync, and payload bytes of each.
const BATCH: u64 = 256;
const ENTRY_BYTES: u64 = 256;
/// Payload bytes of one read.
const READ_BYTES: u64 = 1 << 20;

/// Times of one log in seconds, a value per round.
#[derive(Default)]
struct Times {
    warm: Vec<f64>,
    cold: Vec<f64>,
    read: Vec<f64>,
}

/// Measures and prints.
pub(super) fn run(options: &Options) {
    println!("\n## a log of 1 GiB of payload, {ENTRY_BYTES} B an entry, {BATCH} a sync\n");
    let payload = super::payload(ENTRY_BYTES as usize);
    let batches = LOG_BYTES / (BATCH * ENTRY_BYTES);
    let mut ours = Ours::growing();
    let mut cold_read = Vec::new();
    let mut times = Times::default();
    for _ in 0..batches {
        ours.append_and_sync(BATCH, &payload);
    }
    #[cfg(feature = "peers")]
    let (mut engine, mut engine_times) = {
        let mut engine = super::engine::Engine::keeping(4 * LOG_BYTES);
        for _ in 0..batches {
            engine.append_and_sync(BATCH, &payload);
        }
        (engine, Times::default())
    };
    for _ in 0..options.rounds {
        times.read.push(seconds(|| read_all(&ours)));
        (ours, times) = open_both_ways(ours, times, Ours::reopened, Ours::path);
        forget(ours.path());
        cold_read.push(seconds(|| read_files(ours.path())));
        #[cfg(feature = "peers")]
        {
            use super::engine::Engine;
            engine_times.read.push(seconds(|| read_all_of(&engine)));
            (engine, engine_times) =
                open_both_ways(engine, engine_times, Engine::reopened, Engine::path);
        }
    }
    println!(
        "| who | open, cached | open, not cached | read through, cached |\n| --- | --- | --- | --- |"
    );
    print("raft-log", &times);
    #[cfg(feature = "peers")]
    print("raft-engine 0.4.2", &engine_times);
    println!(
        "| reading raft-log's files, not cached |  | {:.2} s |  |",
        median(&cold_read)
    );
}

fn print(name: &str, times: &Times) {
    println!(
        "| {name} | {:.3} s | {:.3} s | {:.3} s |",
        median(&times.warm),
        median(&times.cold),
        median(&times.read)
    );
}

fn open_both_ways<L>(
    log: L,
    mut times: Times,
    reopened: impl Fn(L) -> L,
    path: impl Fn(&L) -> &Path,
) -> (L, Times) {
    let begin = Instant::now();
    let log = reopened(log);
    times.warm.push(begin.elapsed().as_secs_f64());
    forget(path(&log));
    let begin = Instant::now();
    let log = reopened(log);
    times.cold.push(begin.elapsed().as_secs_f64());
    (log, times)
}

fn seconds(work: impl FnOnce() -> u64) -> f64 {
    let begin = Instant::now();
    let bytes = work();
    assert!(bytes >= LOG_BYTES, "everything is read");
    begin.elapsed().as_secs_f64()
}

fn read_all(ours: &Ours) -> u64 {
    let (reader, last) = (ours.reader(), ours.last_index());
    let (mut next, mut bytes) = (LogIndex::FIRST, 0);
    while next <= last {
        let entries = reader
            .read(next, last, READ_BYTES)
            .expect("the log is sound");
        bytes += entries
            .iter()
            .map(|entry| entry.payload.len() as u64)
            .sum::<u64>();
        next = next.plus(entries.len() as u64);
    }
    bytes
}

#[cfg(feature = "peers")]
fn read_all_of(engine: &super::engine::Engine) -> u64 {
    let step = READ_BYTES / ENTRY_BYTES;
    let last = engine.last_index();
    let firsts = (1..=last).step_by(step as usize);
    firsts
        .map(|first| engine.read(first, last.min(first + step - 1)))
        .sum()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let (mut open, mut found) = (vec![directory.to_path_buf()], Vec::new());
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).expect("the directory is ours") {
            let path = entry.expect("as above").path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found
}

/// Takes the files out of the page cache.
fn forget(directory: &Path) {
    for path in files(directory) {
        let file = File::open(&path).expect("the file is ours");
        file.sync_all().expect("the disk works");
        fadvise(&file, 0, None, Advice::DontNeed).expect("Linux can");
    }
}

fn read_files(directory: &Path) -> u64 {
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    for path in files(directory) {
        let mut file = File::open(&path).expect("the file is ours");
        loop {
            let read = file.read(&mut buffer).expect("the disk works");
            if read == 0 {
                break;
            }
            bytes += read as u64;
        }
    }
    bytes
}
