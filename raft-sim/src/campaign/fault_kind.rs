//! Kinds of faults: which go with each other in a plan, and how their particulars are drawn.

use super::fault::{Fault, Target};
use crate::cluster::CrashKind;
use crate::disk::{Corruption, PagesAfterFailure};
use crate::network::Shape;
use crate::random::Random;

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
    /// [`Fault::ClockStall`].
    ClockStall,
    /// [`Fault::FailingDisk`].
    FailingDisk,
    /// [`Fault::LoseWrite`].
    LoseWrite,
    /// [`Fault::SwapDirectories`].
    SwapDirectories,
    /// [`Fault::OldCopy`].
    OldCopy,
    /// [`Fault::Wipe`].
    Wipe,
    /// [`Fault::Replace`].
    Replace,
    /// [`Fault::TryLearner`].
    TryLearner,
    /// [`Fault::ChangeVersion`].
    ChangeVersion,
    /// [`Fault::Flood`].
    Flood,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [Self; 27] = [
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
        Self::ClockStall,
        Self::FailingDisk,
        Self::LoseWrite,
        Self::SwapDirectories,
        Self::OldCopy,
        Self::Wipe,
        Self::Replace,
        Self::TryLearner,
        Self::ChangeVersion,
        Self::Flood,
    ];

    /// Whether a plan may have both. Where voters come and go, no disk is damaged: their number is
    /// what says how many may be. Nobody new is there who could not tell an old copy.
    pub(super) fn goes_with(self, other: Self) -> bool {
        let damages = |kind| {
            matches!(
                kind,
                Self::Corrupt | Self::LoseWrite | Self::Wipe | Self::OldCopy
            )
        };
        let renews = |kind| matches!(kind, Self::Wipe | Self::Replace | Self::TryLearner);
        let clash = |one, two| {
            one == Self::ChangeVoters && damages(two) || one == Self::OldCopy && renews(two)
        };
        !clash(self, other) && !clash(other, self)
    }

    /// Whether it changes who the members are.
    pub(super) fn changes_members(self) -> bool {
        matches!(
            self,
            Self::ChangeVoters | Self::Wipe | Self::Replace | Self::TryLearner
        )
    }

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
            Self::Pause => {
                let ms = *random.pick(&[20, 300, 1_000, 3_000]);
                match random.below(2) {
                    0 => Fault::Pause(target, ms),
                    _ => Fault::IsolatedPause(target, ms),
                }
            }
            Self::Partition => {
                let shape = *random.pick(&Shape::ALL);
                Fault::Partition(shape, random.bits(), *random.pick(&[200, 1_000, 3_000]))
            }
            Self::Clog => Fault::Clog(target, Target::draw(random), random.between(50, 2_000)),
            Self::Transfer => match random.below(3) {
                0 => Fault::UnheardTransfer(target, random.below(20)),
                _ => Fault::Transfer(target),
            },
            Self::ChangeVoters => match random.below(3) {
                0 => {
                    let us_max = *random.pick(&[200, 2_000, 20_000]);
                    Fault::InterruptedChange(target, random.below(us_max))
                }
                _ => Fault::ChangeVoters(target),
            },
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
            Self::ClockStall
            | Self::FailingDisk
            | Self::LoseWrite
            | Self::SwapDirectories
            | Self::OldCopy
            | Self::Wipe
            | Self::Replace
            | Self::TryLearner
            | Self::ChangeVersion
            | Self::Flood => self.draw_rare(target, random),
        }
    }
}

impl FaultKind {
    fn draw_rare(self, target: Target, random: &mut Random) -> Fault {
        match self {
            Self::ClockStall => {
                let ms = *random.pick(&[300, 1_500, 5_000]);
                match random.below(2) {
                    0 => Fault::ClockStall(target, ms),
                    _ => Fault::IsolatedClockStall(target, ms),
                }
            }
            Self::FailingDisk => {
                let rates = [(1, 1), (10, 10), (100, 10), (10, 100)];
                let ms = random.between(300, 4_000);
                Fault::FailingDisk(target, *random.pick(&rates), ms)
            }
            Self::LoseWrite => Fault::LoseWrite(target),
            Self::SwapDirectories => Fault::SwapDirectories(target, Target::draw(random)),
            Self::OldCopy => Fault::OldCopy(target, random.between(1_000, 4_000)),
            Self::Wipe => Fault::Wipe(target),
            Self::Replace => Fault::Replace(target),
            Self::TryLearner => Fault::TryLearner,
            Self::ChangeVersion => Fault::ChangeVersion(target),
            Self::Flood => Fault::Flood(target, *random.pick(&[30, 300])),
            Self::Crash
            | Self::CrashAll
            | Self::CrashAtEffect
            | Self::Pause
            | Self::Partition
            | Self::Clog
            | Self::Transfer
            | Self::ChangeVoters
            | Self::StallDisk
            | Self::SlowDisk
            | Self::FullDisk
            | Self::FailSync
            | Self::TearWrite
            | Self::FailReads
            | Self::Corrupt
            | Self::ClockRate
            | Self::ClockStep => unreachable!("drawn with the others"),
        }
    }
}
