//! Log and snapshots together, as a node uses them: marks behind the newest snapshot, snapshots that
//! replace the log, and crashes between the steps of either.
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::path::Path;

use raft_log::vfs::MemVfs;
use raft_log::{
    DataDir, Log, LogError, LogOptions, LogWrite, OpenError, Recovered, SnapshotError,
    SnapshotStore,
};
use raft_proto::{
    Entry, EntryKind, LogIndex, LogPosition, Membership, NodeId, SnapshotDescription, Term,
};

#[path = "support/snapshots.rs"]
mod snapshots;
mod support;

use snapshots::{CLUSTER, DIRECTORY, at, fetch, identity_of, members, payload, save};
use support::crashed_disks;

const EXHAUSTIVE_CHANGES: usize = 4;
const SAMPLES: u64 = 5;

/// The failures that a stopped machine causes.
#[derive(Debug)]
struct Stopped;

impl From<LogError> for Stopped {
    fn from(error: LogError) -> Self {
        assert!(
            matches!(error, LogError::File(_) | LogError::Poisoned),
            "{error}"
        );
        Self
    }
}

impl From<SnapshotError> for Stopped {
    fn from(error: SnapshotError) -> Self {
        assert!(
            matches!(error, SnapshotError::File(_) | SnapshotError::Poisoned),
            "{error}"
        );
        Self
    }
}

/// A node's disk, opened.
struct Node {
    log: Log,
    recovered: Recovered,
    store: SnapshotStore,
    newest: Option<SnapshotDescription>,
}

impl Node {
    /// What a start does: a snapshot whose last entry the log does not have replaces the log.
    fn start(vfs: &MemVfs) -> Result<Self, Stopped> {
        let opened = DataDir::open(vfs.shared(), Path::new(DIRECTORY), NodeId(1));
        let dir = opened.map_err(|_| Stopped)?;
        let identity = identity_of(&dir, CLUSTER);
        let opened = Log::open(&dir, identity, LogOptions::small());
        let (log, recovered) = opened.map_err(|error| {
            let stopped = matches!(error, OpenError::File(_) | OpenError::Directory(_));
            assert!(stopped, "nothing is damaged: {error}");
            Stopped
        })?;
        let store = SnapshotStore::open(&dir, identity)?;
        let newest = store.newest()?;
        let mut node = Self {
            log,
            recovered,
            store,
            newest,
        };
        let mark = node.log.snapshot();
        let newest = node.newest.as_ref().map(|newest| newest.last_included);
        assert!(
            newest.unwrap_or_default().index >= mark.index,
            "a snapshot covers what the log forgot: mark {mark}, newest {newest:?}"
        );
        if let Some(newest) = newest.filter(|newest| !node.has(*newest)) {
            node.install(newest)?;
        }
        Ok(node)
    }

    fn has(&self, position: LogPosition) -> bool {
        let runs = &self.recovered.term_runs;
        let mut runs = runs.iter().filter(|run| run.first <= position.index);
        let is_live = position.index >= self.recovered.first_index
            && position.index <= self.recovered.last.index
            && runs
                .next_back()
                .is_some_and(|run| run.term == position.term);
        is_live || self.log.snapshot() == position
    }

    fn install(&mut self, position: LogPosition) -> Result<(), Stopped> {
        self.log.compact_prefix(position)?;
        self.log.sync()?;
        Ok(())
    }

    fn append(&mut self, entries: Vec<Entry>) -> Result<(), Stopped> {
        self.log.stage(LogWrite {
            entries,
            ..LogWrite::default()
        })?;
        self.log.sync()?;
        Ok(())
    }

    /// The memberships from the newest snapshot on: its own, then those of the log behind it.
    fn memberships(&self) -> Vec<(LogIndex, Membership)> {
        let snapshot = self.newest.as_ref();
        let base = snapshot.map(|s| (s.last_included.index, s.membership.clone()));
        let covered = base.as_ref().map_or(LogIndex::ZERO, |(index, _)| *index);
        let later = self.recovered.memberships.iter();
        let later = later.filter(|(index, _)| *index > covered).cloned();
        base.into_iter().chain(later).collect()
    }
}

/// Entries whose payloads follow from their positions; every tenth is a membership.
fn entries(first: u64, last: u64, term: u64) -> Vec<Entry> {
    let entry = |index: u64| {
        let is_membership = index.is_multiple_of(10);
        let payload_bytes = payload(3000, index * 100 + term);
        Entry {
            index: LogIndex(index),
            term: Term(term),
            kind: if is_membership {
                EntryKind::Membership
            } else {
                EntryKind::Command
            },
            payload: if is_membership {
                members(index / 10).to_bytes().unwrap()
            } else {
                payload_bytes.into()
            },
        }
    };
    (first..=last).map(entry).collect()
}

fn read_all(node: &Node) -> Vec<Entry> {
    let (first, last) = (node.log.first_index(), node.log.last().index);
    if first > last {
        return Vec::new();
    }
    node.log.reader().read(first, last, u64::MAX).unwrap()
}

#[test]
fn a_mark_behind_the_newest_snapshot_keeps_what_is_between() {
    let vfs = MemVfs::new(3);
    let mut node = Node::start(&vfs).unwrap();
    for first in (1..90).step_by(5) {
        node.append(entries(first, first + 4, 1)).unwrap();
    }
    save(&node.store, at(80, 1), &payload(5000, 1)).unwrap();
    let before = node.log.disk_bytes();
    node.install(at(50, 1)).unwrap();
    assert!(node.log.disk_bytes() < before, "segments are deleted");
    drop(node);
    let vfs = vfs.crash(&mut |_| false);
    let node = Node::start(&vfs).unwrap();
    // The snapshot is in the log: nothing was replaced.
    assert_eq!(
        (node.log.snapshot(), node.log.last()),
        (at(50, 1), at(90, 1))
    );
    assert_eq!(read_all(&node), entries(51, 90, 1));
    let found = &node.recovered.memberships;
    let indexes: Vec<u64> = found.iter().map(|(index, _)| index.0).collect();
    assert_eq!(indexes, [60, 70, 80, 90]);
    assert_eq!(
        node.memberships(),
        [(LogIndex(80), members(3)), (LogIndex(90), members(9))]
    );
    drop(node);
    // An older mark changes nothing, also after a restart.
    let mut node = Node::start(&vfs).unwrap();
    node.log.compact_prefix(at(20, 1)).unwrap();
    assert_eq!(node.log.sync().unwrap().batches, 0);
    assert_eq!(node.log.first_index(), LogIndex(51));
}

#[test]
fn after_an_installation_memberships_come_from_the_snapshot() {
    let vfs = MemVfs::new(3);
    let mut node = Node::start(&vfs).unwrap();
    node.append(entries(1, 25, 1)).unwrap();
    save(&node.store, at(40, 2), &payload(5000, 1)).unwrap();
    node.install(at(40, 2)).unwrap();
    assert_eq!(
        (node.log.last(), node.log.first_index()),
        (at(40, 2), LogIndex(41))
    );
    drop(node);
    let node = Node::start(&vfs).unwrap();
    assert_eq!(node.recovered.memberships, []);
    assert_eq!(node.recovered.last, at(40, 2));
    assert_eq!(node.memberships(), [(LogIndex(40), members(3))]);
    drop(node);
    let mut node = Node::start(&vfs).unwrap();
    node.append(entries(41, 52, 2)).unwrap();
    drop(node);
    let node = Node::start(&vfs.crash(&mut |_| false)).unwrap();
    assert_eq!(read_all(&node), entries(41, 52, 2));
    assert_eq!(
        node.memberships(),
        [(LogIndex(40), members(3)), (LogIndex(50), members(5))]
    );
}

/// What was acknowledged so far, step by step.
#[derive(Clone, Debug, Default)]
struct Acknowledged {
    newest: LogPosition,
    mark: LogPosition,
    last: LogPosition,
}

/// A follower's life: entries, a snapshot from the leader that replaces them, more entries, an own
/// snapshot with a mark behind it.
fn live(
    vfs: &MemVfs,
    peer: &SnapshotStore,
    offered: &SnapshotDescription,
    acknowledged: &mut Acknowledged,
) -> Result<(), Stopped> {
    let mut node = Node::start(vfs)?;
    for first in (11..30).step_by(5) {
        node.append(entries(first, first + 4, 1))?;
        acknowledged.last = node.log.last();
    }
    let mut receiver = node.store.receive(offered)?;
    fetch(peer, &mut receiver, 1 << 20)?;
    receiver.finish()?;
    acknowledged.newest = offered.last_included;
    node.install(offered.last_included)?;
    acknowledged.mark = offered.last_included;
    acknowledged.last = offered.last_included;
    node.store.remove_older(offered.last_included)?;
    let from = offered.last_included.index.0 + 1;
    for first in (from..from + 20).step_by(5) {
        node.append(entries(first, first + 4, 2))?;
        acknowledged.last = node.log.last();
    }
    save(&node.store, at(from + 15, 2), &payload(9000, 1))?;
    acknowledged.newest = at(from + 15, 2);
    node.install(at(from + 6, 2))?;
    acknowledged.mark = at(from + 6, 2);
    node.store.remove_older(at(from + 15, 2))?;
    Ok(())
}

/// Checks what a crash has left, and that the next start ends in the same state however often it
/// is cut short itself.
fn check_left(name: &str, disk: &MemVfs, acknowledged: &Acknowledged) {
    let node = Node::start(disk).unwrap();
    let newest = node.newest.as_ref().unwrap().last_included;
    let (mark, last) = (node.log.snapshot(), node.log.last());
    assert!(
        newest.index >= acknowledged.newest.index,
        "{name}: the snapshot is there"
    );
    assert!(
        mark.index >= acknowledged.mark.index,
        "{name}: the mark is there"
    );
    let continues = last.index >= acknowledged.last.index || newest.term > acknowledged.last.term;
    assert!(continues, "{name}: {last} after {acknowledged:?}");
    assert!(
        last.index >= newest.index,
        "{name}: the log reaches the snapshot"
    );
    let live = read_all(&node);
    let term = if mark.term == Term(2) { 2 } else { 1 };
    let expected = entries(mark.index.0 + 1, last.index.0, term);
    assert_eq!(
        live, expected,
        "{name}: entries are those that were appended"
    );
    drop(node);
    let again = Node::start(disk).unwrap();
    assert_eq!(
        (again.log.snapshot(), again.log.last()),
        (mark, last),
        "{name}"
    );
    assert_eq!(again.recovered.dropped_torn, None, "{name}");
}

fn check_follower(offered_at: LogPosition) {
    let peer = {
        let vfs = MemVfs::new(9);
        let dir = DataDir::open(vfs.shared(), Path::new(DIRECTORY), NodeId(1)).unwrap();
        SnapshotStore::open(&dir, identity_of(&dir, CLUSTER)).unwrap()
    };
    let offered = save(&peer, offered_at, &payload(150_000, 2)).unwrap();
    let start = MemVfs::new(3);
    let mut node = Node::start(&start).unwrap();
    node.append(entries(1, 10, 1)).unwrap();
    save(&node.store, at(8, 1), &payload(9000, 1)).unwrap();
    node.install(at(4, 1)).unwrap();
    drop(node);
    let at_first = Acknowledged {
        newest: at(8, 1),
        mark: at(4, 1),
        last: at(10, 1),
    };
    for cut in 0..400 {
        let vfs = start.crash(&mut |_| true);
        let mut acknowledged = at_first.clone();
        vfs.stop_after(cut);
        let outcome = live(&vfs, &peer, &offered, &mut acknowledged);
        for disk in crashed_disks(&vfs, EXHAUSTIVE_CHANGES, SAMPLES, cut + 1) {
            // A start that is cut short, and crashes, changes nothing of it.
            let half = disk.crash(&mut |_| true);
            half.stop_after(cut % 23);
            let _ = Node::start(&half).map(drop);
            let mut turn = cut;
            let half = half.crash(&mut |_| {
                turn += 1;
                turn.is_multiple_of(2)
            });
            check_left(&format!("cut {cut}, cut again"), &half, &acknowledged);
            check_left(&format!("cut {cut}"), &disk, &acknowledged);
        }
        vfs.resume();
        check_left(&format!("cut {cut}, process died"), &vfs, &acknowledged);
        if outcome.is_ok() {
            assert!(
                cut > 80,
                "a life of {cut} operations is too short to mean anything"
            );
            return;
        }
    }
    panic!("the life ends");
}

#[test]
fn a_snapshot_beyond_the_end_is_installed_whole_or_not_at_every_cut() {
    check_follower(at(50, 2));
}

#[test]
fn a_snapshot_that_conflicts_with_the_log_is_installed_whole_or_not_at_every_cut() {
    check_follower(at(22, 2));
}

#[test]
fn a_snapshot_of_what_the_log_has_keeps_the_log() {
    let vfs = MemVfs::new(3);
    let mut node = Node::start(&vfs).unwrap();
    node.append(entries(1, 25, 1)).unwrap();
    save(&node.store, at(20, 1), &payload(5000, 1)).unwrap();
    drop(node);
    let node = Node::start(&vfs).unwrap();
    assert_eq!(node.log.snapshot(), LogPosition::ZERO);
    assert_eq!(read_all(&node), entries(1, 25, 1));
}
