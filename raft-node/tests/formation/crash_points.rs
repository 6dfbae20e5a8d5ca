//! Every node crashes, or loses its directory, at every write of a forming cluster.

use raft_node::formation::RETRY_MS;
use raft_proto::NodeId;

use crate::world::{World, n};

/// What befalls a node at one of its writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The write never reaches the disk.
    CrashBefore,
    /// It does, and the node dies before it hears of it.
    CrashAfter,
    /// The node is told, and its directory is emptied right after.
    Wipe,
}

/// Runs in order; `victim` meets `fate` at its write number `at`. Returns whether it came to that.
fn run_until(world: &mut World, victim: NodeId, at: usize, fate: Fate) -> bool {
    let mut writes = 0;
    for _ in 0..40 {
        world.connect_all();
        for packet in std::mem::take(&mut world.network) {
            world.deliver(packet);
        }
        for id in world.ids() {
            let Some(process) = world.node(id).process.as_ref() else {
                continue;
            };
            let (record, log) = (process.writing.is_some(), process.log_to_write.is_some());
            writes += usize::from(id == victim && (record || log));
            if id == victim && writes == at + 1 {
                meet(world, id, record, fate);
                return true;
            }
            // One write at a time, so that each is counted.
            if record {
                world.complete_write(id, true);
            } else {
                world.create_log(id, true);
            }
        }
        world.tick(RETRY_MS);
    }
    false
}

fn meet(world: &mut World, id: NodeId, record: bool, fate: Fate) {
    let told = fate == Fate::Wipe;
    match (fate, record) {
        (Fate::CrashBefore, _) => world.crash(id),
        (Fate::CrashAfter | Fate::Wipe, true) => world.complete_write(id, told),
        (Fate::CrashAfter | Fate::Wipe, false) => world.create_log(id, told),
    }
    if fate == Fate::Wipe {
        world.wipe(id);
    }
}

fn try_all(count: u64, fate: Fate, check: impl Fn(&World, NodeId)) -> usize {
    let mut reached = 0;
    for victim in (1..=count).map(n) {
        for at in 0..6 {
            let mut world = World::new(count);
            world.start_all();
            if !run_until(&mut world, victim, at, fate) {
                continue;
            }
            reached += 1;
            world.settle();
            world.assert_one_cluster();
            check(&world, victim);
        }
    }
    reached
}

fn all_formed(world: &World, victim: NodeId) {
    for id in world.ids() {
        assert!(world.cluster(id).is_some(), "{id} after {victim} crashed");
    }
    assert_eq!(world.clusters.len(), 1);
}

#[test]
fn a_crash_before_any_write_is_made_good() {
    // Gatherer: entry, log, log recorded. Voters: promise and the same three.
    assert_eq!(try_all(3, Fate::CrashBefore, all_formed), 3 + 4 + 4);
    assert_eq!(try_all(1, Fate::CrashBefore, all_formed), 3);
}

#[test]
fn a_crash_after_any_write_is_made_good() {
    assert_eq!(try_all(3, Fate::CrashAfter, all_formed), 3 + 4 + 4);
    assert_eq!(try_all(1, Fate::CrashAfter, all_formed), 3);
}

#[test]
fn a_directory_lost_after_any_write_leaves_one_cluster_or_a_refused_node() {
    let reached = try_all(3, Fate::Wipe, |world, victim| {
        let others: Vec<_> = world.ids().into_iter().filter(|id| *id != victim).collect();
        let cluster = world.cluster(others[0]);
        assert!(cluster.is_some(), "{victim} was wiped");
        assert_eq!(world.cluster(others[1]), cluster);
        let node = &world.nodes[&victim];
        let named = &world.clusters[&cluster.unwrap()];
        if named.names(victim, node.disk.incarnation) {
            assert_eq!(world.cluster(victim), cluster);
        } else {
            assert_eq!(world.cluster(victim), None);
            assert!(world.failure(victim).contains("raft-kv member remove"));
        }
    });
    assert_eq!(reached, 3 + 4 + 4);
}
