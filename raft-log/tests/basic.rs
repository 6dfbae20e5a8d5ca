//! A log is written, read, truncated, compacted and reopened, on the real disk and in memory.
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use raft_log::vfs::{MemVfs, RealVfs, Vfs};
use raft_log::{
    DataDir, DirError, Log, LogIdentity, LogOptions, LogWrite, Preparation, ReadError, Recovered,
};
use raft_proto::{
    ClusterId, Entry, EntryKind, GroupId, HardState, LogIndex, LogPosition, NodeId, Term,
};

fn open(vfs: &Arc<dyn Vfs>, path: &Path) -> (DataDir, Log, Recovered) {
    open_with(vfs, path, LogOptions::small())
}

fn open_with(vfs: &Arc<dyn Vfs>, path: &Path, options: LogOptions) -> (DataDir, Log, Recovered) {
    let dir = DataDir::open(Arc::clone(vfs), path, NodeId(1)).unwrap();
    let identity = LogIdentity {
        cluster: ClusterId([7; 16]),
        node: NodeId(1),
        incarnation: dir.incarnation(),
        group: GroupId(0),
    };
    let (log, recovered) = Log::open(&dir, identity, options).unwrap();
    (dir, log, recovered)
}

fn entries(first: u64, last: u64, term: u64) -> Vec<Entry> {
    (first..=last)
        .map(|index| Entry {
            index: LogIndex(index),
            term: Term(term),
            kind: EntryKind::Command,
            payload: Bytes::from(vec![index as u8; 100 + index as usize % 50]),
        })
        .collect()
}

fn append(log: &mut Log, entries: Vec<Entry>) {
    log.stage(LogWrite {
        entries,
        ..LogWrite::default()
    })
    .unwrap();
    log.sync().unwrap();
}

fn round_trip(vfs: &Arc<dyn Vfs>, path: &Path) {
    let (dir, mut log, recovered) = open(vfs, path);
    assert_eq!(recovered.last, LogPosition::ZERO);
    log.stage(LogWrite {
        hard_state: Some(HardState {
            term: Term(1),
            vote: Some(NodeId(2)),
        }),
        entries: entries(1, 10, 1),
        ..LogWrite::default()
    })
    .unwrap();
    let stats = log.sync().unwrap();
    assert_eq!((stats.batches, stats.entries), (1, 10));
    for index in 11..=400 {
        append(&mut log, entries(index, index, 1));
    }
    log.stage(LogWrite {
        truncate_from: Some(LogIndex(395)),
        entries: entries(395, 396, 2),
        ..LogWrite::default()
    })
    .unwrap();
    log.sync().unwrap();
    assert!(log.needs_vouching());
    assert_eq!(log.vouch_if_idle().unwrap().batches, 1);
    assert!(!log.needs_vouching());
    let reader = log.reader();
    let read = reader.read(LogIndex(1), LogIndex(396), u64::MAX).unwrap();
    let mut expected = entries(1, 394, 1);
    expected.extend(entries(395, 396, 2));
    assert_eq!(read, expected);
    assert_eq!(
        reader
            .read(LogIndex(390), LogIndex(396), 300)
            .unwrap()
            .len(),
        2
    );
    assert!(matches!(
        reader.read(LogIndex(396), LogIndex(397), 1),
        Err(ReadError::BeyondEnd { .. })
    ));
    drop((dir, log));
    let (dir, mut log, recovered) = open(vfs, path);
    assert_eq!(recovered.last, expected.last().unwrap().position());
    assert_eq!(recovered.hard_state.vote, Some(NodeId(2)));
    assert_eq!(recovered.entry_sizes.len(), 396);
    assert_eq!(recovered.term_runs.len(), 2);
    let read = log
        .reader()
        .read(LogIndex(1), LogIndex(396), u64::MAX)
        .unwrap();
    assert_eq!(read, expected);
    let before = log.disk_bytes();
    let through = expected[299].position();
    log.compact_prefix(through).unwrap();
    log.sync().unwrap();
    assert!(log.disk_bytes() < before);
    drop((dir, log));
    let (_dir, log, recovered) = open(vfs, path);
    assert_eq!(recovered.snapshot, Some(through));
    assert_eq!(recovered.entry_sizes.len(), 96);
    let read = log
        .reader()
        .read(LogIndex(301), LogIndex(396), u64::MAX)
        .unwrap();
    assert_eq!(read, expected[300..]);
    assert!(matches!(
        log.reader().read(LogIndex(300), LogIndex(301), 1),
        Err(ReadError::Compacted { .. })
    ));
}

#[test]
fn a_log_round_trips_on_the_real_disk() {
    let directory = tempfile::tempdir().unwrap();
    round_trip(&RealVfs::shared(), &directory.path().join("data"));
}

#[test]
fn a_log_round_trips_in_memory() {
    round_trip(&MemVfs::new(1).shared(), Path::new("data"));
}

#[test]
fn segments_are_prepared_in_the_background_and_leave_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let vfs = RealVfs::shared();
    let options = LogOptions {
        preparation: Preparation::Background,
        ..LogOptions::small()
    };
    let (dir, mut log, _) = open_with(&vfs, directory.path(), options);
    for index in 1..=60 {
        append(&mut log, entries(index, index, 1));
    }
    assert!(log.disk_bytes() > options.segment_bytes);
    drop((dir, log));
    let names = vfs.list(&directory.path().join("log-0")).unwrap();
    let is_kept = |name: &String| name.ends_with(".wal") || name.ends_with(".zeros");
    assert!(names.iter().all(is_kept), "{names:?}");
    let (_dir, _log, recovered) = open_with(&vfs, directory.path(), options);
    assert_eq!(recovered.last.index, LogIndex(60));
}

#[test]
fn a_second_opener_of_a_real_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let vfs = RealVfs::shared();
    let (dir, log, _) = open(&vfs, directory.path());
    let refused = DataDir::open(Arc::clone(&vfs), directory.path(), NodeId(1)).unwrap_err();
    assert!(matches!(refused, DirError::Locked(_)), "{refused}");
    drop((dir, log));
    open(&vfs, directory.path());
}

#[test]
fn readers_on_other_threads_see_a_log_that_was_there_at_some_moment() {
    let vfs = MemVfs::new(1).shared();
    let (_dir, mut log, _) = open(&vfs, Path::new("data"));
    append(&mut log, entries(1, 1, 1));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let reader = log.reader();
                let done = &done;
                scope.spawn(move || {
                    let mut read = 0;
                    while !done.load(Ordering::Relaxed) || read == 0 {
                        let (first, last) = (reader.first_index(), reader.last_index());
                        // Compacted or truncated meanwhile: an error, and never wrong entries.
                        let Ok(found) = reader.read(first, last, 20_000) else {
                            continue;
                        };
                        read += found.len();
                        for pair in found.windows(2) {
                            assert_eq!(pair[1].index, pair[0].index.next());
                            assert!(pair[1].term >= pair[0].term);
                        }
                        for entry in found {
                            assert!(
                                entry
                                    .payload
                                    .iter()
                                    .all(|byte| *byte == entry.index.0 as u8)
                            );
                        }
                    }
                    read
                })
            })
            .collect();
        for round in 1..200u64 {
            let last = log.last();
            append(&mut log, entries(last.index.0 + 1, last.index.0 + 5, round));
            let from = log.last().index.0 - 1;
            log.stage(LogWrite {
                truncate_from: Some(LogIndex(from)),
                entries: entries(from, from, round + 1),
                ..LogWrite::default()
            })
            .unwrap();
            log.sync().unwrap();
            if round % 50 == 0 {
                log.compact_prefix(log.last()).unwrap();
                append(&mut log, entries(from + 1, from + 1, round + 1));
            }
        }
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
}
