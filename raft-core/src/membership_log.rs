//! The memberships in the log: each is in force from the entry that carries it on, and no longer
//! once that entry is truncated (§6).

use raft_proto::mutants::{Mutant, is_planted};
use raft_proto::{LogIndex, Membership};

use crate::quorum::JointConfig;

/// All memberships that may still be rolled back to, in log order; the last one is in force.
#[derive(Clone, Debug, Default)]
pub(crate) struct MembershipLog {
    entries: Vec<(LogIndex, Membership)>,
    quorum: JointConfig,
    nobody: Membership,
}

impl MembershipLog {
    pub(crate) fn new(entries: Vec<(LogIndex, Membership)>) -> Self {
        let mut log = Self {
            entries,
            ..Self::default()
        };
        log.recompute();
        log
    }

    /// The membership in force; without members before the first one arrives.
    pub(crate) fn current(&self) -> &Membership {
        self.entries.last().map_or(&self.nobody, |(_, m)| m)
    }

    /// The membership in force at an index.
    pub(crate) fn at(&self, index: LogIndex) -> Option<&Membership> {
        let after = self.entries.partition_point(|(at, _)| *at <= index);
        let found = self.entries.get(after.checked_sub(1)?);
        found.map(|(_, membership)| membership)
    }

    /// The membership that the entry at an index carries; `None` if it carries none.
    pub(crate) fn of_entry(&self, index: LogIndex) -> Option<&Membership> {
        let found = self.entries.binary_search_by_key(&index, |(at, _)| *at);
        found.ok().map(|at| &self.entries[at].1)
    }

    /// The index from which on it is known which entries carry memberships.
    pub(crate) fn known_from(&self) -> Option<LogIndex> {
        self.entries.first().map(|(index, _)| *index)
    }

    /// The membership that was in force before.
    pub(crate) fn previous(&self) -> Option<&Membership> {
        let before = self.entries.len().checked_sub(2)?;
        self.entries.get(before).map(|(_, membership)| membership)
    }

    /// The log index of the membership in force.
    pub(crate) fn current_index(&self) -> LogIndex {
        self.entries
            .last()
            .map_or(LogIndex::ZERO, |(index, _)| *index)
    }

    /// The quorum rule of the membership in force.
    pub(crate) const fn quorum(&self) -> &JointConfig {
        &self.quorum
    }

    pub(crate) fn append(&mut self, index: LogIndex, membership: Membership) {
        assert!(
            index > self.current_index(),
            "memberships come in log order"
        );
        self.entries.push((index, membership));
        if !is_planted(Mutant::ConfigurationAtCommit) {
            self.recompute();
        }
    }

    /// Starts anew with the membership of a snapshot.
    pub(crate) fn reset(&mut self, index: LogIndex, membership: Membership) {
        self.entries = vec![(index, membership)];
        self.recompute();
    }

    /// A snapshot tells the membership in force at its end. Those known after it stay.
    pub(crate) fn begin_with(&mut self, index: LogIndex, membership: Membership) {
        self.entries.retain(|(at, _)| *at > index);
        self.entries.insert(0, (index, membership));
        self.recompute();
    }

    /// Forgets memberships that were replaced at or before `through`.
    pub(crate) fn compact(&mut self, through: LogIndex) {
        let after = self.entries.partition_point(|(index, _)| *index <= through);
        self.entries.drain(..after.saturating_sub(1));
    }

    /// Rolls back to the membership in force before `index`; returns the indexes removed.
    pub(crate) fn truncate_from(&mut self, index: LogIndex) -> Vec<LogIndex> {
        let keep = self.entries.partition_point(|(at, _)| *at < index);
        let removed = self.entries.drain(keep..).map(|(at, _)| at).collect();
        self.recompute();
        removed
    }

    /// Indexes of memberships after `after`, up to and including `until`.
    pub(crate) fn indexes_between(&self, after: LogIndex, until: LogIndex) -> Vec<LogIndex> {
        let indexes = self.entries.iter().map(|(index, _)| *index);
        indexes
            .filter(|index| *index > after && *index <= until)
            .collect()
    }

    /// Has the quorum rule follow the membership in force.
    pub(crate) fn recompute(&mut self) {
        self.quorum = JointConfig::of(self.current());
    }
}
