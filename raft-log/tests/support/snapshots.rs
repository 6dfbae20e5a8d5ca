//! Shared by the tests of snapshots: openers, positions, payloads.
#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::io::Read;
use std::path::{Path, PathBuf};

use raft_log::snapshot::CHUNK_PAYLOAD_BYTES;
use raft_log::vfs::MemVfs;
use raft_log::{DataDir, LogIdentity, SnapshotError, SnapshotReceiver, SnapshotStore};
use raft_proto::{
    ClusterId, GroupId, LogIndex, LogPosition, Member, Membership, NodeId, SnapshotDescription,
    Term,
};

pub(crate) const DIRECTORY: &str = "data";
pub(crate) const STORE: &str = "data/snapshots-0";
pub(crate) const CLUSTER: ClusterId = ClusterId([7; 16]);

pub(crate) fn identity_of(dir: &DataDir, cluster: ClusterId) -> LogIdentity {
    LogIdentity {
        cluster,
        node: dir.node(),
        incarnation: dir.incarnation(),
        group: GroupId(0),
    }
}

/// Opens the snapshots of the test node.
pub(crate) fn open(vfs: &MemVfs) -> Result<SnapshotStore, SnapshotError> {
    let dir = DataDir::open(vfs.shared(), Path::new(DIRECTORY), NodeId(1))?;
    SnapshotStore::open(&dir, identity_of(&dir, CLUSTER))
}

pub(crate) fn at(index: u64, term: u64) -> LogPosition {
    LogPosition {
        index: LogIndex(index),
        term: Term(term),
    }
}

pub(crate) fn members(voters: u64) -> Membership {
    let member = |id: u64| Member {
        incarnation: None,
        address: format!("10.0.0.{id}:7000"),
    };
    Membership::of_voters((1..=voters).map(|id| (NodeId(id), member(id))))
}

/// Bytes without a short period, some of them runs of zeros.
pub(crate) fn payload(bytes: usize, seed: u64) -> Vec<u8> {
    let mut choices = super::support::Choices(seed | 1);
    let mut made = Vec::with_capacity(bytes);
    while made.len() < bytes {
        let word = choices.next();
        let word = if word.is_multiple_of(7) { 0 } else { word };
        made.extend_from_slice(&word.to_le_bytes());
    }
    made.truncate(bytes);
    made
}

/// A payload of so many chunks, the last one not full.
pub(crate) fn payload_of_chunks(chunks: usize, seed: u64) -> Vec<u8> {
    payload(chunks * CHUNK_PAYLOAD_BYTES - 60_000, seed)
}

pub(crate) fn save(
    store: &SnapshotStore,
    position: LogPosition,
    bytes: &[u8],
) -> Result<SnapshotDescription, SnapshotError> {
    let mut writer = store.create(position, &members(3))?;
    for part in bytes.chunks(10_000) {
        writer.write(part)?;
    }
    assert_eq!(writer.bytes(), bytes.len() as u64);
    writer.finish()
}

pub(crate) fn read_back(store: &SnapshotStore, position: LogPosition) -> Vec<u8> {
    let mut payload = store.payload(position).unwrap();
    let mut bytes = Vec::new();
    payload.read_to_end(&mut bytes).unwrap();
    assert_eq!(payload.payload_bytes(), bytes.len() as u64);
    assert_eq!(payload.header().last_included, position);
    bytes
}

/// The path of a stored snapshot.
pub(crate) fn path_of(position: LogPosition) -> PathBuf {
    let name = format!("{:016x}-{:016x}.snap", position.index.0, position.term.0);
    Path::new(STORE).join(name)
}

/// Fetches from one store into a receiver of another, in parts of about `part_bytes`.
pub(crate) fn fetch(
    from: &SnapshotStore,
    receiver: &mut SnapshotReceiver,
    part_bytes: u32,
) -> Result<(), SnapshotError> {
    let position = receiver.snapshot().last_included;
    loop {
        let offset = receiver.next_offset();
        let (part, total) = from.read_part(position, offset, part_bytes)?.unwrap();
        assert!(part.len() <= part_bytes as usize);
        if offset == total {
            return Ok(());
        }
        assert_eq!(
            receiver.write(offset, &part)?,
            offset + part.len() as u64,
            "what is sent is taken"
        );
    }
}
