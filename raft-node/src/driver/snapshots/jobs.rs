//! What the driver asks its shell to do about snapshots, and what the shell answers.

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use raft_proto::{LogPosition, Membership, NodeId, SnapshotDescription};

use crate::error::SnapshotError;

/// Names one attempt to take a snapshot, so that late answers about an earlier one are recognised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CutId(pub u64);

/// Names one attempt to fetch a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FetchId(pub u64);

/// Why a job failed, for a person.
pub type JobError = Arc<dyn Error + Send + Sync>;

/// Something to do with the state machine, in the order of the outputs and of the batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutStep {
    /// [`crate::StateMachine::begin_snapshot`].
    Begin,
    /// [`crate::StateMachine::snapshot_part`]; the answer is [`super::super::Input::CutPart`].
    Part {
        /// Of this cut.
        cut: CutId,
        /// About so long, in bytes.
        max_bytes: usize,
    },
    /// [`crate::StateMachine::end_snapshot`].
    End,
}

/// Something to do with snapshot files, in the order of the outputs.
pub enum SnapshotJob {
    /// Begin the file of a cut.
    Create {
        /// The cut.
        cut: CutId,
        /// The last entry that it covers.
        last_included: LogPosition,
        /// The membership in force there.
        membership: Membership,
    },
    /// Add a part; answered by [`SnapshotDone::Written`].
    Write {
        /// Of this cut.
        cut: CutId,
        /// The part.
        part: Bytes,
    },
    /// The cut is complete: make it durable under its name; answered by [`SnapshotDone::Saved`].
    Finish {
        /// The cut.
        cut: CutId,
    },
    /// Give the file of the cut up.
    Abandon {
        /// The cut.
        cut: CutId,
    },
    /// Read a part of a stored snapshot.
    Read {
        /// Which part.
        part: PartName,
        /// For whom.
        reader: PartReader,
    },
    /// Begin, or resume, the part file of a snapshot that is fetched; answered by
    /// [`SnapshotDone::Receiving`].
    Receive {
        /// The attempt.
        fetch: FetchId,
        /// The snapshot.
        snapshot: SnapshotDescription,
    },
    /// Add what was fetched, in order; answered by [`SnapshotDone::Stored`].
    Store {
        /// The attempt.
        fetch: FetchId,
        /// Where the bytes begin.
        offset: u64,
        /// The bytes.
        data: Bytes,
    },
    /// Everything is there: check it whole and make it durable under its name; answered by
    /// [`SnapshotDone::Received`].
    FinishReceiving {
        /// The attempt.
        fetch: FetchId,
    },
    /// Give the attempt up; what is there is of use to a later one.
    StopReceiving {
        /// The attempt.
        fetch: FetchId,
    },
    /// Delete snapshots that end before this position.
    RemoveOlder(LogPosition),
}

/// Names bytes of a stored snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartName {
    /// The last entry that the snapshot covers.
    pub last_included: LogPosition,
    /// Where the part begins in its file, in bytes.
    pub offset: u64,
    /// Most bytes of it.
    pub max_bytes: u32,
}

/// Who reads a part of a snapshot.
pub enum PartReader {
    /// A peer that installs it; answered by [`SnapshotDone::PartRead`].
    Peer(NodeId),
    /// A user of this node; told directly.
    Local(PartWaiter),
}

/// A part of a snapshot's file as it was found, and the file's length; `None` if the snapshot is
/// not here (any more).
pub type FoundPart = Option<(Bytes, u64)>;

/// Gets a part of a snapshot.
pub type PartWaiter = Box<dyn FnOnce(Result<FoundPart, SnapshotError>) + Send>;

/// Gets the description of a snapshot that was taken.
pub type SnapshotWaiter = Box<dyn FnOnce(Result<SnapshotDescription, SnapshotError>) + Send>;

/// What came of a [`SnapshotJob`].
#[derive(Debug)]
pub enum SnapshotDone {
    /// A part of the cut is in its file.
    Written {
        /// The cut.
        cut: CutId,
    },
    /// The snapshot is durable.
    Saved {
        /// The cut.
        cut: CutId,
        /// The snapshot.
        snapshot: SnapshotDescription,
    },
    /// The snapshot cannot be written; nothing of it is left.
    SaveFailed {
        /// The cut.
        cut: CutId,
        /// Why.
        error: JobError,
    },
    /// A part was read for a peer.
    PartRead {
        /// The peer.
        to: NodeId,
        /// Which part.
        part: PartName,
        /// The bytes.
        found: FoundPart,
    },
    /// A part file is open.
    Receiving {
        /// The attempt.
        fetch: FetchId,
        /// So much of it is there already, in bytes.
        received_bytes: u64,
    },
    /// What was fetched is in the part file.
    Stored {
        /// The attempt.
        fetch: FetchId,
        /// Everything up to here is in the part file, in bytes.
        stored_bytes: u64,
        /// And this much of it is durable, in bytes.
        durable_bytes: u64,
    },
    /// The snapshot is whole, checked and durable.
    Received {
        /// The attempt.
        fetch: FetchId,
        /// The last entry that it covers.
        last_included: LogPosition,
    },
    /// The snapshot cannot be stored, or is not what was announced.
    ReceiveFailed {
        /// The attempt.
        fetch: FetchId,
        /// Why.
        error: JobError,
    },
}
