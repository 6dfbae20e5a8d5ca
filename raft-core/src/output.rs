//! What the core asks its driver to do: persists, transmissions, commits and events.

use raft_proto::{
    AppendRequest, Entry, FetchEntriesResponse, HardState, LogIndex, LogPosition, Message, NodeId,
    SnapshotDescription, Term, TermRun,
};

use crate::time::{Epoch, MessageId, PersistId, ReadId};

/// Consecutive log indexes, both ends included; never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IndexRange {
    /// The first index.
    pub first: LogIndex,
    /// The last index, at or after `first`.
    pub last: LogIndex,
}

impl IndexRange {
    /// The range from `first` to `last`, or `None` if that is empty.
    #[must_use]
    pub const fn new(first: LogIndex, last: LogIndex) -> Option<Self> {
        if first.0 <= last.0 {
            Some(Self { first, last })
        } else {
            None
        }
    }

    /// How many indexes it has; at least one.
    #[must_use]
    pub const fn count(self) -> u64 {
        self.last.0 - self.first.0 + 1
    }

    /// Whether the index lies in it.
    #[must_use]
    pub const fn contains(self, index: LogIndex) -> bool {
        self.first.0 <= index.0 && index.0 <= self.last.0
    }

    /// The indexes in order.
    pub fn indexes(self) -> impl DoubleEndedIterator<Item = LogIndex> {
        (self.first.0..=self.last.0).map(LogIndex)
    }
}

/// One atomic, ordered write to the log (D5): everything in it becomes durable together.
///
/// The driver hands persists to its log in the order in which it polled them, and calls
/// [`crate::RaftCore::handle_persisted`] once one is durable, in the same order; several may be
/// under way at a time. The order inside a persist is: install, truncate, refill, append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persist {
    /// Names it in [`crate::RaftCore::handle_persisted`].
    pub id: PersistId,
    /// Term and vote that are durable with it. Always given; often unchanged.
    pub hard_state: HardState,
    /// Whether the log is to note, with it, that its end is known (again): from then on this node
    /// counts, also after a restart.
    pub end_is_known: bool,
    /// First, a snapshot takes the place of the beginning of the log, or of all of it: one that
    /// [`crate::RaftCore::handle_snapshot_received`] or
    /// [`crate::RaftCore::handle_snapshot_saved`] reported.
    pub install: Option<Install>,
    /// Then, all entries from this index on are removed.
    pub truncate_from: Option<LogIndex>,
    /// The core's epoch as of this persist: for [`crate::EntryBuffer::truncate_from`].
    pub epoch: Epoch,
    /// Then the content of these entries, which was lost, is written again, to a fresh place. The log
    /// has them by index and term; the content is in the answer that `message` names.
    pub refill: Option<IndexRange>,
    /// Then these entries are appended. Their content is, per index: in `generated` if the core
    /// made the entry itself; else in the message that `message` names; else, for a proposal,
    /// what the driver kept for the position that [`crate::RaftCore::propose`] returned.
    pub entries: Option<IndexRange>,
    /// The message whose payloads are written. A persist never mixes two messages. A message
    /// that no persist names by the time `poll_persist` returns `None` can be dropped.
    pub message: Option<MessageId>,
    /// Entries among `entries` that the core itself made: empty entries and memberships.
    pub generated: Vec<Entry>,
}

/// What becomes of the log when a snapshot is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Install {
    /// All of it goes; it starts anew after this position.
    Replace(LogPosition),
    /// Everything up to this position, which the log has, goes; what follows stays.
    Keep(LogPosition),
}

impl Install {
    /// The last entry that the snapshot covers.
    #[must_use]
    pub const fn position(self) -> LogPosition {
        match self {
            Self::Replace(position) | Self::Keep(position) => position,
        }
    }
}

/// Something to send, at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transmit {
    /// A whole message.
    Message {
        /// The receiver.
        to: NodeId,
        /// The message.
        message: Message,
    },
    /// An AppendEntries that the driver fills with payloads: from [`crate::EntryBuffer::fill`],
    /// or from disk for a peer that is far behind.
    Append(AppendOrder),
    /// An answer to a peer that lost entries, which the driver fills in the same way.
    Fetched(FetchedOrder),
}

/// Entries that a peer has lost, by name: the driver looks them up and sends
/// [`FetchedOrder::into_response`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedOrder {
    /// The receiver.
    pub to: NodeId,
    /// This node's durable term.
    pub term: Term,
    /// The entries to send, if there are any.
    pub entries: Option<IndexRange>,
    /// Their terms; the first run starts with them.
    pub runs: Vec<TermRun>,
    /// Entries asked for that this node's log does not have.
    pub never_had: Vec<LogPosition>,
    /// Entries asked for that are compacted or lost here, too.
    pub unavailable: Vec<LogPosition>,
}

impl FetchedOrder {
    /// The answer to send, with what was found: entries of other indexes or terms than ordered, and
    /// all after them, are left out, because the log has changed since.
    #[must_use]
    pub fn into_response(self, found: Vec<Entry>) -> FetchEntriesResponse {
        let mut next = self.entries.map(|range| range.first);
        let mut is_ordered = |entry: &Entry| {
            let is_next = next == Some(entry.index)
                && self
                    .entries
                    .is_some_and(|range| range.contains(entry.index));
            next = Some(entry.index.next());
            let after = self.runs.partition_point(|run| run.first <= entry.index);
            let run = after.checked_sub(1).and_then(|at| self.runs.get(at));
            is_next && run.is_some_and(|run| run.term == entry.term)
        };
        let entries = found.into_iter().take_while(|entry| is_ordered(entry));
        FetchEntriesResponse {
            term: self.term,
            entries: entries.collect(),
            never_had: self.never_had,
            unavailable: self.unavailable,
        }
    }
}

/// AppendEntries by name: the driver looks up the payloads, checks every term while doing so, and
/// sends [`AppendOrder::into_request`]. If an entry is gone, has another term, or the epoch has
/// moved on, it sends nothing and calls [`crate::RaftCore::handle_unsent`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendOrder {
    /// The receiver.
    pub to: NodeId,
    /// The leader's term.
    pub term: Term,
    /// Names the request in its answer.
    pub sequence: u64,
    /// The entry before the first one to send.
    pub previous: LogPosition,
    /// The leader's commit index.
    pub commit_index: LogIndex,
    /// The last entry to send; `previous.index` for a probe without entries.
    pub last: LogIndex,
    /// Terms of the entries to send; the first run starts at `previous.index + 1`.
    pub runs: Vec<TermRun>,
    /// The core's epoch when it ordered this.
    pub epoch: Epoch,
}

impl AppendOrder {
    /// The entries to send, `None` for a probe without entries.
    #[must_use]
    pub const fn entries(&self) -> Option<IndexRange> {
        IndexRange::new(self.previous.index.next(), self.last)
    }

    /// The term that the entry at this index must have, `None` outside of the order.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index <= self.previous.index || index > self.last {
            return None;
        }
        let after = self.runs.partition_point(|run| run.first <= index);
        Some(self.runs[after.checked_sub(1)?].term)
    }

    /// The request to send, with the entries found for it.
    ///
    /// # Panics
    /// If these are not the entries ordered: sending anything else would break log matching.
    #[must_use]
    pub fn into_request(self, entries: Vec<Entry>) -> AppendRequest {
        assert_eq!(
            entries.len() as u64,
            self.last.since(self.previous.index),
            "an append order is filled completely or not at all"
        );
        let mut index = self.previous.index;
        for entry in &entries {
            index = index.next();
            assert_eq!(entry.index, index, "an append order is filled in order");
            assert_eq!(
                Some(entry.term),
                self.term_at(index),
                "an append order is filled with entries of the ordered terms"
            );
        }
        AppendRequest {
            term: self.term,
            sequence: self.sequence,
            previous: self.previous,
            commit_index: self.commit_index,
            entries,
        }
    }
}

/// Why the driver did not send an [`AppendOrder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnsentReason {
    /// The log was truncated since the order was made, or an entry has another term.
    Stale,
    /// An entry could not be read back from disk.
    Unreadable,
    /// The peer is not connected, or its queue is full.
    Dropped,
}

/// What may be applied to the state machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Commit {
    /// These entries, in order; committed, and durable on this node. They continue without a gap
    /// where the last commit ended. Empty entries and memberships are among them.
    Entries(IndexRange),
    /// The state machine is replaced by the snapshot received that covers everything up to here;
    /// it is installed durably on this node. Nothing needs to be done if the state machine has come
    /// as far by itself: that happens when the snapshot was fetched for entries that were lost.
    Restore(LogPosition),
}

/// The role of a node in its term (Figure 4); pre-candidates are §9.6 of the thesis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Follows a leader, or waits for one. Learners and removed nodes are always followers.
    Follower,
    /// Asks whether an election could be won.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads its term.
    Leader,
}

/// What became of proposals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProposalOutcome {
    /// The proposed entries are committed.
    Committed,
    /// Another term's entry is committed there, or a later term's before it: the proposal will
    /// never take effect, because no later leader's log can have it.
    Superseded {
        /// The term of the entry that is committed; of the last one that a snapshot covers, if that
        /// is how this node learned of it.
        by: Term,
    },
    /// This node stopped, or installed a snapshot over it: the proposal may have been committed,
    /// or may still be.
    Unknown,
}

/// Why a read was not confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadFailure {
    /// Nobody is known to lead, or the leader changed before the read was confirmed.
    LeaderLost,
    /// No confirmation came within [`crate::Config::read_timeout_ms`].
    TimedOut,
    /// The node asked does not lead any more, or cannot take more reads.
    Refused,
    /// This node stopped.
    Halted,
}

/// How a leadership transfer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransferOutcome {
    /// The target leads.
    Transferred,
    /// Another node won the election.
    OtherLeader(NodeId),
    /// The target did not take over within an election timeout; this node leads on if it still
    /// can.
    TimedOut,
    /// This node stopped.
    Aborted,
}

/// What happened to the membership at a log index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MembershipStage {
    /// It was appended, and is in force from now on (§6).
    Appended,
    /// It was truncated; the one before it is in force again.
    RolledBack,
    /// It is committed.
    Committed,
}

/// How a peer broke the protocol. Nothing of such a message takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Violation {
    /// Its term or an index is beyond any that a cluster can reach.
    ImpossibleNumber,
    /// It claims to lead a term that has another leader.
    SecondLeader,
    /// Its entries are not consecutive, or their terms decrease or exceed the message's.
    MalformedEntries,
    /// It sent a membership that cannot be decoded or breaks the rules of memberships.
    MalformedMembership,
    /// It sends other entries where it sent some before in the same term.
    RewritesItsLog,
    /// Following it would remove committed entries.
    ConflictsWithCommitted,
    /// It acknowledged entries, and now does not have them any more: it counts for nothing while
    /// this node leads.
    LostEntries,
}

/// What became of content that this node has lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepairNews {
    /// These entries cannot be read; peers are asked for them.
    Missing(IndexRange),
    /// The snapshot that ends here, or after it, cannot be read, and the state machine's state with
    /// it; peers are asked for one.
    SnapshotLost(LogPosition),
    /// A peer had the content of these entries; it is durable here again.
    Refilled(IndexRange),
    /// A snapshot that ends here covers what was missing before it.
    Covered(LogPosition),
    /// These entries were never committed and never will be: enough voters never had the first.
    Dropped(IndexRange),
    /// Everybody has answered, several times, and nobody can help: these entries may have been
    /// committed, and their content is lost for good. The node must stop and say so.
    Lost(IndexRange),
}

/// Something the driver or its user may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// What became of proposals of this node; ranges are reported once, and in pieces if need be.
    ProposalsDecided {
        /// The positions, as [`crate::RaftCore::propose`] returned them.
        range: IndexRange,
        /// Their term, as `propose` returned it.
        term: Term,
        /// What became of them.
        outcome: ProposalOutcome,
    },
    /// A read may be served once everything up to `index` is applied here.
    ReadReady {
        /// The read.
        id: ReadId,
        /// The index to wait for.
        index: LogIndex,
    },
    /// A read could not be confirmed; it can be retried.
    ReadFailed {
        /// The read.
        id: ReadId,
        /// Why.
        reason: ReadFailure,
    },
    /// This node's role or term changed.
    RoleChanged {
        /// The role from now on.
        role: Role,
        /// The term from now on.
        term: Term,
    },
    /// The leader that this node knows changed.
    LeaderChanged {
        /// The leader from now on, if known.
        leader: Option<NodeId>,
        /// The term.
        term: Term,
    },
    /// A membership entered or left the log, or was committed.
    MembershipChanged {
        /// The log index of the membership's entry.
        index: LogIndex,
        /// What happened to it.
        stage: MembershipStage,
    },
    /// A leadership transfer that this node began has ended.
    TransferEnded {
        /// The target.
        to: NodeId,
        /// How.
        outcome: TransferOutcome,
    },
    /// The leader offers a snapshot, because the entries that this node needs are compacted there
    /// (§7), or a peer does, because this node has lost its own or entries of its log. Fetch it, then call [`crate::RaftCore::handle_snapshot_received`] or
    /// [`crate::RaftCore::handle_snapshot_failed`]; until then nothing else is offered.
    SnapshotOffered {
        /// Whom to fetch it from.
        from: NodeId,
        /// What to fetch.
        snapshot: SnapshotDescription,
    },
    /// A peer needs entries that are compacted or lost here, and no snapshot that covers them was
    /// reported by [`crate::RaftCore::handle_snapshot_saved`].
    SnapshotWanted {
        /// The peer; this node itself, if a snapshot of its own state is all that heals its log.
        peer: NodeId,
    },
    /// This node counts again, durably: it holds everything that it could have promised.
    CountsAgain,
    /// News of content that was lost.
    Repair(RepairNews),
    /// A peer broke the protocol.
    PeerViolated {
        /// The peer.
        peer: NodeId,
        /// How.
        violation: Violation,
    },
    /// The disk failed: this core does and answers nothing any more (D7).
    Halted,
}
