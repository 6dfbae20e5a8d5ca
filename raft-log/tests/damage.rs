//! Damage beyond a torn last batch stops the open, with segment, offset and index range; failing
//! and full disks are refused before anything tears; foreign directories are told apart.
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::path::Path;

use bytes::Bytes;
use raft_log::inspect::{Detail, survey};
use raft_log::vfs::{AlignedBuffer, MemVfs, Vfs};
use raft_log::{
    Damage, DamageKind, DataDir, DirError, Log, LogError, LogIdentity, LogOptions, LogWrite,
    OpenError, ReadError, UnknownEnd,
};
use raft_proto::{
    ClusterId, Entry, EntryKind, GroupId, HardState, Incarnation, LogIndex, LogPosition, NodeId,
    Term,
};

mod support;

use support::{CLUSTER, DIRECTORY, Model, NODE, open, segment_path, used_bytes};

const BLOCK: u64 = 4096;

fn entry(index: u64, bytes: usize) -> Entry {
    Entry {
        index: LogIndex(index),
        term: Term(3),
        kind: EntryKind::Command,
        payload: Bytes::from(vec![index as u8; bytes]),
    }
}

fn append(log: &mut Log, entries: Vec<Entry>) -> Result<(), LogError> {
    log.stage(LogWrite {
        hard_state: Some(HardState {
            term: Term(3),
            vote: Some(NodeId(2)),
        }),
        entries,
        ..LogWrite::default()
    })?;
    log.sync().map(drop)
}

/// Segment 1 with three batches of two blocks (4096 = the preamble's end): entries 1, 2-3, 4.
fn three_batches() -> MemVfs {
    let vfs = MemVfs::new(5);
    let (_dir, mut log, _) = open(&vfs).unwrap();
    append(&mut log, vec![entry(1, 600)]).unwrap();
    append(&mut log, vec![entry(2, 600), entry(3, 600)]).unwrap();
    append(&mut log, vec![entry(4, 600)]).unwrap();
    vfs
}

/// Offsets of the three batches.
const BATCH: [u64; 3] = [BLOCK, 3 * BLOCK, 5 * BLOCK];

fn damage(vfs: &MemVfs) -> Damage {
    let error = open(vfs).map(drop).unwrap_err();
    let OpenError::Damaged(damage) = error else {
        panic!("not damage: {error}");
    };
    *damage
}

fn write(vfs: &MemVfs, offset: u64, bytes: &[u8]) {
    vfs.corrupt(&segment_path(1), offset, bytes).unwrap();
}

#[test]
fn rot_in_a_vouched_batch_is_suspect_with_its_identity() {
    // In a record; in a record and the head; in a record and the tail: what is left says what was
    // there.
    for also in [300, 8, 2 * BLOCK - 100] {
        let vfs = three_batches();
        write(&vfs, BATCH[1] + 300, &[0xab; 4]);
        write(&vfs, BATCH[1] + also, &[0xab; 4]);
        let found = damage(&vfs);
        assert_eq!((found.segment, found.offset), (1, BATCH[1]), "at {also}");
        assert_eq!((found.first, found.last), (LogIndex(2), Some(LogIndex(3))));
        let DamageKind::Suspect(identity) = found.kind else {
            panic!("not suspect: {}", found.kind);
        };
        assert_eq!(identity.term_runs.len(), 1);
        assert_eq!(identity.hard_state.unwrap().vote, Some(NodeId(2)));
    }
}

/// The bytes of the head of a batch of [`three_batches`]: fixed and variable part, both copies.
const IDENTITY: u64 = 168 + 24 + 24;

#[test]
fn one_copy_of_an_identity_is_enough() {
    let whole = {
        let vfs = three_batches();
        let (_dir, log, recovered) = open(&vfs).unwrap();
        assert_eq!(recovered.lost_copies, 0);
        Model::of_log(&log, &recovered)
    };
    // Every byte of either copy, in a vouched batch and in the last one, which nothing vouches for.
    for batch in [BATCH[1], BATCH[2]] {
        for inside in (0..IDENTITY).chain(2 * BLOCK - IDENTITY..2 * BLOCK) {
            let vfs = three_batches();
            let bytes = vfs.read_file(&segment_path(1)).unwrap();
            let at = batch + inside;
            write(&vfs, at, &[bytes[at as usize] ^ 1 << (inside % 8)]);
            let report = survey(&vfs, Path::new(DIRECTORY), Detail::Batches).unwrap();
            assert!(!report.is_sound(), "byte {inside}: the rot is shown");
            let (dir, log, recovered) = open(&vfs).unwrap();
            assert_eq!(recovered.lost_copies, 1, "byte {inside}");
            assert_eq!(recovered.dropped_torn, None);
            assert_eq!(Model::of_log(&log, &recovered), whole, "byte {inside}");
            drop((dir, log));
            // The copy that this open made is whole.
            let (_dir, log, recovered) = open(&vfs.crash(&mut |_| false)).unwrap();
            assert_eq!(
                Model::of_log(&log, &recovered),
                whole,
                "byte {inside}, again"
            );
        }
    }
}

#[test]
fn a_copy_lost_to_zeros_counts_only_where_no_crash_can_have_lost_it() {
    // The tail's sector reads as zeros. In the middle it was synced once: rot.
    let vfs = three_batches();
    write(&vfs, BATCH[1] + 2 * BLOCK - 512, &[0; 512]);
    let (_dir, log, recovered) = open(&vfs).unwrap();
    assert_eq!((recovered.lost_copies, log.last().index), (1, LogIndex(4)));
    // At the end it was never acknowledged: torn.
    let vfs = three_batches();
    write(&vfs, BATCH[2] + 2 * BLOCK - 512, &[0; 512]);
    let (_dir, log, recovered) = open(&vfs).unwrap();
    assert_eq!((recovered.lost_copies, log.last().index), (0, LogIndex(3)));
    assert!(recovered.dropped_torn.is_some());
}

#[test]
fn a_vouched_batch_lost_at_both_ends_is_known_from_the_next_one() {
    let vfs = three_batches();
    write(&vfs, BATCH[1], &[0; 2 * BLOCK as usize]);
    let found = damage(&vfs);
    assert_eq!((found.first, found.last), (LogIndex(2), Some(LogIndex(3))));
    assert!(matches!(found.kind, DamageKind::Suspect(identity) if identity.hard_state.is_none()));
    // Two in a row: nobody names the first.
    write(&vfs, BATCH[0], &[0; 2 * BLOCK as usize]);
    let found = damage(&vfs);
    assert_eq!(found.offset, BATCH[0]);
    assert_eq!(
        found.kind,
        DamageKind::UnknownEnd(UnknownEnd::BatchIdentity)
    );
}

#[test]
fn an_unvouched_last_batch_is_torn_only_if_sectors_are_missing() {
    for sector in 0..16 {
        let vfs = three_batches();
        let offset = BATCH[2] + sector * 512;
        let was_zero = vfs.read_file(&segment_path(1)).unwrap()[offset as usize..][..512]
            .iter()
            .all(|byte| *byte == 0);
        write(&vfs, offset, &[0; 512]);
        let (_dir, log, recovered) = open(&vfs).unwrap();
        let torn = recovered.dropped_torn;
        assert_eq!(torn.is_some(), !was_zero, "sector {sector}");
        assert_eq!(log.last().index.0, if was_zero { 4 } else { 3 });
    }
    // All sectors are there, one has rotted.
    let vfs = three_batches();
    write(&vfs, BATCH[2] + 300, &[0xab]);
    let found = damage(&vfs);
    assert_eq!((found.first, found.last), (LogIndex(4), Some(LogIndex(4))));
    assert!(matches!(found.kind, DamageKind::Suspect(_)));
}

#[test]
fn a_zero_header_with_anything_after_it_is_torn() {
    let vfs = three_batches();
    write(&vfs, BATCH[2], &[0; 2 * BLOCK as usize]);
    write(&vfs, BATCH[2] + 5 * BLOCK, &[1; 512]);
    let (_dir, log, recovered) = open(&vfs).unwrap();
    assert_eq!(log.last().index, LogIndex(3));
    assert_eq!(recovered.dropped_torn.unwrap().offset, BATCH[2]);
    assert_eq!(recovered.dropped_torn.unwrap().entries, None);
}

#[test]
fn a_corrupt_header_without_a_last_block_leaves_the_end_unknown() {
    let vfs = three_batches();
    write(&vfs, BATCH[2], &[0xab; 512]);
    write(&vfs, BATCH[2] + BLOCK, &[0; BLOCK as usize]);
    let found = damage(&vfs);
    assert_eq!(
        found.kind,
        DamageKind::UnknownEnd(UnknownEnd::BatchIdentity)
    );
    assert_eq!((found.first, found.last), (LogIndex(4), None));
}

#[test]
fn something_written_after_a_torn_batch_contradicts_that_it_was_torn() {
    let vfs = three_batches();
    write(&vfs, BATCH[2] + BLOCK, &[0; BLOCK as usize]);
    write(&vfs, BATCH[2] + 2 * BLOCK, &[7; 512]);
    let found = damage(&vfs);
    assert_eq!(
        found.kind,
        DamageKind::UnknownEnd(UnknownEnd::WrittenBeyond)
    );
}

#[test]
fn an_idle_logs_last_batch_is_vouched_for_by_an_empty_one() {
    let vfs = three_batches();
    {
        let (_dir, mut log, _) = open(&vfs).unwrap();
        append(&mut log, vec![entry(5, 600)]).unwrap();
        assert!(log.needs_vouching());
        log.vouch_if_idle().unwrap();
        assert!(!log.needs_vouching());
    }
    // Segment 2 holds the copy of entry 4, then entry 5, then the empty batch.
    let content = vfs.read_file(&segment_path(2)).unwrap();
    let fifth = (BLOCK..).step_by(4096).find(|at| {
        let payload = [5; 512];
        content[*at as usize..][..4096]
            .windows(512)
            .any(|bytes| bytes == payload)
    });
    let offset = fifth.unwrap();
    vfs.corrupt(&segment_path(2), offset + 512, &[0; 512])
        .unwrap();
    let found = damage(&vfs);
    assert_eq!((found.first, found.last), (LogIndex(5), Some(LogIndex(5))));
}

#[test]
fn a_copied_batch_counts_as_vouched() {
    let vfs = three_batches();
    drop(open(&vfs).unwrap());
    // Segment 2 holds one batch, the copy of entry 4; nothing was written after it.
    vfs.corrupt(&segment_path(2), BLOCK + 512, &[0; 512])
        .unwrap();
    let found = damage(&vfs);
    assert_eq!((found.first, found.last), (LogIndex(4), Some(LogIndex(4))));
    assert!(matches!(found.kind, DamageKind::Suspect(_)));
}

#[test]
fn lost_and_cut_segments_leave_the_end_unknown() {
    let vfs = three_batches();
    vfs.shrink(&segment_path(1), 40_000).unwrap();
    assert_eq!(
        damage(&vfs).kind,
        DamageKind::UnknownEnd(UnknownEnd::WrongSize)
    );
    vfs.shrink(&segment_path(1), 0).unwrap();
    assert_eq!(
        damage(&vfs).kind,
        DamageKind::UnknownEnd(UnknownEnd::Preamble)
    );
    vfs.remove(&segment_path(1)).unwrap();
    assert_eq!(
        damage(&vfs).kind,
        DamageKind::UnknownEnd(UnknownEnd::NoSegment)
    );
}

/// Entries enough for several segments, all live.
fn several_segments() -> (MemVfs, u64) {
    let vfs = MemVfs::new(5);
    let (_dir, mut log, _) = open(&vfs).unwrap();
    for index in 1..=40 {
        append(&mut log, vec![entry(index, 5000)]).unwrap();
    }
    let segments = log.disk_bytes() / LogOptions::small().segment_bytes;
    assert!(segments >= 3);
    (vfs, segments)
}

#[test]
fn a_missing_newest_segment_is_noticed_by_the_seal_before_it() {
    let (vfs, newest) = several_segments();
    vfs.remove(&segment_path(newest)).unwrap();
    let found = damage(&vfs);
    assert_eq!(found.segment, newest - 1);
    assert_eq!(
        found.kind,
        DamageKind::UnknownEnd(UnknownEnd::SuccessorMissing)
    );
}

#[test]
fn a_missing_or_damaged_older_segment_is_known_from_the_next_preamble() {
    let (vfs, newest) = several_segments();
    vfs.corrupt(&segment_path(newest - 1), 100, &[0xab; 8])
        .unwrap();
    assert!(matches!(damage(&vfs).kind, DamageKind::Suspect(_)));
    vfs.remove(&segment_path(newest - 1)).unwrap();
    let found = damage(&vfs);
    assert_eq!((found.segment, found.first), (newest - 1, LogIndex(1)));
    assert!(found.last.is_some());
    assert!(matches!(found.kind, DamageKind::Suspect(identity) if identity.term_runs.len() == 1));
}

#[test]
fn a_damaged_segment_that_a_snapshot_covers_does_no_harm() {
    let (vfs, newest) = several_segments();
    {
        let (_dir, mut log, _) = open(&vfs).unwrap();
        let through = LogPosition {
            index: LogIndex(38),
            term: Term(3),
        };
        log.compact_prefix(through).unwrap();
        log.sync().unwrap();
        assert_eq!(log.first_index(), LogIndex(39));
    }
    assert!(vfs.read_file(&segment_path(1)).is_err());
    assert!(newest > 1);
    // A dead segment comes back, damaged: its removal was not durable.
    let file = vfs.create(&segment_path(1)).unwrap();
    let mut garbage = AlignedBuffer::zeroed(1);
    garbage.bytes_mut().fill(0xab);
    file.write_at(0, garbage.as_aligned()).unwrap();
    let (_dir, log, recovered) = open(&vfs).unwrap();
    assert_eq!(
        (log.last().index, recovered.entry_sizes.len()),
        (LogIndex(40), 2)
    );
    assert!(vfs.read_file(&segment_path(1)).is_err());
}

#[test]
fn rot_under_a_running_log_is_noticed_by_the_reader() {
    let vfs = MemVfs::new(5);
    let (_dir, mut log, _) = open(&vfs).unwrap();
    append(&mut log, vec![entry(1, 600), entry(2, 600)]).unwrap();
    write(&vfs, BLOCK + 400, &[0xab]);
    let error = log
        .reader()
        .read(LogIndex(1), LogIndex(2), 10_000)
        .unwrap_err();
    assert!(matches!(error, ReadError::Corrupt { index, .. } if index == LogIndex(1)));
    assert_eq!(
        log.reader()
            .read(LogIndex(2), LogIndex(2), 1)
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn a_failed_sync_poisons_the_log_for_good() {
    let vfs = MemVfs::new(5);
    let (dir, mut log, _) = open(&vfs).unwrap();
    append(&mut log, vec![entry(1, 10)]).unwrap();
    vfs.fail_syncs_from(1);
    assert!(matches!(
        append(&mut log, vec![entry(2, 10)]),
        Err(LogError::File(_))
    ));
    vfs.resume();
    assert_eq!(log.last().index, LogIndex(1));
    assert!(matches!(
        append(&mut log, vec![entry(2, 10)]),
        Err(LogError::Poisoned)
    ));
    assert!(matches!(log.sync(), Err(LogError::Poisoned)));
    assert!(matches!(log.vouch_if_idle(), Err(LogError::Poisoned)));
    let refused = log.compact_prefix(LogPosition::ZERO);
    assert!(matches!(refused, Err(LogError::Poisoned)));
    // What is durable can still be read.
    assert_eq!(
        log.reader()
            .read(LogIndex(1), LogIndex(1), 1)
            .unwrap()
            .len(),
        1
    );
    drop((dir, log));
    open(&vfs).unwrap();
}

#[test]
fn a_full_disk_is_met_while_preparing_and_tears_nothing() {
    let vfs = MemVfs::new(5);
    let (dir, mut log, _) = open(&vfs).unwrap();
    vfs.set_capacity(Some(100_000));
    let mut written = 0;
    let error = loop {
        match append(&mut log, vec![entry(written + 1, 5000)]) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LogError::DiskFull { .. }), "{error}");
    assert!(written > 3);
    assert_eq!(log.last().index, LogIndex(written));
    // Room comes back: what was staged was kept.
    vfs.set_capacity(None);
    log.sync().unwrap();
    assert_eq!(log.last().index, LogIndex(written + 1));
    drop((dir, log));
    // Without a reserve the disk has no room for a boot's record, nor for the segment of an open.
    let remove = |name: &str| vfs.remove(&Path::new(DIRECTORY).join(name)).unwrap();
    let limit = used_bytes(&vfs);
    (0..2).for_each(|number| remove(&format!("spare-{number}.zeros")));
    vfs.set_capacity(Some(0));
    let dir = DataDir::open(vfs.shared(), Path::new(DIRECTORY), NODE);
    assert!(matches!(dir, Err(DirError::Io { .. })));
    (0..2).for_each(|number| remove(&format!("log-0/reserve-{number}.zeros")));
    vfs.set_capacity(Some(limit - 2 * 65_536));
    assert!(matches!(
        open(&vfs).map(drop),
        Err(OpenError::DiskFull { .. })
    ));
    vfs.set_capacity(None);
    let (_dir, log, recovered) = open(&vfs).unwrap();
    assert_eq!(
        Model::of_log(&log, &recovered).entries.len() as u64,
        written + 1
    );
}

#[test]
fn a_full_disk_does_not_keep_a_compaction_from_freeing_space() {
    let vfs = MemVfs::new(5);
    let (_dir, mut log, _) = open(&vfs).unwrap();
    for index in 1..=20 {
        append(&mut log, vec![entry(index, 5000)]).unwrap();
    }
    vfs.set_capacity(Some(0));
    let full = (21..).find_map(|index| append(&mut log, vec![entry(index, 5000)]).err());
    assert!(matches!(full, Some(LogError::DiskFull { .. })));
    let through = log.last();
    let before = log.disk_bytes();
    assert_eq!(log.last_staged().index, through.index.next());
    log.vouch_if_idle().unwrap();
    // The refused entry waits, the mark goes ahead of it.
    log.compact_prefix(through).unwrap();
    assert!(matches!(log.sync(), Err(LogError::DiskFull { .. })));
    assert!(log.disk_bytes() < before);
    assert_eq!(log.first_index(), through.index.next());
    vfs.set_capacity(None);
    log.sync().unwrap();
    assert_eq!(log.last().index, through.index.next());
}

#[test]
fn a_full_disk_does_not_keep_a_snapshot_from_replacing_the_log() {
    for beyond in [0, 30] {
        let vfs = MemVfs::new(5);
        let (dir, mut log, _) = open(&vfs).unwrap();
        for index in 1..=20 {
            append(&mut log, vec![entry(index, 5000)]).unwrap();
        }
        vfs.set_capacity(Some(0));
        let full = (21..).find_map(|index| append(&mut log, vec![entry(index, 5000)]).err());
        assert!(matches!(full, Some(LogError::DiskFull { .. })));
        let before = log.disk_bytes();
        let through = LogPosition {
            index: log.last().index.plus(beyond),
            term: log.last().term.next(),
        };
        // The refused entry goes, and so does all that the snapshot stands for.
        log.compact_prefix(through).unwrap();
        let next = Entry {
            index: through.index.next(),
            term: through.term,
            ..entry(1, 9)
        };
        let write = LogWrite {
            entries: vec![next.clone()],
            ..LogWrite::default()
        };
        log.stage(write).unwrap();
        let outcome = log.sync();
        assert!(outcome.is_ok() || matches!(outcome, Err(LogError::DiskFull { .. })));
        assert!(log.disk_bytes() < before);
        assert_eq!((log.snapshot(), log.first_index()), (through, next.index));
        vfs.set_capacity(None);
        log.sync().unwrap();
        drop((dir, log));
        let (_dir, log, recovered) = open(&vfs.crash(&mut |_| false)).unwrap();
        let found = Model::of_log(&log, &recovered);
        assert_eq!((found.mark, found.entries), (through, vec![next]));
    }
}

/// A snapshot of a later term replaces the log while the disk is full, and the process dies before
/// there is room: a log must not end in a term that its hard state has not reached.
#[test]
fn a_mark_that_goes_first_takes_its_term_with_it() {
    let vfs = MemVfs::new(5);
    let (dir, mut log, _) = open(&vfs).unwrap();
    for index in 1..=20 {
        append(&mut log, vec![entry(index, 5000)]).unwrap();
    }
    vfs.set_capacity(Some(0));
    let full = (21..).find_map(|index| append(&mut log, vec![entry(index, 5000)]).err());
    assert!(matches!(full, Some(LogError::DiskFull { .. })));
    let through = LogPosition {
        index: log.last().index.plus(30),
        term: log.last().term.next(),
    };
    let hard_state = HardState {
        term: through.term,
        vote: None,
    };
    assert!(log.hard_state().term < through.term);
    log.compact_prefix(through).unwrap();
    let next = Entry {
        index: through.index.next(),
        term: through.term,
        ..entry(1, 5000)
    };
    let write = LogWrite {
        hard_state: Some(hard_state),
        entries: vec![next],
        ..LogWrite::default()
    };
    log.stage(write).unwrap();
    assert!(matches!(log.sync(), Err(LogError::DiskFull { .. })));
    assert_eq!(log.snapshot(), through, "the mark went first");
    drop((dir, log));
    let crashed = vfs.crash(&mut |_| false);
    crashed.set_capacity(None);
    let (_dir, log, recovered) = open(&crashed).unwrap();
    assert_eq!(log.last(), through);
    assert_eq!(recovered.hard_state, hard_state);
}

fn open_as(vfs: &MemVfs, change: impl Fn(&mut LogIdentity)) -> String {
    let dir = DataDir::open(vfs.shared(), Path::new(DIRECTORY), NODE).unwrap();
    let mut identity = LogIdentity {
        cluster: CLUSTER,
        node: NODE,
        incarnation: dir.incarnation(),
        group: GroupId(0),
    };
    change(&mut identity);
    let refused = Log::open(&dir, identity, LogOptions::small()).map(drop);
    refused.unwrap_err().to_string()
}

#[test]
fn another_clusters_or_nodes_log_is_refused_by_name() {
    let vfs = three_batches();
    let message = open_as(&vfs, |identity| identity.cluster = ClusterId([9; 16]));
    assert!(message.contains("belongs to cluster 0707"), "{message}");
    let message = open_as(&vfs, |identity| identity.node = NodeId(2));
    assert!(message.contains("log of node n2"), "{message}");
    let message = open_as(&vfs, |identity| identity.incarnation = Incarnation(1));
    assert!(
        message.contains("incarnation 0000000000000001"),
        "{message}"
    );
    // A segment that was copied from another directory of the same node.
    let other = MemVfs::new(99);
    drop(open(&other).unwrap());
    let foreign = other.read_file(&segment_path(1)).unwrap();
    vfs.corrupt(&segment_path(1), 0, &foreign).unwrap();
    let message = open_as(&vfs, |_| {});
    assert!(message.contains("it was copied here"), "{message}");
}

#[test]
fn a_second_holder_of_the_directory_is_refused() {
    let vfs = three_batches();
    let _held = open(&vfs).unwrap();
    let refused = open(&vfs).map(drop).unwrap_err();
    assert!(matches!(refused, OpenError::Directory(DirError::Locked(_))));
}
