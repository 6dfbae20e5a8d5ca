//! From a snapshot file to the data directory of a member of a new cluster.
//!
//! Restoring is how a cluster begins again after all, or too many, of its directories are lost, or
//! how a copy of it begins elsewhere. Every member's directory is made from the same snapshot file
//! and the same list of members, on its own machine and without the others. What they need to have
//! in common follows from the two:
//!
//! * The incarnation of member i is a hash of the snapshot (its cluster, position, length and
//!   checksum), the list in order of id, and i. So each of them knows the lives of all.
//! * The first membership names these lives, and the id of the new cluster is its hash, as for every
//!   cluster. Peers compare ids in their hellos, so a directory that was made from another snapshot
//!   or another list is refused by the rest.
//! * The log begins at the snapshot's position, with its index and term. Indexes go on where they
//!   were, because replicated state refers to them (ids of sessions are log indexes). The snapshot is
//!   written again under the new cluster's id and membership, its payload byte for byte.
//!
//! The old cluster, should anything of it still run, has another id: the two refuse each other.
//!
//! # At most one past
//!
//! All members begin with the same log, which ends at the same position, and with the same term and
//! no vote. So the new cluster is in the state of one that has just installed this snapshot
//! everywhere, and Raft's argument goes on from there: whatever it commits, it commits behind the
//! snapshot.
//!
//! That holds as long as each member is made *once*. A directory that is made a second time, after
//! the first one has taken part, has forgotten what the first one promised, under the same
//! incarnation. Peers remember the boots of the first one and refuse the second as an old copy,
//! as long as it was not started more often. A member that lost its directory after the cluster ran
//! is therefore replaced like in any cluster (`raft-kv member remove`, `member add`), not restored.
//!
//! # Crashes
//!
//! A directory says that it is being restored before it says whose it is, and that this is finished
//! after everything else is durable. In between no node starts on it: it would come up empty, or
//! with half of its files. Restoring again is refused, too, until the directory is cleared: nothing
//! in it is needed, but that is for the operator to say.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use raft_log::snapshot::{SnapshotSummary, open_snapshot_payload, verify_snapshot};
use raft_log::vfs::Vfs;
use raft_log::{
    DataDir, DirError, Log, LogError, LogIdentity, LogOptions, LogWrite, OpenError, OptionsError,
    SnapshotError, SnapshotStore,
};
use raft_proto::{
    ClusterId, CodecError, GroupId, HardState, Incarnation, Member, Membership, NodeId,
    SnapshotDescription, codec,
};
use thiserror::Error;

use crate::formation::{
    FORMATION_RECORD, FirstEntryError, FormedResponder, InitialVoters, VotersError,
};

/// The record that says whether the directory was restored whole.
const RESTORE_RECORD: &str = "restore";
const BEGUN: &[u8] = b"begun";
const FINISHED: &[u8] = b"finished";
/// Separates the hash of an incarnation from hashes of anything else.
const DOMAIN: &str = "raft restored member 1";
/// Bytes of payload copied at a time.
const COPY_BYTES: usize = 256 << 10;

/// What to restore, and as what.
#[derive(Clone, Debug)]
pub struct RestorePlan {
    /// The snapshot file.
    pub snapshot: PathBuf,
    /// Where the data directory is to be: missing or empty.
    pub directory: PathBuf,
    /// The member whose directory it becomes.
    pub node: NodeId,
    /// All members of the new cluster, with their addresses, this one included; the same list for
    /// each of them. All begin as voters.
    pub members: Vec<(NodeId, String)>,
    /// Options of the log that is made.
    pub log: LogOptions,
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The new cluster.
    pub cluster: ClusterId,
    /// Its members.
    pub membership: Membership,
    /// The snapshot that its log begins with, as it is stored now.
    pub snapshot: SnapshotDescription,
    /// Length of the state machine's bytes.
    pub payload_bytes: u64,
}

/// Why nothing was restored, or a restored directory cannot be used.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// The file is no whole snapshot, or the new one cannot be written.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The list of members is not usable.
    #[error("the list of members is not usable: {0}")]
    Members(#[from] VotersError),
    /// The log's options cannot work.
    #[error("invalid log options: {0}")]
    Options(#[from] OptionsError),
    /// The data directory cannot be made.
    #[error(transparent)]
    Directory(#[from] DirError),
    /// The log cannot be made.
    #[error("cannot make the log: {0}")]
    OpenLog(#[from] OpenError),
    /// The log cannot be written.
    #[error("cannot write the log: {0}")]
    Log(#[from] LogError),
    /// The payload cannot be read any more.
    #[error("cannot read the snapshot {path}: {source}")]
    Payload {
        /// The file.
        path: PathBuf,
        /// What the file system said, or what is damaged.
        source: io::Error,
    },
    /// The file was replaced while it was read.
    #[error(
        "the snapshot {0} has changed while it was restored; restore it again into an empty directory"
    )]
    Changed(PathBuf),
    /// The members cannot be written down.
    #[error("the membership cannot be encoded: {0}")]
    Codec(#[from] CodecError),
    /// The members make no first entry.
    #[error("no cluster can begin with these members: {0}")]
    FirstEntry(#[from] FirstEntryError),
    /// A restore did not come to its end.
    #[error(
        "the data directory {0} was being restored from a snapshot and is not complete; clear it and restore again"
    )]
    Unfinished(PathBuf),
}

/// Makes the data directory of one member of a new cluster whose state is that of a snapshot file.
/// Reads the file twice: once to check every byte before anything is made.
///
/// # Errors
/// [`RestoreError`]. If the directory is there by then, no node starts on it and it is to be
/// cleared.
pub fn restore_directory(vfs: &Arc<dyn Vfs>, plan: &RestorePlan) -> Result<Restored, RestoreError> {
    plan.log.validate()?;
    let members = InitialVoters::new(plan.node, plan.members.iter().cloned())?;
    let source = verify_snapshot(vfs.as_ref(), &plan.snapshot)?;
    let membership = membership_of(&source, &members)?;
    let first_entry = membership.to_bytes()?;
    let record = FormedResponder::record_of(first_entry.clone())?;
    let identity = LogIdentity {
        cluster: ClusterId::of_first_entry(&first_entry),
        node: plan.node,
        incarnation: incarnation_of(&source, &members, plan.node)?,
        group: GroupId(0),
    };
    let owner = (plan.node, identity.incarnation);
    let directory = DataDir::create(Arc::clone(vfs), &plan.directory, owner, begun())?;
    directory.bind_cluster(identity.cluster)?;
    let snapshot = copy_snapshot(
        vfs.as_ref(),
        plan,
        &directory,
        identity,
        &source,
        &membership,
    )?;
    make_log(&directory, identity, plan.log, &source)?;
    directory.write_record(FORMATION_RECORD, &record)?;
    finish(&directory)?;
    Ok(Restored {
        cluster: identity.cluster,
        membership,
        snapshot,
        payload_bytes: source.payload_bytes,
    })
}

/// The record that a directory begins with while it is being made.
pub(crate) fn begun() -> (&'static str, &'static [u8]) {
    (RESTORE_RECORD, BEGUN)
}

/// The directory is whole.
pub(crate) fn finish(directory: &DataDir) -> Result<(), DirError> {
    directory.write_record(RESTORE_RECORD, FINISHED)
}

/// Refuses a directory whose restore was interrupted.
///
/// # Errors
/// [`RestoreError::Unfinished`], or what the file system says.
pub fn check_finished(directory: &DataDir) -> Result<(), RestoreError> {
    match directory.read_record(RESTORE_RECORD)? {
        Some(record) if record != FINISHED => {
            let path = directory.path().to_path_buf();
            Err(RestoreError::Unfinished(path))
        }
        Some(_) | None => Ok(()),
    }
}

/// The first membership: every member with the life that follows from snapshot and list.
fn membership_of(
    source: &SnapshotSummary,
    members: &InitialVoters,
) -> Result<Membership, RestoreError> {
    let member = |(id, address): &(NodeId, String)| {
        let incarnation = Some(incarnation_of(source, members, *id)?);
        let address = address.clone();
        Ok((
            *id,
            Member {
                incarnation,
                address,
            },
        ))
    };
    let members: Result<Vec<_>, RestoreError> = members.as_slice().iter().map(member).collect();
    Ok(Membership::of_voters(members?))
}

fn incarnation_of(
    source: &SnapshotSummary,
    members: &InitialVoters,
    node: NodeId,
) -> Result<Incarnation, CodecError> {
    let mut bytes = Vec::new();
    let snapshot = (
        source.cluster,
        source.last_included,
        source.total_bytes,
        source.checksum,
    );
    codec::encode(&(DOMAIN, snapshot, members.as_slice(), node), &mut bytes)?;
    Ok(Incarnation::derived_from(&bytes))
}

/// Writes the snapshot under the new cluster's id and membership.
fn copy_snapshot(
    vfs: &dyn Vfs,
    plan: &RestorePlan,
    directory: &DataDir,
    identity: LogIdentity,
    source: &SnapshotSummary,
    membership: &Membership,
) -> Result<SnapshotDescription, RestoreError> {
    let mut payload = open_snapshot_payload(vfs, &plan.snapshot)?;
    let store = SnapshotStore::open(directory, identity)?;
    let mut writer = store.create(source.last_included, membership)?;
    let mut buffer = vec![0; COPY_BYTES];
    let unreadable = |source| RestoreError::Payload {
        path: plan.snapshot.clone(),
        source,
    };
    loop {
        let count = payload.read(&mut buffer).map_err(unreadable)?;
        if count == 0 {
            break;
        }
        writer.write(&buffer[..count])?;
    }
    let header = payload.header();
    let is_same = header.last_included == source.last_included
        && header.cluster == source.cluster
        && writer.bytes() == source.payload_bytes;
    if !is_same {
        return Err(RestoreError::Changed(plan.snapshot.clone()));
    }
    Ok(writer.finish()?)
}

/// A log without entries that goes on behind the snapshot, in its term.
fn make_log(
    directory: &DataDir,
    identity: LogIdentity,
    options: LogOptions,
    source: &SnapshotSummary,
) -> Result<(), RestoreError> {
    let (mut log, _) = Log::open(directory, identity, options)?;
    log.compact_prefix(source.last_included)?;
    log.stage(LogWrite {
        hard_state: Some(HardState {
            term: source.last_included.term,
            vote: None,
        }),
        ..LogWrite::default()
    })?;
    log.sync()?;
    Ok(())
}
