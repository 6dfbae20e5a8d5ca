//! What goes into the driver and what comes out of it.

use std::time::Duration;

use bytes::Bytes;
use raft_core::{AppendOrder, Epoch, FetchedOrder, IndexRange, MembershipChange, PersistId};
use raft_log::LogWrite;
use raft_proto::{
    Boot, Entry, Incarnation, LogIndex, LogPosition, Membership, Message, NodeId, ProtocolVersion,
};

use super::apply::ApplyBatch;
use super::comparison::{ComparisonPolicy, ComparisonWaiter, ReachedComparison};
use super::membership::ChangeWaiter;
use super::proposals::ProposalWaiter;
use super::reads::{QueryWaiter, ReadConsistency};
use super::snapshots::{
    CutId, CutStep, PartName, PartWaiter, SnapshotDone, SnapshotJob, SnapshotPolicy, SnapshotWaiter,
};
use super::status::Status;
use crate::error::{FatalError, ProposeError, ReadError, SnapshotError, TransferError};
use crate::membership::{ChangeError, ChangeSafety};

/// Answers a leadership transfer.
pub type TransferWaiter = Box<dyn FnOnce(Result<(), TransferError>) + Send>;
/// Answers a status request.
pub type StatusWaiter = Box<dyn FnOnce(Status) + Send>;

/// Limits of a [`Driver`](super::Driver); all of them bound memory.
#[derive(Clone, Debug)]
pub struct DriverLimits {
    /// Largest command, in bytes.
    pub max_command_bytes: usize,
    /// Recent entries kept in memory for slow followers, in payload bytes.
    pub entry_buffer_bytes: u64,
    /// Entries and queries handed to the applier and not yet done, in bytes of payload and
    /// something for each. Beyond it reads are refused or wait, and entries stay in the log.
    pub max_apply_bytes: usize,
    /// Most payload bytes of one read from the log.
    pub max_log_read_bytes: u64,
    /// Most proposals whose outcome is not known yet; their commands may have left memory.
    pub max_waiting_proposals: usize,
    /// Most reads waiting for confirmation, or for their turn after it.
    pub max_waiting_reads: usize,
    /// How long a proposal or read may wait before its outcome is reported as unknown.
    pub request_timeout: Duration,
    /// How long writes may wait for the disk without any progress before this node stops taking
    /// proposals, and hands leadership over once a quorum without it is ahead of its disk (D11).
    /// `None`: twice the longest election timeout.
    pub disk_stall_timeout: Option<Duration>,
    /// When to take snapshots, and how much of the log to keep behind them.
    pub snapshots: SnapshotPolicy,
    /// When replicas are compared, and how fast.
    pub comparison: ComparisonPolicy,
    /// The newest version of the protocol that this node speaks: an older one than
    /// [`ProtocolVersion::NEWEST`] makes it behave as an older build does.
    pub newest_version: ProtocolVersion,
}

impl Default for DriverLimits {
    fn default() -> Self {
        Self {
            max_command_bytes: 16 << 20,
            entry_buffer_bytes: 32 << 20,
            max_apply_bytes: 16 << 20,
            max_log_read_bytes: 4 << 20,
            max_waiting_proposals: 1 << 18,
            max_waiting_reads: 1 << 16,
            request_timeout: Duration::from_secs(5),
            disk_stall_timeout: None,
            snapshots: SnapshotPolicy::default(),
            comparison: ComparisonPolicy::default(),
            newest_version: ProtocolVersion::NEWEST,
        }
    }
}

/// Something that happened outside.
pub enum Input {
    /// A peer's message arrived.
    Message {
        /// The sender, verified by the transport.
        from: NodeId,
        /// Whether the sender counts for nothing at the moment.
        uncounted: bool,
        /// The message.
        message: Message,
    },
    /// A peer is connected.
    PeerUp {
        /// The peer.
        peer: NodeId,
        /// The life of its data directory.
        incarnation: Incarnation,
        /// Its current boot.
        boot: Boot,
        /// The newest version of the protocol that both sides speak.
        version: ProtocolVersion,
    },
    /// A peer's connection was lost.
    PeerDown {
        /// The peer.
        peer: NodeId,
    },
    /// A client wants a command replicated.
    Propose {
        /// The command.
        command: Bytes,
        /// Hears what becomes of it.
        waiter: ProposalWaiter,
    },
    /// A client wants to read.
    Read {
        /// The query for the state machine.
        query: Bytes,
        /// Which states may answer.
        consistency: ReadConsistency,
        /// Gets the answer.
        waiter: QueryWaiter,
    },
    /// An operator wants another leader.
    Transfer {
        /// The next leader.
        to: NodeId,
        /// Hears the outcome.
        waiter: TransferWaiter,
    },
    /// An operator wants other members.
    ChangeMembership {
        /// All wishes, to be made together.
        changes: Vec<MembershipChange>,
        /// How careful to be.
        safety: ChangeSafety,
        /// Hears the outcome.
        waiter: ChangeWaiter,
    },
    /// Somebody wants to know how the node is.
    Status {
        /// Bytes that the log takes on disk, known to the shell.
        log_bytes: u64,
        /// Gets the status.
        waiter: StatusWaiter,
    },
    /// An append could not be queued for its receiver.
    Unsent {
        /// The receiver.
        to: NodeId,
        /// The request's sequence.
        sequence: u64,
    },
    /// All writes up to this one are durable.
    Persisted(PersistId),
    /// Term and vote of this write are durable, ahead of the rest of it and of those before it: the
    /// log has no room for that.
    HardStatePersisted(PersistId),
    /// The log has no room for the writes given; they are tried again, and nothing was torn (D7).
    DiskFull,
    /// A read of the log met an entry whose content is damaged on the disk.
    LogUnreadable {
        /// The request.
        request: LogReadRequest,
        /// The entry.
        index: LogIndex,
    },
    /// A scrub has found damage while nobody read what is damaged.
    RotFound(Rot),
    /// A read of the log is done.
    LogRead {
        /// The request.
        request: LogReadRequest,
        /// Entries from `request.first` on, without a gap, maybe fewer than asked; none if they are
        /// not in the log any more.
        entries: Vec<Entry>,
    },
    /// The state machine applied a batch.
    Applied {
        /// The last entry of it.
        through: LogIndex,
        /// The batch's `bytes`.
        bytes: usize,
        /// The comparisons of replicas among them, in order.
        comparisons: Vec<ReachedComparison>,
    },
    /// Somebody wants the replicas compared.
    CompareReplicas {
        /// Hears what came of it.
        waiter: ComparisonWaiter,
    },
    /// Somebody wants a snapshot of what is applied now.
    TakeSnapshot {
        /// Hears what came of it.
        waiter: SnapshotWaiter,
    },
    /// Somebody wants a part of a stored snapshot.
    ReadSnapshot {
        /// Which part.
        part: PartName,
        /// Gets it.
        waiter: PartWaiter,
    },
    /// The state machine gave a part of its cut.
    CutPart {
        /// The cut.
        cut: CutId,
        /// The part; `None` if the cut is complete.
        part: Option<Bytes>,
    },
    /// A job on snapshot files is done.
    SnapshotDone(SnapshotDone),
    /// The log is compacted up to here, durably.
    Compacted(LogIndex),
    /// The state machine's state is that of the snapshot that ends here.
    Restored(LogPosition),
}

impl Input {
    /// Tells whoever waits for this input's outcome that nothing comes of it, because the node
    /// takes no part in a group yet.
    pub(crate) fn refuse(self) {
        match self {
            Self::Propose { waiter, .. } => {
                waiter.decide(Err(ProposeError::NotLeader { leader: None }));
            }
            Self::Read { waiter, .. } => waiter(Err(ReadError::NotConfirmed { leader: None })),
            Self::Transfer { waiter, .. } => {
                waiter(Err(TransferError::NotLeader { leader: None }));
            }
            Self::ChangeMembership { waiter, .. } => {
                waiter.decide(Err(ChangeError::NotLeader { leader: None }));
            }
            Self::Message { .. }
            | Self::PeerUp { .. }
            | Self::PeerDown { .. }
            | Self::Status { .. }
            | Self::Unsent { .. }
            | Self::Persisted(_)
            | Self::HardStatePersisted(_)
            | Self::DiskFull
            | Self::LogUnreadable { .. }
            | Self::RotFound(_)
            | Self::LogRead { .. }
            | Self::Applied { .. }
            | Self::CutPart { .. }
            | Self::SnapshotDone(_)
            | Self::Compacted(_)
            | Self::Restored(_) => {}
            Self::CompareReplicas { waiter } => {
                waiter(Err(ProposeError::NotLeader { leader: None }));
            }
            Self::TakeSnapshot { waiter } => waiter(Err(SnapshotError::NotRunning)),
            Self::ReadSnapshot { waiter, .. } => waiter(Err(SnapshotError::NotRunning)),
        }
    }
}

/// Something to be done outside.
pub enum Output {
    /// Make this durable, in the order of the outputs, then say [`Input::Persisted`].
    Write {
        /// Names the write.
        id: PersistId,
        /// First, and together with it, the log is emptied and starts anew after this position.
        install: Option<LogPosition>,
        /// What to write.
        write: LogWrite,
    },
    /// Send a message; losing it is fine. If an append cannot even be queued, say
    /// [`Input::Unsent`].
    Send {
        /// The receiver.
        to: NodeId,
        /// Whether this node counts for nothing at the moment.
        uncounted: bool,
        /// The message.
        message: Message,
    },
    /// Apply entries and answer queries, in order, then say [`Input::Applied`].
    Apply(ApplyBatch),
    /// Read entries from the log, then say [`Input::LogRead`].
    ReadLog(LogReadRequest),
    /// The membership changed: stay connected with its members (this node excluded).
    Peers {
        /// The membership in force.
        membership: Membership,
        /// Members of the one before, with their addresses, as long as this one is not known to be
        /// committed: stay connected with them, too. A leader that leaves needs the answers of the
        /// others, and a member that leaves is to learn of it.
        leaving: Vec<(NodeId, String)>,
    },
    /// Freeze the state machine's state or take a part of what is frozen, in order with
    /// [`Output::Apply`].
    Cut(CutStep),
    /// Replace the state machine's state by that of the stored snapshot that ends here, in order
    /// with [`Output::Apply`], then say [`Input::Restored`].
    Restore(LogPosition),
    /// Do something with snapshot files, in the order of the outputs, then say
    /// [`Input::SnapshotDone`].
    Snapshot(SnapshotJob),
    /// Entries of the log turned out to be damaged: say so to the log, in order with
    /// [`Output::Write`], so that it takes their content from a later write.
    ReportRot(IndexRange),
    /// Stop: this error cannot be healed.
    Halt(FatalError),
    /// Let the log forget everything up to here, in order with [`Output::Write`], then say
    /// [`Input::Compacted`].
    Compact(LogPosition),
}

/// Why entries are read back from the log.
#[derive(Clone, Debug)]
pub enum LogReadPurpose {
    /// A follower needs entries that left the buffer.
    Append(AppendOrder),
    /// The applier needs entries that left the buffer, or that the last boot wrote.
    Apply,
    /// A peer has lost entries.
    Fetched(FetchedOrder),
    /// Replicas are compared by what is on the disk, says this entry: not by what is cached.
    Compare(LogPosition),
    /// A scrub has found some of them damaged: each is looked at once more.
    Checked,
}

/// What a scrub has found damaged on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rot {
    /// The content of entries.
    Entries(IndexRange),
    /// A stored snapshot.
    Snapshot(LogPosition),
}

/// A read of the log.
#[derive(Clone, Debug)]
pub struct LogReadRequest {
    /// Who needs it.
    pub purpose: LogReadPurpose,
    /// First entry.
    pub first: LogIndex,
    /// Last entry.
    pub last: LogIndex,
    /// Most payload bytes to read; at least one entry is read anyway.
    pub max_bytes: u64,
    /// The core's epoch when this was asked for: what is found says nothing about a log that was
    /// truncated since.
    pub epoch: Epoch,
}
