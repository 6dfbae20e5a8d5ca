//! Snapshots are stored, read, sent and received; whatever is not right is refused by name.
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::io::Read;

use raft_log::SnapshotError;
use raft_log::snapshot::{
    CHUNK_PAYLOAD_BYTES, MAX_PART_BYTES, open_snapshot_payload, verify_snapshot,
};
use raft_log::vfs::{MemVfs, Vfs};

#[path = "support/snapshots.rs"]
mod snapshots;
mod support;

use snapshots::{at, fetch, open, path_of, payload, payload_of_chunks, read_back, save};

#[test]
fn a_snapshot_comes_back_as_it_was_written() {
    let store = open(&MemVfs::new(1)).unwrap();
    assert_eq!(store.newest().unwrap(), None);
    let full = CHUNK_PAYLOAD_BYTES;
    // Around the edges of chunks and of the writer's buffer.
    let sizes = [
        0,
        1,
        full - 1,
        full,
        full + 1,
        3 * full,
        63 * full,
        64 * full + 5,
        129 * full,
    ];
    for (index, size) in (1..).zip(sizes) {
        let (position, bytes) = (at(index, 2), payload(size, index));
        let description = save(&store, position, &bytes).unwrap();
        assert_eq!(store.newest().unwrap(), Some(description.clone()));
        assert_eq!(read_back(&store, position), bytes);
        assert_eq!(description.membership, snapshots::members(3));
        let (_, total) = store.read_part(position, 0, 1).unwrap().unwrap();
        assert_eq!(total, description.total_bytes);
    }
    assert_eq!(store.positions().unwrap().len(), sizes.len());
}

#[test]
fn what_is_received_is_the_file_that_was_sent() {
    let (here, there) = (MemVfs::new(1), MemVfs::new(2));
    let (from, to) = (open(&here).unwrap(), open(&there).unwrap());
    let position = at(9, 4);
    let bytes = payload_of_chunks(90, 5);
    let description = save(&from, position, &bytes).unwrap();
    for part_bytes in [50_000, 65_536, 300_000, MAX_PART_BYTES] {
        let mut receiver = to.receive(&description).unwrap();
        assert_eq!(receiver.received_bytes(), 0);
        fetch(&from, &mut receiver, part_bytes).unwrap();
        assert_eq!(receiver.received_bytes(), description.total_bytes);
        receiver.finish().unwrap();
        assert_eq!(to.newest().unwrap().unwrap(), description);
        assert_eq!(read_back(&to, position), bytes);
        let path = path_of(position);
        assert_eq!(
            here.read_file(&path).unwrap(),
            there.read_file(&path).unwrap()
        );
    }
}

#[test]
fn a_file_anywhere_is_verified_and_read() {
    let vfs = MemVfs::new(1);
    let store = open(&vfs).unwrap();
    let bytes = payload_of_chunks(3, 5);
    let description = save(&store, at(9, 4), &bytes).unwrap();
    let elsewhere = std::path::Path::new("backup/file");
    vfs.rename(&path_of(at(9, 4)), elsewhere).unwrap();
    let summary = verify_snapshot(&vfs, elsewhere).unwrap();
    assert_eq!(summary.description(), description);
    assert_eq!(
        (summary.chunks, summary.payload_bytes),
        (3, bytes.len() as u64)
    );
    assert_eq!(summary.cluster, snapshots::CLUSTER);
    let mut read = Vec::new();
    let mut payload = open_snapshot_payload(&vfs, elsewhere).unwrap();
    payload.read_to_end(&mut read).unwrap();
    assert_eq!(read, bytes);
    assert!(matches!(
        verify_snapshot(&vfs, &path_of(at(9, 4))),
        Err(SnapshotError::File(_))
    ));
}

#[test]
fn a_reader_goes_on_after_its_snapshot_was_removed() {
    let store = open(&MemVfs::new(1)).unwrap();
    let bytes = payload_of_chunks(40, 5);
    for index in [5, 6, 7] {
        save(&store, at(index, 1), &bytes).unwrap();
    }
    let mut reader = store.payload(at(5, 1)).unwrap();
    let mut read = vec![0; 100_000];
    reader.read_exact(&mut read).unwrap();
    store.read_part(at(5, 1), 0, 1).unwrap().unwrap();
    store.remove_older(at(7, 1)).unwrap();
    assert_eq!(store.positions().unwrap(), [at(7, 1)]);
    reader.read_to_end(&mut read).unwrap();
    assert_eq!(read, bytes);
    assert_eq!(store.read_part(at(5, 1), 0, 1).unwrap(), None);
    assert!(matches!(
        store.payload(at(5, 1)),
        Err(SnapshotError::Missing(_))
    ));
    // The newest stays, whatever is asked for.
    store.remove_older(at(100, 9)).unwrap();
    assert_eq!(store.positions().unwrap(), [at(7, 1)]);
}
