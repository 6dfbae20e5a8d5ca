//! A scrub finds rot in what nobody reads, by index range, and nothing where nothing is.
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use raft_log::vfs::MemVfs;
use raft_log::{LogOptions, ScrubFinding, ScrubStep, Scrubber, SnapshotStore};

#[path = "support/snapshots.rs"]
mod snapshots;
mod support;

use snapshots::{at, identity_of, payload_of_chunks, save};
use support::{CLUSTER, Pair, Step, segment_path};

/// A log of several segments and one snapshot.
fn stored() -> (Pair, SnapshotStore) {
    let mut pair = Pair::new(&MemVfs::new(3), LogOptions::small());
    pair.reopen().unwrap();
    for _ in 0..30 {
        let step = Step::Append {
            count: 1,
            bytes: 5000,
        };
        pair.run(&step).unwrap();
    }
    let dir = pair.dir.as_ref().unwrap();
    let store = SnapshotStore::open(dir, identity_of(dir, CLUSTER)).unwrap();
    save(&store, at(3, 1), &payload_of_chunks(3, 1)).unwrap();
    (pair, store)
}

fn pass(scrubber: &mut Scrubber) -> ScrubStep {
    let mut all = ScrubStep::default();
    for _ in 0..10_000 {
        let step = scrubber.step(20_000).unwrap();
        assert!(step.read_bytes <= 1 << 20);
        all.read_bytes += step.read_bytes;
        all.findings.extend(step.findings);
        if step.pass_ended {
            all.pass_ended = true;
            return all;
        }
    }
    panic!("a pass ends");
}

#[test]
fn a_pass_reads_everything_that_is_sealed_and_finds_nothing_where_nothing_is() {
    let (pair, store) = stored();
    let log = pair.log.as_ref().unwrap();
    let mut scrubber = Scrubber::new(&log.reader(), store);
    for _ in 0..2 {
        let found = pass(&mut scrubber);
        assert_eq!(found.findings, []);
        let sealed = log.disk_bytes() - LogOptions::small().segment_bytes;
        assert!(found.read_bytes > sealed, "{found:?}");
    }
}

#[test]
fn rot_of_a_record_is_found_by_its_entry_and_can_be_refilled() {
    let (mut pair, store) = stored();
    let mut scrubber = Scrubber::new(&pair.log.as_ref().unwrap().reader(), store);
    let path = segment_path(2);
    pair.vfs.corrupt(&path, 6 * 4096, &[0xab; 64]).unwrap();
    let found = pass(&mut scrubber).findings;
    let lost: Vec<_> = found
        .iter()
        .filter_map(|finding| match finding {
            ScrubFinding::Entries { lost, segment, .. } => Some((*lost, *segment)),
            ScrubFinding::Segment { .. } | ScrubFinding::Snapshot { .. } => None,
        })
        .collect();
    assert_eq!(
        (lost.len(), lost[0].1, lost[0].0.first),
        (1, 2, lost[0].0.last)
    );
    let log = pair.log.as_mut().unwrap();
    let hole = lost[0].0;
    assert!(log.reader().read(hole.first, hole.last, 1).is_err());
    log.report_rot(hole.first, hole.last);
    assert_eq!(log.missing(), [hole]);
    let entry = pair
        .synced
        .entries
        .iter()
        .find(|entry| entry.index == hole.first);
    log.stage(raft_log::LogWrite {
        refill: vec![entry.unwrap().clone()],
        ..raft_log::LogWrite::default()
    })
    .unwrap();
    log.sync().unwrap();
    // It is nobody's place any more: the batch is still damaged, no entry is lost.
    let again = pass(&mut scrubber).findings;
    assert!(!again.is_empty());
    assert!(
        again
            .iter()
            .all(|finding| matches!(finding, ScrubFinding::Segment { .. }))
    );
}

#[test]
fn rot_that_only_the_next_start_would_meet_is_found() {
    let (pair, store) = stored();
    let log = pair.log.as_ref().unwrap();
    let mut scrubber = Scrubber::new(&log.reader(), store);
    // The preamble, a copy of a batch's identity, a seal, a file that was cut.
    let size = LogOptions::small().segment_bytes;
    for offset in [60, 4096 + 20, size - 4096 + 3] {
        let good = pair.vfs.read_file(&segment_path(1)).unwrap()[offset as usize];
        pair.vfs
            .corrupt(&segment_path(1), offset, &[good ^ 1])
            .unwrap();
        let found = pass(&mut scrubber).findings;
        let is_told =
            |finding: &ScrubFinding| matches!(finding, ScrubFinding::Segment { segment: 1, .. });
        assert!(
            found.iter().all(is_told) && !found.is_empty(),
            "{offset}: {found:?}"
        );
        pair.vfs.corrupt(&segment_path(1), offset, &[good]).unwrap();
        assert_eq!(pass(&mut scrubber).findings, []);
    }
    pair.vfs.shrink(&segment_path(2), 9_000).unwrap();
    let found = pass(&mut scrubber).findings;
    let is_lost =
        |finding: &ScrubFinding| matches!(finding, ScrubFinding::Entries { segment: 2, .. });
    assert!(found.iter().any(is_lost), "{found:?}");
}

#[test]
fn a_damaged_snapshot_is_named_once_a_pass() {
    let (pair, store) = stored();
    let log = pair.log.as_ref().unwrap();
    let mut scrubber = Scrubber::new(&log.reader(), store);
    let path = std::path::Path::new("data/snapshots-0/0000000000000003-0000000000000001.snap");
    pair.vfs.corrupt(path, 90_000, &[0xab; 4]).unwrap();
    for _ in 0..2 {
        let found = pass(&mut scrubber).findings;
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            matches!(found[0], ScrubFinding::Snapshot { position, .. } if position == at(3, 1))
        );
    }
}
