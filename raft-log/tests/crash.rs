//! Short histories are cut at every operation of the disk; what is left is recovered and compared
//! with a model: nothing synced is lost, nothing removed comes back, nothing is invented.
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use raft_log::LogOptions;
use raft_log::vfs::MemVfs;

mod support;

use support::{Model, Pair, Step, crashed_disks, open_with};

/// Up to this many pending changes every subset is tried.
const EXHAUSTIVE_CHANGES: usize = 6;
/// How many subsets are tried when there are more.
const SAMPLES: u64 = 24;

/// Runs a history on a disk that stops after `cut` operations; returns the disk, the model before
/// and after the step that was under way, and whether the history came to its end.
fn run_until(history: &[Step], options: LogOptions, cut: u64) -> (Pair, bool) {
    let vfs = MemVfs::new(11);
    let mut pair = Pair::new(&vfs, options);
    pair.reopen().unwrap();
    vfs.stop_after(cut);
    let ended = history.iter().all(|step| pair.run(step).is_ok());
    (pair, ended)
}

fn check_every_cut(name: &str, history: &[Step], options: LogOptions) {
    let mut disks = 0;
    for cut in 0.. {
        assert!(cut < 2000, "{name}: the history ends");
        let (mut pair, ended) = run_until(history, options, cut);
        // The process is gone: its handles do nothing more.
        pair.log = None;
        pair.dir = None;
        for disk in crashed_disks(&pair.vfs, EXHAUSTIVE_CHANGES, SAMPLES, cut + 1) {
            disks += 1;
            check_recovery(&format!("{name}, cut {cut}"), &disk, &pair, disks);
        }
        check_process_crash(&format!("{name}, cut {cut}"), &pair, cut);
        if ended {
            assert!(
                disks > 100,
                "{name}: {disks} disks are too few to mean anything"
            );
            return;
        }
    }
}

fn check_recovery(name: &str, disk: &MemVfs, pair: &Pair, number: u64) {
    let opened = open_with(disk, pair.options);
    // An open changes the disk, so the crash during recovery starts from a copy.
    let (dir, log, recovered) = match opened {
        Ok(opened) => opened,
        Err(error) => panic!("{name}: {error}"),
    };
    let found = Model::of_log(&log, &recovered);
    assert!(
        pair.wanted.may_leave(&pair.synced, &found),
        "{name}: found {found:?}, not {:?} or {:?}",
        pair.synced,
        pair.wanted
    );
    drop((log, dir));
    let again = disk.crash(&mut |_| number.is_multiple_of(2));
    let (_dir, log, recovered) = open_with(&again, pair.options).unwrap();
    assert_eq!(
        Model::of_log(&log, &recovered),
        found,
        "{name}: opened twice"
    );
    assert_eq!(
        recovered.dropped_torn, None,
        "{name}: nothing is torn twice"
    );
}

/// The process dies at the cut and opens the log again while the page cache still shows what is
/// not on the disk; then the machine crashes. What that open reported must be there.
fn check_process_crash(name: &str, pair: &Pair, cut: u64) {
    pair.vfs.resume();
    let (dir, log, recovered) = open_with(&pair.vfs, pair.options).unwrap();
    let reported = Model::of_log(&log, &recovered);
    assert!(pair.wanted.may_leave(&pair.synced, &reported), "{name}");
    drop((log, dir));
    for disk in crashed_disks(&pair.vfs, EXHAUSTIVE_CHANGES, SAMPLES, cut + 7) {
        let (_dir, log, recovered) = open_with(&disk, pair.options).unwrap();
        let found = Model::of_log(&log, &recovered);
        assert_eq!(
            found, reported,
            "{name}: reported by the open before the crash"
        );
    }
}

/// Crashes recovery itself at every operation, from several disks that a cut has left.
fn check_crashes_during_recovery(name: &str, history: &[Step], cuts: &[u64]) {
    let options = LogOptions::small();
    for &cut in cuts {
        let (mut pair, _) = run_until(history, options, cut);
        pair.log = None;
        pair.dir = None;
        for (number, disk) in crashed_disks(&pair.vfs, 2, 3, cut + 1).iter().enumerate() {
            let settled = disk.crash(&mut |_| true);
            let (_, log, recovered) = open_with(&settled, options).unwrap();
            let expected = Model::of_log(&log, &recovered);
            for stop in 0.. {
                assert!(stop < 500, "{name}: recovery ends");
                let copy = disk.crash(&mut |_| true);
                copy.stop_after(stop);
                let ended = open_with(&copy, options).is_ok();
                for left in crashed_disks(&copy, 3, 6, stop + 1) {
                    let (_dir, log, recovered) = open_with(&left, options).unwrap();
                    let found = Model::of_log(&log, &recovered);
                    assert_eq!(
                        found, expected,
                        "{name}, cut {cut}, disk {number}, stop {stop}"
                    );
                }
                if ended {
                    break;
                }
            }
        }
    }
}

fn appends_and_truncations() -> Vec<Step> {
    vec![
        Step::Vote,
        Step::Append {
            count: 1,
            bytes: 100,
        },
        Step::Append {
            count: 5,
            bytes: 900,
        },
        Step::Replace { removed: 3 },
        Step::Vouch,
        Step::Members { voters: 3 },
        Step::Truncate { removed: 2 },
        Step::Append {
            count: 2,
            bytes: 3000,
        },
        Step::Vote,
    ]
}

fn many_batches_and_reopens() -> Vec<Step> {
    vec![
        Step::Append {
            count: 12,
            bytes: 2000,
        },
        Step::Reopen,
        Step::Stage {
            count: 2,
            bytes: 10,
        },
        Step::Replace { removed: 4 },
        Step::Reopen,
        Step::Truncate { removed: 6 },
        Step::Reopen,
        Step::Append { count: 1, bytes: 1 },
    ]
}

fn rotations_and_compactions() -> Vec<Step> {
    let large = Step::Append {
        count: 3,
        bytes: 5000,
    };
    let mut history = vec![large; 5];
    history.extend([
        Step::Compact { left: 4 },
        Step::Replace { removed: 2 },
        Step::Append {
            count: 6,
            bytes: 5000,
        },
        Step::Compact { left: 0 },
        Step::Append {
            count: 1,
            bytes: 50,
        },
        Step::Install { beyond: 10 },
        Step::Append {
            count: 2,
            bytes: 50,
        },
        Step::Install { beyond: 0 },
    ]);
    history
}

/// Memberships come and go with the entries that carry them, and go with a snapshot.
fn installs_and_memberships() -> Vec<Step> {
    let large = Step::Append {
        count: 3,
        bytes: 5000,
    };
    vec![
        Step::Members { voters: 3 },
        large.clone(),
        Step::Members { voters: 2 },
        large.clone(),
        Step::Compact { left: 3 },
        Step::Members { voters: 4 },
        large.clone(),
        Step::InstallOver { covered: 2 },
        large.clone(),
        Step::Members { voters: 1 },
        large,
        Step::Install { beyond: 7 },
        Step::Members { voters: 3 },
        Step::Replace { removed: 1 },
        Step::InstallOver { covered: 0 },
        Step::Reopen,
        Step::Append {
            count: 1,
            bytes: 50,
        },
    ]
}

/// Entries are found wanting and get other content, in the segment that is written and behind seals,
/// while the log grows, shrinks, is compacted and reopened. What was refilled never goes back.
fn refills() -> Vec<Step> {
    let large = Step::Append {
        count: 3,
        bytes: 5000,
    };
    vec![
        large.clone(),
        Step::Members { voters: 3 },
        large.clone(),
        Step::Rot { back: 1, count: 4 },
        Step::Refill { most: 2 },
        large.clone(),
        Step::Refill { most: 9 },
        Step::Rot { back: 2, count: 5 },
        Step::Truncate { removed: 4 },
        Step::Refill { most: 9 },
        large.clone(),
        Step::Rot { back: 0, count: 9 },
        Step::Compact { left: 5 },
        Step::Refill { most: 3 },
        Step::Reopen,
        Step::Rot { back: 0, count: 2 },
        Step::Replace { removed: 1 },
        Step::Refill { most: 9 },
        Step::Reopen,
        Step::Append {
            count: 1,
            bytes: 50,
        },
    ]
}

#[test]
fn refills_survive_every_cut() {
    check_every_cut("refills", &refills(), LogOptions::small());
}

#[test]
fn crashes_during_the_recovery_of_refills_change_nothing() {
    check_crashes_during_recovery("refills", &refills(), &[20, 45, 70]);
}

#[test]
fn installs_and_memberships_survive_every_cut() {
    check_every_cut("installs", &installs_and_memberships(), LogOptions::small());
}

#[test]
fn appends_and_truncations_survive_every_cut() {
    check_every_cut("appends", &appends_and_truncations(), LogOptions::small());
}

#[test]
fn many_batches_and_reopens_survive_every_cut() {
    check_every_cut("reopens", &many_batches_and_reopens(), LogOptions::small());
}

#[test]
fn rotations_and_compactions_survive_every_cut() {
    check_every_cut(
        "rotations",
        &rotations_and_compactions(),
        LogOptions::small(),
    );
}

/// Every sync in turn fails, and its pages are taken for clean; the process stops, opens the log
/// again with what the page cache shows, and then the machine crashes.
fn check_failed_syncs(name: &str, history: &[Step]) {
    for failing in 1.. {
        assert!(failing < 500, "{name}: the history ends");
        let vfs = MemVfs::new(11);
        let mut pair = Pair::new(&vfs, LogOptions::small());
        pair.reopen().unwrap();
        vfs.fail_syncs_from(failing);
        let ended = history.iter().all(|step| pair.run(step).is_ok());
        pair.log = None;
        pair.dir = None;
        check_process_crash(&format!("{name}, sync {failing}"), &pair, failing);
        if ended {
            assert!(failing > 5, "{name}: the history syncs");
            return;
        }
    }
}

#[test]
fn what_is_reported_after_a_failed_sync_survives_a_crash() {
    check_failed_syncs("appends", &appends_and_truncations());
    check_failed_syncs("reopens", &many_batches_and_reopens());
    check_failed_syncs("rotations", &rotations_and_compactions());
    check_failed_syncs("installs", &installs_and_memberships());
}

#[test]
fn the_first_open_survives_every_cut() {
    for cut in 0..60 {
        let vfs = MemVfs::new(11);
        vfs.stop_after(cut);
        let ended = support::open(&vfs).is_ok();
        for disk in crashed_disks(&vfs, EXHAUSTIVE_CHANGES, SAMPLES, cut + 1) {
            let (_dir, log, recovered) = support::open(&disk).unwrap();
            assert_eq!(Model::of_log(&log, &recovered), Model::default());
        }
        assert!(cut < 59 || ended, "the first open ends");
    }
}

#[test]
fn a_crash_during_recovery_changes_nothing() {
    check_crashes_during_recovery("appends", &appends_and_truncations(), &[1, 3, 5, 7, 13]);
    check_crashes_during_recovery("reopens", &many_batches_and_reopens(), &[2, 5, 25, 40]);
    check_crashes_during_recovery("rotations", &rotations_and_compactions(), &[9, 25, 45, 60]);
    check_crashes_during_recovery("installs", &installs_and_memberships(), &[20, 33, 48, 61]);
}
