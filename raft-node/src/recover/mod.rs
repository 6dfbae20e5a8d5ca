//! From the directory of a surviving member to that of the only member of a new cluster.
//!
//! When a majority of the voters is lost for good, the cluster cannot elect or commit anything any
//! more, and nobody can say what the lost ones had acknowledged beyond what a survivor has. Going on
//! from a survivor is a decision of the operator, who gives that up. [`recover_directory`] carries
//! it out: everything in the survivor's snapshots and log stays (state, sessions, entries that
//! were never committed included), under a new life and a new cluster id, and its only member is the
//! survivor.
//!
//! * The incarnation is drawn anew, the first membership names it alone, and the id of the new cluster
//!   is the hash of that membership, as for every cluster. So a member of the old cluster that turns
//!   up after all is refused by its cluster id, and so is this node by the old ones.
//! * Every membership in the past is replaced by the new one: those in the log and that of the
//!   snapshot. A node that joins later is never told of members that are of another cluster.
//! * Entries keep their index and term, because replicated state refers to them (ids of sessions are
//!   log indexes). The hard state keeps its term, without a vote: nobody of the new cluster has asked
//!   for one. The node then elects itself in the next term and commits what is there (§5.4.2).
//!
//! # Crashes
//!
//! The new directory is made whole beside the old files, in a directory of its own inside (`build`),
//! while the old ones are only read. Then one atomic record says that it is to take their place, and
//! from then on whoever opens the directory with [`open_directory`] carries that to its end first:
//!
//! | record | files | a crash here leaves |
//! | --- | --- | --- |
//! | none | `build` is being made | the old node, and files of no use |
//! | `out` | the old files move to `replaced`, one at a time | the new node: the rest is moved |
//! | `in` | the new ones move from `build`, the identity last | the new node: the rest is moved |
//! | `done` | | the new node |
//!
//! Each move is a rename, so a file is in one of two places, and a phase that is repeated moves what
//! is left. Nothing is moved back: in phase `out` only old files are in the directory, in phase `in`
//! no old ones but the identity, of which `replaced` has a copy by then. A program that opens the
//! directory in another way in between is refused by [`check_settled`] before it takes part.

mod build;
mod swap;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft_log::vfs::Vfs;
use raft_log::{
    DataDir, DirError, FileError, LogError, LogOptions, OpenError, OptionsError, ReadError,
    SnapshotError,
};
use raft_proto::{ClusterId, CodecError, LogPosition, Membership, NodeId, Term};
use thiserror::Error;

use self::build::Source;
use self::swap::Swap;
use crate::error::FatalError;
use crate::formation::{FirstEntryError, RecordError};
use crate::restore::RestoreError;

/// The record that says how far a directory is that takes the place of another.
const RECOVER_RECORD: &str = "recover";

/// What to make a cluster of its own.
#[derive(Clone, Debug)]
pub struct RecoverPlan {
    /// The data directory of the survivor; no process may run on it.
    pub directory: PathBuf,
    /// Where the new cluster's only member is reached, `host:port`; where the old one reached it if
    /// that is `None`.
    pub address: Option<String>,
    /// Options of the logs that are read and made.
    pub log: LogOptions,
}

/// What a directory has, before anything is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// The node.
    pub node: NodeId,
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// The last entry that it has. Of several survivors the one with the highest term here, and
    /// among these the highest index, has the most.
    pub last: LogPosition,
    /// The term that it has reached.
    pub term: Term,
    /// The last entry that its newest snapshot covers.
    pub snapshot: Option<LogPosition>,
    /// The members as its log has them.
    pub membership: Membership,
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCluster {
    /// What the directory had been.
    pub survey: Survey,
    /// The new cluster.
    pub cluster: ClusterId,
    /// Where its only member is reached.
    pub address: String,
    /// Where everything that was replaced is kept.
    pub replaced: PathBuf,
    /// Where the new files were made; empty directories by now.
    pub build: PathBuf,
}

/// Why nothing was recovered, or a directory cannot be used.
#[derive(Debug, Error)]
pub enum RecoverError {
    /// There is no such directory, or it belongs to no cluster.
    #[error(
        "{0} is no data directory of a node that belongs to a cluster; name that of a surviving member"
    )]
    NoMember(PathBuf),
    /// The members do not name the node, so nobody knows where it is reached.
    #[error(
        "the log of {0} does not say where this node is reached; say it with --address HOST:PORT"
    )]
    NoAddress(NodeId),
    /// The address, or the member, is not one that a cluster can begin with.
    #[error("no cluster can begin with this member: {0}")]
    FirstEntry(#[from] FirstEntryError),
    /// The log's options cannot work.
    #[error("invalid log options: {0}")]
    Options(#[from] OptionsError),
    /// The directory was being restored from a snapshot.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The record of what the node belongs to is not usable.
    #[error(transparent)]
    Formation(#[from] RecordError),
    /// The directory cannot be opened or written.
    #[error(transparent)]
    Directory(#[from] DirError),
    /// What the node had cannot be read. Nothing was changed.
    #[error(
        "the directory of the survivor cannot be used as it is, and nothing was changed: {0}; if \
         another member survives, recover that one, or restore the cluster from a snapshot"
    )]
    Source(Box<FatalError>),
    /// An entry cannot be read. Nothing was changed.
    #[error("cannot read the log of the survivor, and nothing was changed: {0}")]
    Read(#[from] ReadError),
    /// The snapshot cannot be copied. Nothing was changed.
    #[error("cannot copy the survivor's snapshot, and nothing was changed: {0}")]
    Snapshot(#[from] SnapshotError),
    /// The snapshot's bytes cannot be copied. Nothing was changed.
    #[error("cannot copy the survivor's snapshot, and nothing was changed: {0}")]
    Payload(std::io::Error),
    /// The new log cannot be made. Nothing was changed.
    #[error("cannot make the new log, and nothing was changed: {0}")]
    OpenLog(#[from] OpenError),
    /// The new log cannot be written. Nothing was changed.
    #[error("cannot write the new log, and nothing was changed: {0}")]
    WriteLog(#[from] LogError),
    /// The membership cannot be written down.
    #[error("the membership cannot be encoded: {0}")]
    Codec(#[from] CodecError),
    /// The new files cannot take the place of the old ones yet.
    #[error(
        "{0}; the recovery is decided and goes on from there: free what is in the way, and start the \
         server or repeat the command"
    )]
    Move(FileError),
    /// A decided recovery has not come to its end.
    #[error(
        "the data directory {0} is being recovered into a new cluster, and that was interrupted; \
         start it with `raft-kv server`, or repeat `raft-kv recover`: both finish it first"
    )]
    Unsettled(PathBuf),
    /// The record of a recovery says something that this program does not know.
    #[error(
        "the record of a recovery in {0} was written by a newer program; finish the recovery with that one"
    )]
    UnknownRecord(PathBuf),
}

/// Opens a data directory as [`DataDir::open`] does, and first brings a recovery to its end that was
/// interrupted.
///
/// # Errors
/// [`RecoverError::Directory`]; [`RecoverError::Move`] if such a recovery cannot go on.
pub fn open_directory(
    vfs: &Arc<dyn Vfs>,
    path: &Path,
    node: NodeId,
) -> Result<DataDir, RecoverError> {
    let directory = DataDir::open(Arc::clone(vfs), path, node)?;
    let Some(swap) = Swap::pending(&directory)? else {
        return Ok(directory);
    };
    tracing::warn!(node = node.0, "a recovery that was interrupted is finished");
    swap.finish(&directory)?;
    // Its identity is another one now.
    drop(directory);
    Ok(DataDir::open(Arc::clone(vfs), path, node)?)
}

/// Refuses a directory in which old and new files may be mixed.
///
/// # Errors
/// [`RecoverError::Unsettled`], or what the file system says.
pub fn check_settled(directory: &DataDir) -> Result<(), RecoverError> {
    match Swap::pending(directory)? {
        Some(_) => Err(RecoverError::Unsettled(directory.path().to_path_buf())),
        None => Ok(()),
    }
}

/// What the directory of a survivor has. Opens it as a start of the node does, and changes no more.
///
/// # Errors
/// [`RecoverError`].
pub fn survey(
    vfs: &Arc<dyn Vfs>,
    directory: &Path,
    log: LogOptions,
) -> Result<Survey, RecoverError> {
    Ok(Source::open(vfs, directory, log)?.survey())
}

/// Makes the directory of a survivor that of the only member of a new cluster.
///
/// # Errors
/// [`RecoverError`]. Unless it is [`RecoverError::Move`], nothing has changed.
pub fn recover_directory(
    vfs: &Arc<dyn Vfs>,
    plan: &RecoverPlan,
) -> Result<NewCluster, RecoverError> {
    plan.log.validate()?;
    let source = Source::open(vfs, &plan.directory, plan.log)?;
    let survey = source.survey();
    let made = source.build(vfs, plan)?;
    let swap = Swap::new(&survey, made.cluster);
    let directory = source.into_directory();
    swap.decide(&directory)?;
    swap.finish(&directory)?;
    Ok(NewCluster {
        replaced: plan.directory.join(swap.replaced()),
        build: plan.directory.join(swap.build()),
        survey,
        cluster: made.cluster,
        address: made.address,
    })
}
