//! The faults of a plan: what each does, for how long, and what reports call it.

use raft_node::{ChangeSafety, MembershipChange};
use raft_proto::{NodeId, ProtocolVersion};

use super::operator::Task;
use crate::cluster::{Cluster, CrashKind};
use crate::disk::{Corruption, PagesAfterFailure};
use crate::network::Shape;
use crate::options::{Latency, ProcessOptions};
use crate::random::Random;

/// How long a node stays on an old copy of its directory, in milliseconds.
const OLD_COPY_MS: u64 = 1_500;
/// How long an old leader does not hear of the new one, in milliseconds.
const UNHEARD_MS: u64 = 400;
/// How long a leader is cut off that was asked for a change, in milliseconds.
const CUT_OFF_MS: u64 = 1_500;
/// How long a node that was paused is alone after it goes on, in milliseconds.
const ALONE_MS: u64 = 300;

/// Whom a fault hits, found out when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Whoever leads; the node of this number if nobody does.
    Leader(u64),
    /// The node of this number, modulo their count.
    Node(u64),
}

impl Target {
    pub(super) fn draw(random: &mut Random) -> Self {
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
    /// The same, and it is cut off from before until a while after: it goes on with what it knew, and
    /// only clients tell it anything.
    IsolatedPause(Target, u64),
    /// Links close for so many milliseconds; the number says which.
    Partition(Shape, u64, u64),
    /// What one node sends to another is held back for so many milliseconds.
    Clog(Target, Target, u64),
    /// An operator asks for another leader.
    Transfer(Target),
    /// The same, and so many milliseconds later what the new leader says begins to come late to the
    /// old one, which does not hear of its successor.
    UnheardTransfer(Target, u64),
    /// An operator makes a voter a learner, or a learner a voter.
    ChangeVoters(Target),
    /// The same, and so many microseconds later the leader is cut off: some have the new
    /// configuration, some have not.
    InterruptedChange(Target, u64),
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
    /// A clock stands still for so many milliseconds.
    ClockStall(Target, u64),
    /// The same, and the node is cut off, as a machine that is moved while it runs: a leader's timers
    /// tell it nothing, and clients still ask it.
    IsolatedClockStall(Target, u64),
    /// So many of a thousand writes, and of a thousand reads, fail for so many milliseconds.
    FailingDisk(Target, (u64, u64), u64),
    /// A batch that was synced never reaches the medium, if others hold it.
    LoseWrite(Target),
    /// Two nodes are started on each other's directories.
    SwapDirectories(Target, Target),
    /// A directory is copied; so many milliseconds later its node is started on the copy.
    OldCopy(Target, u64),
    /// A disk is cleared, and an operator puts its node back.
    Wipe(Target),
    /// An operator puts a new node in the place of a member.
    Replace(Target),
    /// An operator adds a learner and removes it again.
    TryLearner,
    /// Clients ask a node for so many writes and as many reads at once.
    Flood(Target, u64),
    /// A node is started again as a build that speaks another version of the protocol.
    ChangeVersion(Target),
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
            Self::IsolatedPause(..) => "isolated-pause",
            Self::Partition(shape, ..) => shape.name(),
            Self::Clog(..) => "clog",
            Self::Transfer(_) => "transfer",
            Self::UnheardTransfer(..) => "unheard-transfer",
            Self::ChangeVoters(_) => "membership-change",
            Self::InterruptedChange(..) => "interrupted-membership-change",
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
            Self::ClockStall(..) => "clock-stall",
            Self::IsolatedClockStall(..) => "isolated-clock-stall",
            Self::FailingDisk(..) => "disk-failing",
            Self::LoseWrite(_) => "lost-write",
            Self::SwapDirectories(..) => "swapped-directories",
            Self::OldCopy(..) => "old-copy",
            Self::Wipe(_) => "wipe",
            Self::Replace(_) => "replaced-member",
            Self::TryLearner => "learner",
            Self::ChangeVersion(_) => "version-change",
            Self::Flood(..) => "flood",
        }
    }

    /// Lets it happen now.
    pub(super) fn apply(self, cluster: &mut Cluster) {
        let waits_for_its_moment =
            matches!(self, Self::LoseWrite(_) | Self::Wipe(_) | Self::OldCopy(..));
        if !waits_for_its_moment {
            cluster.count_fault(self.name());
        }
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
            Self::IsolatedPause(target, ms) => {
                let node = target.find(cluster);
                cut_off(cluster, node, ms + ALONE_MS);
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
            Self::Transfer(_)
            | Self::UnheardTransfer(..)
            | Self::ChangeVoters(_)
            | Self::InterruptedChange(..) => self.apply_to_leadership(cluster),
            Self::StallDisk(..)
            | Self::SlowDisk(..)
            | Self::FullDisk(..)
            | Self::FailSync(..)
            | Self::TearWrite(_)
            | Self::FailReads(..)
            | Self::FailingDisk(..)
            | Self::LoseWrite(_)
            | Self::Corrupt(..) => self.apply_to_disk(cluster),
            Self::SwapDirectories(..)
            | Self::OldCopy(..)
            | Self::Wipe(_)
            | Self::Replace(_)
            | Self::TryLearner
            | Self::ChangeVersion(_) => self.apply_by_operator(cluster),
            Self::Flood(target, count) => {
                let node = target.find(cluster);
                cluster.flood(node, count);
            }
            Self::ClockStall(..)
            | Self::IsolatedClockStall(..)
            | Self::ClockRate(..)
            | Self::ClockStep(..) => self.apply_to_clock(cluster),
        }
    }

    fn apply_to_clock(self, cluster: &mut Cluster) {
        if let Self::ClockStall(target, ms) | Self::IsolatedClockStall(target, ms) = self {
            let node = target.find(cluster);
            if matches!(self, Self::IsolatedClockStall(..)) {
                cut_off(cluster, node, ms);
            }
            run_clock_at(cluster, node, 0, ms);
        } else if let Self::ClockRate(target, rate, ms) = self {
            let node = target.find(cluster);
            run_clock_at(cluster, node, rate, ms);
        } else if let Self::ClockStep(target, ms) = self {
            let node = target.find(cluster);
            cluster.step_clock(node, ms);
        }
    }

    fn apply_to_leadership(self, cluster: &mut Cluster) {
        if let Self::Transfer(to) = self {
            transfer(cluster, to);
        } else if let Self::UnheardTransfer(to, ms) = self {
            if let Some((old, new)) = transfer(cluster, to) {
                ends_after(cluster, ms, move |cluster| {
                    cluster.clog(new, old, UNHEARD_MS);
                });
            }
        } else if let Self::ChangeVoters(target) = self {
            change_voters(cluster, target);
        } else if let Self::InterruptedChange(target, us) = self
            && let Some(leader) = change_voters(cluster, target)
        {
            cluster.act_after_us(us, move |cluster| {
                if !cluster.is_frozen() {
                    cut_off(cluster, leader, CUT_OFF_MS);
                }
            });
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
                slow_down(cluster, node, us, ms);
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
            Self::TearWrite(target) => cluster.tear_next_write(target.find(cluster)),
            Self::FailReads(target, count) => {
                let node = target.find(cluster);
                cluster.fail_reads(node, count);
            }
            Self::Corrupt(target, corruption) => {
                let node = target.find(cluster);
                cluster.corrupt(node, corruption);
            }
            Self::FailingDisk(target, (writes, reads), ms) => {
                let node = target.find(cluster);
                cluster.set_disk_failing(node, writes, reads);
                ends_after(cluster, ms, move |cluster| {
                    cluster.set_disk_failing(node, 0, 0);
                });
            }
            Self::LoseWrite(target) => cluster.lose_next_write(target.find(cluster)),
            Self::Crash(..)
            | Self::CrashAll(_)
            | Self::CrashAtEffect(..)
            | Self::Pause(..)
            | Self::IsolatedPause(..)
            | Self::Partition(..)
            | Self::Clog(..)
            | Self::Transfer(_)
            | Self::UnheardTransfer(..)
            | Self::ChangeVoters(_)
            | Self::InterruptedChange(..)
            | Self::Flood(..)
            | Self::ClockRate(..)
            | Self::ClockStep(..)
            | Self::ClockStall(..)
            | Self::IsolatedClockStall(..)
            | Self::SwapDirectories(..)
            | Self::OldCopy(..)
            | Self::Wipe(_)
            | Self::Replace(_)
            | Self::TryLearner
            | Self::ChangeVersion(_) => {}
        }
    }

    fn apply_by_operator(self, cluster: &mut Cluster) {
        if let Self::SwapDirectories(one, other) = self {
            let (one, other) = (one.find(cluster), other.find(cluster));
            cluster.swap_directories(one, other);
        } else if let Self::OldCopy(target, ms) = self {
            let node = target.find(cluster);
            cluster.crash_by(node, CrashKind::Killed);
            cluster.copy_directory(node);
            ends_after(cluster, ms, move |cluster| use_old_copy(cluster, node));
        } else if let Self::Wipe(target) = self {
            let node = target.find(cluster);
            cluster.ask_operator(Task::Wipe(node));
        } else if let Self::Replace(target) = self {
            let node = target.find(cluster);
            cluster.ask_operator(Task::Replace(node));
        } else if self == Self::TryLearner {
            cluster.ask_operator(Task::TryLearner);
        } else if let Self::ChangeVersion(target) = self {
            let node = target.find(cluster);
            let other = match cluster.version(node) {
                Some(ProtocolVersion::OLDEST) => ProtocolVersion::NEWEST,
                Some(_) | None => ProtocolVersion::OLDEST,
            };
            cluster.set_version(node, other);
            cluster.crash_by(node, CrashKind::Killed);
        }
    }
}

/// Somebody puts a backup in the place of a directory, and later the real one back.
fn use_old_copy(cluster: &mut Cluster, node: NodeId) {
    if cluster.start_old_copy(node) {
        cluster.count_fault("old-copy");
        ends_after(cluster, OLD_COPY_MS, move |cluster| cluster.put_back(node));
    }
}

/// Asks the leader to hand over; returns it and the one that it was asked to hand over to.
fn transfer(cluster: &mut Cluster, to: Target) -> Option<(NodeId, NodeId)> {
    let to = match to {
        // The leader itself would be no transfer.
        Target::Leader(number) => Target::Node(number),
        node @ Target::Node(_) => node,
    };
    let to = to.find(cluster);
    let leader = cluster.leader()?;
    // Whatever comes of it.
    let _ = cluster.transfer_leadership(leader, to);
    Some((leader, to)).filter(|_| leader != to)
}

/// A voter becomes a learner, and a learner a voter again; whatever comes of it. Returns the leader
/// that was asked.
fn change_voters(cluster: &mut Cluster, target: Target) -> Option<NodeId> {
    let node = target.find(cluster);
    let leader = cluster.leader()?;
    let is_voter = cluster
        .membership(leader)
        .is_some_and(|(membership, _)| membership.voters.contains(&node));
    let change = if is_voter {
        MembershipChange::Demote(node)
    } else {
        MembershipChange::Promote(node)
    };
    cluster.change_membership(leader, vec![change], ChangeSafety::KeepQuorum);
    Some(leader)
}

/// A clock runs at another rate for a while, in millionths.
fn run_clock_at(cluster: &mut Cluster, node: NodeId, rate: u64, ms: u64) {
    cluster.set_clock_rate(node, rate);
    ends_after(cluster, ms, move |cluster| {
        cluster.set_clock_rate(node, 1_000_000);
    });
}

/// A disk gets slow for a while.
fn slow_down(cluster: &mut Cluster, node: NodeId, us: u64, ms: u64) {
    let slow = ProcessOptions {
        sync: Latency::us(80, us),
        log_read: Latency::us(50, us),
        ..cluster.process_options()
    };
    cluster.set_process(node, slow);
    ends_after(cluster, ms, move |cluster| cluster.reset_process(node));
}

/// Nothing gets to a node or away from it for a while.
fn cut_off(cluster: &mut Cluster, node: NodeId, ms: u64) {
    // The shape says all, whatever is drawn.
    let random = &mut Random::from_bits(node.0);
    let closed = cluster.begin_partition_around(Shape::Isolate, Some(node), random);
    ends_after(cluster, ms, move |cluster| cluster.end_partition(&closed));
}

/// Ends what lasts, unless everything is frozen by then.
fn ends_after(cluster: &mut Cluster, ms: u64, end: impl FnOnce(&mut Cluster) + 'static) {
    cluster.act_after_ms(ms, move |cluster| {
        if !cluster.is_frozen() {
            end(cluster);
        }
    });
}
