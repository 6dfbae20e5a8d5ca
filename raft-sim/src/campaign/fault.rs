//! The faults of a plan: what each does, for how long, and what reports call it.

use raft_node::{ChangeSafety, MembershipChange};
use raft_proto::NodeId;

use crate::cluster::{Cluster, CrashKind};
use crate::disk::{Corruption, PagesAfterFailure};
use crate::network::Shape;
use crate::options::{Latency, ProcessOptions};
use crate::random::Random;

/// Whom a fault hits, found out when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Whoever leads; the node of this number if nobody does.
    Leader(u64),
    /// The node of this number, modulo their count.
    Node(u64),
}

impl Target {
    fn draw(random: &mut Random) -> Self {
        let number = random.below(1 << 16);
        if random.per_mille(400) {
            Self::Leader(number)
        } else {
            Self::Node(number)
        }
    }

    fn find(self, cluster: &Cluster) -> NodeId {
        let nodes = cluster.node_ids();
        let numbered = |number: u64| nodes[(number % nodes.len() as u64) as usize];
        match self {
            Self::Leader(otherwise) => cluster.leader().unwrap_or_else(|| numbered(otherwise)),
            Self::Node(number) => numbered(number),
        }
    }
}

/// Something that goes wrong. What lasts ends by itself; processes are started again by the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A process ends.
    Crash(Target, CrashKind),
    /// All processes end.
    CrashAll(CrashKind),
    /// A process ends after so many effects.
    CrashAtEffect(Target, u64, CrashKind),
    /// A process does not run for so many milliseconds.
    Pause(Target, u64),
    /// Links close for so many milliseconds; the number says which.
    Partition(Shape, u64, u64),
    /// What one node sends to another is held back for so many milliseconds.
    Clog(Target, Target, u64),
    /// An operator asks for another leader.
    Transfer(Target),
    /// An operator makes a voter a learner, or a learner a voter.
    ChangeVoters(Target),
    /// No sync ends for so many milliseconds.
    StallDisk(Target, u64),
    /// Writes and syncs take up to so many microseconds, for so many milliseconds.
    SlowDisk(Target, u64, u64),
    /// There is room for so many bytes more, for so many milliseconds.
    FullDisk(Target, u64, u64),
    /// The next sync fails.
    FailSync(Target, PagesAfterFailure),
    /// The next write fails in its middle.
    TearWrite(Target),
    /// So many reads fail.
    FailReads(Target, u32),
    /// Stored bytes change.
    Corrupt(Target, Corruption),
    /// A clock runs at so many nanoseconds in a million, for so many milliseconds.
    ClockRate(Target, u64, u64),
    /// A clock jumps ahead by so many milliseconds.
    ClockStep(Target, u64),
}

/// A fault as a kind, without its particulars: what a swarm switches on and off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// [`Fault::Crash`].
    Crash,
    /// [`Fault::CrashAll`].
    CrashAll,
    /// [`Fault::CrashAtEffect`].
    CrashAtEffect,
    /// [`Fault::Pause`].
    Pause,
    /// [`Fault::Partition`].
    Partition,
    /// [`Fault::Clog`].
    Clog,
    /// [`Fault::Transfer`].
    Transfer,
    /// [`Fault::ChangeVoters`].
    ChangeVoters,
    /// [`Fault::StallDisk`].
    StallDisk,
    /// [`Fault::SlowDisk`].
    SlowDisk,
    /// [`Fault::FullDisk`].
    FullDisk,
    /// [`Fault::FailSync`].
    FailSync,
    /// [`Fault::TearWrite`].
    TearWrite,
    /// [`Fault::FailReads`].
    FailReads,
    /// [`Fault::Corrupt`].
    Corrupt,
    /// [`Fault::ClockRate`].
    ClockRate,
    /// [`Fault::ClockStep`].
    ClockStep,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Crash,
        Self::CrashAll,
        Self::CrashAtEffect,
        Self::Pause,
        Self::Partition,
        Self::Clog,
        Self::Transfer,
        Self::StallDisk,
        Self::SlowDisk,
        Self::FullDisk,
        Self::FailSync,
        Self::TearWrite,
        Self::FailReads,
        Self::Corrupt,
        Self::ClockRate,
        Self::ClockStep,
        Self::ChangeVoters,
    ];

    /// Draws the particulars.
    pub(super) fn draw(self, random: &mut Random) -> Fault {
        let target = Target::draw(random);
        let kind = match random.below(2) {
            0 => CrashKind::PowerCut,
            _ => CrashKind::Killed,
        };
        match self {
            Self::Crash => Fault::Crash(target, kind),
            Self::CrashAll => Fault::CrashAll(kind),
            Self::CrashAtEffect => Fault::CrashAtEffect(target, random.below(40), kind),
            Self::Pause => Fault::Pause(target, *random.pick(&[20, 300, 1_000, 3_000])),
            Self::Partition => {
                let shape = *random.pick(&Shape::ALL);
                Fault::Partition(shape, random.bits(), *random.pick(&[200, 1_000, 3_000]))
            }
            Self::Clog => Fault::Clog(target, Target::draw(random), random.between(50, 2_000)),
            Self::Transfer => Fault::Transfer(target),
            Self::ChangeVoters => Fault::ChangeVoters(target),
            Self::StallDisk => Fault::StallDisk(target, *random.pick(&[300, 2_000, 6_000])),
            Self::SlowDisk => {
                let us = *random.pick(&[5_000, 50_000, 500_000]);
                Fault::SlowDisk(target, us, random.between(500, 4_000))
            }
            Self::FullDisk => {
                let bytes = random.below(300_000);
                Fault::FullDisk(target, bytes, random.between(300, 4_000))
            }
            Self::FailSync => Fault::FailSync(
                target,
                *random.pick(&[PagesAfterFailure::Kept, PagesAfterFailure::Lost]),
            ),
            Self::TearWrite => Fault::TearWrite(target),
            Self::FailReads => Fault::FailReads(target, random.between(1, 3) as u32),
            Self::Corrupt => Fault::Corrupt(
                target,
                *random.pick(&[Corruption::BitRot, Corruption::MisdirectedWrite]),
            ),
            Self::ClockRate => {
                let rate = random.between(500_000, 2_000_000);
                Fault::ClockRate(target, rate, random.between(500, 5_000))
            }
            Self::ClockStep => Fault::ClockStep(target, random.between(1, 3_000)),
        }
    }
}

impl Fault {
    /// What reports call it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Crash(_, CrashKind::PowerCut) => "power-cut",
            Self::Crash(_, CrashKind::Killed) => "kill",
            Self::CrashAll(CrashKind::PowerCut) => "power-cut-of-all",
            Self::CrashAll(CrashKind::Killed) => "kill-of-all",
            Self::CrashAtEffect(..) => "crash-at-effect",
            Self::Pause(..) => "pause",
            Self::Partition(shape, ..) => shape.name(),
            Self::Clog(..) => "clog",
            Self::Transfer(_) => "transfer",
            Self::ChangeVoters(_) => "membership-change",
            Self::StallDisk(..) => "disk-stall",
            Self::SlowDisk(..) => "disk-slow",
            Self::FullDisk(..) => "disk-full",
            Self::FailSync(_, PagesAfterFailure::Kept) => "sync-error-pages-kept",
            Self::FailSync(_, PagesAfterFailure::Lost) => "sync-error-pages-lost",
            Self::TearWrite(_) => "write-error",
            Self::FailReads(..) => "read-error",
            Self::Corrupt(_, Corruption::BitRot) => "bit-rot",
            Self::Corrupt(_, Corruption::MisdirectedWrite) => "misdirected-write",
            Self::ClockRate(..) => "clock-drift",
            Self::ClockStep(..) => "clock-step",
        }
    }

    /// Lets it happen now.
    pub(super) fn apply(self, cluster: &mut Cluster) {
        cluster.count_fault(self.name());
        match self {
            Self::Crash(target, kind) => {
                let node = target.find(cluster);
                cluster.crash_by(node, kind);
            }
            Self::CrashAll(kind) => {
                for node in cluster.node_ids() {
                    cluster.crash_by(node, kind);
                }
            }
            Self::CrashAtEffect(target, effects, kind) => {
                let node = target.find(cluster);
                cluster.crash_at_effect(node, effects, kind);
            }
            Self::Pause(target, ms) => {
                let node = target.find(cluster);
                cluster.pause(node);
                ends_after(cluster, ms, move |cluster| cluster.resume(node));
            }
            Self::Partition(shape, salt, ms) => {
                let closed = cluster.begin_partition(shape, &mut Random::from_bits(salt));
                ends_after(cluster, ms, move |cluster| cluster.end_partition(&closed));
            }
            Self::Clog(from, to, ms) => {
                let (from, to) = (from.find(cluster), to.find(cluster));
                cluster.clog(from, to, ms);
            }
            Self::Transfer(to) => transfer(cluster, to),
            Self::ChangeVoters(target) => change_voters(cluster, target),
            Self::StallDisk(..)
            | Self::SlowDisk(..)
            | Self::FullDisk(..)
            | Self::FailSync(..)
            | Self::TearWrite(_)
            | Self::FailReads(..)
            | Self::Corrupt(..) => self.apply_to_disk(cluster),
            Self::ClockRate(target, rate, ms) => {
                let node = target.find(cluster);
                cluster.set_clock_rate(node, rate);
                ends_after(cluster, ms, move |cluster| {
                    cluster.set_clock_rate(node, 1_000_000);
                });
            }
            Self::ClockStep(target, ms) => {
                let node = target.find(cluster);
                cluster.step_clock(node, ms);
            }
        }
    }

    fn apply_to_disk(self, cluster: &mut Cluster) {
        match self {
            Self::StallDisk(target, ms) => {
                let node = target.find(cluster);
                cluster.stall_disk(node);
                ends_after(cluster, ms, move |cluster| cluster.resume_disk(node));
            }
            Self::SlowDisk(target, us, ms) => {
                let node = target.find(cluster);
                let slow = ProcessOptions {
                    sync: Latency::us(80, us),
                    ..ProcessOptions::default()
                };
                cluster.set_process(node, slow);
                ends_after(cluster, ms, move |cluster| {
                    cluster.set_process(node, ProcessOptions::default());
                });
            }
            Self::FullDisk(target, bytes, ms) => {
                let node = target.find(cluster);
                cluster.set_disk_room(node, Some(bytes));
                ends_after(cluster, ms, move |cluster| {
                    cluster.set_disk_room(node, None);
                });
            }
            Self::FailSync(target, pages) => {
                let node = target.find(cluster);
                cluster.fail_next_sync(node, pages);
            }
            Self::TearWrite(target) => {
                let node = target.find(cluster);
                cluster.tear_next_write(node);
            }
            Self::FailReads(target, count) => {
                let node = target.find(cluster);
                cluster.fail_reads(node, count);
            }
            Self::Corrupt(target, corruption) => {
                let node = target.find(cluster);
                cluster.corrupt(node, corruption);
            }
            Self::Crash(..)
            | Self::CrashAll(_)
            | Self::CrashAtEffect(..)
            | Self::Pause(..)
            | Self::Partition(..)
            | Self::Clog(..)
            | Self::Transfer(_)
            | Self::ChangeVoters(_)
            | Self::ClockRate(..)
            | Self::ClockStep(..) => {}
        }
    }
}

fn transfer(cluster: &mut Cluster, to: Target) {
    let to = match to {
        // The leader itself would be no transfer.
        Target::Leader(number) => Target::Node(number),
        node @ Target::Node(_) => node,
    };
    let to = to.find(cluster);
    if let Some(leader) = cluster.leader() {
        // Whatever comes of it.
        let _ = cluster.transfer_leadership(leader, to);
    }
}

/// A voter becomes a learner, and a learner a voter again; whatever comes of it.
fn change_voters(cluster: &mut Cluster, target: Target) {
    let node = target.find(cluster);
    let Some(leader) = cluster.leader() else {
        return;
    };
    let is_voter = cluster
        .membership(leader)
        .is_some_and(|(membership, _)| membership.voters.contains(&node));
    let change = if is_voter {
        MembershipChange::Demote(node)
    } else {
        MembershipChange::Promote(node)
    };
    cluster.change_membership(leader, vec![change], ChangeSafety::KeepQuorum);
}

/// Ends what lasts, unless everything is frozen by then.
fn ends_after(cluster: &mut Cluster, ms: u64, end: impl FnOnce(&mut Cluster) + 'static) {
    cluster.act_after_ms(ms, move |cluster| {
        if !cluster.is_frozen() {
            end(cluster);
        }
    });
}
