//! From a data directory to what a node starts with: log and newest snapshot brought together.
//!
//! The log's mark may lie before the newest snapshot (compaction keeps entries for followers a
//! little behind), never after it. If the log does not have the snapshot's last entry, a crash fell
//! between the moment a received snapshot got its name and the moment it was installed in the log.
//! It is installed now, and that is safe whatever the leader knows of it:
//!
//! * a snapshot covers committed entries only, so each entry of this log up to its end that it
//!   contradicts, and everything behind such an entry, was never committed (§5.3, §5.4);
//! * if the log ends before the snapshot does, everything in it is covered;
//! * so no acknowledgement that counted for a commit is taken back, and term and vote stay. Should
//!   the term have been raised for the snapshot and not been durable, it is raised now, without
//!   a vote: in such a term this node has said nothing that needed the term to be durable.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use raft_core::{IndexRange, Recovered, SnapshotContent};
use raft_log::{
    DataDir, Hole, Log, LogEnd, LogError, LogIdentity, LogOptions, LogWrite, OnDamage,
    SnapshotStore,
};
use raft_proto::mutants::{Mutant, is_planted};
use raft_proto::{
    ClusterId, GroupId, HardState, LogIndex, LogPosition, NodeId, SnapshotDescription, Term,
};

use crate::error::FatalError;
use crate::machine::StateMachine;

/// An opened data directory.
pub struct Opened {
    /// The log.
    pub log: Log,
    /// What the core starts from.
    pub recovered: Recovered,
    /// The snapshots.
    pub snapshots: SnapshotStore,
    /// The newest of them, which the state machine is to be restored from.
    pub newest: Option<SnapshotDescription>,
    /// What the log said of itself before the newest snapshot was taken into account.
    pub found: raft_log::Recovered,
    /// Snapshots that could not be read any more, and were removed.
    pub damaged_snapshots: Vec<LogPosition>,
}

/// Opens the log and the snapshots of a data directory, and installs the newest snapshot in the log
/// if a crash prevented that. Every byte of that snapshot is checked, so it takes time.
///
/// # Errors
/// [`FatalError::OpenLog`], [`FatalError::Snapshots`], [`FatalError::MissingSnapshot`],
/// [`FatalError::Log`].
pub fn open(
    directory: &DataDir,
    cluster: ClusterId,
    options: LogOptions,
) -> Result<Opened, FatalError> {
    let identity = LogIdentity {
        cluster,
        node: directory.node(),
        incarnation: directory.incarnation(),
        group: GroupId(0),
    };
    // What is damaged is known by name, and peers have it.
    let options = LogOptions {
        on_damage: OnDamage::Report,
        ..options
    };
    let opened = Log::open(directory, identity, options);
    let (mut log, found) = opened.map_err(|error| FatalError::OpenLog(Arc::new(error)))?;
    for damage in &found.damage {
        tracing::error!(node = directory.node().0, %damage, "the log is damaged");
    }
    let snapshots = SnapshotStore::open(directory, identity).map_err(snapshot_error)?;
    let mut damaged = Vec::new();
    let newest = newest_readable(directory.node(), &snapshots, &mut damaged)?;
    let last_included = newest.as_ref().map(|newest| newest.last_included);
    let (snapshot, snapshot_content) = match check_mark(found.snapshot, last_included) {
        Ok(()) => (last_included, SnapshotContent::Whole),
        Err(_) => (found.snapshot, SnapshotContent::Lost),
    };
    let mut recovered = Recovered {
        hard_state: found.hard_state,
        snapshot,
        first_index: found.first_index,
        last: found.last,
        term_runs: found.term_runs.clone(),
        entry_sizes: found.entry_sizes.clone(),
        memberships: found.memberships.clone(),
        missing: Vec::new(),
        snapshot_content,
        counted: found.end == LogEnd::Known || is_planted(Mutant::UnknownEndCounts),
        boot: directory.boot(),
    };
    let newest = newest.filter(|_| snapshot_content == SnapshotContent::Whole);
    if let Some(newest) = &newest {
        if !has(&found, newest.last_included) && !is_planted(Mutant::GapAfterSnapshot) {
            install(&mut log, &mut recovered, newest.last_included)
                .map_err(|error| FatalError::Log(Arc::new(error)))?;
        }
        if !is_planted(Mutant::MembershipOnlyInLog) {
            add_membership(&mut recovered, newest);
        }
    }
    recovered.missing = holes_behind(&recovered, &found.missing);
    check_alone(directory.node(), &recovered, &found)?;
    for position in &damaged {
        // Another one may take its name.
        snapshots
            .remove_damaged(*position)
            .map_err(snapshot_error)?;
    }
    Ok(Opened {
        log,
        recovered,
        snapshots,
        newest,
        found,
        damaged_snapshots: damaged,
    })
}

/// The newest snapshot that can be read, every byte checked. A damaged one is as good as none: if an
/// older one, or the log, has what it covered, nothing is lost, else peers have it.
fn newest_readable(
    node: NodeId,
    snapshots: &SnapshotStore,
    damaged: &mut Vec<LogPosition>,
) -> Result<Option<SnapshotDescription>, FatalError> {
    let mut positions = snapshots.positions().map_err(snapshot_error)?;
    while let Some(position) = positions.pop() {
        match snapshots.check(position) {
            Ok(found) => return Ok(Some(found)),
            Err(error) if is_damage(&error) => {
                let index = position.index.0;
                tracing::error!(node = node.0, index, %error, "a snapshot cannot be read");
                damaged.push(position);
            }
            Err(error) => return Err(snapshot_error(error)),
        }
    }
    Ok(None)
}

const fn is_damage(error: &raft_log::SnapshotError) -> bool {
    matches!(
        error,
        raft_log::SnapshotError::Damaged(_) | raft_log::SnapshotError::Missing(_)
    )
}

/// The holes behind the snapshot: before it nobody reads.
fn holes_behind(recovered: &Recovered, missing: &[Hole]) -> Vec<IndexRange> {
    let covered = recovered.snapshot.map_or(LogIndex::ZERO, |at| at.index);
    let last = recovered.last.index;
    let behind = missing
        .iter()
        .filter_map(|hole| IndexRange::new(hole.first.max(covered.next()), hole.last.min(last)));
    behind.collect()
}

/// A voter that has no other voters cannot learn from anybody what it has promised, and one without
/// other members cannot get back what it lost: it says so at once.
fn check_alone(
    node: NodeId,
    recovered: &Recovered,
    found: &raft_log::Recovered,
) -> Result<(), FatalError> {
    let Some((_, membership)) = recovered.memberships.last() else {
        return Ok(());
    };
    let mut voters = membership.voters.iter().chain(&membership.outgoing);
    let is_only_voter = voters.all(|id| *id == node);
    if let (LogEnd::Unknown(reason), true) = (found.end, is_only_voter) {
        let last = found.last.index;
        return Err(FatalError::UnknownEnd { reason, last });
    }
    let is_only_member = membership.members.keys().all(|id| *id == node);
    if let (Some(hole), true) = (recovered.missing.first(), is_only_member) {
        let IndexRange { first, last } = *hole;
        return Err(FatalError::LostContent { first, last });
    }
    if let (SnapshotContent::Lost, Some(mark), true) = (
        recovered.snapshot_content,
        recovered.snapshot,
        is_only_member,
    ) {
        return Err(FatalError::MissingSnapshot { mark, newest: None });
    }
    Ok(())
}

/// Makes the state machine's state that of a stored snapshot.
///
/// # Errors
/// [`FatalError::Snapshots`] or [`FatalError::Restore`]; the state is unspecified then.
pub fn restore(
    machine: &mut dyn StateMachine,
    snapshots: &SnapshotStore,
    last_included: LogPosition,
) -> Result<(), FatalError> {
    restore_unless(&StopFlag::default(), machine, snapshots, last_included)
}

/// Raised once when a node is to stop; what takes long looks at it.
#[derive(Clone, Debug, Default)]
pub(crate) struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    pub(crate) fn raise(&self) {
        // Nothing is read on the strength of it.
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A source that fails once the node is to stop, so that a restore of any size ends at its next
/// read. The machine is of no use then, and the next start restores it from the beginning.
struct Interruptible<'a, R> {
    source: R,
    stop: &'a StopFlag,
}

impl<R: io::Read> io::Read for Interruptible<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_raised() {
            // Not `Interrupted`, which readers take for "try again".
            return Err(io::Error::other("the node is stopping"));
        }
        self.source.read(buffer)
    }
}

/// As [`restore`], but given up with [`FatalError::Restore`] when the flag is raised.
pub(crate) fn restore_unless(
    stop: &StopFlag,
    machine: &mut dyn StateMachine,
    snapshots: &SnapshotStore,
    last_included: LogPosition,
) -> Result<(), FatalError> {
    let source = snapshots.payload(last_included).map_err(snapshot_error)?;
    let mut payload = Interruptible { source, stop };
    let restored = machine.restore(&mut payload);
    // A machine may not read up to the end; the file's end is what its last checksum is about.
    let restored = restored.and_then(|()| io::copy(&mut payload, &mut io::sink()));
    let position = last_included;
    restored.map(drop).map_err(|error| FatalError::Restore {
        position,
        error: Arc::new(error),
    })
}

fn snapshot_error(error: raft_log::SnapshotError) -> FatalError {
    FatalError::Snapshots(Arc::new(error))
}

/// What is before the log's mark is in a snapshot, or nowhere.
fn check_mark(mark: Option<LogPosition>, newest: Option<LogPosition>) -> Result<(), FatalError> {
    let Some(mark) = mark else {
        return Ok(());
    };
    let is_covered = newest.is_some_and(|newest| {
        newest.index > mark.index || newest.index == mark.index && newest.term == mark.term
    });
    if is_covered {
        Ok(())
    } else {
        Err(FatalError::MissingSnapshot { mark, newest })
    }
}

/// Whether the log, or the mark it starts at, has this entry.
fn has(found: &raft_log::Recovered, position: LogPosition) -> bool {
    if position.index > found.last.index {
        return false;
    }
    if found.snapshot == Some(position) {
        return true;
    }
    let after = found
        .term_runs
        .partition_point(|run| run.first <= position.index);
    let run = after.checked_sub(1).and_then(|at| found.term_runs.get(at));
    run.is_some_and(|run| run.term == position.term)
}

fn install(
    log: &mut Log,
    recovered: &mut Recovered,
    position: LogPosition,
) -> Result<(), LogError> {
    let (node, index) = (log.node().0, position.index.0);
    tracing::info!(node, index, "a received snapshot is installed");
    let known = recovered.hard_state;
    recovered.hard_state = if known.term < position.term {
        HardState {
            term: position.term,
            vote: None,
        }
    } else {
        known
    };
    log.compact_prefix(position)?;
    log.stage(LogWrite {
        hard_state: Some(recovered.hard_state),
        truncate_from: Some(position.index.next()),
        ..LogWrite::default()
    })?;
    log.sync()?;
    assert_eq!(
        log.last(),
        position,
        "the log starts anew after the snapshot"
    );
    assert!(recovered.hard_state.term > Term::ZERO);
    recovered.first_index = position.index.next();
    recovered.last = position;
    recovered.term_runs.clear();
    recovered.entry_sizes.clear();
    recovered.memberships.clear();
    Ok(())
}

/// The snapshot's membership is in force at its end; those behind it are in the log.
fn add_membership(recovered: &mut Recovered, newest: &SnapshotDescription) {
    let end = newest.last_included.index;
    recovered.memberships.retain(|(index, _)| *index > end);
    let first = (end, newest.membership.clone());
    recovered.memberships.insert(0, first);
}
