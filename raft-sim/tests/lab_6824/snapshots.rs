//! Snapshots (2D): the service takes one every ten commands, and the log must stay short.

use std::time::Duration;

use raft_core::IndexRange;
use raft_node::SnapshotPolicy;
use raft_proto::{LogIndex, NodeId};
use raft_sim::{ClusterOptions, LinkOptions, Mark};

use crate::harness::{Lab, Retry, for_seeds};

/// The lab's interval between two snapshots, in entries.
const INTERVAL: u64 = 10;
/// The lab's bound for a log without its snapshot, in bytes.
const MAX_LOG_BYTES: u64 = 2_000;
/// How soon a log must be short after the last command, in milliseconds: a few disk writes.
const COMPACTION_MS: u64 = 100;

/// What the lab does to the victim of each round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    Disconnect,
    Crash,
}

/// Three servers that keep nothing behind a snapshot, and wait for nobody.
fn lab(seed: u64, links: LinkOptions) -> Lab {
    let mut options = ClusterOptions::new(3).seed(seed).links(links);
    options.limits.snapshots = SnapshotPolicy {
        max_log_entries: INTERVAL,
        min_pause: Duration::ZERO,
        keep_entries: 0,
        max_retained_bytes: 0,
        ..SnapshotPolicy::default()
    };
    Lab::with_options(options)
}

/// Bytes of the entries in a node's log.
fn log_bytes(lab: &Lab, node: NodeId) -> u64 {
    let core = lab.cluster.core(node).expect("it runs");
    let first = core.base_position().index.next();
    let range = IndexRange::new(first, core.last_position().index);
    range.map_or(0, |range| core.log_bytes(range))
}

/// All running, connected servers have short logs, now or soon.
fn check_log_sizes(lab: &mut Lab) {
    lab.run_ms(COMPACTION_MS);
    for node in lab.nodes.clone() {
        if lab.cluster.is_running(node) && lab.cluster.is_connected(node) {
            let bytes = log_bytes(lab, node);
            assert!(bytes < MAX_LOG_BYTES, "the log of {node} has {bytes} bytes");
        }
    }
}

/// The lab's `snapcommon`.
fn snapshots_under(trouble: Trouble, links: LinkOptions, seed: u64) {
    let mut lab = lab(seed, links);
    let servers = lab.nodes.len();
    lab.one(servers, Retry::Yes);
    let mut leader = lab.check_one_leader();
    for round in 0..30 {
        let (victim, sender) = match round % 3 {
            1 => (leader, lab.after(leader, 1)),
            _ => (lab.after(leader, 1), leader),
        };
        match trouble {
            Trouble::None => {}
            Trouble::Disconnect => lab.disconnect([victim]),
            Trouble::Crash => lab.cluster.crash(victim),
        }
        if trouble != Trouble::None {
            lab.one(servers - 1, Retry::Yes);
        }
        let count = INTERVAL / 2 + lab.cluster.random().below(INTERVAL);
        for _ in 0..count {
            lab.start(sender);
        }
        let reached = match trouble {
            Trouble::None => servers,
            Trouble::Disconnect | Trouble::Crash => servers - 1,
        };
        lab.one(reached, Retry::Yes);
        check_log_sizes(&mut lab);
        match trouble {
            Trouble::None => continue,
            // It needs entries that the others have given up.
            Trouble::Disconnect => lab.connect([victim]),
            Trouble::Crash => lab.cluster.restart(victim),
        }
        lab.one(servers, Retry::Yes);
        leader = lab.check_one_leader();
    }
    let covered = lab
        .nodes
        .iter()
        .map(|node| lab.cluster.snapshot_index(*node));
    assert!(covered.min() > Some(LogIndex(100)), "snapshots were taken");
    let installed = lab.cluster.tally().marks.get(&Mark::SnapshotInstalled);
    let is_needed = trouble != Trouble::None;
    assert!(
        installed.is_some() || !is_needed,
        "snapshots were installed"
    );
}

#[test]
fn snapshot_basic() {
    for_seeds(10, |seed| {
        snapshots_under(Trouble::None, LinkOptions::reliable(), seed);
    });
}

#[test]
fn snapshot_install() {
    for_seeds(10, |seed| {
        snapshots_under(Trouble::Disconnect, LinkOptions::reliable(), seed);
    });
}

#[test]
fn snapshot_install_unreliable() {
    for_seeds(10, |seed| {
        snapshots_under(Trouble::Disconnect, LinkOptions::unreliable(), seed);
    });
}

#[test]
fn snapshot_install_crash() {
    for_seeds(10, |seed| {
        snapshots_under(Trouble::Crash, LinkOptions::reliable(), seed);
    });
}

#[test]
fn snapshot_install_unreliable_crash() {
    for_seeds(10, |seed| {
        snapshots_under(Trouble::Crash, LinkOptions::unreliable(), seed);
    });
}

fn restart_all(lab: &mut Lab) {
    for node in lab.nodes.clone() {
        lab.cluster.crash(node);
    }
    for node in lab.nodes.clone() {
        lab.cluster.restart(node);
    }
}

#[test]
fn snapshot_all_crash() {
    for_seeds(10, |seed| {
        let mut lab = lab(seed, LinkOptions::reliable());
        let servers = lab.nodes.len();
        lab.one(servers, Retry::Yes);
        for _ in 0..5 {
            let count = INTERVAL / 2 + lab.cluster.random().below(INTERVAL);
            for _ in 0..count {
                lab.one(servers, Retry::Yes);
            }
            let before = lab.one(servers, Retry::Yes);
            restart_all(&mut lab);
            let after = lab.one(servers, Retry::Yes);
            assert!(after > before, "{after} follows {before}");
        }
    });
}

/// What was snapshotted is there after a second restart, too: the first one must not write its
/// snapshot's position anew from nothing.
#[test]
fn snapshot_init() {
    for_seeds(10, |seed| {
        let mut lab = lab(seed, LinkOptions::reliable());
        let servers = lab.nodes.len();
        for _ in 0..=INTERVAL {
            lab.one(servers, Retry::Yes);
        }
        check_log_sizes(&mut lab);
        let taken = lab
            .nodes
            .iter()
            .all(|node| lab.cluster.snapshot_index(*node) > LogIndex::ZERO);
        assert!(taken, "every server has a snapshot");
        restart_all(&mut lab);
        lab.one(servers, Retry::Yes);
        restart_all(&mut lab);
        lab.one(servers, Retry::Yes);
    });
}
