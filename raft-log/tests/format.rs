//! The bytes on disk are the ones that are checked in; a newer version is told from damage.
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use raft_log::inspect::{Detail, survey};
use raft_log::vfs::MemVfs;
use raft_log::{LogOptions, OpenError};

mod support;

use support::{DIRECTORY, Model, Pair, Step, of_hex, open, segment_path, to_hex};

/// Where the checked-in bytes are; `UPDATE_GOLDENFILES=1` writes them anew.
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/format/segment_v2.hex");

/// A log whose random numbers are known: the bytes of its first segment are always the same.
fn sample() -> Pair {
    let mut pair = Pair::new(&MemVfs::new(2024), LogOptions::small());
    pair.reopen().unwrap();
    for step in [
        Step::Vote,
        Step::Members { voters: 2 },
        Step::Append {
            count: 2,
            bytes: 600,
        },
        Step::Replace { removed: 1 },
        Step::Compact { left: 1 },
        Step::Vouch,
    ] {
        pair.run(&step).unwrap();
    }
    pair
}

#[test]
fn a_segment_has_the_checked_in_bytes() {
    let pair = sample();
    let found = to_hex(&pair.vfs.read_file(&segment_path(1)).unwrap());
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        std::fs::write(GOLDEN, &found).unwrap();
    }
    assert_eq!(found, std::fs::read_to_string(GOLDEN).unwrap());
}

#[test]
fn the_checked_in_bytes_are_read_as_what_was_written() {
    let mut pair = sample();
    let expected = pair.synced.clone();
    pair.log = None;
    pair.dir = None;
    let bytes = of_hex(&std::fs::read_to_string(GOLDEN).unwrap(), 64 << 10);
    pair.vfs.corrupt(&segment_path(1), 0, &bytes).unwrap();
    let (_dir, log, recovered) = open(&pair.vfs).unwrap();
    assert_eq!(Model::of_log(&log, &recovered), expected);
}

#[test]
fn an_unknown_version_is_unsupported_and_not_corrupt() {
    let mut pair = sample();
    pair.log = None;
    pair.dir = None;
    let mut start = pair.vfs.read_file(&segment_path(1)).unwrap()[..16].to_vec();
    start[8] = 3;
    // Without its checksum the version is not believed.
    pair.vfs.corrupt(&segment_path(1), 0, &start).unwrap();
    assert!(matches!(open(&pair.vfs), Err(OpenError::Damaged(_))));
    let checksum = crc32fast::hash(&start[..12]);
    start[12..].copy_from_slice(&checksum.to_le_bytes());
    pair.vfs.corrupt(&segment_path(1), 0, &start).unwrap();
    let refused = open(&pair.vfs).map(drop).unwrap_err();
    assert!(matches!(
        refused,
        OpenError::UnsupportedVersion { version: 3, .. }
    ));
    let report = survey(&pair.vfs, DIRECTORY.as_ref(), Detail::Batches).unwrap();
    assert!(report.to_string().contains("unknown format version 3"));
}
