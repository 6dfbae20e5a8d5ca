//! A log is written, read, truncated, compacted and reopened, on the real disk and in memory.
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use raft_log::vfs::{MemVfs, RealVfs, Vfs};
use raft_log::{DataDir, Log, LogIdentity, LogOptions, LogWrite, ReadError, Recovered};
use raft_proto::{
    ClusterId, Entry, EntryKind, GroupId, HardState, LogIndex, LogPosition, NodeId, Term,
};

fn open(vfs: &Arc<dyn Vfs>, path: &Path) -> (DataDir, Log, Recovered) {
    let dir = DataDir::open(Arc::clone(vfs), path, NodeId(1)).unwrap();
    let identity = LogIdentity {
        cluster: ClusterId([7; 16]),
        node: NodeId(1),
        incarnation: dir.incarnation(),
        group: GroupId(0),
    };
    let (log, recovered) = Log::open(&dir, identity, LogOptions::small()).unwrap();
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
