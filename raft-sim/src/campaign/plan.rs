//! A plan: the world of a seed and the faults that will happen in it, drawn before it begins.
//!
//! Every kind of fault draws from a stream of its own, so that a plan without one kind, or without
//! one fault, has all the others at the same times. That is what lets a failing plan be shrunk.

use std::time::Duration;

use raft_core::ENTRY_OVERHEAD_BYTES;
use raft_log::LogOptions;
use raft_node::{ComparisonPolicy, SnapshotPolicy};

use super::fault::Fault;
use super::fault_kind::FaultKind;
use crate::options::{
    Capacity, ClockOptions, ClusterOptions, Damage, LateReplies, Latency, LinkOptions, Replays,
    StorageRates, Transport,
};
use crate::random::{Random, Stream};
use crate::trace::TraceDepth;

/// How long there is trouble, in milliseconds.
pub const TROUBLE_MS: u64 = 10_000;
/// Streams of the plan itself come after those of the kinds of faults.
const STREAM_WORLD: u64 = 1_000;
/// The stream that chooses whether and how often replicas are compared.
const STREAM_COMPARISON: u64 = 1_002;
/// The stream that chooses how often the use of disks damages them.
const STREAM_STORAGE: u64 = 1_003;
/// The stream that chooses when snapshots are taken.
const STREAM_SNAPSHOTS: u64 = 1_001;
/// The stream from which processes are started again.
pub(super) const STREAM_RESTARTS: u64 = 2_000;
/// The stream that chooses the core of the liveness mode.
pub(super) const STREAM_CORE: u64 = 3_000;
/// How long nothing goes wrong to begin with, in milliseconds.
const CALM_MS: u64 = 800;
/// What a leader takes on in a world with tight limits, in bytes: a few dozen commands of the
/// workloads, and the largest of them.
const TIGHT_BYTES: u64 = 4 << 10;
/// Fewest kinds of fault that a plan has.
const KINDS_MIN: usize = 3;

/// What follows the trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A random core of at least a quorum is healed, everything else stays as it is.
    Core,
    /// Everybody who has not found damage is healed. If too few are left to go on, that is the end,
    /// as long as those who stopped have said why.
    Survivors,
    /// Everybody is healed: who the voters are depends on what was committed.
    Everybody,
    /// A partition stays for good; whoever has two-way links to a quorum must go on.
    LastingPartition,
}

/// The sizes of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct World {
    /// Number of nodes.
    pub nodes: u64,
    /// Links between nodes.
    pub links: LinkOptions,
    /// Links to clients.
    pub client_links: LinkOptions,
    /// What messages travel on.
    pub transport: Transport,
    /// Drift of clocks, in millionths.
    pub drift_ppm_max: u64,
    /// Appends of one entry, two on the way.
    pub small_messages: bool,
    /// No memory to speak of: everything is read back from disk.
    pub small_buffers: bool,
    /// Little may wait: proposals, reads, work of the applier.
    pub tight_limits: bool,
    /// Segments of 64 KiB.
    pub small_segments: bool,
    /// Longest time that a restore takes, in milliseconds.
    pub restore_ms_max: u64,
    /// How many nodes begin with the oldest version of the protocol.
    pub old_versions: u64,
    /// Nodes that wait to be members.
    pub spares: u64,
    /// How often leaders have the replicas compared, in milliseconds, if at all.
    pub compare_every_ms: Option<u64>,
    /// When nodes take snapshots; `None` for the defaults, under which they hardly ever do.
    pub snapshots: Option<SnapshotSizes>,
}

/// When nodes take snapshots, how much they keep, and in which pieces snapshots move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotSizes {
    /// After so many entries.
    pub every_entries: u64,
    /// Pause between two, in milliseconds.
    pub pause_ms: u64,
    /// Entries kept behind them.
    pub keep_entries: u64,
    /// Bytes kept for followers in contact.
    pub retained_bytes: u64,
    /// Parts of a cut, in bytes.
    pub part_bytes: usize,
    /// Parts of a transfer, in bytes.
    pub fetch_part_bytes: u32,
}

/// A seed's world, faults and load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Everything random follows from it.
    pub seed: u64,
    /// The world.
    pub world: World,
    /// When, in milliseconds, and what.
    pub faults: Vec<(u64, Fault)>,
    /// How many clients there are.
    pub clients: u64,
    /// How many operations each client makes at most.
    pub operations_max: u64,
    /// How long there is trouble, in milliseconds.
    pub trouble_ms: u64,
    /// What follows it.
    pub ending: Ending,
    /// How often the use of disks damages them.
    pub storage: StorageRates,
}

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let mut random = Random::stream(seed, Stream::Nemesis(STREAM_WORLD));
        let ending = match random.below(4) {
            0 => Ending::LastingPartition,
            _ => Ending::Core,
        };
        let mut world = World::draw(&mut random);
        let mut random_sizes = Random::stream(seed, Stream::Nemesis(STREAM_SNAPSHOTS));
        if random_sizes.per_mille(700) {
            world.snapshots = Some(SnapshotSizes::draw(&mut random_sizes));
        }
        world.restore_ms_max = *random_sizes.pick(&[1, 1, 100, 1_500]);
        if random_sizes.per_mille(300) {
            world.old_versions = random_sizes.between(1, world.nodes);
        }
        world.tight_limits = random_sizes.per_mille(300);
        let mut random_comparison = Random::stream(seed, Stream::Nemesis(STREAM_COMPARISON));
        if random_comparison.per_mille(400) {
            world.compare_every_ms = Some(*random_comparison.pick(&[1_000, 3_000]));
        }
        let kinds = draw_kinds(&mut random);
        let faults = draw_faults(seed, &kinds);
        let ending = if kinds.iter().any(|kind| kind.changes_members()) {
            Ending::Everybody
        } else {
            ending
        };
        if kinds.contains(&FaultKind::Replace) || kinds.contains(&FaultKind::TryLearner) {
            world.spares = 1;
        }
        Self {
            seed,
            world,
            faults,
            clients: random.between(4, 8),
            operations_max: u64::MAX,
            trouble_ms: TROUBLE_MS,
            ending,
            storage: StorageRates::NONE,
        }
    }

    /// A plan of this seed in which more disks are damaged than a cluster can bear. It must then stop
    /// and say so; it must not lose silently what it has acknowledged.
    #[must_use]
    pub fn draw_beyond_atlas(seed: u64) -> Self {
        let mut plan = Self::draw(seed);
        let mut random = Random::stream(seed, Stream::Nemesis(STREAM_WORLD));
        let kinds: Vec<_> = draw_kinds(&mut random)
            .into_iter()
            .filter(|kind| !kind.changes_members() && kind.goes_with(FaultKind::ChangeVoters))
            .filter(|kind| *kind != FaultKind::Crash)
            .chain([FaultKind::Corrupt, FaultKind::Crash])
            .collect();
        plan.faults = draw_faults(seed, &kinds);
        plan.ending = Ending::Survivors;
        plan.world.spares = 0;
        plan
    }

    /// A plan of this seed in which disks are as bad as TigerBeetle's simulator makes them: up to a
    /// tenth of all reads, and of all writes, leave damage, up to a tenth of all writes go astray,
    /// power cuts tear, and reads and writes fail besides. As many disks as may be, no more.
    #[must_use]
    pub fn draw_bad_disks(seed: u64) -> Self {
        let mut plan = Self::draw(seed);
        let mut random = Random::stream(seed, Stream::Nemesis(STREAM_WORLD));
        let kinds: Vec<_> = draw_kinds(&mut random)
            .into_iter()
            .filter(|kind| !kind.changes_members())
            .filter(|kind| ![FaultKind::Crash, FaultKind::FailingDisk].contains(kind))
            .chain([FaultKind::Crash, FaultKind::FailingDisk])
            .collect();
        plan.faults = draw_faults(seed, &kinds);
        if plan.ending == Ending::Everybody {
            plan.ending = Ending::Core;
        }
        plan.world.spares = 0;
        let mut random = Random::stream(seed, Stream::Nemesis(STREAM_STORAGE));
        plan.storage = StorageRates {
            reads_rot_per_mille: *random.pick(&[0, 10, 100]),
            writes_rot_per_mille: *random.pick(&[1, 10, 100]),
            writes_stray_per_mille: *random.pick(&[0, 10, 100]),
        };
        plan
    }

    /// Options of its cluster.
    pub(super) fn options(&self, trace: TraceDepth) -> ClusterOptions {
        let world = &self.world;
        let mut options = ClusterOptions::new(world.nodes).seed(self.seed);
        options.links = world.links;
        options.client_links = world.client_links;
        options.transport = world.transport;
        options.spares = world.spares;
        if self.ending == Ending::Survivors {
            options.damage = Damage::BeyondAtlas;
        }
        options.storage = self.storage;
        options.old_versions = world.old_versions;
        options.process.restore = Latency::us(50, world.restore_ms_max * 1_000);
        options.clock = ClockOptions {
            drift_ppm_max: world.drift_ppm_max,
        };
        if world.tight_limits {
            tighten(&mut options);
        }
        if world.small_messages || world.tight_limits {
            options.core.max_append_bytes = 1;
            options.core.max_inflight_messages = 2;
        }
        if world.small_buffers {
            options.limits.entry_buffer_bytes = 1;
            options.limits.max_apply_bytes = 1;
        }
        if world.small_segments {
            options.log = LogOptions::small();
        }
        options.limits.comparison = ComparisonPolicy {
            interval: world.compare_every_ms.map(Duration::from_millis),
            // Several reads a comparison, of a log that is small.
            bytes_per_second: 100_000,
            patience: Duration::from_secs(2),
        };
        if let Some(sizes) = world.snapshots {
            options.limits.snapshots = sizes.policy();
        }
        options.trace = trace;
        options
    }

    /// When the first fault happens, in milliseconds; the end of the trouble if there is none.
    #[must_use]
    pub fn first_fault_ms(&self) -> u64 {
        let first = self.faults.iter().map(|(at, _)| *at).min();
        first.unwrap_or(self.trouble_ms)
    }
}

impl World {
    fn draw(random: &mut Random) -> Self {
        let links = draw_links(random);
        Self {
            nodes: *random.pick(&[3, 3, 3, 3, 5, 5, 5, 4, 7, 2]),
            client_links: if random.per_mille(300) {
                links
            } else {
                LinkOptions::reliable()
            },
            links,
            transport: *random.pick(&[Transport::Connections, Transport::Datagrams]),
            drift_ppm_max: *random.pick(&[0, 100, 10_000, 100_000]),
            small_messages: random.per_mille(300),
            small_buffers: random.per_mille(300),
            tight_limits: false,
            small_segments: random.per_mille(250),
            restore_ms_max: 1,
            old_versions: 0,
            spares: 0,
            compare_every_ms: None,
            snapshots: None,
        }
    }
}

impl SnapshotSizes {
    fn draw(random: &mut Random) -> Self {
        Self {
            every_entries: *random.pick(&[5, 50, 500]),
            pause_ms: *random.pick(&[0, 200]),
            keep_entries: *random.pick(&[0, 10]),
            // Nobody is waited for, or everybody in contact.
            retained_bytes: *random.pick(&[0, 1 << 30]),
            part_bytes: *random.pick(&[1, 10, 1 << 10]),
            fetch_part_bytes: *random.pick(&[64, 32 << 10]),
        }
    }

    fn policy(self) -> SnapshotPolicy {
        SnapshotPolicy {
            max_log_entries: self.every_entries,
            min_pause: Duration::from_millis(self.pause_ms),
            keep_entries: self.keep_entries,
            max_retained_bytes: self.retained_bytes,
            part_bytes: self.part_bytes,
            fetch_part_bytes: self.fetch_part_bytes,
            ..SnapshotPolicy::default()
        }
    }
}

/// Leaves room for what clients do one by one, and not for a flood.
fn tighten(options: &mut ClusterOptions) {
    options.core.max_uncommitted_bytes = TIGHT_BYTES;
    options.core.max_entry_bytes = (TIGHT_BYTES - ENTRY_OVERHEAD_BYTES) as u32;
    options.core.max_pending_reads = 8;
    options.limits.max_waiting_proposals = 64;
    options.limits.max_waiting_reads = 16;
    options.limits.max_apply_bytes = 1 << 10;
    options.limits.entry_buffer_bytes = 1 << 10;
}

fn draw_links(random: &mut Random) -> LinkOptions {
    let slowest_us = *random.pick(&[1_000, 5_000, 40_000]);
    let (loss, late) = (*random.pick(&[10, 50, 100]), *random.pick(&[50, 200, 667]));
    let mut links = LinkOptions::reliable();
    match random.below(10) {
        0..4 => {}
        4..7 => links.latency = Latency::us(200, slowest_us),
        7..9 => {
            links = LinkOptions::unreliable();
            links.request_loss_per_mille = loss;
            links.reply_loss_per_mille = loss;
        }
        _ => {
            links = LinkOptions::unreliable().with_long_reordering();
            links.late_replies = links.late_replies.map(|replies| LateReplies {
                per_mille: late,
                ..replies
            });
        }
    }
    if random.per_mille(400) {
        links.duplicates_per_mille = *random.pick(&[10, 200]);
    }
    if random.per_mille(400) {
        links.replays = Some(Replays {
            per_mille: *random.pick(&[5, 50]),
            latency: Latency::ms(10, 8_000),
        });
    }
    if random.per_mille(250) {
        links.capacity = Some(Capacity {
            bytes_per_ms: *random.pick(&[50, 500, 5_000]),
            bulk_bytes_per_ms: *random.pick(&[10, 1_000]),
            queue_bytes: *random.pick(&[2_000, 50_000]),
        });
    }
    links
}

/// Some kinds of fault that go with each other.
fn draw_kinds(random: &mut Random) -> Vec<FaultKind> {
    let mut kinds = FaultKind::ALL.to_vec();
    random.shuffle(&mut kinds);
    let count = random.between(KINDS_MIN as u64 + 1, 7) as usize;
    let mut chosen: Vec<FaultKind> = Vec::new();
    for kind in kinds {
        if chosen.len() < count && chosen.iter().all(|other| kind.goes_with(*other)) {
            chosen.push(kind);
        }
    }
    chosen
}

/// Faults of these kinds, each at its own rate, all in the order of time.
fn draw_faults(seed: u64, chosen: &[FaultKind]) -> Vec<(u64, Fault)> {
    let mut faults = Vec::new();
    for kind in chosen {
        let number = FaultKind::ALL.iter().position(|other| other == kind);
        let number = number.unwrap_or_default() as u64;
        let mut random = Random::stream(seed, Stream::Nemesis(number));
        let pause_ms_max = *random.pick(&[2_500, 6_000, 12_000]);
        // A short calm first, so that the cluster has something to lose.
        let mut at = CALM_MS + random.below(pause_ms_max.min(TROUBLE_MS - CALM_MS));
        // Every kind that is chosen happens at least once.
        faults.push((at, kind.draw(&mut random)));
        while at < TROUBLE_MS {
            at += random.between(20, pause_ms_max);
            faults.push((at, kind.draw(&mut random)));
        }
    }
    faults.retain(|(at, _)| *at < TROUBLE_MS);
    faults.sort_by_key(|(at, _)| *at);
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_repeatable_differ_and_have_at_least_three_kinds_of_fault() {
        assert_eq!(Plan::draw(7), Plan::draw(7));
        assert_ne!(Plan::draw(7), Plan::draw(8));
        let mut few = 0;
        for seed in 0..500 {
            let plan = Plan::draw(seed);
            let kinds: std::collections::BTreeSet<_> =
                plan.faults.iter().map(|(_, fault)| fault.name()).collect();
            few += u32::from(kinds.len() < KINDS_MIN);
            assert!(plan.faults.is_sorted_by_key(|(at, _)| *at));
            assert!(plan.faults.iter().all(|(at, _)| *at < TROUBLE_MS));
        }
        assert_eq!(few, 0, "plans with too few kinds");
    }
}
