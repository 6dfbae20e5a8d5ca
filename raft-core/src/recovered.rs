//! What a core starts from: the state that its log recovered.

use raft_proto::{Boot, CodecError, HardState, LogIndex, LogPosition, Membership, Term, TermRun};

use crate::error::CoreError;
use crate::output::IndexRange;

/// The durable state of a node as its log recovered it.
///
/// A node without a log (it is about to join a cluster) starts from [`Recovered::empty`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Term and vote.
    pub hard_state: HardState,
    /// The last entry that the newest snapshot covers.
    pub snapshot: Option<LogPosition>,
    /// Index of the first entry in the log; `last.index + 1` if there is none.
    pub first_index: LogIndex,
    /// The end of the log; the snapshot's position if no entry follows it.
    pub last: LogPosition,
    /// Terms of the entries from `first_index` on, in order.
    pub term_runs: Vec<TermRun>,
    /// Payload length of each entry from `first_index` on, in bytes.
    pub entry_sizes: Vec<u32>,
    /// Memberships in the log with their index, in order; before them the one in force at
    /// `first_index` (the snapshot's), if the log does not start at index 1.
    pub memberships: Vec<(LogIndex, Membership)>,
    /// Entries after the snapshot whose identity is known and whose content is lost (D6), in order.
    pub missing: Vec<IndexRange>,
    /// Whether the snapshot can be read.
    pub snapshot_content: SnapshotContent,
    /// `false` if the end of the log or the newest hard state is unknown (D6): the node says so
    /// in every message, and neither votes nor campaigns.
    pub counted: bool,
    /// This start of the node.
    pub boot: Boot,
}

/// What is left of the newest snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotContent {
    /// It can be read, or there is none because the log begins at index 1.
    Whole,
    /// It cannot: what it covers is known to be committed, and one is fetched from a peer.
    Lost,
}

impl Recovered {
    /// The state of a node that has no log yet: it waits for a leader to send it one.
    #[must_use]
    pub const fn empty(boot: Boot) -> Self {
        Self {
            hard_state: HardState {
                term: Term::ZERO,
                vote: None,
            },
            snapshot: None,
            first_index: LogIndex::FIRST,
            last: LogPosition::ZERO,
            term_runs: Vec::new(),
            entry_sizes: Vec::new(),
            memberships: Vec::new(),
            missing: Vec::new(),
            snapshot_content: SnapshotContent::Whole,
            counted: true,
            boot,
        }
    }

    /// The state right after cluster formation: the log holds one entry, of index 1, term 1 and
    /// kind Membership, and the hard state's term is 1. The caller has made that durable before.
    ///
    /// # Errors
    /// [`CodecError`] if the membership cannot be encoded, which a valid one can.
    pub fn bootstrap(membership: Membership, boot: Boot) -> Result<Self, CodecError> {
        let payload = membership.to_bytes()?;
        Ok(Self {
            hard_state: HardState {
                term: Term(1),
                vote: None,
            },
            last: LogPosition {
                index: LogIndex::FIRST,
                term: Term(1),
            },
            term_runs: vec![TermRun {
                first: LogIndex::FIRST,
                term: Term(1),
            }],
            // An encoded membership is at most a codec head long, so its length fits.
            entry_sizes: vec![payload.len() as u32],
            memberships: vec![(LogIndex::FIRST, membership)],
            ..Self::empty(boot)
        })
    }

    /// Checks that the parts belong together.
    pub(crate) fn validate(&self) -> Result<(), CoreError> {
        let expected = self.last.index.next().since(self.first_index);
        if self.entry_sizes.len() as u64 != expected {
            return Err(CoreError::SizesMismatch {
                expected,
                found: self.entry_sizes.len() as u64,
            });
        }
        let snapshot = self.snapshot.unwrap_or(LogPosition::ZERO);
        let is_joined = self.first_index <= snapshot.index.next();
        if !is_joined || self.first_index == LogIndex::ZERO || self.last.index < snapshot.index {
            return Err(CoreError::Gap {
                first: self.first_index,
            });
        }
        if self.last.term > self.hard_state.term {
            return Err(CoreError::HardStateBehindLog);
        }
        self.validate_runs(snapshot)?;
        self.validate_missing(snapshot)?;
        self.validate_memberships()
    }

    fn validate_runs(&self, snapshot: LogPosition) -> Result<(), CoreError> {
        let mismatch = CoreError::TermRunsMismatch {
            first: self.first_index,
            last: self.last.index,
        };
        let Some(first_run) = self.term_runs.first() else {
            // Without entries, the log ends where the snapshot does.
            let is_right = self.entry_sizes.is_empty() && self.last == snapshot;
            return if is_right { Ok(()) } else { Err(mismatch) };
        };
        let is_ordered = self
            .term_runs
            .windows(2)
            .all(|pair| pair[0].first < pair[1].first && pair[0].term < pair[1].term);
        let last_run = self.term_runs[self.term_runs.len() - 1];
        let is_right = is_ordered
            && first_run.first == self.first_index
            && first_run.term > Term::ZERO
            && last_run.first <= self.last.index
            && last_run.term == self.last.term;
        if is_right { Ok(()) } else { Err(mismatch) }
    }

    fn validate_missing(&self, snapshot: LogPosition) -> Result<(), CoreError> {
        let mut before = snapshot.index;
        for hole in &self.missing {
            if hole.first <= before || hole.last < hole.first || hole.last > self.last.index {
                return Err(CoreError::HolesMismatch {
                    first: hole.first,
                    last: hole.last,
                });
            }
            before = hole.last;
        }
        Ok(())
    }

    fn validate_memberships(&self) -> Result<(), CoreError> {
        let is_ordered = self
            .memberships
            .windows(2)
            .all(|pair| pair[0].0 < pair[1].0);
        let is_within = self
            .memberships
            .last()
            .is_none_or(|(index, _)| *index <= self.last.index);
        // The membership before the log was in the snapshot.
        let is_present = self.last == LogPosition::ZERO
            || !self.memberships.is_empty()
            || self.snapshot_content == SnapshotContent::Lost;
        let is_valid = self.memberships.iter().all(|(_, m)| m.validate().is_ok());
        if is_ordered && is_within && is_present && is_valid {
            Ok(())
        } else {
            Err(CoreError::MembershipsMismatch)
        }
    }
}
