//! A full disk: what has no room is refused before anything tears and waits, while term and vote, a
//! leader's first entry, a compaction and a start go on in the log's reserve.
//!
//! The histories are tried with every amount of room that is left when they begin, and cut at every
//! operation of the disk.
#![allow(
    clippy::unwrap_used,
    reason = "in test helpers too, a panic is the failure"
)]

mod support;

use std::path::Path;

use bytes::Bytes;
use raft_log::vfs::{MemVfs, Vfs};
use raft_log::{DataDir, Log, LogError, LogWrite, Recovered};
use raft_proto::{Entry, EntryKind, HardState, LogIndex, NodeId, Term};
use support::{DIRECTORY, Model, crashed_disks, open, segment_path, used_bytes};

/// A segment of [`raft_log::LogOptions::small`], and a file of its reserve.
const SEGMENT: usize = 64 << 10;
const BLOCK: usize = 4096;

fn entry(index: u64, term: u64, kind: EntryKind, bytes: usize) -> Entry {
    Entry {
        index: LogIndex(index),
        term: Term(term),
        kind,
        payload: Bytes::from(vec![index as u8; bytes]),
    }
}

fn command(log: &Log) -> LogWrite {
    let last = log.last_staged();
    LogWrite {
        entries: vec![entry(last.index.0 + 1, 1, EntryKind::Command, 5000)],
        ..LogWrite::default()
    }
}

fn vote(term: u64) -> LogWrite {
    LogWrite {
        hard_state: Some(in_term(term)),
        ..LogWrite::default()
    }
}

fn in_term(term: u64) -> HardState {
    HardState {
        term: Term(term),
        vote: Some(NodeId(term % 3 + 1)),
    }
}

fn write(log: &mut Log, write: LogWrite) -> Result<(), LogError> {
    log.stage(write)?;
    log.sync().map(drop)
}

/// Whether it is done; it waits for room if not. Nothing else may go wrong.
fn is_done(outcome: Result<(), LogError>) -> bool {
    match outcome {
        Ok(()) => true,
        Err(LogError::DiskFull { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

/// A log with some commands, on a disk that has become full behind them; one more command waits.
fn full() -> (MemVfs, usize, (DataDir, Log, Recovered)) {
    let vfs = MemVfs::new(5);
    let (dir, mut log, recovered) = open(&vfs).unwrap();
    write(&mut log, vote(1)).unwrap();
    let limit = used_bytes(&vfs);
    vfs.set_capacity(Some(limit));
    let staged = (0..40).find(|_| {
        let next = command(&log);
        !is_done(write(&mut log, next))
    });
    assert!(staged.is_some(), "the disk is full");
    (vfs, limit, (dir, log, recovered))
}

#[test]
fn votes_are_durable_on_a_full_disk_however_many_while_a_command_waits() {
    let (vfs, limit, (dir, mut log, _)) = full();
    let last = log.last();
    for term in 2..200 {
        assert!(!is_done(write(&mut log, vote(term))), "the command waits");
        assert_eq!(log.hard_state(), in_term(term));
        let crashed = vfs.crash(&mut |_| false);
        crashed.set_capacity(Some(limit));
        let (_dir, log, recovered) = open(&crashed).unwrap();
        assert_eq!((recovered.hard_state, log.last()), (in_term(term), last));
        assert!(recovered.damage.is_empty());
    }
    assert!(used_bytes(&vfs) <= limit);
    vfs.set_capacity(None);
    log.sync().unwrap();
    assert_eq!(log.last().index, last.index.next());
    drop((dir, log));
    let (_dir, log, recovered) = open(&vfs.crash(&mut |_| false)).unwrap();
    assert_eq!(Model::of_log(&log, &recovered).last(), log.last());
    assert_eq!(log.last().index, last.index.next());
}

#[test]
fn a_node_starts_on_a_full_disk_as_often_as_it_likes_and_leads() {
    let (mut vfs, limit, (dir, log, _)) = full();
    let entries = log.last().index.0;
    drop((dir, log));
    for start in 1..=30 {
        vfs = vfs.crash(&mut |_| false);
        vfs.set_capacity(Some(limit));
        let (_dir, mut log, recovered) = open(&vfs).unwrap();
        let found = Model::of_log(&log, &recovered);
        assert_eq!(found.entries.len() as u64, entries + (start - 1).min(4));
        let term = start + 1;
        if start <= 4 {
            // What a leader's term begins with; commands wait.
            let first = entry(recovered.last.index.0 + 1, term, EntryKind::Noop, 0);
            let leads = LogWrite {
                entries: vec![first],
                ..vote(term)
            };
            assert!(is_done(write(&mut log, leads)), "start {start}");
        } else {
            assert!(is_done(write(&mut log, vote(term))), "start {start}");
        }
        let last = log.last();
        let next = entry(last.index.0 + 1, term, EntryKind::Command, 1);
        let waits = LogWrite {
            entries: vec![next],
            ..LogWrite::default()
        };
        assert!(!is_done(write(&mut log, waits)), "start {start}");
        assert_eq!((log.hard_state(), log.last()), (in_term(term), last));
    }
}

#[test]
fn a_snapshot_frees_the_disk_and_the_reserve_is_there_again() {
    let (vfs, limit, (_dir, mut log, _)) = full();
    for term in 2..20 {
        assert!(!is_done(write(&mut log, vote(term))));
    }
    assert!(vfs.read_file(&segment_path(1)).is_ok());
    log.compact_prefix(log.last()).unwrap();
    // The segment that went leaves the room for the one that the command needs, and for the reserve.
    while !is_done(log.sync().map(drop)) {
        vfs.set_capacity(Some(used_bytes(&vfs) + SEGMENT));
    }
    vfs.set_capacity(Some(limit + 3 * SEGMENT));
    for _ in 0..30 {
        let next = command(&log);
        write(&mut log, next).unwrap();
        log.compact_prefix(log.last()).unwrap();
    }
    let names = vfs.list(&Path::new(DIRECTORY).join("log-0")).unwrap();
    let reserve = names.iter().filter(|name| name.ends_with(".zeros"));
    assert_eq!(reserve.count(), 2, "{names:?}");
}

#[test]
fn a_log_that_was_never_full_takes_nothing_of_its_reserve() {
    let vfs = MemVfs::new(5);
    let (_dir, mut log, _) = open(&vfs).unwrap();
    for term in 1..60 {
        write(&mut log, vote(term)).unwrap();
        let first = entry(log.last().index.0 + 1, term, EntryKind::Noop, 0);
        let leads = LogWrite {
            entries: vec![first],
            ..LogWrite::default()
        };
        write(&mut log, leads).unwrap();
    }
    let names = vfs.list(&Path::new(DIRECTORY).join("log-0")).unwrap();
    for number in 0..2 {
        let name = format!("reserve-{number}.zeros");
        assert!(names.contains(&name), "{names:?}");
        let path = Path::new(DIRECTORY).join("log-0").join(name);
        let content = vfs.read_file(&path).unwrap();
        assert!(content.len() == SEGMENT && content.iter().all(|byte| *byte == 0));
    }
}

/// A reserve that rots is not made a segment: what is not written must be zero.
#[test]
fn a_reserve_that_is_not_zero_is_not_used() {
    let (vfs, _, (_dir, mut log, _)) = full();
    for number in 0..2 {
        let path = format!("{DIRECTORY}/log-0/reserve-{number}.zeros");
        vfs.corrupt(Path::new(&path), 9 * 4096, &[1]).unwrap();
    }
    // The room that is left in the segment is used up, and no more.
    let refused = (2..100).find(|term| {
        assert!(!is_done(write(&mut log, vote(*term))));
        log.hard_state() != in_term(*term)
    });
    assert!(refused.is_some_and(|term| term < 10), "{refused:?}");
}

/// What a history has been told to be durable.
struct Told {
    hard_state: HardState,
    entries: u64,
}

/// Votes, commands, a leader's entries, restarts and a compaction, with so much room from the start;
/// after each step all that was told to be durable is.
fn history(vfs: &MemVfs) -> Told {
    let (mut dir, mut log, recovered) = open(vfs).unwrap();
    let mut term = recovered.hard_state.term.0;
    for step in 0..24 {
        match step % 6 {
            0 | 3 => {
                let next = command(&log);
                let _ = is_done(write(&mut log, next));
            }
            1 | 4 => {
                term += 1;
                let _ = is_done(write(&mut log, vote(term)));
                assert_eq!(log.hard_state(), in_term(term), "step {step}");
            }
            2 => {
                log.vouch_if_idle().unwrap();
                drop((dir, log));
                let (again, reopened, found) = open(vfs).unwrap();
                assert_eq!(found.hard_state, in_term(term), "step {step}");
                (dir, log) = (again, reopened);
            }
            _ => {
                if step == 17 {
                    log.compact_prefix(log.last()).unwrap();
                    let _ = is_done(log.sync().map(drop));
                }
            }
        }
    }
    Told {
        hard_state: log.hard_state(),
        entries: log.last().index.0,
    }
}

#[test]
fn with_any_amount_of_room_votes_and_starts_go_on() {
    let start = MemVfs::new(5);
    drop(open(&start).unwrap());
    let used = used_bytes(&start);
    let around = |blocks: usize| {
        [
            blocks * BLOCK,
            blocks * BLOCK + 1,
            blocks * BLOCK + BLOCK - 1,
        ]
    };
    for room in (0..3 * SEGMENT / BLOCK).flat_map(around) {
        let vfs = start.crash(&mut |_| true);
        vfs.set_capacity(Some(used + room));
        let told = history(&vfs);
        assert!(used_bytes(&vfs) <= used + room);
        let crashed = vfs.crash(&mut |_| false);
        crashed.set_capacity(Some(used + room));
        let (_dir, log, found) = open(&crashed).unwrap();
        let index = log.last().index.0;
        assert_eq!((found.hard_state, index), (told.hard_state, told.entries));
    }
}

/// Every operation of votes, starts and turns of the reserve on a full disk is cut, and the disk is
/// full when the node starts again.
#[test]
fn a_full_disk_and_a_crash_at_every_operation_lose_nothing() {
    let (vfs, limit, (dir, mut log, _)) = full();
    let last = log.last();
    vfs.record();
    let mut operations = vec![vfs.operations()];
    for term in 2..30 {
        assert!(!is_done(write(&mut log, vote(term))));
        operations.push(vfs.operations());
    }
    drop((dir, log));
    let (dir, mut log, _) = open(&vfs).unwrap();
    for term in 30..50 {
        assert!(is_done(write(&mut log, vote(term))));
        operations.push(vfs.operations());
    }
    drop((dir, log));
    let begun = operations[0];
    let mut tried = 0;
    for (number, image) in vfs.recorded().into_iter().enumerate() {
        let done = operations.partition_point(|at| *at <= begun + number as u64);
        // Terms 1 to `done` were told to be durable; the next one was perhaps under way.
        let terms = done as u64..=done as u64 + 1;
        for disk in crashed_disks(&image, 4, 6, number as u64) {
            disk.set_capacity(Some(limit));
            let (_dir, log, found) = open(&disk).unwrap();
            assert!(
                terms.contains(&found.hard_state.term.0),
                "{number}: {found:?}"
            );
            assert_eq!(found.hard_state, in_term(found.hard_state.term.0));
            assert!(found.damage.is_empty() && found.missing.is_empty());
            assert_eq!(log.last(), last);
            let read = log.reader().read(LogIndex(1), last.index, u64::MAX);
            assert_eq!(read.unwrap().len() as u64, last.index.0);
            tried += 1;
        }
    }
    assert!(tried > 1000, "{tried}");
}

/// A node whose peers restart writes down their boots, and its own: it would end if it could not.
#[test]
fn records_of_one_block_are_replaced_on_a_full_disk() {
    let vfs = MemVfs::new(5);
    let (dir, log, _) = open(&vfs).unwrap();
    dir.write_record("boots", b"0").unwrap();
    let limit = used_bytes(&vfs);
    vfs.set_capacity(Some(limit));
    for number in 1..30u32 {
        let text = number.to_string();
        dir.write_record("boots", text.as_bytes()).unwrap();
        let crashed = vfs.crash(&mut |_| false);
        crashed.set_capacity(Some(limit));
        let (dir, _log, _) = open(&crashed).unwrap();
        let found = dir.read_record("boots").unwrap().unwrap();
        assert_eq!(found, text.as_bytes());
        assert_eq!(dir.boot().counter, 2);
    }
    // What is larger than a block is refused, and what was there stays.
    assert!(dir.write_record("boots", &[7; 9000]).is_err());
    assert_eq!(dir.read_record("boots").unwrap().unwrap(), &b"29"[..]);
    dir.write_record("boots", b"30").unwrap();
    drop((dir, log));
    assert!(used_bytes(&vfs) <= limit);
}
