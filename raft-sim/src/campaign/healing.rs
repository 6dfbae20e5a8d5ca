//! What became of damage: how much of it nodes noticed, and how much came back from their peers.

use std::collections::BTreeMap;

use raft_node::driver::RepairCounts;
use raft_proto::NodeId;

use crate::cluster::Cluster;

/// Looks at nodes again and again, because what they count goes with their processes.
#[derive(Default)]
pub(super) struct Healing {
    seen: BTreeMap<NodeId, Seen>,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    life: u64,
    counts: RepairCounts,
    is_uncounted: bool,
}

impl Healing {
    /// Adds what has happened since the last time to the cluster's tally.
    pub(super) fn look(&mut self, cluster: &mut Cluster) {
        for node in cluster.node_ids() {
            let (Some((life, counts)), Some(core)) =
                (cluster.repair_counts(node), cluster.core(node))
            else {
                continue;
            };
            let is_uncounted = core.is_uncounted();
            let before = self.seen.get(&node).copied().unwrap_or_default();
            let before = if before.life == life {
                before
            } else {
                Seen::default()
            };
            let now = Seen {
                life,
                counts,
                is_uncounted,
            };
            self.seen.insert(node, now);
            let was = before.counts;
            cluster.count_repairs(
                "entries-found-damaged",
                counts.entries_lost - was.entries_lost,
            );
            cluster.count_repairs("entries-healed", counts.entries_healed - was.entries_healed);
            let snapshots = counts.snapshots_lost - was.snapshots_lost;
            cluster.count_repairs("snapshots-found-damaged", snapshots);
            let snapshots = counts.snapshots_healed - was.snapshots_healed;
            cluster.count_repairs("snapshots-healed", snapshots);
            let begins = is_uncounted && !before.is_uncounted;
            cluster.count_repairs("starts-without-knowing-the-end", u64::from(begins));
            let ends = before.is_uncounted && !is_uncounted;
            cluster.count_repairs("nodes-counted-again", u64::from(ends));
        }
    }

    /// Adds what is still to be healed at the end of a run.
    pub(super) fn end(mut self, cluster: &mut Cluster) {
        self.look(cluster);
        for node in cluster.node_ids() {
            let missing = cluster.core(node).map_or(0, |core| {
                core.missing().map(|range| range.count()).sum::<u64>()
            });
            cluster.count_repairs("entries-missing-at-the-end", missing);
        }
    }
}
