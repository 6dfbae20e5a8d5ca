//! The snapshots of one data directory: which there are, where new ones get their names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use raft_proto::mutants::{Mutant, is_planted};
use raft_proto::{LogIndex, LogPosition, Membership, SnapshotDescription, Term};

use super::error::{SnapshotError, SnapshotOwner};
use super::file::{PartReader, SnapshotFile};
use super::format::{SnapshotHeader, SnapshotPart};
use super::receiver::SnapshotReceiver;
use super::verify::{SnapshotPayload, check_all};
use super::writer::SnapshotWriter;
use crate::dir::{DataDir, TEMPORARY_SUFFIX};
use crate::options::LogIdentity;
use crate::vfs::{LockGuard, Vfs};

/// Most bytes that one read of a part gives, whatever is asked for.
pub const MAX_PART_BYTES: u32 = 1 << 20;
/// Suffix of stored snapshots.
const SNAPSHOT_SUFFIX: &str = ".snap";
/// Suffix of the file of a snapshot that is being received.
const PART_SUFFIX: &str = ".part";

/// The snapshots of one Raft group in a data directory. Clones share them; all methods may be
/// called from several threads.
///
/// A snapshot is stored once it has its name, and it gets its name only when it is whole and
/// durable. A store whose names are in doubt after a failed write refuses everything but reading
/// until it is opened again.
#[derive(Clone, Debug)]
pub struct SnapshotStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) vfs: Arc<dyn Vfs>,
    pub(crate) directory: PathBuf,
    identity: LogIdentity,
    state: Mutex<State>,
    _lock: Arc<dyn LockGuard>,
}

#[derive(Debug)]
struct State {
    /// Files that parts are read from. A removed one stays readable for who holds it.
    open: BTreeMap<Key, Arc<SnapshotFile>>,
    names: Names,
    receiver: Receiving,
    /// How many temporary files were named.
    temporaries: u64,
}

/// Whether the names that are seen are durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    Durable,
    InDoubt,
}

/// Whether somebody writes the part file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiving {
    No,
    Yes,
}

/// A position in the order of the log.
type Key = (LogIndex, Term);

impl SnapshotStore {
    /// Opens the snapshots of a data directory, or creates their directory. Removes what
    /// unfinished saves have left; the part file of one unfinished fetch stays.
    ///
    /// # Errors
    /// [`SnapshotError::Directory`] if the directory is another cluster's, or what the file system
    /// says.
    pub fn open(dir: &DataDir, identity: LogIdentity) -> Result<Self, SnapshotError> {
        dir.check_cluster(identity.cluster)?;
        let vfs = Arc::clone(dir.vfs());
        let directory = dir.path().join(format!("snapshots-{}", identity.group.0));
        vfs.create_dir_all(&directory)
            .map_err(|source| SnapshotError::file("create directory", &directory, source))?;
        let state = State {
            open: BTreeMap::new(),
            names: Names::Durable,
            receiver: Receiving::No,
            temporaries: 0,
        };
        let shared = Shared {
            vfs,
            directory,
            identity,
            state: Mutex::new(state),
            _lock: dir.lock(),
        };
        shared.clean_up()?;
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The newest snapshot, of which every byte is checked, so call it when a node starts.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] with file and offset, [`SnapshotError::UnsupportedVersion`],
    /// [`SnapshotError::Foreign`], [`SnapshotError::Poisoned`], or what the file system says.
    pub fn newest(&self) -> Result<Option<SnapshotDescription>, SnapshotError> {
        self.shared.check_names()?;
        let Some(&newest) = self.shared.stored()?.last() else {
            return Ok(None);
        };
        self.check(position(newest)).map(Some)
    }

    /// The snapshot at a position, of which every byte is checked.
    ///
    /// # Errors
    /// As [`SnapshotStore::newest`], and [`SnapshotError::Missing`] if there is none.
    pub fn check(&self, at: LogPosition) -> Result<SnapshotDescription, SnapshotError> {
        self.shared.check_names()?;
        let file = self.shared.open_file(key(at))?;
        let file = file.ok_or(SnapshotError::Missing(at))?;
        let summary = check_all(PartReader::new(file))?;
        Ok(summary.description())
    }

    /// The positions of all stored snapshots by their names, oldest first; nothing is checked.
    ///
    /// # Errors
    /// What the file system says.
    pub fn positions(&self) -> Result<Vec<LogPosition>, SnapshotError> {
        Ok(self.shared.stored()?.into_iter().map(position).collect())
    }

    /// Starts a snapshot of the state after `last_included`, in a temporary file.
    ///
    /// # Errors
    /// [`SnapshotError::AlreadyStored`], [`SnapshotError::CoversNothing`], a membership that is
    /// not valid, [`SnapshotError::Poisoned`], or what the file system says.
    pub fn create(
        &self,
        last_included: LogPosition,
        membership: &Membership,
    ) -> Result<SnapshotWriter, SnapshotError> {
        self.shared.check_names()?;
        if self.shared.stored()?.contains(&key(last_included)) {
            return Err(SnapshotError::AlreadyStored(last_included));
        }
        let header = self.shared.header(last_included, membership)?;
        SnapshotWriter::create(Arc::clone(&self.shared), header)
    }

    /// At most `max_bytes` (and at most [`MAX_PART_BYTES`]) of a snapshot's file from `offset` on,
    /// and the file's whole length. Where it can it ends with a chunk, so the next offset is best
    /// taken from what came. `None` if the snapshot is not here (any more).
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] and nothing of the damaged chunk, or what the file system says.
    pub fn read_part(
        &self,
        last_included: LogPosition,
        offset: u64,
        max_bytes: u32,
    ) -> Result<Option<(Bytes, u64)>, SnapshotError> {
        let Some(file) = self.shared.open_file(key(last_included))? else {
            return Ok(None);
        };
        let part = file.read_range(offset, max_bytes.min(MAX_PART_BYTES))?;
        Ok(Some((part, file.layout.total_bytes())))
    }

    /// Whether a failed write has left names in doubt, so that nothing can be stored any more until
    /// the store is opened again: as after any failed fsync, the node is to stop.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.shared.check_names().is_err()
    }

    /// The state machine's bytes of a stored snapshot.
    ///
    /// # Errors
    /// [`SnapshotError::Missing`], or as [`SnapshotStore::newest`] for header and trailer; chunks
    /// are checked while they are read.
    pub fn payload(&self, last_included: LogPosition) -> Result<SnapshotPayload, SnapshotError> {
        let file = self.shared.open_file(key(last_included))?;
        let file = file.ok_or(SnapshotError::Missing(last_included))?;
        Ok(SnapshotPayload::new(file))
    }

    /// Starts to receive a snapshot, or goes on with it if the part file of exactly this one is
    /// there: what it holds is checked part by part. Part files of others are removed. A stored
    /// snapshot at the same position is replaced when this one is finished.
    ///
    /// # Errors
    /// [`SnapshotError::ReceiverInUse`], [`SnapshotError::BadDescription`],
    /// [`SnapshotError::CoversNothing`], a membership that is not valid,
    /// [`SnapshotError::Poisoned`], or what the file system says.
    pub fn receive(
        &self,
        snapshot: &SnapshotDescription,
    ) -> Result<SnapshotReceiver, SnapshotError> {
        self.shared.check_names()?;
        let header = self
            .shared
            .header(snapshot.last_included, &snapshot.membership)?;
        let turn = ReceiverTurn::take(&self.shared)?;
        let keep = part_name(snapshot);
        self.shared
            .remove_files(|name| name.ends_with(PART_SUFFIX) && name != keep)?;
        SnapshotReceiver::open(turn, snapshot, &header, &keep)
    }

    /// Removes the snapshots before `keep`, but never the newest. Open readers stay usable.
    ///
    /// # Errors
    /// [`SnapshotError::Poisoned`], or what the file system says; then some may be left.
    pub fn remove_older(&self, keep: LogPosition) -> Result<(), SnapshotError> {
        self.shared.check_names()?;
        let stored = self.shared.stored()?;
        let Some((_newest, others)) = stored.split_last() else {
            return Ok(());
        };
        let old = others.iter().filter(|found| **found < key(keep));
        let mut removed = 0;
        for &found in old {
            self.shared.remove(found)?;
            removed += 1;
        }
        if removed > 0 {
            self.shared.sync_directory()?;
        }
        Ok(())
    }

    /// Removes a snapshot that [`SnapshotStore::check`] found to be damaged, so that another one can
    /// take its name.
    ///
    /// # Errors
    /// [`SnapshotError::Poisoned`], or what the file system says.
    pub fn remove_damaged(&self, at: LogPosition) -> Result<(), SnapshotError> {
        self.shared.check_names()?;
        self.shared.remove(key(at))?;
        self.shared.sync_directory()
    }
}

impl Shared {
    /// The caller makes it durable.
    fn remove(&self, found: Key) -> Result<(), SnapshotError> {
        self.state().open.remove(&found);
        let path = self.directory.join(snapshot_name(found));
        let removed = self.vfs.remove(&path);
        removed.map_err(|source| SnapshotError::file("remove", &path, source))
    }

    /// A name for a file that is not yet what its name will say.
    pub(crate) fn temporary_path(&self) -> PathBuf {
        let mut state = self.state();
        state.temporaries += 1;
        let name = format!("save-{}{TEMPORARY_SUFFIX}", state.temporaries);
        self.directory.join(name)
    }

    /// Gives a durable file the name of the snapshot at `last_included`.
    pub(crate) fn publish(
        &self,
        from: &Path,
        last_included: LogPosition,
    ) -> Result<(), SnapshotError> {
        self.check_names()?;
        // The size must be durable before the file can get a snapshot's name.
        self.sync_directory()?;
        let path = self.directory.join(snapshot_name(key(last_included)));
        let renamed = self
            .vfs
            .rename(from, &path)
            .map_err(|source| SnapshotError::file("rename to", &path, source));
        if renamed.as_ref().is_err_and(SnapshotError::is_disk_full) {
            // A rename is made or it is not: this one was not, and may be tried again.
            return renamed;
        }
        let named = if is_planted(Mutant::SnapshotNameNotSynced) {
            renamed
        } else {
            renamed.and_then(|()| self.sync_directory())
        };
        let mut state = self.state();
        // What was open under that name was replaced.
        state.open.remove(&key(last_included));
        if named.is_err() {
            // The name may be seen and not be durable: the log must not be compacted for it.
            state.names = Names::InDoubt;
        }
        named
    }

    pub(crate) fn sync_directory(&self) -> Result<(), SnapshotError> {
        self.vfs
            .sync_dir(&self.directory)
            .map_err(|source| SnapshotError::file("sync directory", &self.directory, source))
    }

    fn check_names(&self) -> Result<(), SnapshotError> {
        match self.state().names {
            Names::Durable => Ok(()),
            Names::InDoubt => Err(SnapshotError::Poisoned),
        }
    }

    fn header(
        &self,
        last_included: LogPosition,
        membership: &Membership,
    ) -> Result<SnapshotHeader, SnapshotError> {
        if last_included.index == LogIndex::ZERO {
            return Err(SnapshotError::CoversNothing);
        }
        membership.validate()?;
        Ok(SnapshotHeader {
            cluster: self.identity.cluster,
            group: self.identity.group,
            last_included,
            membership: membership.clone(),
        })
    }

    /// The file of a stored snapshot of ours; `None` if there is none.
    fn open_file(&self, at: Key) -> Result<Option<Arc<SnapshotFile>>, SnapshotError> {
        // Held while the file is opened, so that none is remembered that was removed meanwhile.
        let mut state = self.state();
        if let Some(file) = state.open.get(&at) {
            return Ok(Some(Arc::clone(file)));
        }
        let path = self.directory.join(snapshot_name(at));
        let Some(file) = SnapshotFile::open(self.vfs.as_ref(), &path)? else {
            return Ok(None);
        };
        let (expected, found) = (
            SnapshotOwner {
                cluster: self.identity.cluster,
                group: self.identity.group,
            },
            SnapshotOwner::of(&file.header),
        );
        if found != expected {
            return Err(SnapshotError::Foreign {
                path,
                expected,
                found,
            });
        }
        if key(file.header.last_included) != at {
            // It has another one's name.
            return Err(SnapshotError::damaged(&path, 0, SnapshotPart::Header));
        }
        let file = Arc::new(file);
        state.open.insert(at, Arc::clone(&file));
        Ok(Some(file))
    }

    /// Stored snapshots by their names, oldest first.
    fn stored(&self) -> Result<Vec<Key>, SnapshotError> {
        let names = self.list()?;
        let mut found: Vec<Key> = names.iter().filter_map(|name| key_of(name)).collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Removes what nobody goes on with, and makes durable what is there.
    fn clean_up(&self) -> Result<(), SnapshotError> {
        let newest = self.stored()?.last().copied();
        // Of several part files the one that reaches furthest stays, if it is of any use.
        let names = self.list()?;
        let parts = names
            .iter()
            .filter_map(|name| Some((key_of_part(name)?, name)));
        let keep = parts
            .max()
            .filter(|(at, _)| newest.is_none_or(|newest| *at > newest))
            .map(|(_, name)| name.clone());
        self.remove_files(|name| {
            let is_part = name.ends_with(PART_SUFFIX) && Some(name) != keep.as_deref();
            is_part || name.ends_with(TEMPORARY_SUFFIX)
        })?;
        // A process that died after a rename may have left a name that is only in the cache.
        self.sync_directory()
    }

    fn remove_files(&self, is_unwanted: impl Fn(&str) -> bool) -> Result<(), SnapshotError> {
        for name in self.list()?.iter().filter(|name| is_unwanted(name)) {
            let path = self.directory.join(name);
            self.vfs
                .remove(&path)
                .map_err(|source| SnapshotError::file("remove", &path, source))?;
        }
        Ok(())
    }

    fn list(&self) -> Result<Vec<String>, SnapshotError> {
        self.vfs
            .list(&self.directory)
            .map_err(|source| SnapshotError::file("list", &self.directory, source))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Plain data, whole at every moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to write the part file; one at a time.
#[derive(Debug)]
pub(crate) struct ReceiverTurn {
    pub(crate) shared: Arc<Shared>,
}

impl ReceiverTurn {
    fn take(shared: &Arc<Shared>) -> Result<Self, SnapshotError> {
        let mut state = shared.state();
        match state.receiver {
            Receiving::Yes => return Err(SnapshotError::ReceiverInUse),
            Receiving::No => state.receiver = Receiving::Yes,
        }
        Ok(Self {
            shared: Arc::clone(shared),
        })
    }
}

impl Drop for ReceiverTurn {
    fn drop(&mut self) {
        self.shared.state().receiver = Receiving::No;
    }
}

const fn key(position: LogPosition) -> Key {
    (position.index, position.term)
}

const fn position((index, term): Key) -> LogPosition {
    LogPosition { index, term }
}

fn snapshot_name((index, term): Key) -> String {
    format!("{:016x}-{:016x}{SNAPSHOT_SUFFIX}", index.0, term.0)
}

/// Names the snapshot by all that tells it from another: position, checksum, length.
fn part_name(snapshot: &SnapshotDescription) -> String {
    let LogPosition { index, term } = snapshot.last_included;
    let (checksum, bytes) = (snapshot.checksum, snapshot.total_bytes);
    format!(
        "{:016x}-{:016x}-{checksum:08x}-{bytes:x}{PART_SUFFIX}",
        index.0, term.0
    )
}

fn key_of(name: &str) -> Option<Key> {
    let key = key_of_fields(name.strip_suffix(SNAPSHOT_SUFFIX)?.split('-'))?;
    // Another way to write the same numbers is not a name that we give.
    (snapshot_name(key) == name).then_some(key)
}

fn key_of_part(name: &str) -> Option<Key> {
    key_of_fields(name.strip_suffix(PART_SUFFIX)?.split('-'))
}

fn key_of_fields<'a>(mut fields: impl Iterator<Item = &'a str>) -> Option<Key> {
    let mut number = || u64::from_str_radix(fields.next()?, 16).ok();
    Some((LogIndex(number()?), Term(number()?)))
}
