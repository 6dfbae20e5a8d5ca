//! "Sometimes" marks: rare states that a campaign must have reached, and faults that it injected.

use std::collections::BTreeMap;

macro_rules! marks {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// A rare state. A campaign that never reaches one does not test what it claims to.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Mark {
            $($(#[$doc])* $name,)*
        }

        impl Mark {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// What reports call it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

marks! {
    /// A follower replaced a suffix that it had made durable.
    SuffixTruncated => "suffix-truncated",
    /// A follower got entries that had left the leader's memory.
    FollowerServedFromDisk => "follower-served-from-disk",
    /// A node applied entries that had left its memory.
    AppliedFromDisk => "applied-from-disk",
    /// Recovery dropped a batch that a crash had torn.
    TornBatchDropped => "torn-batch-dropped",
    /// A node lost power, or died, while it recovered its log.
    CrashedInRecovery => "crashed-in-recovery",
    /// A node crashed between two effects of one step.
    CrashedBetweenEffects => "crashed-between-effects",
    /// A write waited for room on a full disk.
    WaitedForRoom => "waited-for-room",
    /// Term and vote became durable ahead of a write that waited for room.
    TermAheadOfRoom => "term-ahead-of-room",
    /// A node stopped because its disk failed.
    StoppedByDisk => "stopped-by-disk",
    /// A node reported at its start that its data is damaged.
    DamageReported => "damage-reported",
    /// A node of a healed core lacked content, or did not count, and was whole and counted at the end.
    CoreRepaired => "core-repaired",
    /// A leader handed over while its own disk hung.
    HandedOverByStalledDisk => "handed-over-by-stalled-disk",
    /// A leader stepped down in its term without hearing of a later one.
    SteppedDownAlone => "stepped-down-alone",
    /// Two nodes took themselves for leaders, of different terms.
    TwoLeadersOfTwoTerms => "two-leaders-of-two-terms",
    /// A new leader committed entries of an earlier term with one of its own.
    CommittedEarlierTerms => "committed-earlier-terms",
    /// An election was not decided in its term.
    ElectionUndecided => "election-undecided",
    /// A leader was elected while two configurations counted.
    JointAcrossElection => "joint-across-election",
    /// Most nodes were down at once.
    QuorumDown => "quorum-down",
    /// A node started from a snapshot.
    StartedFromSnapshot => "started-from-snapshot",
    /// A node compacted its log.
    LogCompacted => "log-compacted",
    /// A snapshot of another node replaced a node's log and state.
    SnapshotInstalled => "snapshot-installed",
    /// A transfer went on from what an earlier one had left.
    TransferResumed => "transfer-resumed",
    /// A message of a dead process arrived.
    MessageOfTheDead => "message-of-the-dead",
    /// A leader had a follower whose log had diverged from its own.
    FollowerDiverged => "follower-diverged",
    /// A newer snapshot arrived while an older one was being restored.
    RestoreOvertaken => "restore-overtaken",
    /// A process ended while it restored a snapshot.
    CrashedInRestore => "crashed-in-restore",
    /// A node started without entries that it had acknowledged, and that others still hold.
    AcknowledgedForgotten => "acknowledged-forgotten",
    /// A node that was wiped, and started as if nothing had happened, was refused.
    WipedNodeRefused => "wiped-node-refused",
    /// A node that was wiped became a voter again, in a new life.
    WipedNodeReadmitted => "wiped-node-readmitted",
    /// A new node took the place of a member.
    MemberReplaced => "member-replaced",
    /// A learner was added and removed again.
    LearnerRemoved => "learner-removed",
    /// A node was started on the directory of another one, and refused it.
    ForeignDirectoryRefused => "foreign-directory-refused",
    /// A node was started on an old copy of its directory, and a peer refused it.
    OldCopyRefused => "old-copy-refused",
    /// Two nodes spoke an old version of the protocol, because one of them knows no other.
    OldVersionSpoken => "old-version-spoken",
    /// A comparison of replicas ended with the reports of all members.
    ReplicasCompared => "replicas-compared",
    /// A client was told that the outcome of its write is unknown.
    OutcomeUnknown => "outcome-unknown",
    /// A client was told that too many writes wait already.
    Overloaded => "overloaded",
    /// A client was told that its write was certainly replaced.
    OutcomeSuperseded => "outcome-superseded",
}

/// How often what was reached and injected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Rare states.
    pub marks: BTreeMap<Mark, u64>,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// What was damaged on the medium, what of it was noticed, and what came back.
    pub repairs: BTreeMap<&'static str, u64>,
}

impl Tally {
    pub(crate) fn mark(&mut self, mark: Mark) {
        *self.marks.entry(mark).or_default() += 1;
    }

    pub(crate) fn fault(&mut self, kind: &'static str) {
        *self.faults.entry(kind).or_default() += 1;
    }

    pub(crate) fn repairs(&mut self, what: &'static str, count: u64) {
        if count > 0 {
            *self.repairs.entry(what).or_default() += count;
        }
    }

    /// Adds what another run reached.
    pub fn add(&mut self, other: &Self) {
        for (mark, count) in &other.marks {
            *self.marks.entry(*mark).or_default() += count;
        }
        for (kind, count) in &other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        for (what, count) in &other.repairs {
            self.repairs(what, *count);
        }
    }

    /// Marks that were never reached.
    #[must_use]
    pub fn unreached(&self) -> Vec<Mark> {
        let all = Mark::ALL.iter().copied();
        all.filter(|mark| !self.marks.contains_key(mark)).collect()
    }
}
