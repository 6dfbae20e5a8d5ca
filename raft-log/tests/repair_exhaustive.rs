//! Every short history of the log, with every written sector of it damaged in turn: what an open
//! reports is a state the log was in, with the right content or none; it is filled in again, and the
//! refill is cut at every operation of the disk.
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::path::{Path, PathBuf};

use raft_log::vfs::{MemVfs, Vfs};
use raft_log::{LogEnd, LogOptions};

mod support;
#[path = "support/truth.rs"]
mod truth;

use support::{DIRECTORY, Model, Pair, Step, crashed_disks, open};
use truth::{History, is_refused, open_reporting, repair};

/// The length of the longest histories; more takes long.
const LENGTH: &str = "RAFT_WAL_DAMAGE_LENGTH";

fn operations() -> [Step; 8] {
    [
        Step::Append {
            count: 3,
            bytes: 300,
        },
        Step::Members { voters: 2 },
        Step::Replace { removed: 2 },
        Step::Vote,
        Step::Compact { left: 2 },
        Step::Install { beyond: 1 },
        Step::Vouch,
        Step::Reopen,
    ]
}

#[derive(Debug, Default)]
struct Counts {
    histories: u64,
    damages: u64,
    holes: u64,
    unknown: u64,
    torn: u64,
    harmless: u64,
    refills_cut: u64,
    disks: u64,
}

fn histories(length: usize) -> Vec<Vec<usize>> {
    let kinds = operations().len();
    let mut all: Vec<Vec<usize>> = vec![vec![]];
    let mut longest = all.clone();
    for _ in 0..length {
        longest = longest
            .iter()
            .flat_map(|history| (0..kinds).map(|step| [history.as_slice(), &[step]].concat()))
            .collect();
        all.extend(longest.clone());
    }
    all
}

fn run(steps: &[Step]) -> (MemVfs, History) {
    let mut pair = Pair::new(&MemVfs::new(7), LogOptions::small());
    pair.reopen().unwrap();
    let mut history = History(vec![pair.synced.clone()]);
    for step in steps {
        pair.run(step).unwrap();
        history.0.push(pair.synced.clone());
    }
    pair.log = None;
    pair.dir = None;
    (pair.vfs.crash(&mut |_| true), history)
}

fn segment_files(disk: &MemVfs) -> Vec<PathBuf> {
    let directory = Path::new(DIRECTORY).join("log-0");
    let names = disk.list(&directory).unwrap();
    let wal = names.iter().filter(|name| name.ends_with(".wal"));
    wal.map(|name| directory.join(name)).collect()
}

/// Damages one sector in one way and checks everything that follows.
fn damage(
    whole: &MemVfs,
    history: &History,
    path: &Path,
    sector: usize,
    fill: &[u8],
    counts: &mut Counts,
) {
    let disk = whole.crash(&mut |_| true);
    let name = format!("{} sector {sector} with {:x?}", path.display(), &fill[..1]);
    let offset = sector as u64 * 512 + if fill.len() < 512 { 40 } else { 0 };
    disk.corrupt(path, offset, fill).unwrap();
    counts.damages += 1;
    let refused = is_refused(&disk.crash(&mut |_| true));
    let mut opened = open_reporting(&disk);
    let state = history.check(&opened, &name);
    let found = opened.2.clone();
    let is_lost = !found.missing.is_empty() || found.end != LogEnd::Known;
    assert_eq!(is_lost, refused, "{name}");
    counts.holes += u64::from(!found.missing.is_empty());
    counts.unknown += u64::from(found.end != LogEnd::Known);
    counts.torn += u64::from(found.dropped_torn.is_some());
    counts.harmless += u64::from(!is_lost);
    // What was found is found again, whatever became durable.
    let again = disk.crash(&mut |_| false);
    let second = open_reporting(&again);
    // A batch that was dropped as torn is gone for good.
    let known = History(vec![state.clone()]);
    assert_eq!(known.check(&second, &name), state, "{name}: again");
    assert_eq!(
        (&second.2.missing, second.2.end),
        (&found.missing, found.end),
        "{name}"
    );
    drop(second);
    if !is_lost {
        return;
    }
    disk.record();
    repair(&mut opened.1, &state).unwrap();
    drop(opened);
    let images = disk.recorded();
    let end = images.len() - 1;
    for (cut, image) in images.iter().enumerate() {
        counts.refills_cut += 1;
        for disk in crashed_disks(image, 3, 4, cut as u64 + 1) {
            counts.disks += 1;
            let opened = open_reporting(&disk);
            let name = format!("{name}, cut {cut} of {end}");
            // As `History::check`, but the truth is what was repaired.
            let repaired = History(vec![state.clone()]);
            assert_eq!(repaired.check(&opened, &name), state, "{name}");
            let is_healed = opened.2.missing.is_empty() && opened.2.end == LogEnd::Known;
            assert!(is_healed || cut < end, "{name}");
        }
    }
    let (_dir, log, recovered) = open(&disk.crash(&mut |_| false)).unwrap();
    assert_eq!(Model::of_log(&log, &recovered), state, "{name}: healed");
}

#[test]
fn every_short_history_with_every_sector_damaged_is_told_and_healed() {
    let length = std::env::var(LENGTH).map_or(2, |text| text.parse().unwrap());
    let operations = operations();
    let mut counts = Counts::default();
    for history in histories(length) {
        let mut steps = vec![operations[0].clone()];
        steps.extend(history.iter().map(|step| operations[*step].clone()));
        let (whole, history) = run(&steps);
        counts.histories += 1;
        for path in segment_files(&whole) {
            let content = whole.read_file(&path).unwrap();
            for (sector, bytes) in content.chunks(512).enumerate() {
                let is_written = bytes.iter().any(|byte| *byte != 0);
                if !is_written && sector % 61 != 0 {
                    continue;
                }
                for fill in [&[0xab; 512][..], &[0xab; 3], &[0; 512]] {
                    damage(&whole, &history, &path, sector, fill, &mut counts);
                }
            }
        }
    }
    println!("{length} operations: {counts:?}");
    assert!(counts.holes > 0 && counts.unknown > 0 && counts.torn > 0 && counts.harmless > 0);
}
