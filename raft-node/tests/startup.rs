//! Log and newest snapshot brought together at a start: whatever a crash left between the moment a
//! snapshot got its name and the moment the log followed.
#![allow(
    clippy::unwrap_used,
    reason = "in test helpers too, a panic is the failure"
)]

use std::path::Path;
use std::sync::Arc;

use raft_core::{Config, RaftCore, SnapshotContent, Time};
use raft_log::vfs::{Access, AlignedBuffer, MemVfs, Vfs};
use raft_log::{DataDir, LogOptions, LogWrite};
use raft_node::FatalError;
use raft_node::startup::{Opened, open};
use raft_proto::{
    ClusterId, Entry, EntryKind, HardState, LogIndex, LogPosition, Member, Membership, NodeId, Term,
};

const ME: NodeId = NodeId(1);
const CLUSTER: ClusterId = ClusterId([7; 16]);
/// Where the data directory has its snapshots.
const SNAPSHOTS: &str = "data/snapshots-0";

fn at(index: u64, term: u64) -> LogPosition {
    LogPosition {
        index: LogIndex(index),
        term: Term(term),
    }
}

fn members(ids: &[u64]) -> Membership {
    let member = |id: &u64| Member {
        incarnation: None,
        address: format!("n{id}:1"),
    };
    Membership::of_voters(ids.iter().map(|id| (NodeId(*id), member(id))))
}

/// A node's disk, with a log of these terms: a membership of three first, then commands. It has
/// voted for node 2 in the last of these terms.
fn disk(terms: &[u64]) -> Arc<dyn Vfs> {
    let vfs = MemVfs::new(1).shared();
    let (_directory, mut opened) = start(&vfs);
    let entry = |(index, term): (u64, &u64)| Entry {
        index: LogIndex(index),
        term: Term(*term),
        kind: if index == 1 {
            EntryKind::Membership
        } else {
            EntryKind::Command
        },
        payload: members(&[1, 2, 3]).to_bytes().unwrap(),
    };
    let write = LogWrite {
        hard_state: Some(voted(*terms.last().unwrap())),
        entries: (1..).zip(terms).map(entry).collect(),
        ..LogWrite::default()
    };
    opened.log.stage(write).unwrap();
    opened.log.sync().unwrap();
    vfs
}

fn voted(term: u64) -> HardState {
    HardState {
        term: Term(term),
        vote: Some(NodeId(2)),
    }
}

fn try_start(vfs: &Arc<dyn Vfs>) -> Result<(DataDir, Opened), FatalError> {
    let directory = DataDir::open(Arc::clone(vfs), Path::new("data"), ME).unwrap();
    let opened = open(&directory, CLUSTER, LogOptions::small())?;
    Ok((directory, opened))
}

fn start(vfs: &Arc<dyn Vfs>) -> (DataDir, Opened) {
    try_start(vfs).unwrap_or_else(|error| panic!("{error}"))
}

/// A snapshot gets its name, and then the process dies.
fn store(vfs: &Arc<dyn Vfs>, end: LogPosition) {
    let (_directory, opened) = start(vfs);
    let members = members(&[1, 2, 3, 4]);
    let mut writer = opened.snapshots.create(end, &members).unwrap();
    writer.write(b"the state").unwrap();
    writer.finish().unwrap();
}

/// The core takes what was found, and it is found again by the next start.
fn settle(vfs: &Arc<dyn Vfs>) -> Opened {
    let first = start(vfs).1.recovered;
    let (directory, opened) = start(vfs);
    let mut again = opened.recovered.clone();
    again.boot = first.boot;
    assert_eq!(again, first, "a second start finds the same");
    let config = Config::new(ME);
    RaftCore::new(config, opened.recovered.clone(), Time::ZERO).unwrap();
    drop(directory);
    opened
}

#[test]
fn a_log_that_ends_before_a_received_snapshot_starts_anew_after_it() {
    let vfs = disk(&[1, 1, 2]);
    store(&vfs, at(9, 2));
    let opened = settle(&vfs);
    assert_eq!(opened.recovered.snapshot, Some(at(9, 2)));
    assert_eq!(opened.recovered.first_index, LogIndex(10));
    assert_eq!(opened.recovered.last, at(9, 2));
    // The vote stays, and the membership is the snapshot's.
    assert_eq!(opened.recovered.hard_state, voted(2));
    let memberships = opened.recovered.memberships;
    assert_eq!(memberships, [(LogIndex(9), members(&[1, 2, 3, 4]))]);
}

#[test]
fn a_log_that_contradicts_a_received_snapshot_goes() {
    let vfs = disk(&[1, 1, 2, 2, 2]);
    store(&vfs, at(4, 3));
    let opened = settle(&vfs);
    assert_eq!(opened.recovered.last, at(4, 3));
    assert!(opened.recovered.term_runs.is_empty());
    // The term was raised for the snapshot, and that was not durable: nobody has this node's vote
    // in it.
    let raised = HardState {
        term: Term(3),
        vote: None,
    };
    assert_eq!(opened.recovered.hard_state, raised);
}

#[test]
fn a_log_that_has_the_end_of_a_snapshot_keeps_everything() {
    let vfs = disk(&[1, 1, 2, 2, 5]);
    store(&vfs, at(3, 2));
    let opened = settle(&vfs);
    assert_eq!(opened.recovered.snapshot, Some(at(3, 2)));
    assert_eq!(opened.recovered.first_index, LogIndex(1));
    assert_eq!(opened.recovered.last, at(5, 5));
    assert_eq!(opened.recovered.hard_state, voted(5));
    let memberships = opened.recovered.memberships;
    assert_eq!(memberships, [(LogIndex(3), members(&[1, 2, 3, 4]))]);
}

#[test]
fn a_mark_behind_the_newest_snapshot_keeps_what_is_between() {
    let vfs = disk(&[1, 1, 2, 2, 5]);
    store(&vfs, at(4, 2));
    let (directory, mut opened) = start(&vfs);
    opened.log.compact_prefix(at(2, 1)).unwrap();
    opened.log.sync().unwrap();
    drop((opened, directory));
    let opened = settle(&vfs);
    assert_eq!(opened.recovered.snapshot, Some(at(4, 2)));
    assert_eq!(opened.recovered.first_index, LogIndex(3));
    assert_eq!(opened.recovered.last, at(5, 5));
}

#[test]
fn a_mark_that_no_snapshot_covers_is_a_lost_snapshot() {
    for wrong in [None, Some(at(2, 1)), Some(at(4, 1))] {
        let vfs = disk(&[1, 1, 2, 2, 5]);
        let (directory, mut opened) = start(&vfs);
        opened.log.compact_prefix(at(4, 2)).unwrap();
        opened.log.sync().unwrap();
        if let Some(wrong) = wrong {
            let members = members(&[1]);
            let writer = opened.snapshots.create(wrong, &members).unwrap();
            writer.finish().unwrap();
        }
        drop((opened, directory));
        let opened = settle(&vfs);
        assert_eq!(opened.newest, None, "nothing restores the state");
        let recovered = opened.recovered;
        assert_eq!(recovered.snapshot, Some(at(4, 2)));
        assert_eq!(recovered.snapshot_content, SnapshotContent::Lost);
        assert_eq!(recovered.last, at(5, 5), "the log stays");
        assert_eq!(recovered.hard_state, voted(5));
    }
}

/// Overwrites the newest snapshot's file; returns its name.
fn damage_newest_snapshot(vfs: &Arc<dyn Vfs>) -> String {
    let directory = Path::new(SNAPSHOTS);
    let newest = vfs.list(directory).unwrap().pop().unwrap();
    let file = vfs.open(&directory.join(&newest), Access::ReadWrite);
    let mut garbage = AlignedBuffer::zeroed(1);
    garbage.bytes_mut().fill(0xa5);
    file.unwrap().write_at(0, garbage.as_aligned()).unwrap();
    newest
}

#[test]
fn a_damaged_snapshot_is_as_good_as_none() {
    let vfs = disk(&[1, 1, 2, 2, 5]);
    store(&vfs, at(2, 1));
    store(&vfs, at(4, 2));
    let newest = damage_newest_snapshot(&vfs);
    // The log has what it covered, and the older one is sound.
    let opened = settle(&vfs);
    assert_eq!(opened.newest.unwrap().last_included, at(2, 1));
    assert_eq!(opened.recovered.snapshot_content, SnapshotContent::Whole);
    let left = vfs.list(Path::new(SNAPSHOTS)).unwrap();
    assert!(!left.contains(&newest), "another one may take its name");
}

#[test]
fn the_only_member_cannot_do_without_its_snapshot() {
    let vfs = MemVfs::new(1).shared();
    let (directory, mut opened) = start(&vfs);
    let alone = |index, kind| Entry {
        index: LogIndex(index),
        term: Term(1),
        kind,
        payload: members(&[1]).to_bytes().unwrap(),
    };
    let entries = vec![
        alone(1, EntryKind::Membership),
        alone(2, EntryKind::Command),
        alone(3, EntryKind::Membership),
    ];
    let write = LogWrite {
        hard_state: Some(voted(1)),
        entries,
        ..LogWrite::default()
    };
    opened.log.stage(write).unwrap();
    opened.log.compact_prefix(at(2, 1)).unwrap();
    opened.log.sync().unwrap();
    drop((opened, directory));
    let refused = try_start(&vfs).err().unwrap();
    let FatalError::MissingSnapshot { mark, .. } = refused else {
        panic!("{refused}");
    };
    assert_eq!(mark, at(2, 1));
}
