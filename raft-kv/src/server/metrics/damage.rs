//! What is damaged, healed, looked for, and not equal to what others have.

use raft_node::Metrics;

use super::page::Page;

pub(super) fn write(page: &mut Page, raft: &Metrics) {
    page.counter(
        "raft_damaged_entries_total",
        "Entries that turned out to be damaged on the disk.",
        raft.entries_lost,
    );
    page.counter(
        "raft_healed_entries_total",
        "Entries among them whose content came back from peers.",
        raft.entries_healed,
    );
    page.counter(
        "raft_damaged_snapshots_total",
        "Snapshots that turned out to be damaged.",
        raft.snapshots_lost,
    );
    page.counter(
        "raft_healing_snapshots_total",
        "Snapshots that took the place of what was damaged.",
        raft.snapshots_healed,
    );
    page.gauge(
        "raft_damaged",
        "1 while something is damaged and not healed.",
        u64::from(raft.is_damaged),
    );
    page.gauge(
        "raft_uncounted",
        "1 while the node counts for nothing, because it does not know what it has promised.",
        u64::from(raft.is_uncounted),
    );
    page.counter(
        "raft_scrub_bytes_total",
        "Bytes of sealed segments and snapshots that were read to find rot.",
        raft.scrubbed_bytes,
    );
    page.counter(
        "raft_scrub_findings_total",
        "Damage that was found so.",
        raft.scrub_findings,
    );
    page.counter(
        "raft_replica_comparisons_total",
        "Comparisons of replicas that ended.",
        raft.comparisons,
    );
    page.counter(
        "raft_replica_differences_total",
        "Differences between replicas that were found so; each is named in an error line.",
        raft.replica_differences,
    );
}
