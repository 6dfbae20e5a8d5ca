//! Snapshots while either end crashes: at every effect of a transfer, and at every operation of the
//! disk while one is saved, received and installed. Whatever a crash leaves, nobody starts from, serves
//! or installs a snapshot that is not whole: no start may find damage, the states that follow are
//! compared entry by entry, and everybody comes to have everything.

use std::time::Duration;

use bytes::Bytes;
use raft_node::{Applied, Small, SmallState, SnapshotPolicy};
use raft_proto::{LogIndex, NodeId};
use raft_sim::{Cluster, ClusterOptions, CrashKind, Mark};

/// Who is left behind, and gets a snapshot.
const BEHIND: NodeId = NodeId(3);
/// Bytes of a command; each stays in the state.
const COMMAND_BYTES: usize = 200;
/// Long enough for anything, in virtual milliseconds.
const PATIENCE_MS: u64 = 60_000;
/// A transfer has fewer effects, a save or an installation fewer operations.
const STEPS_MAX: u64 = 2_000;

/// All commands, one after the other.
#[derive(Default)]
struct Tape(Vec<u8>);

impl SmallState for Tape {
    fn apply(&mut self, applied: Applied<'_>) -> Bytes {
        self.0.extend_from_slice(applied.command);
        Bytes::new()
    }

    fn query(&mut self, _query: &Bytes) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }

    fn save(&self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }

    fn load(&mut self, saved: &[u8]) -> std::io::Result<()> {
        if !saved.len().is_multiple_of(COMMAND_BYTES) {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        self.0 = saved.to_vec();
        Ok(())
    }
}

/// Three nodes with a leader that is not the one to be left behind.
fn cluster(seed: u64) -> Cluster {
    let mut options = ClusterOptions::new(3).seed(seed);
    options.limits.snapshots = SnapshotPolicy {
        // Only when asked.
        max_log_entries: u64::MAX,
        keep_entries: 0,
        max_retained_bytes: 0,
        min_pause: Duration::ZERO,
        part_bytes: 500,
        fetch_part_bytes: 1 << 10,
        ..SnapshotPolicy::default()
    };
    let mut cluster = Cluster::new(options, |_| Small::boxed(Tape::default()));
    assert!(cluster.run_until(PATIENCE_MS, |cluster| cluster.leader().is_some()));
    cluster.run_for_ms(1_000);
    if cluster.leader() == Some(BEHIND) {
        let _ = cluster.transfer_leadership(BEHIND, NodeId(1));
        let moved = |cluster: &Cluster| cluster.leader() == Some(NodeId(1));
        assert!(cluster.run_until(PATIENCE_MS, moved));
    }
    write(&mut cluster, 5);
    cluster
}

/// Whoever leads takes so many commands; waits until it has applied them.
fn write(cluster: &mut Cluster, count: u8) {
    for number in 0..count {
        let before = cluster.last_applied();
        let tried = |cluster: &mut Cluster| {
            let leader = cluster.leader()?;
            let command = Bytes::from(vec![number; COMMAND_BYTES]);
            cluster.propose(leader, command).ok()
        };
        while cluster.last_applied() == before {
            assert!(
                cluster.now().as_ms() < 10 * PATIENCE_MS,
                "nobody takes commands"
            );
            let _ = tried(cluster);
            cluster.run_until(1_000, |cluster| cluster.last_applied() > before);
        }
    }
}

/// Node 3 is stopped, the others go on and have snapshots for all of it only; the leader.
fn leave_behind(cluster: &mut Cluster) -> NodeId {
    cluster.crash_by(BEHIND, CrashKind::Killed);
    write(cluster, 20);
    let last = cluster.last_applied();
    let others = [NodeId(1), NodeId(2)];
    for node in others {
        let has_all = move |cluster: &Cluster| cluster.applied_index(node) >= last;
        assert!(cluster.run_until(PATIENCE_MS, has_all), "{node} applies");
        cluster.take_snapshot(node);
        let is_compact = move |cluster: &Cluster| {
            let core = cluster.core(node);
            core.is_some_and(|core| core.base_position().index >= last)
        };
        assert!(
            cluster.run_until(PATIENCE_MS, is_compact),
            "{node} compacts"
        );
    }
    cluster.leader().expect("two of three have a leader")
}

fn has_all(cluster: &Cluster, last: LogIndex) -> bool {
    cluster
        .node_ids()
        .iter()
        .all(|node| cluster.applied_index(*node) >= last)
}

/// Everybody comes to have everything, nobody has met damage, and the cluster goes on.
fn check_whole(cluster: &mut Cluster, name: &str) {
    let last = cluster.last_applied();
    assert!(
        cluster.run_until(PATIENCE_MS, |cluster| has_all(cluster, last)),
        "{name}: not everybody comes to have entry {last}"
    );
    let marks = &cluster.tally().marks;
    assert!(!marks.contains_key(&Mark::DamageReported), "{name}: damage");
    write(cluster, 1);
}

/// Ends the process of `target` (node 3, or whoever leads) at every effect, from the start of node 3 on
/// until it has its snapshot.
fn crash_at_every_effect(kind: CrashKind, end: End) {
    let mut crashed = 0;
    for effect in 0..STEPS_MAX {
        let mut cluster = cluster(1 + effect % 7);
        let leader = leave_behind(&mut cluster);
        let last = cluster.last_applied();
        let target = match end {
            End::Receiver => BEHIND,
            End::Sender => leader,
        };
        cluster.restart(BEHIND);
        cluster.crash_at_effect(target, effect, kind);
        let ended = |cluster: &Cluster| !cluster.is_running(target) || has_all(cluster, last);
        assert!(cluster.run_until(PATIENCE_MS, ended), "effect {effect}");
        let has_crashed = !cluster.is_running(target);
        cluster.crash_at_effect(target, u64::MAX, kind);
        if has_crashed {
            crashed += 1;
            // What was counted of the transfer is gone on with, by either side.
            cluster.restart(target);
        }
        check_whole(&mut cluster, &format!("{end:?}, {kind:?}, effect {effect}"));
        let core = cluster.core(BEHIND);
        let base = core.map(|core| core.base_position().index);
        assert!(base >= Some(last), "effect {effect}: it got no snapshot");
        if !has_crashed {
            assert!(crashed > 15, "{crashed} crashes: the transfer has parts");
            return;
        }
    }
    panic!("the transfer ends");
}

#[derive(Clone, Copy, Debug)]
enum End {
    Receiver,
    Sender,
}

#[test]
fn a_transfer_whose_receiver_loses_power_at_any_effect_is_gone_on_with() {
    crash_at_every_effect(CrashKind::PowerCut, End::Receiver);
}

#[test]
fn a_transfer_whose_receiver_is_killed_at_any_effect_is_gone_on_with() {
    crash_at_every_effect(CrashKind::Killed, End::Receiver);
}

#[test]
fn a_transfer_whose_sender_loses_power_at_any_effect_is_gone_on_with() {
    crash_at_every_effect(CrashKind::PowerCut, End::Sender);
}

#[test]
fn a_transfer_whose_sender_is_killed_at_any_effect_is_gone_on_with() {
    crash_at_every_effect(CrashKind::Killed, End::Sender);
}

/// Runs until the power of a node fails at its operation of that number, or the node is done.
fn run_to_cut(cluster: &mut Cluster, node: NodeId, done: impl Fn(&Cluster) -> bool) -> bool {
    let end = cluster.now().plus_ms(PATIENCE_MS);
    while cluster.now() < end {
        // One event, as a rule.
        cluster.run_for_ms(0);
        // A process that stops at an error has done nothing since, either.
        if cluster.power_has_failed(node) || !cluster.is_running(node) {
            cluster.cut_power(node);
            return true;
        }
        if done(cluster) {
            cluster.calm_disk(node);
            return false;
        }
        let next = std::cell::Cell::new(0);
        cluster.run_until(10, |_| {
            next.set(next.get() + 1);
            next.get() > 1
        });
    }
    panic!("neither is it done, nor has the power failed");
}

#[test]
fn a_save_whose_power_fails_at_any_operation_leaves_the_old_or_the_new() {
    for operation in 0..STEPS_MAX {
        let mut cluster = cluster(1 + operation % 7);
        let node = NodeId(2);
        let old = cluster.last_applied();
        let has_old = move |cluster: &Cluster| cluster.applied_index(node) >= old;
        assert!(cluster.run_until(PATIENCE_MS, has_old));
        cluster.take_snapshot(node);
        let saved = move |cluster: &Cluster| cluster.snapshot_index(node) >= old;
        assert!(cluster.run_until(PATIENCE_MS, saved));
        let old = cluster.snapshot_index(node);
        write(&mut cluster, 20);
        let new = cluster.last_applied();
        let applied = move |cluster: &Cluster| cluster.applied_index(node) >= new;
        assert!(cluster.run_until(PATIENCE_MS, applied));
        cluster.cut_power_after(node, operation);
        cluster.take_snapshot(node);
        let compacted = move |cluster: &Cluster| {
            let core = cluster.core(node);
            core.is_some_and(|core| core.base_position().index >= new)
        };
        let has_failed = run_to_cut(&mut cluster, node, compacted);
        if has_failed {
            cluster.restart(node);
            let found = cluster.snapshot_index(node);
            assert!(
                found == old || found >= new,
                "operation {operation}: {found}"
            );
        }
        check_whole(&mut cluster, &format!("operation {operation} of a save"));
        if !has_failed {
            assert!(operation > 8, "{operation} operations are no save");
            return;
        }
    }
    panic!("the save ends");
}

#[test]
fn an_installation_whose_power_fails_at_any_operation_is_made_or_made_again() {
    for operation in 0..STEPS_MAX {
        let mut cluster = cluster(1 + operation % 7);
        leave_behind(&mut cluster);
        let last = cluster.last_applied();
        cluster.restart(BEHIND);
        cluster.cut_power_after(BEHIND, operation);
        let installed = move |cluster: &Cluster| cluster.applied_index(BEHIND) >= last;
        let has_failed = run_to_cut(&mut cluster, BEHIND, installed);
        if has_failed {
            cluster.restart(BEHIND);
        }
        check_whole(
            &mut cluster,
            &format!("operation {operation} of an installation"),
        );
        if !has_failed {
            assert!(operation > 8, "{operation} operations are no installation");
            return;
        }
    }
    panic!("the installation ends");
}
