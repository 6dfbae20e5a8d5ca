//! Planted bugs, to test the tests: each is a mistake that a real system made. They exist only with
//! the feature `mutants`, which no optimised program can have, and none is active until a thread
//! plants it.
//!
//! To add one: a line in the list below, with what it does wrong, and `is_planted(Mutant::Name)` at
//! the place. `cargo xtask mutants` shows how many seeds of the simulator it takes to be found.

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
    /// Confirms reads before the first commit of the term.
    ReadBeforeFirstCommit => "reads",
    /// Serves reads before a quorum has answered.
    ReadWithoutQuorum => "reads",
    /// A read round reuses the number of the one before: old answers confirm it.
    ReadRoundReused => "reads",
    /// Proposals are decided by index without term.
    OutcomeByIndexOnly => "sessions",
    /// An unknown outcome is reported as a definite refusal.
    UnknownIsRefused => "sessions",
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
}

#[cfg(feature = "mutants")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// From now on this thread has that bug, or none.
#[cfg(feature = "mutants")]
pub fn plant(mutant: Option<Mutant>) {
    PLANTED.set(mutant);
}

/// Whether this thread has that bug.
#[cfg(feature = "mutants")]
#[must_use]
pub fn is_planted(mutant: Mutant) -> bool {
    PLANTED.get() == Some(mutant)
}

/// Never: this program has no planted bugs.
#[cfg(not(feature = "mutants"))]
#[must_use]
#[inline(always)]
pub const fn is_planted(_mutant: Mutant) -> bool {
    false
}
