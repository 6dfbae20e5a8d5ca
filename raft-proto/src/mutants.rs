//! Planted bugs, to test the tests: each is a mistake that a real system made. They exist only with
//! the feature `mutants`, which no optimised program can have, and none is active until a thread
//! plants it, or the environment of the whole program does ([`PLANTED_IN_PROGRAM`]).
//!
//! To add one: a line in the list below, with what it does wrong, and `is_planted(Mutant::Name)` at
//! the place. `cargo xtask mutants` shows how many seeds of the simulator it takes to be found, and
//! `cargo xtask mutants --against-tests` whether any other test would have found it.

#[cfg(all(feature = "mutants", not(debug_assertions)))]
compile_error!("planted bugs are for tests: the feature `mutants` has no place in a release build");

macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident => $section:literal,)*) => {
        /// A planted bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mutant {
            $($(#[$doc])* $name,)*
        }

        impl Mutant {
            /// All of them, with the section of the list of bug classes that each is from.
            pub const ALL: &[(Self, &str)] = &[$((Self::$name, $section),)*];

            /// Its name, as in the list.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// The one of this name.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                let mut all = Self::ALL.iter().map(|(mutant, _)| *mutant);
                all.find(|mutant| mutant.name() == name)
            }
        }
    };
}

mutants! {
    /// Acknowledges appends and drops their entries: must be found by every seed.
    Canary => "canary",
    /// Answers vote requests before the vote is durable.
    VoteBeforeFsync => "elections",
    /// Votes for a second candidate in a term.
    SecondVoteInTerm => "elections",
    /// Compares last logs by index before term (§5.4.1 backwards).
    LongerLogWins => "elections",
    /// Grants votes whatever the candidate's log.
    AnyLogWins => "elections",
    /// Campaigns without asking first, and obeys whoever does (no PreVote, no stickiness).
    DisruptiveServers => "elections",
    /// A leader without a quorum goes on leading (no CheckQuorum).
    NoCheckQuorum => "elections",
    /// A leader whose disk hangs keeps its leadership.
    NoHandOver => "elections",
    /// A disk that makes no progress is never taken for stalled.
    StallUnnoticed => "elections",
    /// Truncates after the last entry of every append, also of one that was overtaken.
    TruncateAlways => "replication",
    /// Keeps acknowledgements of an earlier term (the append ABA race).
    StaleAcknowledgement => "replication",
    /// Lost appends never leave the window.
    WindowLeak => "replication",
    /// A probe whose answer is lost is never repeated.
    PausedForEver => "replication",
    /// Gives up on a follower whose entries left memory.
    DiskReadGivesUp => "replication",
    /// Appends are taken without comparing what is before them.
    NoPreviousCheck => "replication",
    /// Takes an append from before its own compaction for a conflict.
    CompactedIsConflict => "replication",
    /// Commits entries of earlier terms by counting copies (Figure 8).
    CommitOldTerms => "commit",
    /// A leader counts itself for entries that it has not synced.
    CountsUnsynced => "commit",
    /// Half of the voters are a quorum.
    HalfIsQuorum => "commit",
    /// Takes the leader's commit index although its log is not known to be the leader's.
    CommitUnverified => "commit",
    /// Acknowledges appends before they are durable.
    AcknowledgeBeforeFsync => "commit",
    /// A leader takes proposals however many wait.
    ProposalsUnbounded => "commit",
    /// Entries that are committed and durable stay in memory.
    EntriesStayInMemory => "replication",
    /// A log without entries after its snapshot claims a last term of 0.
    EmptyLogHasNoTerm => "snapshots",
    /// Installs a snapshot also if the log has its last entry, and drops what follows it.
    InstallDropsSuffix => "snapshots",
    /// Installing a snapshot leaves the memberships of the replaced log in force.
    InstallKeepsMemberships => "snapshots",
    /// The file of a snapshot is not synced before it gets its name.
    SnapshotNotSynced => "snapshots",
    /// The name of a snapshot is not durable when the log is compacted for it.
    SnapshotNameNotSynced => "snapshots",
    /// A crash between a received snapshot and its place in the log leaves a gap.
    GapAfterSnapshot => "snapshots",
    /// Once a snapshot is restored, entries that it covers are handed out to be applied.
    CoveredEntriesApplied => "snapshots",
    /// Entries of a log that an installation replaces are applied meanwhile.
    InstallRacesApply => "snapshots",
    /// Sessions are not restored from a snapshot.
    SnapshotWithoutSessions => "snapshots",
    /// A configuration counts from its commit on, not from its append on.
    ConfigurationAtCommit => "membership",
    /// One majority of all voters stands for the majorities of both halves.
    OneCounterForBothHalves => "membership",
    /// Learners are counted.
    LearnerCounted => "membership",
    /// A leader that its committed configuration leaves out goes on leading.
    RemovedLeaderStays => "membership",
    /// A joint configuration is left before it is committed.
    LeavesJointEarly => "membership",
    /// A truncated membership stays in force.
    MembershipNotRolledBack => "membership",
    /// After a restart only memberships that are still in the log are known.
    MembershipOnlyInLog => "membership",
    /// Confirms reads before the first commit of the term.
    ReadBeforeFirstCommit => "reads",
    /// Serves reads before a quorum has answered.
    ReadWithoutQuorum => "reads",
    /// A read round reuses the number of the one before: old answers confirm it.
    ReadRoundReused => "reads",
    /// An answer to an earlier request for a read index counts for the present one.
    OldReadAnswerCounts => "reads",
    /// Reads are taken however many wait.
    ReadsUnbounded => "reads",
    /// A read is served one entry too early.
    ReadBeforeApplied => "reads",
    /// A follower reads at its own commit index.
    FollowerReadsAlone => "reads",
    /// A read joins those that are being confirmed already.
    ReadJoinsClosedBatch => "reads",
    /// Proposals are decided by index without term.
    OutcomeByIndexOnly => "sessions",
    /// An unknown outcome is reported as a definite refusal.
    UnknownIsRefused => "sessions",
    /// Replies of sessions that expire count as kept for ever.
    ExpiredRepliesCount => "sessions",
    /// Log time stands still while this replica takes a snapshot.
    ClockStopsForCut => "sessions",
    /// Sessions do not expire while this replica takes a snapshot.
    ExpiryWaitsForCut => "sessions",
    /// A write that comes again under its session is carried out again.
    RetryAppliedTwice => "sessions",
    /// A client sends a write without a session again, although it may have arrived.
    OneShotRepeated => "sessions",
    /// A client that gives up forgets that an earlier attempt may have counted.
    EarlierAttemptForgotten => "sessions",
    /// Writes are not synced.
    NoFsync => "wal",
    /// The directory is not synced after a segment got its name, nor before.
    NoDirectoryFsync => "wal",
    /// A failed sync is ignored.
    FsyncErrorIgnored => "wal",
    /// Checksums of a batch's content are not believed at open.
    ContentUnchecked => "wal",
    /// Damage in the middle of the log is taken for a torn tail.
    DamageIsTorn => "wal",
    /// Recovery trusts what the page cache shows of the last batch.
    CacheTrusted => "wal",
    /// A segment gets its name before its start is durable.
    SegmentNamedUnsynced => "wal",
    /// Term and vote that go ahead on a full disk are not synced.
    AheadNotSynced => "wal",
    /// A node that has lost the end of its log votes, and is counted.
    UnknownEndCounts => "wal",
    /// Small files are not synced before they get their names.
    RecordNotSynced => "wal",
    /// A peer that comes back with an earlier boot, an old copy of its directory, is let in.
    OldBootAccepted => "transport",
    /// A node starts on the directory of another one.
    ForeignDirectoryOpened => "transport",
    /// Replicas compare their states as of the end of the batch, not of the entry that says so.
    ComparesLater => "transport",
    /// Requests are numbered anew after a restart: an answer to the former process counts.
    RequestIdsRestart => "transport",
    /// A part of a snapshot that is lost is never asked for again.
    PartNeverAskedAgain => "transport",
}

/// The environment variable that plants the bug of this name in all threads of a program, if it is
/// built with the feature `mutants`: for test programs.
pub const PLANTED_IN_PROGRAM: &str = "RAFT_PLANTED_BUG";

#[cfg(feature = "mutants")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// What the environment says, read once.
#[cfg(feature = "mutants")]
static IN_PROGRAM: std::sync::LazyLock<Option<Mutant>> = std::sync::LazyLock::new(|| {
    let name = std::env::var(PLANTED_IN_PROGRAM).ok()?;
    let mutant = Mutant::named(&name);
    assert!(mutant.is_some(), "no planted bug is called {name}");
    mutant
});

/// From now on this thread has that bug, or none.
#[cfg(feature = "mutants")]
pub fn plant(mutant: Option<Mutant>) {
    PLANTED.set(mutant);
}

/// Whether this thread, or the whole program, has that bug.
///
/// # Panics
/// If the environment names a bug that does not exist.
#[cfg(feature = "mutants")]
#[must_use]
pub fn is_planted(mutant: Mutant) -> bool {
    PLANTED.get() == Some(mutant) || *IN_PROGRAM == Some(mutant)
}

/// Never: this program has no planted bugs.
#[cfg(not(feature = "mutants"))]
#[must_use]
#[inline(always)]
pub const fn is_planted(_mutant: Mutant) -> bool {
    false
}
