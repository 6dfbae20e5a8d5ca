//! Saves and fetches of snapshots are cut at every operation of the disk, and every sync fails once:
//! what has a name is whole, what was counted is there, nothing else is reported.
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use raft_log::snapshot::CHUNK_BYTES;
use raft_log::vfs::{MemVfs, Vfs};
use raft_log::{SnapshotError, SnapshotStore};
use raft_proto::SnapshotDescription;

#[path = "support/snapshots.rs"]
mod snapshots;
mod support;

use snapshots::{STORE, at, fetch, members, open, payload_of_chunks, read_back, save};
use support::crashed_disks;

const EXHAUSTIVE_CHANGES: usize = 5;
const SAMPLES: u64 = 8;

/// A disk on which one snapshot is durable.
fn disk_with_one() -> (MemVfs, SnapshotDescription) {
    let vfs = MemVfs::new(3);
    let store = open(&vfs).unwrap();
    let old = save(&store, at(5, 1), &payload_of_chunks(2, 1)).unwrap();
    drop(store);
    (vfs.crash(&mut |_| true), old)
}

/// The newest snapshot on a disk, all of it checked; and nothing is left that nobody needs.
fn newest(disk: &MemVfs) -> Option<SnapshotDescription> {
    let store = open(disk).unwrap();
    let names = disk.list(STORE.as_ref()).unwrap();
    assert!(
        names.iter().all(|name| !name.ends_with(".tmp")),
        "{names:?}"
    );
    store.newest().unwrap()
}

/// Checks what a save that got as far as `outcome` may leave: after a crash, and for a process that
/// starts again from the page cache before the machine crashes.
fn check_saved(
    name: &str,
    vfs: &MemVfs,
    old: &SnapshotDescription,
    outcome: &Result<SnapshotDescription, SnapshotError>,
    new: &SnapshotDescription,
) -> u64 {
    let mut disks = 0;
    for disk in crashed_disks(vfs, EXHAUSTIVE_CHANGES, SAMPLES, 77) {
        disks += 1;
        let found = newest(&disk).unwrap();
        match outcome {
            Ok(_) => assert_eq!(&found, new, "{name}: what was finished is there"),
            Err(_) => assert!(&found == new || &found == old, "{name}: old or new"),
        }
    }
    vfs.resume();
    let seen = newest(vfs);
    let after = newest(&vfs.crash(&mut |_| false));
    assert_eq!(seen, after, "{name}: what is reported survives");
    disks
}

fn check_save_cuts(chunks: usize) {
    let (start, old) = disk_with_one();
    let bytes = payload_of_chunks(chunks, 2);
    let new = save(
        &open(&start.crash(&mut |_| true)).unwrap(),
        at(9, 2),
        &bytes,
    )
    .unwrap();
    let mut disks = 0;
    for cut in 0..100 {
        let vfs = start.crash(&mut |_| true);
        let store = open(&vfs).unwrap();
        vfs.stop_after(cut);
        let outcome = save(&store, at(9, 2), &bytes);
        drop(store);
        disks += check_saved(&format!("cut {cut}"), &vfs, &old, &outcome, &new);
        if let Ok(again) = outcome {
            assert_eq!(again, new, "the same state has the same bytes");
            assert!(disks > 30, "{disks} disks are too few to mean anything");
            return;
        }
    }
    panic!("the save ends");
}

#[test]
fn a_small_save_survives_every_cut() {
    check_save_cuts(2);
}

#[test]
fn a_save_of_many_writes_survives_every_cut() {
    check_save_cuts(70);
}

#[test]
fn a_save_whose_sync_fails_stores_nothing() {
    let (start, old) = disk_with_one();
    let bytes = payload_of_chunks(70, 2);
    for failing in 1..100 {
        let vfs = start.crash(&mut |_| true);
        let store = open(&vfs).unwrap();
        vfs.fail_syncs_from(failing);
        let outcome = save(&store, at(9, 2), &bytes);
        if outcome.is_ok() {
            assert!(failing > 3, "every write was synced");
            return;
        }
        assert_eq!(store.newest().unwrap(), Some(old.clone()));
        drop(store);
        assert_eq!(newest(&vfs.crash(&mut |_| true)), Some(old.clone()));
        vfs.resume();
        assert_eq!(newest(&vfs), Some(old.clone()));
    }
    panic!("the save ends");
}

#[test]
fn a_name_in_doubt_is_not_relied_on() {
    let (start, old) = disk_with_one();
    let bytes = payload_of_chunks(2, 2);
    let mut poisoned = 0;
    for cut in 0..20 {
        let vfs = start.crash(&mut |_| true);
        let store = open(&vfs).unwrap();
        vfs.stop_after(cut);
        let outcome = save(&store, at(9, 2), &bytes);
        vfs.resume();
        let after = vfs.crash(&mut |_| false);
        match (outcome, store.newest()) {
            (Ok(new), seen) => {
                assert_eq!(seen.unwrap(), Some(new));
                break;
            }
            (Err(_), Ok(seen)) => assert_eq!(seen, newest(&after), "cut {cut}"),
            (Err(_), Err(SnapshotError::Poisoned)) => {
                poisoned += 1;
                // Reading goes on; everything that the names count for is refused.
                assert_eq!(
                    read_back(&store, old.last_included).len(),
                    payload_of_chunks(2, 1).len()
                );
                for refused in [
                    store.create(at(11, 2), &members(1)).map(drop),
                    store.receive(&old).map(drop),
                    store.remove_older(at(11, 2)),
                ] {
                    assert!(matches!(refused, Err(SnapshotError::Poisoned)));
                }
            }
            (Err(_), Err(other)) => panic!("cut {cut}: {other}"),
        }
    }
    assert!(poisoned > 0, "a rename without its directory sync was met");
}

/// A peer that has the snapshot to be received.
fn peer(chunks: usize) -> (SnapshotStore, SnapshotDescription) {
    let store = open(&MemVfs::new(9)).unwrap();
    let snapshot = save(&store, at(9, 2), &payload_of_chunks(chunks, 2)).unwrap();
    (store, snapshot)
}

/// Receives it all, making durable what is there after every so many parts. What was counted last
/// goes to `counted`.
fn receive_all(
    store: &SnapshotStore,
    peer: &SnapshotStore,
    snapshot: &SnapshotDescription,
    part_bytes: u32,
    counted: &mut u64,
) -> Result<(), SnapshotError> {
    let mut receiver = store.receive(snapshot)?;
    *counted = receiver.received_bytes();
    loop {
        let offset = receiver.next_offset();
        let (part, total) = peer
            .read_part(snapshot.last_included, offset, part_bytes)?
            .unwrap();
        if offset == total {
            return receiver.finish();
        }
        receiver.write(offset, &part)?;
        *counted = receiver.received_bytes();
        if (offset / CHUNK_BYTES as u64).is_multiple_of(3) && total < 2 << 20 {
            *counted = receiver.sync()?;
        }
    }
}

/// Goes on with a fetch on a disk where so much had been counted, to its end.
fn check_goes_on(
    name: &str,
    disk: &MemVfs,
    peer: &SnapshotStore,
    snapshot: &SnapshotDescription,
    counted: u64,
) {
    let store = open(disk).unwrap();
    if store.newest().unwrap().as_ref() == Some(snapshot) {
        return;
    }
    let mut receiver = store.receive(snapshot).unwrap();
    assert!(
        receiver.received_bytes() >= counted,
        "{name}: {counted} bytes were counted, {} are there",
        receiver.received_bytes()
    );
    fetch(peer, &mut receiver, 1 << 20).unwrap();
    receiver.finish().unwrap();
    assert_eq!(store.newest().unwrap().as_ref(), Some(snapshot));
}

/// Checks a fetch that was cut, on every disk that a crash may leave, and for a process that goes
/// on from the page cache before the machine crashes.
fn check_cut_fetch(
    name: &str,
    vfs: &MemVfs,
    peer: &SnapshotStore,
    snapshot: &SnapshotDescription,
    counted: u64,
) {
    for disk in crashed_disks(vfs, EXHAUSTIVE_CHANGES, SAMPLES, counted + 1) {
        check_goes_on(name, &disk, peer, snapshot, counted);
    }
    vfs.resume();
    let store = open(vfs).unwrap();
    let counted = match store.newest().unwrap() {
        Some(newest) if newest == *snapshot => snapshot.total_bytes,
        _ => store
            .receive(snapshot)
            .unwrap()
            .received_bytes()
            .max(counted),
    };
    drop(store);
    for disk in crashed_disks(vfs, EXHAUSTIVE_CHANGES, SAMPLES, counted + 2) {
        check_goes_on(
            &format!("{name}, process died"),
            &disk,
            peer,
            snapshot,
            counted,
        );
    }
}

fn check_fetch_cuts(chunks: usize, part_bytes: u32, step: usize) {
    let (peer, snapshot) = peer(chunks);
    let (start, _) = disk_with_one();
    for cut in (0..400).step_by(step) {
        let vfs = start.crash(&mut |_| true);
        let store = open(&vfs).unwrap();
        vfs.stop_after(cut);
        let mut counted = 0;
        let outcome = receive_all(&store, &peer, &snapshot, part_bytes, &mut counted);
        drop(store);
        check_cut_fetch(&format!("cut {cut}"), &vfs, &peer, &snapshot, counted);
        if outcome.is_ok() {
            assert!(cut > 10, "the fetch has operations");
            assert_eq!(newest(&vfs.crash(&mut |_| false)), Some(snapshot));
            return;
        }
    }
    panic!("the fetch ends");
}

#[test]
fn a_fetch_survives_every_cut() {
    check_fetch_cuts(9, 50_000, 1);
}

#[test]
fn a_long_fetch_survives_every_cut() {
    check_fetch_cuts(90, 1 << 20, 1);
}

#[test]
fn what_a_failed_sync_left_in_the_cache_is_written_again() {
    for (chunks, part_bytes) in [(9, 50_000), (150, 1 << 20)] {
        let (peer, snapshot) = peer(chunks);
        let (start, _) = disk_with_one();
        for failing in 1..100 {
            assert!(failing < 99, "the fetch ends");
            let vfs = start.crash(&mut |_| true);
            let store = open(&vfs).unwrap();
            vfs.fail_syncs_from(failing);
            let mut counted = 0;
            let outcome = receive_all(&store, &peer, &snapshot, part_bytes, &mut counted);
            drop(store);
            check_cut_fetch(&format!("sync {failing}"), &vfs, &peer, &snapshot, counted);
            if outcome.is_ok() {
                assert!(failing > 2, "the fetch syncs");
                break;
            }
        }
    }
}

#[test]
fn a_crash_while_a_fetch_goes_on_loses_nothing_that_was_counted() {
    let (peer, snapshot) = peer(9);
    let (start, _) = disk_with_one();
    let vfs = start.crash(&mut |_| true);
    let store = open(&vfs).unwrap();
    let mut receiver = store.receive(&snapshot).unwrap();
    let (part, _) = peer.read_part(at(9, 2), 0, 400_000).unwrap().unwrap();
    receiver.write(0, &part).unwrap();
    let counted = receiver.sync().unwrap();
    assert!(counted > 300_000);
    drop((receiver, store));
    for cut in 0..30 {
        let again = vfs.crash(&mut |_| true);
        again.stop_after(cut);
        let opened = open(&again).and_then(|store| store.receive(&snapshot).map(drop));
        for disk in crashed_disks(&again, EXHAUSTIVE_CHANGES, SAMPLES, cut + 1) {
            check_goes_on(&format!("cut {cut}"), &disk, &peer, &snapshot, counted);
        }
        if opened.is_ok() {
            return;
        }
    }
    panic!("going on ends");
}

#[test]
fn a_removal_survives_every_cut() {
    let vfs = MemVfs::new(3);
    let store = open(&vfs).unwrap();
    for index in 1..=4 {
        save(&store, at(index, 1), &payload_of_chunks(1, index)).unwrap();
    }
    let newest_there = store.newest().unwrap();
    drop(store);
    for cut in 0..10 {
        let again = vfs.crash(&mut |_| true);
        let store = open(&again).unwrap();
        again.stop_after(cut);
        let outcome = store.remove_older(at(4, 1));
        drop(store);
        for disk in crashed_disks(&again, EXHAUSTIVE_CHANGES, SAMPLES, cut + 1) {
            assert_eq!(newest(&disk), newest_there);
            let left = open(&disk).unwrap().positions().unwrap().len();
            assert!(outcome.is_err() || left == 1);
        }
        if outcome.is_ok() {
            assert!(cut >= 4);
            return;
        }
    }
    panic!("the removal ends");
}

#[test]
fn a_full_disk_is_named_and_leaves_the_old_snapshot() {
    let (start, old) = disk_with_one();
    let bytes = payload_of_chunks(200, 2);
    let (peer, snapshot) = peer(200);
    for megabytes in [1, 2, 5, 9, 12] {
        let vfs = start.crash(&mut |_| true);
        let store = open(&vfs).unwrap();
        vfs.set_capacity(Some(megabytes << 20));
        let full = save(&store, at(9, 2), &bytes).unwrap_err();
        assert!(full.is_disk_full(), "{full}");
        assert_eq!(store.newest().unwrap(), Some(old.clone()));
        // The file was removed, so what it took is free.
        let mut counted = 0;
        let full = receive_all(&store, &peer, &snapshot, 1 << 20, &mut counted).unwrap_err();
        assert!(full.is_disk_full(), "{full}");
        vfs.set_capacity(None);
        drop(store);
        check_goes_on("room again", &vfs, &peer, &snapshot, counted);
    }
}
