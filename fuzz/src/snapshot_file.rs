//! Reads a snapshot file of arbitrary bytes: a valid one is changed. What is read is what was written,
//! or the read fails; a node that received it would not store it.

use std::cell::OnceCell;
use std::io::Read;
use std::path::Path;

use raft_log::snapshot::{open_snapshot_payload, read_snapshot_header, verify_snapshot};
use raft_log::{DataDir, LogIdentity, SnapshotStore};
use raft_proto::{
    ClusterId, GroupId, LogIndex, LogPosition, Member, Membership, NodeId, SnapshotDescription,
    Term,
};

use super::flat::FlatVfs;
use super::input::Input;

const DIRECTORY: &str = "data";
const CLUSTER: ClusterId = ClusterId([7; 16]);
/// How many changes one input may make.
const MOST_CHANGES: usize = 12;

struct Base {
    description: SnapshotDescription,
    payload: Vec<u8>,
    file: Vec<u8>,
}

thread_local! {
    static BASES: OnceCell<Vec<Base>> = const { OnceCell::new() };
}

/// Runs one input.
pub fn run(data: &[u8]) {
    BASES.with(|bases| {
        let bases = bases.get_or_init(|| [0, 1, 300, 70_000].map(base).into());
        let mut input = Input(data);
        let base = &bases[usize::from(input.byte()) % bases.len()];
        let mut file = base.file.clone();
        for _ in 0..MOST_CHANGES {
            if input.is_empty() {
                break;
            }
            change(&mut file, &mut input);
        }
        check(base, file);
    });
}

fn base(bytes: usize) -> Base {
    let vfs = FlatVfs::default();
    let store = open(&vfs);
    let member = |id: u64| Member {
        incarnation: None,
        address: format!("10.0.0.{id}:7000"),
    };
    let membership = Membership::of_voters((1..=3).map(|id| (NodeId(id), member(id))));
    let position = LogPosition {
        index: LogIndex(9),
        term: Term(2),
    };
    let payload: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
    let mut writer = store.create(position, &membership).expect("a new snapshot");
    writer.write(&payload).expect("no fault");
    let description = writer.finish().expect("no fault");
    Base {
        description,
        payload,
        file: vfs.content(path()).expect("it was stored"),
    }
}

fn path() -> &'static Path {
    Path::new("data/snapshots-0/0000000000000009-0000000000000002.snap")
}

fn open(vfs: &FlatVfs) -> SnapshotStore {
    let dir = DataDir::open(vfs.shared(), Path::new(DIRECTORY), NodeId(1)).expect("sound");
    let identity = LogIdentity {
        cluster: CLUSTER,
        node: dir.node(),
        incarnation: dir.incarnation(),
        group: GroupId(0),
    };
    SnapshotStore::open(&dir, identity).expect("sound")
}

fn change(file: &mut Vec<u8>, input: &mut Input<'_>) {
    let length = file.len();
    if length == 0 {
        return;
    }
    match input.byte() % 5 {
        0 => file.truncate(input.number() as usize % (length + 1)),
        1 => {
            let extra = usize::from(input.byte());
            file.extend(std::iter::repeat_n(input.byte(), extra));
        }
        2 => {
            let at = input.number() as usize % length;
            file[at] ^= input.byte();
        }
        3 => {
            let at = input.below(length.min(4096));
            let bytes = input.number().to_le_bytes();
            let end = (at + 8).min(length);
            file[at..end].copy_from_slice(&bytes[..end - at]);
        }
        _ => {
            // The header's fields, with the checksum at the end of them made right.
            let covered = input.below(400).max(16).min(length);
            if length >= covered + 4 {
                let sum = crc32fast::hash(&file[..covered]);
                file[covered..covered + 4].copy_from_slice(&sum.to_le_bytes());
            }
        }
    }
}

fn check(base: &Base, file: Vec<u8>) {
    let is_same = file == base.file;
    let vfs = FlatVfs::default();
    let store = open(&vfs);
    vfs.set_content(path(), file.clone());
    let _ = read_snapshot_header(&vfs, path());
    let whole = verify_snapshot(&vfs, path());
    assert_eq!(
        whole.is_ok(),
        is_same,
        "every byte is covered by a checksum"
    );
    if let Ok(mut payload) = open_snapshot_payload(&vfs, path()) {
        let mut read = Vec::new();
        let ended = payload.read_to_end(&mut read);
        assert!(base.payload.starts_with(&read) || !is_same && ended.is_err());
    }
    assert_eq!(store.newest().is_ok(), is_same);
    let position = base.description.last_included;
    let mut offset = 0;
    // A stored one gives parts that are whole, and a receiver takes no others.
    while let Ok(Some((part, total))) = store.read_part(position, offset, 1 << 16) {
        offset += part.len() as u64;
        if part.is_empty() || offset >= total {
            break;
        }
    }
    receive(base, &file);
}

fn receive(base: &Base, file: &[u8]) {
    let vfs = FlatVfs::default();
    let store = open(&vfs);
    let mut receiver = store.receive(&base.description).expect("sound");
    for part in file.chunks(20_000) {
        if receiver.write(receiver.next_offset(), part).is_err() {
            break;
        }
    }
    let finished = receiver.finish();
    if finished.is_ok() {
        assert_eq!(vfs.content(path()).as_deref(), Some(base.file.as_slice()));
    } else {
        assert_eq!(
            store.newest().expect("sound"),
            None,
            "nothing is stored that is not whole"
        );
    }
}
