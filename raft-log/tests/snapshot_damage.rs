//! Snapshot files with wrong bytes: every flip, cut, extension, exchange and newer version is named,
//! and a fetch goes on from whatever is right.
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::io::Read;
use std::path::Path;

use proptest::prelude::*;
use raft_log::snapshot::{
    CHUNK_BYTES, CHUNK_PAYLOAD_BYTES, SnapshotPart, open_snapshot_payload, read_snapshot_header,
    verify_snapshot,
};
use raft_log::vfs::{AlignedBuffer, MemVfs, Vfs};
use raft_log::{DataDir, SnapshotError, SnapshotStore};
use raft_proto::{ClusterId, NodeId, SnapshotDescription};

#[path = "support/snapshots.rs"]
mod snapshots;
mod support;

use snapshots::{
    CLUSTER, DIRECTORY, at, fetch, identity_of, members, open, path_of, payload, payload_of_chunks,
    read_back, save,
};
use support::{of_hex, to_hex};

/// Where the checked-in bytes are; `UPDATE_GOLDENFILES=1` writes them anew.
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/format/snapshot_v1.hex");

/// A store with one snapshot of a few blocks.
fn small() -> (MemVfs, SnapshotStore, SnapshotDescription) {
    let vfs = MemVfs::new(1);
    let store = open(&vfs).unwrap();
    let description = save(&store, at(9, 4), &payload(5000, 3)).unwrap();
    (vfs, store, description)
}

/// Puts bytes in place of a file.
fn put(vfs: &MemVfs, path: &Path, bytes: &[u8]) {
    let _ = vfs.remove(path);
    let mut buffer = AlignedBuffer::zeroed(bytes.len().div_ceil(4096));
    buffer.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
    let file = vfs.create(path).unwrap();
    file.write_at(0, buffer.as_aligned()).unwrap();
    vfs.shrink(path, bytes.len()).unwrap();
}

/// Everything that reads the file refuses it; gives the error of the full check.
fn refused_everywhere(vfs: &MemVfs, name: &str) -> SnapshotError {
    let path = path_of(at(9, 4));
    let store = open(vfs).unwrap();
    let parts = (|| {
        let mut offset = 0;
        while let Some((part, total)) = store.read_part(at(9, 4), offset, 70_000)? {
            offset += part.len() as u64;
            if offset == total {
                break;
            }
        }
        Ok::<(), SnapshotError>(())
    })();
    let mut bytes = Vec::new();
    let read = open_snapshot_payload(vfs, &path)
        .map(|mut payload| payload.read_to_end(&mut bytes).map(drop));
    assert!(parts.is_err(), "{name}: no part leaves");
    assert!(!matches!(read, Ok(Ok(()))), "{name}: no end is reported");
    assert!(store.newest().is_err(), "{name}: not the newest");
    verify_snapshot(vfs, &path).unwrap_err()
}

#[test]
fn a_snapshot_has_the_checked_in_bytes() {
    let vfs = MemVfs::new(1);
    let store = open(&vfs).unwrap();
    let description = save(&store, at(9, 4), &payload(100, 3)).unwrap();
    let found = to_hex(&vfs.read_file(&path_of(at(9, 4))).unwrap());
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        std::fs::write(GOLDEN, &found).unwrap();
    }
    let golden = std::fs::read_to_string(GOLDEN).unwrap();
    assert_eq!(found, golden);
    let bytes = of_hex(&golden, description.total_bytes as usize);
    put(&vfs, &path_of(at(9, 4)), &bytes);
    drop(store);
    let store = open(&vfs).unwrap();
    assert_eq!(store.newest().unwrap(), Some(description.clone()));
    assert_eq!(read_back(&store, at(9, 4)), payload(100, 3));
    assert_eq!(description.checksum, crc32fast::hash(&bytes));
}

#[test]
fn every_flipped_byte_is_noticed() {
    let (vfs, store, description) = small();
    drop(store);
    let path = path_of(at(9, 4));
    let bytes = vfs.read_file(&path).unwrap();
    for (offset, byte) in bytes.iter().enumerate() {
        let flipped = byte ^ 1 << (offset % 8);
        vfs.corrupt(&path, offset as u64, &[flipped]).unwrap();
        let refused = verify_snapshot(&vfs, &path).unwrap_err();
        let SnapshotError::Damaged(damage) = refused else {
            panic!("byte {offset}: {refused}");
        };
        let part = match offset {
            0..4096 => (SnapshotPart::Header, 0),
            4096..12288 => (SnapshotPart::Chunk(0), 4096),
            _ => (SnapshotPart::Trailer, 12288),
        };
        assert_eq!((damage.part, damage.offset), part, "byte {offset}");
        if offset % 97 == 0 {
            refused_everywhere(&vfs, &format!("byte {offset}"));
        }
        vfs.corrupt(&path, offset as u64, &[*byte]).unwrap();
    }
    let summary = verify_snapshot(&vfs, &path).unwrap();
    assert_eq!(summary.description(), description);
}

#[test]
fn every_flipped_byte_is_noticed_while_it_is_received() {
    let (vfs, _store, description) = small();
    let bytes = vfs.read_file(&path_of(at(9, 4))).unwrap();
    let other = open(&MemVfs::new(2)).unwrap();
    for (offset, byte) in bytes.iter().enumerate() {
        let mut sent = bytes.clone();
        sent[offset] = byte ^ 1 << (offset % 8);
        let mut receiver = other.receive(&description).unwrap();
        let refused = receiver.write(0, &sent).unwrap_err();
        assert!(
            matches!(refused, SnapshotError::ReceivedDamaged { .. }),
            "byte {offset}: {refused}"
        );
        // The receiver goes on where it was right.
        let next = receiver.next_offset() as usize;
        assert!(next <= offset);
        receiver.write(next as u64, &bytes[next..]).unwrap();
        receiver.finish().unwrap();
    }
}

#[test]
fn every_flipped_byte_of_a_part_file_is_noticed() {
    let (vfs, _store, description) = small();
    let bytes = vfs.read_file(&path_of(at(9, 4))).unwrap();
    let there = MemVfs::new(2);
    let store = open(&there).unwrap();
    let mut receiver = store.receive(&description).unwrap();
    receiver.write(0, &bytes[..12288]).unwrap();
    assert_eq!(receiver.sync().unwrap(), 12288);
    drop(receiver);
    let name = there.list(snapshots::STORE.as_ref()).unwrap();
    let path = Path::new(snapshots::STORE).join(&name[0]);
    for offset in (0..12288).step_by(7) {
        there
            .corrupt(&path, offset as u64, &[!bytes[offset]])
            .unwrap();
        let receiver = store.receive(&description).unwrap();
        let right = if offset < 4096 { 0 } else { 4096 };
        assert_eq!(receiver.received_bytes(), right, "byte {offset}");
        drop(receiver);
        there
            .corrupt(&path, offset as u64, &bytes[offset..=offset])
            .unwrap();
    }
    let mut receiver = store.receive(&description).unwrap();
    assert_eq!(receiver.received_bytes(), 12288);
    receiver.write(12288, &bytes[12288..]).unwrap();
    receiver.finish().unwrap();
}

#[test]
fn files_that_are_too_short_or_too_long_are_refused() {
    let (vfs, store, _) = small();
    drop(store);
    let path = path_of(at(9, 4));
    let bytes = vfs.read_file(&path).unwrap();
    let lengths = [
        0,
        1,
        15,
        16,
        4095,
        4096,
        4097,
        8192,
        12288,
        12289,
        bytes.len() - 1,
    ];
    for length in lengths {
        put(&vfs, &path, &bytes[..length]);
        refused_everywhere(&vfs, &format!("{length} bytes"));
    }
    let mut chunk = bytes.clone();
    chunk.splice(12288..12288, bytes[4096..12288].iter().copied());
    let mut trailers = bytes.clone();
    trailers.extend_from_slice(&bytes[12288..]);
    let mut zeros = bytes.clone();
    zeros.resize(bytes.len() + 4096, 0);
    let mut odd = bytes.clone();
    odd.push(0);
    let mut twice = bytes.clone();
    twice.extend_from_slice(&bytes);
    for (name, longer) in [
        ("a chunk twice", chunk),
        ("two trailers", trailers),
        ("zeros after it", zeros),
        ("a byte after it", odd),
        ("the file twice", twice),
    ] {
        put(&vfs, &path, &longer);
        refused_everywhere(&vfs, name);
    }
}

#[test]
fn parts_of_other_snapshots_are_refused() {
    let vfs = MemVfs::new(1);
    let store = open(&vfs).unwrap();
    save(&store, at(9, 4), &payload_of_chunks(4, 3)).unwrap();
    save(&store, at(7, 5), &payload_of_chunks(4, 3)).unwrap();
    save(&store, at(8, 4), &payload_of_chunks(4, 3)).unwrap();
    drop(store);
    let path = path_of(at(9, 4));
    let own = vfs.read_file(&path).unwrap();
    let chunk = |number: usize| 4096 + number * CHUNK_BYTES..4096 + (number + 1) * CHUNK_BYTES;
    // The same bytes of payload, at another position.
    for other in [at(7, 5), at(8, 4)] {
        let foreign = vfs.read_file(&path_of(other)).unwrap();
        for range in [0..4096, chunk(1), own.len() - 4096..own.len()] {
            let mut mixed = own.clone();
            mixed[range.clone()].copy_from_slice(&foreign[range]);
            put(&vfs, &path, &mixed);
            refused_everywhere(&vfs, "a part of another snapshot");
        }
        put(&vfs, &path, &foreign);
        assert!(matches!(
            open(&vfs).unwrap().payload(at(9, 4)),
            Err(SnapshotError::Damaged(_))
        ));
    }
    let mut swapped = own.clone();
    swapped[chunk(1)].copy_from_slice(&own[chunk(2)]);
    swapped[chunk(2)].copy_from_slice(&own[chunk(1)]);
    put(&vfs, &path, &swapped);
    refused_everywhere(&vfs, "two chunks swapped");
}

#[test]
fn another_clusters_snapshot_is_foreign() {
    let (vfs, store, _) = small();
    let elsewhere = MemVfs::new(2);
    let dir = DataDir::open(elsewhere.shared(), Path::new(DIRECTORY), NodeId(1)).unwrap();
    let other = SnapshotStore::open(&dir, identity_of(&dir, ClusterId([8; 16]))).unwrap();
    let bytes = vfs.read_file(&path_of(at(9, 4))).unwrap();
    put(&elsewhere, &path_of(at(9, 4)), &bytes);
    let refused = other.newest().unwrap_err();
    assert!(
        matches!(refused, SnapshotError::Foreign { .. }),
        "{refused}"
    );
    assert!(other.read_part(at(9, 4), 0, 100).is_err());
    assert!(other.payload(at(9, 4)).is_err());
    // And a directory of another cluster has no store for this one.
    dir.bind_cluster(ClusterId([8; 16])).unwrap();
    assert!(matches!(
        SnapshotStore::open(&dir, identity_of(&dir, CLUSTER)),
        Err(SnapshotError::Directory(_))
    ));
    drop(store);
}

#[test]
fn an_unknown_version_is_unsupported_and_not_damage() {
    let (vfs, store, description) = small();
    let path = path_of(at(9, 4));
    let mut bytes = vfs.read_file(&path).unwrap();
    drop(store);
    bytes[8] = 2;
    put(&vfs, &path, &bytes);
    // Without its checksum the version is not believed.
    assert!(matches!(
        verify_snapshot(&vfs, &path),
        Err(SnapshotError::Damaged(_))
    ));
    let checksum = crc32fast::hash(&bytes[..12]);
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    put(&vfs, &path, &bytes);
    let is_unsupported = |outcome: Result<(), SnapshotError>| {
        matches!(
            outcome,
            Err(SnapshotError::UnsupportedVersion { version: 2, .. })
        )
    };
    let store = open(&vfs).unwrap();
    assert!(is_unsupported(store.newest().map(drop)));
    assert!(is_unsupported(store.payload(at(9, 4)).map(drop)));
    assert!(is_unsupported(store.read_part(at(9, 4), 0, 9).map(drop)));
    assert!(is_unsupported(verify_snapshot(&vfs, &path).map(drop)));
    assert!(is_unsupported(read_snapshot_header(&vfs, &path).map(drop)));
    let mut receiver = store.receive(&description).unwrap();
    assert!(is_unsupported(receiver.write(0, &bytes).map(drop)));
}

#[test]
fn a_fetch_goes_on_at_every_part() {
    let from = open(&MemVfs::new(1)).unwrap();
    let bytes = payload_of_chunks(20, 3);
    let description = save(&from, at(9, 4), &bytes).unwrap();
    let (file, total) = {
        let (first, total) = from.read_part(at(9, 4), 0, 1 << 20).unwrap().unwrap();
        let rest = from
            .read_part(at(9, 4), first.len() as u64, 1 << 20)
            .unwrap()
            .unwrap()
            .0;
        ([first, rest].concat(), total)
    };
    assert_eq!(file.len() as u64, total);
    let mut ends: Vec<usize> = (0..20).map(|number| 4096 + number * CHUNK_BYTES).collect();
    ends.extend([
        0,
        1,
        4095,
        4097,
        70_001,
        file.len() - 4096,
        file.len() - 1,
        file.len(),
    ]);
    for end in ends {
        let vfs = MemVfs::new(2);
        let store = open(&vfs).unwrap();
        let mut receiver = store.receive(&description).unwrap();
        assert_eq!(receiver.write(0, &file[..end]).unwrap(), end as u64);
        let counted = receiver.sync().unwrap();
        drop((receiver, store));
        // What is right is used: all whole parts.
        let store = open(&vfs).unwrap();
        let mut receiver = store.receive(&description).unwrap();
        let here = receiver.received_bytes();
        assert_eq!(here, counted);
        assert!(here <= end as u64 && (end as u64 - here) < CHUNK_BYTES as u64);
        fetch(&from, &mut receiver, 100_000).unwrap();
        receiver.finish().unwrap();
        assert_eq!(read_back(&store, at(9, 4)), bytes);
    }
}

#[test]
fn data_that_is_known_is_passed_over_and_gaps_are_not_taken() {
    let (vfs, _store, description) = small();
    let bytes = vfs.read_file(&path_of(at(9, 4))).unwrap();
    let store = open(&MemVfs::new(2)).unwrap();
    let mut receiver = store.receive(&description).unwrap();
    assert_eq!(receiver.write(4096, &bytes[4096..]).unwrap(), 0);
    assert_eq!(receiver.write(u64::MAX, &bytes).unwrap(), 0);
    assert_eq!(receiver.write(0, &[]).unwrap(), 0);
    assert_eq!(receiver.write(0, &bytes[..5000]).unwrap(), 5000);
    assert_eq!(receiver.write(0, &bytes[..100]).unwrap(), 5000);
    assert_eq!(receiver.write(5001, &bytes[5001..]).unwrap(), 5000);
    assert_eq!(receiver.write(4000, &bytes[4000..6000]).unwrap(), 6000);
    let longer = [&bytes[..], &[0]].concat();
    assert!(receiver.write(0, &longer).is_err());
    let next = receiver.next_offset() as usize;
    assert_eq!(
        receiver.write(next as u64, &bytes[next..]).unwrap(),
        bytes.len() as u64
    );
    assert_eq!(receiver.write(0, &bytes).unwrap(), bytes.len() as u64);
    receiver.finish().unwrap();
}

#[test]
fn a_fetch_is_finished_only_with_what_was_described() {
    let (vfs, _store, description) = small();
    let bytes = vfs.read_file(&path_of(at(9, 4))).unwrap();
    let store = open(&MemVfs::new(2)).unwrap();
    let receiver = store.receive(&description).unwrap();
    assert!(matches!(
        receiver.finish(),
        Err(SnapshotError::Incomplete {
            received_bytes: 0,
            ..
        })
    ));
    // All parts are right, and it is not the file whose checksum was named.
    let other = SnapshotDescription {
        checksum: description.checksum ^ 1,
        ..description.clone()
    };
    let mut receiver = store.receive(&other).unwrap();
    receiver.write(0, &bytes).unwrap();
    assert!(matches!(
        receiver.finish(),
        Err(SnapshotError::NotAsDescribed { .. })
    ));
    assert_eq!(store.newest().unwrap(), None);
    assert_eq!(store.receive(&other).unwrap().received_bytes(), 0);
    for total_bytes in [0, 4096, 8191, 8193, 1 << 41, u64::MAX] {
        let impossible = SnapshotDescription {
            total_bytes,
            ..description.clone()
        };
        assert!(matches!(
            store.receive(&impossible),
            Err(SnapshotError::BadDescription { .. })
        ));
    }
    let nothing = SnapshotDescription {
        last_included: at(0, 0),
        ..description.clone()
    };
    assert!(matches!(
        store.receive(&nothing),
        Err(SnapshotError::CoversNothing)
    ));
    let nobody = SnapshotDescription {
        membership: raft_proto::Membership::default(),
        ..description
    };
    assert!(matches!(
        store.receive(&nobody),
        Err(SnapshotError::Membership(_))
    ));
}

#[test]
fn one_fetch_at_a_time_and_one_part_file() {
    let from = open(&MemVfs::new(1)).unwrap();
    let first = save(&from, at(9, 4), &payload_of_chunks(3, 3)).unwrap();
    let second = save(&from, at(12, 4), &payload_of_chunks(3, 4)).unwrap();
    let vfs = MemVfs::new(2);
    let store = open(&vfs).unwrap();
    let parts = |vfs: &MemVfs| {
        let names = vfs.list(snapshots::STORE.as_ref()).unwrap();
        names.iter().filter(|name| name.ends_with(".part")).count()
    };
    let mut receiver = store.receive(&first).unwrap();
    assert!(matches!(
        store.receive(&second),
        Err(SnapshotError::ReceiverInUse)
    ));
    let (part, _) = from.read_part(at(9, 4), 0, 100_000).unwrap().unwrap();
    receiver.write(0, &part).unwrap();
    receiver.sync().unwrap();
    drop(receiver);
    assert_eq!(parts(&vfs), 1);
    let mut receiver = store.receive(&second).unwrap();
    assert_eq!((receiver.received_bytes(), parts(&vfs)), (0, 1));
    fetch(&from, &mut receiver, 100_000).unwrap();
    receiver.finish().unwrap();
    assert_eq!(parts(&vfs), 0);
    // What reaches no further than the newest snapshot is of no use after a restart.
    drop(store.receive(&first).unwrap());
    assert_eq!(parts(&vfs), 1);
    drop(store);
    let store = open(&vfs).unwrap();
    assert_eq!(parts(&vfs), 0);
    store.receive(&first).unwrap().abandon().unwrap();
    assert_eq!(parts(&vfs), 0);
}

#[test]
fn a_position_is_saved_once_and_a_given_up_save_leaves_nothing() {
    let (vfs, store, description) = small();
    assert!(matches!(
        store.create(at(9, 4), &members(3)),
        Err(SnapshotError::AlreadyStored(_))
    ));
    assert!(matches!(
        store.create(at(0, 0), &members(3)),
        Err(SnapshotError::CoversNothing)
    ));
    assert!(matches!(
        store.create(at(10, 4), &raft_proto::Membership::default()),
        Err(SnapshotError::Membership(_))
    ));
    let mut writer = store.create(at(10, 4), &members(3)).unwrap();
    writer.write(&payload(5 << 20, 1)).unwrap();
    assert_eq!(vfs.list(snapshots::STORE.as_ref()).unwrap().len(), 2);
    drop(writer);
    assert_eq!(vfs.list(snapshots::STORE.as_ref()).unwrap().len(), 1);
    assert_eq!(store.newest().unwrap(), Some(description));
}

#[test]
fn a_damaged_snapshot_is_replaced_by_what_a_peer_has() {
    let (vfs, store, description) = small();
    let healthy = vfs.read_file(&path_of(at(9, 4))).unwrap();
    // Opened before the damage, as by a leader that was sending it.
    store.read_part(at(9, 4), 0, 10).unwrap();
    vfs.corrupt(&path_of(at(9, 4)), 6000, &[!healthy[6000]])
        .unwrap();
    assert!(store.read_part(at(9, 4), 0, 8192).is_ok());
    assert!(store.read_part(at(9, 4), 4096, 10).is_err());
    let mut receiver = store.receive(&description).unwrap();
    receiver.write(0, &healthy).unwrap();
    receiver.finish().unwrap();
    assert_eq!(store.newest().unwrap(), Some(description));
    assert!(store.read_part(at(9, 4), 4096, 10).is_ok());
}

#[test]
fn only_the_last_chunk_may_have_room_left() {
    // A file of two chunks, each a little short: every part and sum is right, and yet nobody
    // writes the payload so.
    let (vfs, store, _) = small();
    let path = path_of(at(9, 4));
    drop(store);
    let bytes = vfs.read_file(&path).unwrap();
    let short = CHUNK_PAYLOAD_BYTES - 10;
    let made = handmade(&bytes, &[short, short], 0);
    put(&vfs, &path, &made);
    let refused = verify_snapshot(&vfs, &path).unwrap_err();
    assert!(
        matches!(&refused, SnapshotError::Damaged(damage) if damage.part == SnapshotPart::Chunk(0)),
        "{refused}"
    );
    // The same with a full first chunk is right: the test makes what the format says.
    let lengths = [CHUNK_PAYLOAD_BYTES, short];
    put(&vfs, &path, &handmade(&bytes, &lengths, 0));
    assert_eq!(verify_snapshot(&vfs, &path).unwrap().chunks, 2);
    // And with another hash of the whole, it is not.
    put(&vfs, &path, &handmade(&bytes, &lengths, 1));
    let refused = verify_snapshot(&vfs, &path).unwrap_err();
    assert!(
        matches!(&refused, SnapshotError::Damaged(damage) if damage.part == SnapshotPart::Trailer),
        "{refused}"
    );
}

/// A file under the header of `bytes` with chunks of so many zeros, written from the format's page
/// alone.
fn handmade(bytes: &[u8], chunks: &[usize], flip_content: u64) -> Vec<u8> {
    let mut seed = crc32fast::Hasher::new();
    seed.update(&bytes[24..44]);
    seed.update(&bytes[48..64]);
    let seal = |part: &mut [u8]| {
        let mut hasher = seed.clone();
        hasher.update(&part[..8]);
        hasher.update(&part[12..]);
        let checksum = hasher.finalize();
        part[8..12].copy_from_slice(&checksum.to_le_bytes());
    };
    let mut made = bytes[..4096].to_vec();
    for (number, &length) in chunks.iter().enumerate() {
        let mut chunk = vec![0; (24 + length).next_multiple_of(4096)];
        chunk[..8].copy_from_slice(b"RAFTCHNK");
        chunk[12..16].copy_from_slice(&(length as u32).to_le_bytes());
        chunk[16..24].copy_from_slice(&(number as u64).to_le_bytes());
        seal(&mut chunk);
        made.extend(chunk);
    }
    let mut trailer = vec![0; 4096];
    trailer[..8].copy_from_slice(b"RAFTSEND");
    trailer[16..24].copy_from_slice(&(chunks.len() as u64).to_le_bytes());
    let payload_bytes: usize = chunks.iter().sum();
    trailer[24..32].copy_from_slice(&(payload_bytes as u64).to_le_bytes());
    let content = xxhash_rust::xxh3::xxh3_64(&made) ^ flip_content;
    trailer[32..40].copy_from_slice(&content.to_le_bytes());
    seal(&mut trailer);
    made.extend(trailer);
    made
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic_nor_pass(
        at_byte in 0..16_384usize,
        garbage in prop::collection::vec(any::<u8>(), 1..9000),
        valid_start in any::<bool>(),
    ) {
        let (vfs, store, description) = small();
        drop(store);
        let path = path_of(at(9, 4));
        let right = vfs.read_file(&path).unwrap();
        let mut bytes = right.clone();
        let end = (at_byte + garbage.len()).min(bytes.len());
        bytes[at_byte..end].copy_from_slice(&garbage[..end - at_byte]);
        if valid_start {
            // Lengths that pass the header's own checksum must be bounded all the same.
            bytes[..16].copy_from_slice(&right[..16]);
            let checksum = crc32fast::hash(&bytes[20..4096]);
            bytes[16..20].copy_from_slice(&checksum.to_le_bytes());
        }
        prop_assume!(bytes != right);
        put(&vfs, &path, &bytes);
        prop_assert!(verify_snapshot(&vfs, &path).is_err());
        let _ = read_snapshot_header(&vfs, &path);
        let store = open(&vfs).unwrap();
        prop_assert!(store.newest().is_err());
        let mut receiver = store.receive(&description).unwrap();
        prop_assert!(receiver.write(0, &bytes).is_err());
    }

    #[test]
    fn parts_of_any_size_make_the_same_file(
        chunks in 1..6usize,
        sizes in prop::collection::vec(1..200_000u32, 1..20),
    ) {
        let from = open(&MemVfs::new(1)).unwrap();
        let bytes = payload_of_chunks(chunks, 3);
        let description = save(&from, at(9, 4), &bytes).unwrap();
        let vfs = MemVfs::new(2);
        let store = open(&vfs).unwrap();
        let mut turns = sizes.iter().cycle();
        for _ in 0..100 {
            let mut receiver = store.receive(&description).unwrap();
            let wanted = receiver.next_offset();
            if wanted == description.total_bytes {
                receiver.finish().unwrap();
                break;
            }
            // As many parts as the next size says, at least a chunk, then the receiver is dropped.
            let size = *turns.next().unwrap();
            for _ in 0..=size % 5 {
                let offset = receiver.next_offset();
                let (part, _) = from.read_part(at(9, 4), offset, size.max(70_000)).unwrap().unwrap();
                receiver.write(offset, &part).unwrap();
            }
            receiver.sync().unwrap();
        }
        prop_assert_eq!(store.newest().unwrap(), Some(description));
        prop_assert_eq!(read_back(&store, at(9, 4)), bytes);
    }
}
