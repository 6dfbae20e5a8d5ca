//! Every short history of the log, cut at every operation of the disk, with every set of pending
//! sectors, names and sizes that a crash may leave: what is recovered is what the model allows.
//!
//! The recovery after the shorter ones is cut in the same way. `cargo test` runs histories of up to
//! three operations; `cargo xtask exhaustive wal` all of them up to six, as `docs/TESTING.md` says.
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use raft_log::LogOptions;
use raft_log::vfs::MemVfs;

mod support;

use support::{Model, Pair, Step, open};

/// The length of the longest histories; the chore sets it.
const LENGTH: &str = "RAFT_WAL_EXHAUSTIVE_LENGTH";
/// The length of the longest histories after which the recovery is cut too; the chore sets it.
const RECOVERY: &str = "RAFT_WAL_EXHAUSTIVE_RECOVERY";
/// How many threads share the work; the chore sets it.
const JOBS: &str = "RAFT_WAL_EXHAUSTIVE_JOBS";
/// More pending changes than this at one moment would be too many to try all subsets: the test
/// fails, so that what it says stays true.
const MOST_PENDING: usize = 16;

/// The operations that histories are made of. Each is one batch of two blocks, or a start.
fn operations() -> [Step; 7] {
    [
        Step::Append {
            count: 1,
            bytes: 300,
        },
        Step::Replace { removed: 1 },
        Step::Vote,
        Step::Compact { left: 1 },
        Step::Install { beyond: 1 },
        Step::Vouch,
        Step::Reopen,
    ]
}

/// What was tried.
#[derive(Debug, Default)]
struct Counts {
    histories: AtomicU64,
    cuts: AtomicU64,
    /// Disks that a cut may leave, and how many of them hold the last operation or do not.
    disks: AtomicU64,
    new: AtomicU64,
    old: AtomicU64,
    recovery_cuts: AtomicU64,
    recovery_disks: AtomicU64,
    opens: AtomicU64,
    most_pending: AtomicU64,
}

/// How long histories get.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    length: usize,
    recovery: usize,
}

impl Counts {
    fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

/// A history as the numbers of its operations.
type History = Vec<usize>;

/// Tries all histories that start with this one and are no longer than the bounds say.
fn try_from(history: &mut History, bounds: Bounds, counts: &Counts) {
    try_last(history, bounds, counts);
    if history.len() == bounds.length {
        return;
    }
    for operation in 0..operations().len() {
        history.push(operation);
        try_from(history, bounds, counts);
        history.pop();
    }
}

/// Runs a history and cuts its last operation: after each operation of the disk. (The cut before
/// the first is the one after the last of the shorter history.)
fn try_last(history: &[usize], bounds: Bounds, counts: &Counts) {
    let operations = operations();
    let vfs = MemVfs::new(11);
    let mut pair = Pair::new(&vfs, LogOptions::small());
    pair.reopen().unwrap();
    let Some((last, before)) = history.split_last() else {
        return;
    };
    for step in before {
        pair.run(&operations[*step]).unwrap();
    }
    let synced = pair.synced.clone();
    vfs.record();
    pair.run(&operations[*last]).unwrap();
    let wanted = pair.synced.clone();
    let images = vfs.recorded();
    Counts::add(&counts.histories, 1);
    let end = images.len() - 1;
    for (cut, image) in images.iter().enumerate().skip(1) {
        // Only the cut after the last operation has returned to the caller.
        let is_allowed = |found: &Model| found == &wanted || (cut < end && found == &synced);
        let name = format!("{:?}, cut {cut} of {end}", named(history));
        Counts::add(&counts.cuts, 1);
        for disk in disks_after(image, counts) {
            let found = recover(&disk, counts);
            assert!(
                is_allowed(&found),
                "{name}: found {found:?}, not {synced:?} or {wanted:?}"
            );
            assert!(found.hard_state.term >= synced.hard_state.term, "{name}");
            Counts::add(&counts.disks, 1);
            let which = if found == wanted {
                &counts.new
            } else {
                &counts.old
            };
            Counts::add(which, 1);
            // The open has made it durable: nothing of it can go, nothing changes.
            let again = recover(&disk.crash(&mut |_| false), counts);
            assert_eq!(again, found, "{name}: opened twice");
        }
        if history.len() <= bounds.recovery {
            for disk in disks_after(image, counts) {
                cut_recovery(&name, &disk, counts);
            }
        }
        // The process dies, the next one reports what the page cache shows, the machine crashes.
        let reported = recover(image, counts);
        assert!(is_allowed(&reported), "{name}: from the cache");
        let left = recover(&image.crash(&mut |_| false), counts);
        assert_eq!(left, reported, "{name}: reported, then lost");
    }
}

/// Cuts the recovery of a disk at every operation: whatever that leaves, the next one concludes the
/// same.
fn cut_recovery(name: &str, disk: &MemVfs, counts: &Counts) {
    disk.record();
    let found = recover(disk, counts);
    for (cut, image) in disk.recorded().iter().enumerate().skip(1) {
        Counts::add(&counts.recovery_cuts, 1);
        for disk in disks_after(image, counts) {
            Counts::add(&counts.recovery_disks, 1);
            let again = recover(&disk, counts);
            assert_eq!(again, found, "{name}, recovery cut {cut}");
        }
    }
}

/// Every disk that a crash at this moment may leave.
fn disks_after(image: &MemVfs, counts: &Counts) -> impl Iterator<Item = MemVfs> {
    let pending = image.pending_changes();
    assert!(pending <= MOST_PENDING, "{pending} changes are pending");
    counts
        .most_pending
        .fetch_max(pending as u64, Ordering::Relaxed);
    (0..1_u64 << pending).map(|survivors| crash(image, survivors))
}

/// The disk on which exactly these pending changes survived, by the bits.
fn crash(image: &MemVfs, survivors: u64) -> MemVfs {
    let mut number = 0;
    image.crash(&mut |_| {
        number += 1;
        survivors >> (number - 1) & 1 == 1
    })
}

fn recover(disk: &MemVfs, counts: &Counts) -> Model {
    Counts::add(&counts.opens, 1);
    let (_dir, log, recovered) = open(disk).unwrap();
    Model::of_log(&log, &recovered)
}

fn named(history: &[usize]) -> Vec<Step> {
    let operations = operations();
    history
        .iter()
        .map(|step| operations[*step].clone())
        .collect()
}

fn number_from(name: &str) -> Option<usize> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn every_short_history_survives_every_cut_with_every_set_of_survivors() {
    let length = number_from(LENGTH).unwrap_or(3);
    let bounds = Bounds {
        length,
        recovery: number_from(RECOVERY).unwrap_or(1),
    };
    let jobs = number_from(JOBS).unwrap_or(2);
    let counts = Counts::default();
    let started = Instant::now();
    // Histories of one operation here, the others by their first two, each for whoever is free.
    let single = Bounds {
        length: 1,
        ..bounds
    };
    try_from(&mut History::new(), single, &counts);
    let kinds = operations().len();
    let prefixes = (0..kinds * kinds).map(|number| vec![number / kinds, number % kinds]);
    let waiting: Mutex<Vec<History>> = Mutex::new(prefixes.filter(|_| length > 1).collect());
    let next = || waiting.lock().unwrap().pop();
    let work = || {
        while let Some(mut history) = next() {
            if length > 4 {
                let left = waiting.lock().unwrap().len();
                println!(
                    "{left} prefixes wait, {:.0} s",
                    started.elapsed().as_secs_f64()
                );
            }
            try_from(&mut history, bounds, &counts);
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            thread.join().unwrap();
        }
    });
    let expected: usize = (1..=length).map(|length| kinds.pow(length as u32)).sum();
    assert_eq!(counts.histories.load(Ordering::Relaxed), expected as u64);
    assert!(counts.old.load(Ordering::Relaxed) > 0 && counts.new.load(Ordering::Relaxed) > 0);
    println!(
        "{bounds:?}, {kinds} kinds of operations: {counts:?} in {:.1} s",
        started.elapsed().as_secs_f64()
    );
}
