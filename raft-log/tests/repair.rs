//! Logs that are damaged and opened with `OnDamage::Report`: what is left is told by identity, what is
//! lost is named, filled in again, and stays so through crashes and new damage.
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::path::Path;

use bytes::Bytes;
use raft_log::vfs::{MemVfs, Vfs};
use raft_log::{
    Hole, Log, LogEnd, LogError, LogOptions, LogWrite, OpenError, ReadError, Recovered, UnknownEnd,
};
use raft_proto::{Entry, EntryKind, HardState, LogIndex, LogPosition, NodeId, Term};

mod support;
#[path = "support/truth.rs"]
mod truth;

use support::{DIRECTORY, Model, Pair, Step, crashed_disks, open, open_with, segment_path};
use truth::{History, is_refused, lost_entries, open_reporting, repair, reporting};

const BLOCK: u64 = 4096;

/// A log after these steps, closed, everything durable; and the states it was in.
fn damaged_later(steps: &[Step]) -> (MemVfs, History) {
    let mut pair = Pair::new(&MemVfs::new(7), LogOptions::small());
    pair.reopen().unwrap();
    let mut history = History(vec![pair.synced.clone()]);
    for step in steps {
        pair.run(step).unwrap();
        history.0.push(pair.synced.clone());
    }
    pair.log = None;
    pair.dir = None;
    (pair.vfs.crash(&mut |_| true), history)
}

fn append(count: u64, bytes: usize) -> Step {
    Step::Append { count, bytes }
}

fn segments(vfs: &MemVfs) -> Vec<u64> {
    let names = vfs.list(&Path::new(DIRECTORY).join("log-0")).unwrap();
    let sequence = |name: &String| u64::from_str_radix(name.strip_suffix(".wal")?, 16).ok();
    names.iter().filter_map(sequence).collect()
}

fn rot(vfs: &MemVfs, segment: u64, offset: u64, bytes: &[u8]) {
    vfs.corrupt(&segment_path(segment), offset, bytes).unwrap();
}

fn hole(first: u64, last: u64) -> Hole {
    Hole {
        first: LogIndex(first),
        last: LogIndex(last),
    }
}

fn entry(index: u64, term: u64) -> Entry {
    Entry {
        index: LogIndex(index),
        term: Term(term),
        kind: EntryKind::Command,
        payload: Bytes::from(vec![index as u8; 700]),
    }
}

/// Opens, checks, repairs, and opens again in every way.
fn heal(vfs: &MemVfs, history: &History, name: &str) -> Recovered {
    let mut opened = open_reporting(vfs);
    let state = history.check(&opened, name);
    let found = opened.2.clone();
    repair(&mut opened.1, &state).unwrap();
    drop(opened);
    let (_dir, log, recovered) = open(&vfs.crash(&mut |_| false)).unwrap();
    assert_eq!(Model::of_log(&log, &recovered), state, "{name}: healed");
    found
}

// ---- the holes themselves

#[test]
fn one_rotten_record_loses_one_entry_of_its_batch() {
    for record in 0..5_u64 {
        let (vfs, history) = damaged_later(&[append(5, 900), append(2, 100)]);
        let start = 176 + 24 + 24 + 8;
        // Each record takes 32 + 900 bytes, padded to 936.
        rot(&vfs, 1, BLOCK + start + record * 936 + 400, &[0xab; 16]);
        let found = heal(&vfs, &history, "one record");
        assert_eq!(found.missing, [hole(record + 1, record + 1)]);
        assert_eq!(found.damage.len(), 1);
    }
}

#[test]
fn a_rotten_header_of_a_record_does_not_hide_those_behind_it() {
    let (vfs, history) = damaged_later(&[append(6, 50), append(2, 100)]);
    let records = BLOCK + 176 + 48;
    rot(&vfs, 1, records + 88 + 4, &[0xff; 4]);
    assert_eq!(heal(&vfs, &history, "header").missing, [hole(2, 2)]);
}

#[test]
fn an_entry_fills_only_the_hole_it_belongs_in() {
    let (vfs, history) = damaged_later(&[
        append(2, 700),
        Step::Members { voters: 3 },
        append(2, 700),
        Step::Vouch,
    ]);
    for batch in [1, 3, 5] {
        rot(&vfs, 1, batch * BLOCK + 300, &[0xab; 600]);
    }
    let (_dir, mut log, recovered) = open_reporting(&vfs);
    let state = history.truth();
    let lost = lost_entries(state, &recovered.missing);
    let indexes: Vec<u64> = lost.iter().map(|entry| entry.index.0).collect();
    assert!(indexes.contains(&3), "the membership is lost: {indexes:?}");
    let refuse = |log: &mut Log, entry: Entry| {
        let write = LogWrite {
            refill: vec![entry],
            ..LogWrite::default()
        };
        let refused = log.stage(write).unwrap_err();
        assert!(matches!(refused, LogError::NotMissing { .. }), "{refused}");
    };
    let present = state
        .entries
        .iter()
        .find(|entry| !indexes.contains(&entry.index.0));
    refuse(&mut log, present.unwrap().clone());
    let mut other_term = lost[0].clone();
    other_term.term = Term(9);
    refuse(&mut log, other_term);
    refuse(&mut log, entry(6, 1));
    // A membership is known whole: nothing else passes for it, and it passes for nothing else.
    let mut command = lost
        .iter()
        .find(|entry| entry.index.0 == 3)
        .unwrap()
        .clone();
    command.kind = EntryKind::Command;
    refuse(&mut log, command);
    assert_eq!(log.sync().unwrap().batches, 0, "nothing was staged");
    repair(&mut log, state).unwrap();
    refuse(&mut log, lost[0].clone());
    assert_eq!(log.missing(), []);
}

#[test]
fn a_hole_that_is_truncated_or_compacted_away_is_gone() {
    let steps = [append(3, 700), append(3, 700), append(3, 700), Step::Vouch];
    let (vfs, history) = damaged_later(&steps);
    rot(&vfs, 1, BLOCK + 300, &[0xab; 512]);
    rot(&vfs, 1, 5 * BLOCK + 300, &[0xab; 512]);
    let (dir, mut log, recovered) = open_reporting(&vfs);
    assert_eq!(recovered.missing, [hole(1, 1), hole(7, 7)]);
    let lost = lost_entries(history.truth(), &recovered.missing);
    // A refill that is staged and then truncated or covered is dropped, and refuses nothing.
    log.stage(LogWrite {
        refill: lost,
        ..LogWrite::default()
    })
    .unwrap();
    log.stage(LogWrite {
        truncate_from: Some(LogIndex(7)),
        ..LogWrite::default()
    })
    .unwrap();
    let through = LogPosition {
        index: LogIndex(2),
        term: Term(1),
    };
    log.compact_prefix(through).unwrap();
    assert_eq!(log.sync().unwrap().refilled, 0);
    assert_eq!(log.missing(), []);
    drop((dir, log));
    let (_dir, log, recovered) = open(&vfs).unwrap();
    assert_eq!(
        (recovered.first_index, log.last().index.0),
        (LogIndex(3), 6)
    );
}

/// An entry whose bytes are sound and wrong, as a comparison of replicas finds it, is replaced for good:
/// in the segment that is written, behind a seal, and after it was copied.
#[test]
fn a_refill_counts_although_what_it_replaces_reads_well() {
    for opens_before in 0..3 {
        let (vfs, _) = damaged_later(&[append(3, 700), append(2, 100), Step::Vouch]);
        for _ in 0..opens_before {
            drop(open(&vfs).unwrap());
        }
        let (dir, mut log, _) = open(&vfs).unwrap();
        let mut right = log
            .reader()
            .read(LogIndex(2), LogIndex(2), 1 << 20)
            .unwrap();
        // Of another length, too.
        right[0].payload = Bytes::from(vec![0x77; 333]);
        log.report_rot(LogIndex(2), LogIndex(2));
        log.stage(LogWrite {
            refill: right.clone(),
            ..LogWrite::default()
        })
        .unwrap();
        log.sync().unwrap();
        drop((dir, log));
        for open_after in 0..4 {
            let (dir, mut log, recovered) = open(&vfs.crash(&mut |_| true)).unwrap();
            let read = log.reader().read(LogIndex(2), LogIndex(2), 1 << 20);
            assert_eq!(read.unwrap(), right, "open {open_after}");
            assert_eq!(recovered.entry_sizes, [700, 333, 700, 100, 100]);
            log.vouch_if_idle().unwrap();
            drop((dir, log));
            // The next one finds what this one has left.
            drop(open(&vfs).unwrap());
        }
    }
}

#[test]
fn a_refill_larger_than_a_batch_and_a_segment_arrives_whole() {
    let steps: Vec<Step> = (0..40).map(|_| append(1, 5000)).collect();
    let (vfs, history) = damaged_later(&steps);
    let all = segments(&vfs);
    assert!(all.len() >= 3);
    for segment in &all[..all.len() - 1] {
        vfs.remove(&segment_path(*segment)).unwrap();
    }
    let found = heal(&vfs, &history, "all but the newest");
    assert_eq!(found.missing[0].first, LogIndex(1));
    assert!(found.missing[0].last > LogIndex(20));
    // Compaction removes the segments with refills once nothing in them is needed.
    let (_dir, mut log, _) = open(&vfs).unwrap();
    let before = log.disk_bytes();
    log.compact_prefix(log.last()).unwrap();
    log.sync().unwrap();
    assert!(log.disk_bytes() < before);
}

#[test]
fn damage_again_in_a_refilled_place_is_a_hole_again() {
    let (vfs, history) = damaged_later(&[append(3, 900), append(1, 100), Step::Vouch]);
    rot(&vfs, 1, BLOCK + 500, &[0xab; 8]);
    for _ in 0..4 {
        let mut opened = open_reporting(&vfs);
        history.check(&opened, "again");
        assert_eq!(opened.2.missing, [hole(1, 1)]);
        repair(&mut opened.1, history.truth()).unwrap();
        opened.1.vouch_if_idle().unwrap();
        drop(opened);
        assert!(!is_refused(&vfs));
        // The payload of entry 1 begins with its number; find every copy of it and ruin it.
        let payload = history.truth().entries[0].payload.clone();
        for segment in segments(&vfs) {
            let bytes = vfs.read_file(&segment_path(segment)).unwrap();
            let found = bytes
                .windows(400)
                .position(|window| window == &payload[..400]);
            if let Some(at) = found {
                rot(&vfs, segment, at as u64 + 100, &[0xab; 8]);
            }
        }
        assert!(is_refused(&vfs));
    }
}

#[test]
fn rot_that_a_reader_met_can_be_refilled_while_the_log_runs() {
    let (vfs, history) = damaged_later(&[append(3, 900), append(3, 900)]);
    let (_dir, mut log, recovered) = open_with(&vfs, LogOptions::small()).unwrap();
    let segment = segments(&vfs)[0];
    let bytes = vfs.read_file(&segment_path(segment)).unwrap();
    let payload = history.truth().entries[1].payload.clone();
    let at = bytes
        .windows(300)
        .position(|window| window == &payload[..300]);
    rot(&vfs, segment, at.unwrap() as u64 + 20, &[0xab; 8]);
    let reader = log.reader();
    // What is good before it is given first.
    assert_eq!(
        reader
            .read(LogIndex(1), LogIndex(6), 1 << 20)
            .unwrap()
            .len(),
        1
    );
    let rotten = reader.read(LogIndex(2), LogIndex(6), 1 << 20).unwrap_err();
    assert!(matches!(
        rotten,
        ReadError::Corrupt {
            index: LogIndex(2),
            ..
        }
    ));
    log.report_rot(LogIndex(2), LogIndex(2));
    assert_eq!(log.missing(), [hole(2, 2)]);
    let missing = reader.read(LogIndex(2), LogIndex(6), 1 << 20).unwrap_err();
    assert!(matches!(missing, ReadError::Missing { .. }));
    repair(&mut log, history.truth()).unwrap();
    let all = reader.read(LogIndex(1), LogIndex(6), 1 << 20).unwrap();
    assert_eq!(
        (all, recovered.missing),
        (history.truth().entries.clone(), vec![])
    );
}

// ---- the end that is not known

#[test]
fn an_unknown_end_stays_unknown_until_a_write_says_otherwise() {
    let steps = [append(3, 100), Step::Vote, append(3, 100), Step::Vouch];
    let (vfs, history) = damaged_later(&steps);
    // Two batches in a row: nobody names the first of them.
    rot(&vfs, 1, 3 * BLOCK, &[0xab; 4 * BLOCK as usize]);
    let mut disk = vfs;
    let unknown = LogEnd::Unknown(UnknownEnd::BatchIdentity);
    for round in 0..7 {
        if round > 0 {
            assert!(is_refused(&disk), "round {round}");
        }
        let opened = open_reporting(&disk);
        if round == 0 {
            history.check(&opened, "first");
            assert_eq!(opened.2.last.index, LogIndex(3));
            // The vote lies in what is lost, but a later batch repeats it.
            assert_eq!(opened.2.hard_state, history.truth().hard_state);
        }
        let (dir, mut log, recovered) = opened;
        assert_eq!(
            (log.end(), recovered.end),
            (unknown, unknown),
            "round {round}"
        );
        // Appending, compacting, installing, vouching: none of them says that it is known.
        let last = log.last();
        match round {
            1 | 4 => log
                .stage(LogWrite {
                    entries: vec![entry(last.index.0 + 1, last.term.0 + 1)],
                    ..LogWrite::default()
                })
                .unwrap(),
            2 => log.compact_prefix(last).unwrap(),
            3 => {
                let beyond = LogPosition {
                    index: LogIndex(100),
                    term: Term(3),
                };
                log.compact_prefix(beyond).unwrap();
            }
            _ => {}
        }
        log.sync().unwrap();
        log.vouch_if_idle().unwrap();
        drop((dir, log));
        disk = disk.crash(&mut |_| false);
    }
    let (dir, mut log, _) = open_reporting(&disk);
    let hard_state = HardState {
        term: Term(7),
        vote: Some(NodeId(2)),
    };
    log.stage(LogWrite {
        hard_state: Some(hard_state),
        end_is_known: true,
        ..LogWrite::default()
    })
    .unwrap();
    log.sync().unwrap();
    assert_eq!(log.end(), LogEnd::Known);
    drop((dir, log));
    let (_dir, _log, recovered) = open(&disk.crash(&mut |_| false)).unwrap();
    assert_eq!(
        (recovered.end, recovered.hard_state),
        (LogEnd::Known, hard_state)
    );
}

/// The end is known again only with everything that came in the same sync: every cut of it shows
/// either an unknown end or all.
#[test]
fn the_end_is_not_known_before_all_of_its_sync_is_there() {
    let (vfs, _) = damaged_later(&[append(2, 100), append(2, 100), append(2, 100), Step::Vouch]);
    rot(&vfs, 1, BLOCK + 400, &[0xab; 2]);
    rot(&vfs, 1, 3 * BLOCK, &[0xab; 4 * BLOCK as usize]);
    let (_dir, mut log, recovered) = open_reporting(&vfs);
    assert_eq!(recovered.missing.len(), 1);
    let lost = recovered.missing[0].first.0;
    let mut refill = entry(lost, 1);
    refill.payload = Bytes::from(vec![9; 100]);
    let hard_state = HardState {
        term: Term(5),
        vote: Some(NodeId(3)),
    };
    let entries: Vec<Entry> = (3..=9)
        .map(|index| Entry {
            payload: vec![1; 3000].into(),
            ..entry(index, 5)
        })
        .collect();
    vfs.record();
    log.stage(LogWrite {
        hard_state: Some(hard_state),
        refill: vec![refill],
        entries,
        end_is_known: true,
        ..LogWrite::default()
    })
    .unwrap();
    assert!(log.sync().unwrap().batches > 3);
    let mut known = 0;
    for image in vfs.recorded() {
        for disk in crashed_disks(&image, 4, 6, 3) {
            let (_dir, log, recovered) = open_reporting(&disk);
            if recovered.end == LogEnd::Known {
                assert_eq!((log.last().index.0, recovered.missing.len()), (9, 0));
                assert_eq!(recovered.hard_state, hard_state);
                known += 1;
            } else if log.last().index.0 > 2 {
                assert_eq!(recovered.hard_state, hard_state, "it came first");
            }
        }
    }
    assert!(known > 0);
}

#[test]
fn a_log_of_which_nothing_is_left_starts_unknown_and_empty() {
    let (vfs, history) = damaged_later(&[append(3, 100), Step::Vote]);
    let whole = vfs.crash(&mut |_| true);
    vfs.remove(&segment_path(1)).unwrap();
    let (dir, mut log, recovered) = open_reporting(&vfs);
    assert_eq!(recovered.end, LogEnd::Unknown(UnknownEnd::NoSegment));
    assert_eq!(
        (recovered.last, recovered.damage.len()),
        (LogPosition::ZERO, 1)
    );
    let mut vfs_again = vfs.clone();
    log.stage(LogWrite {
        entries: vec![entry(1, 1)],
        ..LogWrite::default()
    })
    .unwrap();
    log.sync().unwrap();
    drop((dir, log));
    vfs_again = vfs_again.crash(&mut |_| false);
    assert!(is_refused(&vfs_again));
    // The same, with a file of which nothing can be read.
    rot(&whole, 1, 0, &[0xab; 64]);
    let opened = open_reporting(&whole);
    assert_eq!(opened.2.end, LogEnd::Unknown(UnknownEnd::Preamble));
    history.check(&opened, "no preamble");
}

/// A program that does not know the version is told so, whatever it is to do with damage.
#[test]
fn another_version_is_no_damage() {
    let (vfs, _) = damaged_later(&[append(3, 100)]);
    let mut start = vfs.read_file(&segment_path(1)).unwrap()[..16].to_vec();
    start[8] = 9;
    let sum = crc32fast::hash(&start[..12]);
    start[12..].copy_from_slice(&sum.to_le_bytes());
    rot(&vfs, 1, 0, &start);
    let refused = open_with(&vfs, reporting()).map(drop).unwrap_err();
    assert!(matches!(refused, OpenError::UnsupportedVersion { .. }));
}

// ---- traces that an earlier draft of the rules failed on

/// A follower writes a record, is killed before its fdatasync; the next process finds the record in
/// the page cache and reports it; then the power fails.
#[test]
fn killed_before_fdatasync_reported_from_the_page_cache_then_a_power_cut() {
    let vfs = MemVfs::new(7);
    let mut pair = Pair::new(&vfs, LogOptions::small());
    pair.reopen().unwrap();
    pair.run(&append(2, 300)).unwrap();
    // The write goes through, the sync does not.
    vfs.stop_after(1);
    assert!(pair.run(&append(1, 300)).is_err());
    pair.log = None;
    pair.dir = None;
    vfs.resume();
    let reported = {
        let (_dir, log, recovered) = open_reporting(&vfs);
        Model::of_log(&log, &recovered)
    };
    assert_eq!(reported, pair.wanted, "it is there, so it may count");
    let (_dir, log, recovered) = open_reporting(&vfs.crash(&mut |_| false));
    assert_eq!(Model::of_log(&log, &recovered), reported);
}

/// Segments hold 1..n of term 1; a middle one holds a truncation and what replaced it. It is lost:
/// what was truncated must not come back as content of what is missing.
#[test]
fn a_lost_middle_segment_does_not_bring_a_truncated_suffix_back() {
    let mut steps: Vec<Step> = (0..14).map(|_| append(1, 5000)).collect();
    steps.push(Step::Replace { removed: 6 });
    steps.extend((0..20).map(|_| append(1, 5000)));
    let (vfs, history) = damaged_later(&steps);
    let all = segments(&vfs);
    assert!(all.len() >= 4, "{all:?}");
    let mut losses = 0;
    for lost in &all[1..all.len() - 1] {
        let disk = vfs.crash(&mut |_| true);
        disk.remove(&segment_path(*lost)).unwrap();
        let found = heal(&disk, &history, "middle");
        losses += found
            .missing
            .iter()
            .map(|hole| hole.last.since(hole.first) + 1)
            .sum::<u64>();
        // Only its own content is lost: both neighbours still serve theirs.
        assert!(found.missing[0].first > LogIndex(1));
        assert!(found.missing.last().unwrap().last < found.last.index);
    }
    assert!(losses > 10);
}

/// The open that copies the unvouched tail is cut at every operation, and the copy's source rots.
#[test]
fn a_power_cut_while_the_tail_is_copied() {
    let (vfs, history) = damaged_later(&[append(2, 300), append(3, 900)]);
    // As one that rots after it was acknowledged: only what is readable is copied.
    rot(&vfs, 1, 3 * BLOCK + 600, &[0xab; 8]);
    let whole = vfs.crash(&mut |_| true);
    vfs.record();
    let first = open_reporting(&vfs);
    let state = history.check(&first, "first");
    let missing = first.2.missing.clone();
    assert_eq!(missing, [hole(3, 3)]);
    drop(first);
    for (cut, image) in vfs.recorded().iter().enumerate() {
        for disk in crashed_disks(image, 5, 12, cut as u64 + 1) {
            let opened = open_reporting(&disk);
            assert_eq!(history.check(&opened, "cut"), state);
            assert_eq!(opened.2.missing, missing, "cut {cut}");
            let again = disk.crash(&mut |_| false);
            drop(opened);
            heal(&again, &history, "after the cut");
        }
    }
    heal(&whole, &history, "uncut");
}

/// The last batch was acknowledged, nothing vouches for it, all its sectors are there, and one has
/// rotted: it was not torn.
#[test]
fn a_last_batch_that_rots_after_it_was_acknowledged() {
    let (vfs, history) = damaged_later(&[append(2, 300), Step::Vote, append(4, 700)]);
    for sector in 0..8 {
        let disk = vfs.crash(&mut |_| true);
        rot(&disk, 1, 5 * BLOCK + sector * 512 + 200, &[0xab; 8]);
        let found = heal(&disk, &history, "last batch");
        assert_eq!(
            (found.end, found.last),
            (LogEnd::Known, history.truth().last())
        );
        assert!(found.dropped_torn.is_none());
    }
}

/// A vote was given in a segment that is no longer there: compaction took it, or it is lost.
#[test]
fn a_vote_in_a_segment_since_removed() {
    let mut steps = vec![append(2, 5000), Step::Vote, Step::Vote];
    steps.extend((0..30).map(|_| append(1, 5000)));
    let (vfs, history) = damaged_later(&steps);
    let truth = history.truth().hard_state;
    assert!(truth.vote.is_some());
    let compacted = vfs.crash(&mut |_| true);
    {
        let (_dir, mut log, _) = open(&compacted).unwrap();
        log.compact_prefix(log.last()).unwrap();
        log.sync().unwrap();
    }
    assert!(!segments(&compacted).contains(&1));
    let (_dir, _log, recovered) = open(&compacted.crash(&mut |_| false)).unwrap();
    assert_eq!(recovered.hard_state, truth);
    vfs.remove(&segment_path(1)).unwrap();
    let found = heal(&vfs, &history, "lost with the vote in it");
    assert_eq!((found.end, found.hard_state), (LogEnd::Known, truth));
}

/// The newest segment with a vote in it is lost altogether: the seal before it names an older one, and
/// the node is not to vote by that.
#[test]
fn a_vote_in_a_lost_newest_segment_leaves_the_hard_state_unknown() {
    let mut steps: Vec<Step> = (0..14).map(|_| append(1, 5000)).collect();
    steps.push(Step::Vote);
    let (vfs, history) = damaged_later(&steps);
    let newest = *segments(&vfs).last().unwrap();
    vfs.remove(&segment_path(newest)).unwrap();
    let opened = open_reporting(&vfs);
    history.check(&opened, "lost vote");
    assert_eq!(opened.2.end, LogEnd::Unknown(UnknownEnd::SuccessorMissing));
    assert_ne!(opened.2.hard_state, history.truth().hard_state);
}

/// Two segments that carry each other's names are not what their names say.
#[test]
fn segments_that_are_swapped_truncated_or_lost() {
    let mut steps: Vec<Step> = (0..30).map(|_| append(1, 5000)).collect();
    steps.push(Step::Vote);
    let (vfs, history) = damaged_later(&steps);
    let all = segments(&vfs);
    for (number, one) in all.iter().enumerate() {
        for size in [0, 100, 4096, 9000, 30_000, 65_024] {
            let disk = vfs.crash(&mut |_| true);
            disk.shrink(&segment_path(*one), size).unwrap();
            heal(&disk, &history, &format!("segment {one} cut to {size}"));
        }
        let disk = vfs.crash(&mut |_| true);
        disk.remove(&segment_path(*one)).unwrap();
        let found = heal(&disk, &history, &format!("segment {one} lost"));
        let is_newest = number + 1 == all.len();
        assert_eq!(found.end == LogEnd::Known, !is_newest);
        for other in &all[number + 1..] {
            let disk = vfs.crash(&mut |_| true);
            let (a, b) = (segment_path(*one), segment_path(*other));
            let aside = Path::new(DIRECTORY).join("log-0/aside");
            for (from, to) in [(&a, &aside), (&b, &a), (&aside, &b)] {
                disk.rename(from, to).unwrap();
            }
            heal(
                &disk,
                &history,
                &format!("segments {one} and {other} swapped"),
            );
        }
    }
}
