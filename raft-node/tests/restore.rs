//! Data directories made from a snapshot file.
#![allow(
    clippy::unwrap_used,
    reason = "in test helpers too, a panic is the failure"
)]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft_log::snapshot::verify_snapshot;
use raft_log::vfs::{MemVfs, Vfs};
use raft_log::{DataDir, DirError, Log, LogIdentity, LogOptions, SnapshotError, SnapshotStore};
use raft_node::admission::{Admission, Standing, Vantage, Verdict};
use raft_node::formation::{FORMATION_RECORD, FormedResponder};
use raft_node::restore::{RestoreError, RestorePlan, Restored, check_finished, restore_directory};
use raft_proto::{
    ClusterId, GroupId, Hello, LogIndex, LogPosition, Member, Membership, NodeId, Refusal, Term,
};

const POSITION: LogPosition = LogPosition {
    index: LogIndex(4_711),
    term: Term(17),
};

/// A snapshot file of a cluster that is gone, as `raft-kv snapshot save` leaves it.
fn snapshot_file(vfs: &MemVfs, payload: &[u8]) -> PathBuf {
    let node = NodeId(9);
    let path = Path::new("lost");
    let directory = DataDir::open(vfs.shared(), path, node).unwrap();
    let identity = LogIdentity {
        cluster: ClusterId([9; 16]),
        node,
        incarnation: directory.incarnation(),
        group: GroupId(0),
    };
    directory.bind_cluster(identity.cluster).unwrap();
    let store = SnapshotStore::open(&directory, identity).unwrap();
    let member = Member {
        incarnation: Some(identity.incarnation),
        address: "gone:1".to_owned(),
    };
    let membership = Membership::of_voters([(node, member)]);
    let mut writer = store.create(POSITION, &membership).unwrap();
    writer.write(payload).unwrap();
    writer.finish().unwrap();
    let files = vfs.list(&path.join("snapshots-0")).unwrap();
    path.join("snapshots-0").join(&files[0])
}

fn payload() -> Vec<u8> {
    (0..200_000_u32).flat_map(u32::to_le_bytes).collect()
}

fn plan(snapshot: &Path, node: u64) -> RestorePlan {
    RestorePlan {
        snapshot: snapshot.to_path_buf(),
        directory: format!("n{node}").into(),
        node: NodeId(node),
        members: [1, 2, 3].map(|id| (NodeId(id), format!("h{id}:1"))).into(),
        log: LogOptions::small(),
    }
}

fn restore(vfs: &MemVfs, plan: &RestorePlan) -> Result<Restored, RestoreError> {
    let vfs: Arc<dyn Vfs> = vfs.shared();
    restore_directory(&vfs, plan)
}

#[test]
fn everything_is_kept_under_a_cluster_id_that_is_the_same_everywhere() {
    let vfs = MemVfs::new(1);
    let file = snapshot_file(&vfs, &payload());
    let restored: Vec<_> = (1..=3)
        .map(|node| restore(&vfs, &plan(&file, node)).unwrap())
        .collect();
    assert_eq!(restored[0], restored[1]);
    assert_eq!(restored[0], restored[2]);
    let Restored {
        cluster,
        membership,
        snapshot,
        payload_bytes,
    } = &restored[0];
    assert_ne!(*cluster, ClusterId([9; 16]));
    assert_eq!(*payload_bytes, 800_000);
    for node in 1..=3 {
        let directory =
            DataDir::open(vfs.shared(), &plan(&file, node).directory, NodeId(node)).unwrap();
        check_finished(&directory).unwrap();
        let own = membership.members[&NodeId(node)].incarnation;
        assert_eq!(Some(directory.incarnation()), own);
        assert_eq!(directory.cluster(), Some(*cluster));
        let record = directory.read_record(FORMATION_RECORD).unwrap().unwrap();
        let responder = FormedResponder::from_record(&record).unwrap().unwrap();
        assert_eq!(responder.cluster(), *cluster);
        let identity = LogIdentity {
            cluster: *cluster,
            node: NodeId(node),
            incarnation: directory.incarnation(),
            group: GroupId(0),
        };
        let (log, recovered) = Log::open(&directory, identity, LogOptions::small()).unwrap();
        assert_eq!(recovered.snapshot, Some(POSITION));
        assert_eq!(recovered.last, POSITION);
        assert_eq!(log.hard_state().term, POSITION.term);
        assert_eq!(log.hard_state().vote, None);
        let store = SnapshotStore::open(&directory, identity).unwrap();
        assert_eq!(store.newest().unwrap().as_ref(), Some(snapshot));
        assert_eq!(snapshot.membership, *membership);
        let mut found = Vec::new();
        let mut stored = store.payload(POSITION).unwrap();
        stored.read_to_end(&mut found).unwrap();
        assert_eq!(found, payload());
    }
}

#[test]
fn who_was_restored_from_something_else_is_refused_by_the_others() {
    let vfs = MemVfs::new(1);
    let file = snapshot_file(&vfs, &payload());
    let ours = restore(&vfs, &plan(&file, 1)).unwrap();
    let mut with_other_list = plan(&file, 2);
    with_other_list.members[2].1 = "h4:1".to_owned();
    let other_vfs = MemVfs::new(2);
    let mut other = payload();
    other[500_000] ^= 1;
    let other_file = snapshot_file(&other_vfs, &other);
    let strangers = [
        restore(&vfs, &with_other_list).unwrap(),
        restore(&other_vfs, &plan(&other_file, 2)).unwrap(),
    ];
    for stranger in strangers {
        assert_ne!(stranger.cluster, ours.cluster);
        let hello = Hello {
            cluster: Some(stranger.cluster),
            node: NodeId(2),
            incarnation: stranger.membership.members[&NodeId(2)].incarnation.unwrap(),
            boot: raft_proto::Boot {
                counter: 2,
                nonce: 1,
            },
            receiver: NodeId(1),
            versions: raft_proto::Versions::CURRENT,
        };
        let standing = Standing::Formed {
            cluster: ours.cluster,
            membership: &ours.membership,
            vantage: Vantage::Voter,
        };
        let verdict = Admission::new(NodeId(1), None)
            .unwrap()
            .admit(NodeId(2), &hello, standing);
        let cluster = ours.cluster;
        assert_eq!(verdict, Verdict::Refuse(Refusal::WrongCluster { cluster }));
    }
}

#[test]
fn only_an_empty_directory_and_a_whole_snapshot_will_do() {
    let vfs = MemVfs::new(1);
    let file = snapshot_file(&vfs, &payload());
    let plan = plan(&file, 1);
    restore(&vfs, &plan).unwrap();
    let again = restore(&vfs, &plan).unwrap_err();
    assert!(
        matches!(again, RestoreError::Directory(DirError::NotEmpty(_))),
        "{again}"
    );
    let missing = RestorePlan {
        snapshot: "nowhere".into(),
        directory: "n5".into(),
        ..plan.clone()
    };
    assert!(matches!(
        restore(&vfs, &missing),
        Err(RestoreError::Snapshot(SnapshotError::File { .. }))
    ));
    let without_itself = RestorePlan {
        node: NodeId(7),
        directory: "n7".into(),
        ..plan
    };
    assert!(matches!(
        restore(&vfs, &without_itself),
        Err(RestoreError::Members(_))
    ));
    for untouched in ["n5", "n7"] {
        let files = vfs.list(Path::new(untouched)).unwrap_or_default();
        assert!(files.is_empty(), "nothing was made");
    }
}

#[test]
fn a_crash_in_the_middle_leaves_nothing_that_a_node_starts_on() {
    let small = &payload()[..100_000];
    let mut was_unfinished = 0;
    for operations in 0.. {
        let vfs = MemVfs::new(1);
        let file = snapshot_file(&vfs, small);
        vfs.stop_after(operations);
        let is_done = restore(&vfs, &plan(&file, 1)).is_ok();
        for keep in [false, true] {
            let after = vfs.crash(&mut |_| keep);
            let Ok(Some((node, _))) = DataDir::peek(&after, Path::new("n1")) else {
                assert!(!is_done, "what was reported is durable");
                continue;
            };
            assert_eq!(node, NodeId(1));
            let directory = DataDir::open(after.shared(), Path::new("n1"), node).unwrap();
            match check_finished(&directory) {
                Ok(()) => {
                    let record = directory.read_record(FORMATION_RECORD).unwrap();
                    assert!(record.is_some(), "finished comes last");
                    let file = Path::new("n1/snapshots-0");
                    let name = &after.list(file).unwrap()[0];
                    verify_snapshot(&after, &file.join(name)).unwrap();
                }
                Err(RestoreError::Unfinished(_)) => {
                    assert!(!is_done);
                    was_unfinished += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
        if is_done {
            break;
        }
    }
    assert!(was_unfinished > 10, "crashes fell in the middle");
}
