//! A survivor's directory becomes that of the only member of a new cluster, whole or not at all.
#![allow(
    clippy::unwrap_used,
    reason = "in test helpers too, a panic is the failure"
)]

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use raft_log::vfs::{MemVfs, Vfs};
use raft_log::{DataDir, DirError, Log, LogIdentity, LogOptions, LogWrite, SnapshotStore};
use raft_node::formation::{FORMATION_RECORD, FormedResponder};
use raft_node::recover::{
    NewCluster, RecoverError, RecoverPlan, check_settled, open_directory, recover_directory, survey,
};
use raft_node::restore::check_finished;
use raft_node::startup;
use raft_proto::{
    ClusterId, Entry, EntryKind, GroupId, HardState, Incarnation, LogIndex, LogPosition, Member,
    Membership, NodeId, Promotion, Term,
};

const NODE: NodeId = NodeId(2);
const HOME: &str = "n2";
const PAYLOAD: &[u8] = b"what the machine had at entry 4";
/// The last entry that the snapshot covers.
const COVERED: LogPosition = at(4, 2);
const LAST: LogPosition = at(9, 3);

const fn at(index: u64, term: u64) -> LogPosition {
    LogPosition {
        index: LogIndex(index),
        term: Term(term),
    }
}

/// What the survivor has besides its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Snapshots {
    One,
    None,
}

fn three_members() -> Membership {
    let member = |id: u64| {
        let member = Member {
            incarnation: Some(Incarnation(id)),
            address: format!("h{id}:1"),
        };
        (NodeId(id), member)
    };
    Membership::of_voters((1..=3).map(member))
}

fn entry(index: u64, term: u64, kind: EntryKind) -> Entry {
    let payload = match kind {
        EntryKind::Membership => three_members().to_bytes().unwrap(),
        EntryKind::Command => Bytes::from(format!("command {index}")),
        EntryKind::Noop => Bytes::new(),
    };
    Entry {
        index: LogIndex(index),
        term: Term(term),
        kind,
        payload,
    }
}

/// Memberships at 1 and 7, one of them behind the snapshot; the term ends above the last entry's.
fn entries() -> Vec<Entry> {
    let kind = |index| match index {
        1 | 7 => EntryKind::Membership,
        2 | 5 => EntryKind::Noop,
        _ => EntryKind::Command,
    };
    let term = |index| match index {
        1 => 1,
        2..=4 => 2,
        _ => 3,
    };
    (1..=9)
        .map(|index| entry(index, term(index), kind(index)))
        .collect()
}

/// The directory of a follower of three, as its last process left it.
fn survivor(snapshots: Snapshots) -> MemVfs {
    let vfs = MemVfs::new(1);
    let directory = DataDir::open(vfs.shared(), Path::new(HOME), NODE).unwrap();
    let identity = LogIdentity {
        cluster: ClusterId::of_first_entry(&entries()[0].payload),
        node: NODE,
        incarnation: directory.incarnation(),
        group: GroupId(0),
    };
    let record = FormedResponder::record_of(entries()[0].payload.clone()).unwrap();
    directory.write_record(FORMATION_RECORD, &record).unwrap();
    directory.write_record("peer-boots", b"as it was").unwrap();
    let (mut log, _) = Log::open(&directory, identity, LogOptions::small()).unwrap();
    log.stage(LogWrite {
        hard_state: Some(HardState {
            term: Term(8),
            vote: Some(NodeId(1)),
        }),
        entries: entries(),
        ..LogWrite::default()
    })
    .unwrap();
    log.sync().unwrap();
    if snapshots == Snapshots::One {
        let store = SnapshotStore::open(&directory, identity).unwrap();
        let mut writer = store.create(COVERED, &three_members()).unwrap();
        writer.write(PAYLOAD).unwrap();
        writer.finish().unwrap();
        log.compact_prefix(at(3, 2)).unwrap();
        log.sync().unwrap();
    }
    drop(log);
    drop(directory);
    vfs.crash(&mut |_| true)
}

fn recover(vfs: &MemVfs) -> Result<NewCluster, RecoverError> {
    let vfs: Arc<dyn Vfs> = vfs.shared();
    let plan = RecoverPlan {
        directory: HOME.into(),
        address: None,
        log: LogOptions::small(),
    };
    recover_directory(&vfs, &plan)
}

/// Which of the two a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Old,
    New,
}

/// Opens a directory as a server does, and checks everything in it.
fn examine(vfs: &MemVfs, path: &Path, snapshots: Snapshots) -> Found {
    let shared: Arc<dyn Vfs> = vfs.shared();
    let directory = open_directory(&shared, path, NODE).unwrap();
    check_settled(&directory).unwrap();
    check_finished(&directory).unwrap();
    let record = directory.read_record(FORMATION_RECORD).unwrap().unwrap();
    let responder = FormedResponder::from_record(&record).unwrap().unwrap();
    let opened = startup::open(&directory, responder.cluster(), LogOptions::small()).unwrap();
    let (_, membership) = opened.recovered.memberships.last().unwrap().clone();
    let found = if membership == three_members() {
        Found::Old
    } else {
        Found::New
    };
    let recovered = &opened.recovered;
    assert_eq!(recovered.last, LAST);
    assert_eq!(recovered.hard_state.term, Term(8));
    let vote = (found == Found::Old).then_some(NodeId(1));
    assert_eq!(recovered.hard_state.vote, vote);
    let own = membership.members[&NODE].incarnation;
    if found == Found::New {
        assert_eq!(membership.members.len(), 1);
        assert_eq!(membership.voters, [NODE].into());
        assert_eq!(own, Some(directory.incarnation()));
        assert_eq!(
            responder.cluster(),
            ClusterId::of_first_entry(&membership.to_bytes().unwrap())
        );
        assert_eq!(directory.read_record("peer-boots").unwrap(), None);
        for (_, earlier) in &recovered.memberships {
            assert_eq!(*earlier, membership, "of nobody but the new cluster");
        }
    }
    let first = match snapshots {
        Snapshots::One => {
            let newest = opened.newest.as_ref().unwrap();
            assert_eq!(newest.last_included, COVERED);
            assert_eq!(newest.membership.members.len(), membership.members.len());
            let mut payload = Vec::new();
            let mut stored = opened.snapshots.payload(COVERED).unwrap();
            stored.read_to_end(&mut payload).unwrap();
            assert_eq!(payload, PAYLOAD);
            COVERED.index.next()
        }
        Snapshots::None => {
            assert!(opened.newest.is_none());
            LogIndex(1)
        }
    };
    let reader = opened.log.reader();
    let read = reader.read(first, LAST.index, u64::MAX).unwrap();
    let expected = entries().into_iter().filter(|entry| entry.index >= first);
    let expected: Vec<Entry> = expected
        .map(|entry| match entry.kind {
            EntryKind::Membership => Entry {
                payload: membership.to_bytes().unwrap(),
                ..entry
            },
            EntryKind::Noop | EntryKind::Command => entry,
        })
        .collect();
    assert_eq!(read, expected);
    found
}

#[test]
fn everything_is_kept_under_another_cluster_and_a_copy_of_what_it_was() {
    for snapshots in [Snapshots::One, Snapshots::None] {
        let vfs = survivor(snapshots);
        assert_eq!(
            examine(&vfs.crash(&mut |_| true), Path::new(HOME), snapshots),
            Found::Old
        );
        let made = recover(&vfs).unwrap();
        assert_eq!((made.survey.last, made.survey.term), (LAST, Term(8)));
        assert_eq!(made.survey.membership, three_members());
        assert_eq!(made.address, "h2:1");
        let after = vfs.crash(&mut |_| false);
        assert_eq!(examine(&after, Path::new(HOME), snapshots), Found::New);
        // The old node would start again where its files are kept.
        assert_eq!(examine(&after, &made.replaced, snapshots), Found::Old);
        // It can be done again, for another cluster.
        let again = recover(&after.crash(&mut |_| false)).unwrap();
        assert_eq!(again.survey.cluster, made.cluster);
        assert_ne!(again.cluster, made.cluster);
    }
}

#[test]
fn a_crash_at_any_step_leaves_the_old_node_or_the_new_one() {
    for snapshots in [Snapshots::One, Snapshots::None] {
        let start = survivor(snapshots);
        let mut found = Vec::new();
        let mut resumed = 0;
        for operations in 0.. {
            let vfs = start.crash(&mut |_| true);
            vfs.stop_after(operations);
            let is_done = recover(&vfs).is_ok();
            for keep in [false, true] {
                let after = vfs.crash(&mut |_| keep);
                resumed += u32::from(cut_again(&after, snapshots));
                let outcome = examine(&after, Path::new(HOME), snapshots);
                assert!(
                    outcome == Found::New || !is_done,
                    "what was reported is durable"
                );
                found.push(outcome);
            }
            if is_done {
                break;
            }
        }
        let old = found.iter().filter(|found| **found == Found::Old).count();
        assert!(
            old > 20 && found.len() - old > 20,
            "{old} of {}",
            found.len()
        );
        assert!(resumed > 20, "crashes fell between the two");
    }
}

/// Opening finishes what was decided; cuts that, too, at every operation. Returns whether there was
/// anything to finish.
fn cut_again(after: &MemVfs, snapshots: Snapshots) -> bool {
    let is_pending = |vfs: &MemVfs| {
        let directory = DataDir::open(vfs.shared(), Path::new(HOME), NODE).unwrap();
        check_settled(&directory).is_err()
    };
    if !is_pending(&after.crash(&mut |_| true)) {
        return false;
    }
    for operations in 0.. {
        let vfs = after.crash(&mut |_| true);
        vfs.stop_after(operations);
        let shared: Arc<dyn Vfs> = vfs.shared();
        let is_done = open_directory(&shared, Path::new(HOME), NODE).is_ok();
        for keep in [false, true] {
            let after = vfs.crash(&mut |_| keep);
            assert_eq!(examine(&after, Path::new(HOME), snapshots), Found::New);
        }
        if is_done {
            return true;
        }
    }
    unreachable!("it comes to an end");
}

#[test]
fn what_is_no_survivor_is_refused_and_left_alone() {
    let vfs = MemVfs::new(1);
    assert!(matches!(recover(&vfs), Err(RecoverError::NoMember(_))));
    assert!(vfs.list(Path::new(HOME)).unwrap().is_empty());
    // It belongs to no cluster yet.
    drop(DataDir::open(vfs.shared(), Path::new(HOME), NODE).unwrap());
    assert!(matches!(recover(&vfs), Err(RecoverError::NoMember(_))));
    // A server runs on it.
    let vfs = survivor(Snapshots::One);
    let running = DataDir::open(vfs.shared(), Path::new(HOME), NODE).unwrap();
    assert!(matches!(
        recover(&vfs),
        Err(RecoverError::Directory(DirError::Locked(_)))
    ));
    drop(running);
    // Its log is damaged.
    let log = Path::new(HOME).join("log-0");
    let segment = vfs.list(&log).unwrap().remove(0);
    vfs.corrupt(&log.join(segment), 100, &[0xff; 8]).unwrap();
    let refused = recover(&vfs).unwrap_err();
    assert!(matches!(refused, RecoverError::Source(_)), "{refused}");
    assert!(refused.to_string().contains("nothing was changed"));
}

#[test]
fn a_node_that_nobody_names_needs_an_address() {
    let mut members = three_members();
    members.members.remove(&NODE);
    members.voters.remove(&NODE);
    members.learners.clear();
    let member = Member {
        incarnation: Some(Incarnation(4)),
        address: "h4:1".to_owned(),
    };
    members.members.insert(NodeId(4), member);
    members.learners.insert(NodeId(4), Promotion::Manual);
    let vfs = survivor(Snapshots::None);
    let directory = DataDir::open(vfs.shared(), Path::new(HOME), NODE).unwrap();
    let cluster = directory.cluster().unwrap();
    let mut opened = startup::open(&directory, cluster, LogOptions::small()).unwrap();
    let entry = Entry {
        payload: members.to_bytes().unwrap(),
        ..entry(10, 3, EntryKind::Membership)
    };
    let write = LogWrite {
        entries: vec![entry],
        ..LogWrite::default()
    };
    opened.log.stage(write).unwrap();
    opened.log.sync().unwrap();
    drop(opened);
    drop(directory);
    assert!(matches!(recover(&vfs), Err(RecoverError::NoAddress(NODE))));
    let shared: Arc<dyn Vfs> = vfs.shared();
    let found = survey(&shared, Path::new(HOME), LogOptions::small()).unwrap();
    assert_eq!(found.membership, members);
    let plan = RecoverPlan {
        directory: HOME.into(),
        address: Some("new:7".to_owned()),
        log: LogOptions::small(),
    };
    assert_eq!(recover_directory(&shared, &plan).unwrap().address, "new:7");
}
