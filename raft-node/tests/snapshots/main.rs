//! Snapshots with real threads and files: taken, read, moved to nodes that are behind, resumed after
//! restarts of either end, and not repeated for a follower that is only slow.
#![allow(
    clippy::unwrap_used,
    reason = "in test helpers too, a panic is the failure"
)]

mod group;
mod heartbeats;
mod proxy;
mod toll;

use std::path::Path;
use std::time::Duration;

use raft_log::snapshot::verify_snapshot;
use raft_log::vfs::RealVfs;
use raft_node::{ApplyOn, FetchProgress, SnapshotPolicy};
use raft_proto::LogIndex;

use group::{Group, run};
use toll::Toll;

/// After so many entries a snapshot is taken.
const SNAPSHOT_ENTRIES: u64 = 20;

/// Nothing is kept behind a snapshot, and nobody is waited for.
fn eager() -> SnapshotPolicy {
    SnapshotPolicy {
        max_log_entries: SNAPSHOT_ENTRIES,
        min_pause: Duration::ZERO,
        keep_entries: 0,
        max_retained_bytes: 0,
        ..SnapshotPolicy::default()
    }
}

/// Stops a follower, and lets the others go on until they have given up entries that it needs.
/// Returns the follower.
async fn leave_behind(group: &mut Group, fills: u64, bytes: u64) -> u64 {
    let (follower, had) = go_on_without_one(group, fills, bytes).await;
    for id in group.ids() {
        while group.status(id).await.first_index <= had.next() {
            group.fill(1).await;
        }
    }
    follower
}

/// The same, with one snapshot taken meanwhile, and no other one due.
async fn leave_behind_one_snapshot(group: &mut Group) -> u64 {
    let (follower, had) = go_on_without_one(group, SNAPSHOT_ENTRIES * 3 / 2, 80_000).await;
    for id in group.ids() {
        group.gives_up(id, had.next()).await;
    }
    follower
}

/// Stops a follower, and writes. Returns the follower and its last entry.
async fn go_on_without_one(group: &mut Group, fills: u64, bytes: u64) -> (u64, LogIndex) {
    let follower = group.follower().await;
    let had = group.status(follower).await.last_index;
    group.shut_down(follower).await;
    for _ in 0..fills {
        group.fill(bytes).await;
    }
    (follower, had)
}

#[test]
fn a_node_that_is_far_behind_gets_a_snapshot() {
    for apply_on in [ApplyOn::OwnThread, ApplyOn::NodeThread] {
        run(async {
            let mut group = Group::start(apply_on, eager(), &Toll::free()).await;
            let late = leave_behind(&mut group, 30, 20_000).await;
            group.boot(late);
            group.fill(1).await;
            group.agree().await;
            let snapshots = group.status(late).await.snapshots;
            assert!(snapshots.installed >= 1, "{snapshots:?}");
            // What it has got so far is on its own disk.
            group.shut_down(late).await;
            group.boot(late);
            group.fill(1).await;
            group.agree().await;
            group.stop().await;
        });
    }
}

#[test]
fn a_receiver_that_restarts_goes_on_where_it_was() {
    tried_until_shown(async || {
        let toll = Toll::free();
        let mut group = Group::start(ApplyOn::OwnThread, eager(), &toll).await;
        let late = leave_behind_one_snapshot(&mut group).await;
        toll.allow(800_000);
        group.boot(late);
        let fetching = group.fetched(late, 600_000).await;
        group.shut_down(late).await;
        toll.allow(u64::MAX);
        group.boot(late);
        ends_with(group, late, &fetching, &toll).await
    });
}

#[test]
fn a_sender_that_restarts_is_asked_for_the_rest() {
    tried_until_shown(async || {
        let toll = Toll::free();
        let mut group = Group::start(ApplyOn::OwnThread, eager(), &toll).await;
        let late = leave_behind_one_snapshot(&mut group).await;
        toll.allow(800_000);
        group.boot(late);
        let fetching = group.fetched(late, 600_000).await;
        group.shut_down(fetching.from.0).await;
        toll.allow(u64::MAX);
        group.boot(fetching.from.0);
        ends_with(group, late, &fetching, &toll).await
    });
}

/// How often a scenario is tried that a change of leaders spoils.
const ATTEMPTS: usize = 10;

/// Which snapshot a follower has installed in the end.
#[derive(PartialEq)]
enum Installed {
    TheFirstOffered,
    /// Another leader has offered another one, so that nothing is shown.
    Another,
}

fn tried_until_shown(scenario: impl AsyncFn() -> Installed) {
    let is_shown = (0..ATTEMPTS).any(|_| {
        let mut installed = Installed::Another;
        run(async { installed = scenario().await });
        installed == Installed::TheFirstOffered
    });
    assert!(is_shown, "leaders change all the time");
}

/// Waits for the end of a transfer that was interrupted, and checks what of it passed.
async fn ends_with(group: Group, late: u64, fetching: &FetchProgress, toll: &Toll) -> Installed {
    group.agree().await;
    let snapshots = group.status(late).await.snapshots;
    assert!(snapshots.installed >= 1, "{snapshots:?}");
    group.stop().await;
    let newest = snapshots.newest.map(|newest| newest.last_included);
    if newest != Some(fetching.last_included) {
        return Installed::Another;
    }
    check_fetched_once(toll, fetching);
    Installed::TheFirstOffered
}

/// What may pass a second time after a restart: what was on the way, and a chunk that was not
/// whole.
const TWICE_AT_MOST: u64 = 256 << 10;

/// All of that snapshot passed, and little of it twice.
fn check_fetched_once(toll: &Toll, fetched: &FetchProgress) {
    let (passed, total) = (toll.passed_of(fetched.last_included), fetched.total_bytes);
    assert!(passed >= total, "only {passed} of {total} bytes passed");
    assert!(
        passed <= total + TWICE_AT_MOST,
        "{passed} bytes passed of {total}"
    );
}

/// While the snapshot crawls to the follower, newer ones are taken and much is written. It must
/// not need the next one as soon as it has the first.
#[test]
fn a_slow_follower_under_load_needs_one_snapshot() {
    run(async {
        let toll = Toll::free();
        let policy = SnapshotPolicy {
            keep_entries: 5,
            max_retained_bytes: 1 << 30,
            // Contact is lost with the process only.
            fetch_patience: Duration::from_millis(1_500),
            ..eager()
        };
        let mut group = Group::start(ApplyOn::OwnThread, policy, &toll).await;
        let late = group.follower().await;
        let had = group.status(late).await.last_index;
        group.shut_down(late).await;
        for _ in 0..20 {
            group.fill(80_000).await;
        }
        let leader = group.leader().await;
        while group.status(leader).await.first_index <= had.next() {
            group.fill(1).await;
        }
        toll.slow_down(1_000);
        group.boot(late);
        let taken = group.status(leader).await.snapshots.taken;
        while group.status(late).await.snapshots.installed == 0 {
            group.fill(100).await;
        }
        let during = group.status(leader).await.snapshots.taken - taken;
        assert!(during >= 3, "{during} were taken meanwhile");
        for _ in 0..200 {
            group.fill(100).await;
        }
        group.agree().await;
        let snapshots = group.status(late).await.snapshots;
        assert_eq!(snapshots.installed, 1, "{snapshots:?}");
        group.stop().await;
    });
}

#[test]
fn a_snapshot_that_is_asked_for_can_be_read_and_verified() {
    run(async {
        let policy = SnapshotPolicy::default();
        let group = Group::start(ApplyOn::NodeThread, policy, &Toll::free()).await;
        for _ in 0..5 {
            group.fill(50_000).await;
        }
        let raft = group.node(group.leader().await);
        let taken = raft.take_snapshot().await.unwrap();
        assert!(taken.last_included.index >= LogIndex(6));
        let again = raft.take_snapshot().await.unwrap();
        assert_eq!(again, taken, "nothing was applied since");
        let mut file = Vec::new();
        while (file.len() as u64) < taken.total_bytes {
            let offset = file.len() as u64;
            let part = raft
                .read_snapshot(taken.last_included, offset, 10_000)
                .await;
            let (data, total_bytes) = part.unwrap().unwrap();
            assert_eq!(total_bytes, taken.total_bytes);
            file.extend_from_slice(&data);
        }
        let path = group.home().join("copy");
        std::fs::write(&path, &file).unwrap();
        let summary = verify_snapshot(&RealVfs, &path).unwrap();
        assert_eq!(summary.description(), taken);
        let mut nowhere = taken.last_included;
        nowhere.index = LogIndex(1);
        assert_eq!(raft.read_snapshot(nowhere, 0, 1).await.unwrap(), None);
        group.stop().await;
    });
}

#[test]
fn a_log_without_the_snapshot_before_it_gets_one_from_a_peer() {
    run(async {
        let mut group = Group::start(ApplyOn::OwnThread, eager(), &Toll::free()).await;
        let victim = leave_behind(&mut group, 3, 10).await % 3 + 1;
        group.shut_down(victim).await;
        let removed = remove_snapshots(&group.home().join(victim.to_string()));
        assert!(removed > 0, "there was one");
        group.boot(victim);
        group.agree().await;
        let status = group.status(victim).await;
        assert_eq!(status.lost_snapshot, None, "it is replaced");
        assert!(status.snapshots.installed > 0);
        group.stop().await;
    });
}

fn remove_snapshots(data: &Path) -> usize {
    let mut removed = 0;
    for file in std::fs::read_dir(data.join("snapshots-0")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
        removed += 1;
    }
    removed
}
