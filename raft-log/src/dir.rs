//! One data directory: its exclusive lock, whose it is, how often it was opened, small records.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use raft_proto::mutants::{Mutant, is_planted};
use raft_proto::{Boot, ClusterId, Incarnation, NodeId};
use thiserror::Error;

use crate::error::remedy;
use crate::format::bytes::{Reader, Writer};
use crate::format::small::{self, SmallFileError};
use crate::reserve::{FOR_RECORDS, Taker, is_full, remove_if_there, replenish_records};
use crate::vfs::{Access, AlignedBuffer, BLOCK_BYTES, LockGuard, Vfs, Writers};

/// Name of the lock file.
const LOCK_NAME: &str = "LOCK";
/// Name of the record with the directory's identity. No caller's record can have it.
const IDENTITY_NAME: &str = "IDENTITY";
/// Suffix of every record.
const RECORD_SUFFIX: &str = ".rec";
/// Suffix of every file that is not yet what its name will say.
pub(crate) const TEMPORARY_SUFFIX: &str = ".tmp";
/// Longest name of a record, in bytes.
pub const MAX_RECORD_NAME_BYTES: usize = 64;
/// Largest record, in bytes.
pub const MAX_RECORD_BYTES: usize = 16 << 20;

/// Why a data directory or one of its records cannot be used.
#[derive(Debug, Error)]
pub enum DirError {
    /// Another process, or another part of this one, has it.
    #[error(
        "the data directory {0} is in use by another process; stop that process or choose another directory"
    )]
    Locked(PathBuf),
    /// It belongs to another node.
    #[error(
        "the data directory {path} belongs to node {found}, not to {expected}; start node {found} on it or choose another directory"
    )]
    ForeignNode {
        /// The directory.
        path: PathBuf,
        /// The node that was asked for.
        expected: NodeId,
        /// The node whose directory it is.
        found: NodeId,
    },
    /// It belongs to another cluster.
    #[error(
        "the data directory {path} belongs to cluster {found}, not to {expected}; choose the directory of this cluster"
    )]
    ForeignCluster {
        /// The directory.
        path: PathBuf,
        /// The cluster that was asked for.
        expected: ClusterId,
        /// The cluster whose directory it is.
        found: ClusterId,
    },
    /// There is something where a new directory was to be.
    #[error(
        "the directory {0} is not empty, and a new data directory must not mix with what is in it; choose another one, or clear it if nothing in it is needed"
    )]
    NotEmpty(PathBuf),
    /// Node id 0 is reserved.
    #[error("node id 0 is reserved; choose an id of 1 or more")]
    ZeroNode,
    /// The record's bytes are not what was written.
    #[error("the record {0} is damaged; restore it or remove and re-add this node")]
    Damaged(PathBuf),
    /// The record was written by a newer program.
    #[error(
        "the record {path} has format version {version}, which this program does not know; use a newer program"
    )]
    UnsupportedVersion {
        /// The record.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// Not a name for a record.
    #[error("{0:?} is no record name; use 1 to {MAX_RECORD_NAME_BYTES} of a-z, 0-9 and '-'")]
    RecordName(String),
    /// Too much for a record.
    #[error("a record of {0} bytes exceeds the limit of {MAX_RECORD_BYTES} bytes")]
    RecordTooLarge(usize),
    /// The file system refused.
    #[error("cannot {action} {path}: {source}{}", remedy(.source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
}

/// A data directory, locked for this process, that knows whose it is.
///
/// The lock ends when the value and the logs opened in it are dropped. Each [`DataDir::open`] raises the boot counter
/// durably, so that peers can tell an old copy of the directory from the current one.
#[derive(Debug)]
pub struct DataDir {
    vfs: Arc<dyn Vfs>,
    path: PathBuf,
    identity: Mutex<Identity>,
    lock: Arc<dyn LockGuard>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    node: NodeId,
    incarnation: Incarnation,
    cluster: Option<ClusterId>,
    boot: Boot,
}

impl DataDir {
    /// Locks the directory and counts this boot; creates it with a fresh incarnation if there is
    /// nothing at `path`.
    ///
    /// # Errors
    /// [`DirError::Locked`], [`DirError::ForeignNode`], a damaged or newer identity record, or
    /// what the file system says. Nothing is changed unless the directory is this node's.
    pub fn open(vfs: Arc<dyn Vfs>, path: &Path, node: NodeId) -> Result<Self, DirError> {
        if node == NodeId(0) {
            return Err(DirError::ZeroNode);
        }
        vfs.create_dir_all(path)
            .map_err(|source| io_error("create directory", path, source))?;
        let lock = lock(vfs.as_ref(), path)?;
        let identity = Self::next_boot(vfs.as_ref(), path, node)?;
        let dir = Self {
            vfs,
            path: path.to_path_buf(),
            identity: Mutex::new(identity),
            lock: Arc::from(lock),
        };
        dir.write_file(IDENTITY_NAME, &identity.to_bytes())?;
        Ok(dir)
    }

    /// Makes a new data directory with an incarnation that the caller has chosen, for one that is
    /// not to begin empty. Before anything says whose it is, `note` is durable as the record
    /// `record`: whatever a crash leaves behind, whoever opens the directory finds it.
    ///
    /// # Errors
    /// [`DirError::NotEmpty`] if there are files at `path`; otherwise as [`DataDir::open`].
    pub fn create(
        vfs: Arc<dyn Vfs>,
        path: &Path,
        (node, incarnation): (NodeId, Incarnation),
        (record, note): (&str, &[u8]),
    ) -> Result<Self, DirError> {
        if node == NodeId(0) {
            return Err(DirError::ZeroNode);
        }
        check_name(record)?;
        vfs.create_dir_all(path)
            .map_err(|source| io_error("create directory", path, source))?;
        let files = vfs.list(path);
        if !files
            .map_err(|source| io_error("list", path, source))?
            .is_empty()
        {
            return Err(DirError::NotEmpty(path.to_path_buf()));
        }
        let lock = lock(vfs.as_ref(), path)?;
        let nonce = vfs.random();
        let nonce = nonce.map_err(|source| io_error("draw random numbers for", path, source))?;
        let identity = Identity {
            node,
            incarnation,
            cluster: None,
            boot: Boot { counter: 1, nonce },
        };
        let dir = Self {
            vfs,
            path: path.to_path_buf(),
            identity: Mutex::new(identity),
            lock: Arc::from(lock),
        };
        dir.write_record(record, note)?;
        dir.write_file(IDENTITY_NAME, &identity.to_bytes())?;
        Ok(dir)
    }

    /// The identity of a directory, without locking or changing it; `None` if it has none.
    ///
    /// # Errors
    /// A damaged or newer identity record, or what the file system says.
    pub fn peek(
        vfs: &dyn Vfs,
        path: &Path,
    ) -> Result<Option<(NodeId, Option<ClusterId>)>, DirError> {
        let identity = read_identity(vfs, path)?;
        Ok(identity.map(|identity| (identity.node, identity.cluster)))
    }

    fn next_boot(vfs: &dyn Vfs, path: &Path, node: NodeId) -> Result<Identity, DirError> {
        let random = || {
            vfs.random()
                .map_err(|source| io_error("draw random numbers for", path, source))
        };
        match read_identity(vfs, path)? {
            Some(found) if found.node != node && !is_planted(Mutant::ForeignDirectoryOpened) => {
                Err(DirError::ForeignNode {
                    path: path.to_path_buf(),
                    expected: node,
                    found: found.node,
                })
            }
            Some(found) => Ok(Identity {
                boot: Boot {
                    counter: found.boot.counter + 1,
                    nonce: random()?,
                },
                ..found
            }),
            None => Ok(Identity {
                node,
                incarnation: Incarnation(random()?),
                cluster: None,
                boot: Boot {
                    counter: 1,
                    nonce: random()?,
                },
            }),
        }
    }

    /// The node whose directory it is.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.identity().node
    }

    /// The life of this directory, drawn when it was created.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.identity().incarnation
    }

    /// This start of the node.
    #[must_use]
    pub fn boot(&self) -> Boot {
        self.identity().boot
    }

    /// The cluster it was bound to by the first [`crate::Log::open`]; `None` before.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        self.identity().cluster
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file system it is on.
    #[must_use]
    pub fn vfs(&self) -> &Arc<dyn Vfs> {
        &self.vfs
    }

    /// Whether [`DataDir::write_marker`] was called with this name.
    pub(crate) fn has_marker(&self, name: &str) -> Result<bool, DirError> {
        Ok(read_file(self.vfs.as_ref(), &self.path, name)?.is_some())
    }

    /// Durably remembers something of the log's own.
    pub(crate) fn write_marker(&self, name: &str) -> Result<(), DirError> {
        self.write_file(name, &[])
    }

    /// Refuses a cluster that is not the one the directory is bound to.
    pub(crate) fn check_cluster(&self, cluster: ClusterId) -> Result<(), DirError> {
        match self.identity().cluster {
            Some(found) if found != cluster => Err(DirError::ForeignCluster {
                path: self.path.clone(),
                expected: cluster,
                found,
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// The lock, for those who must not outlive it.
    pub(crate) fn lock(&self) -> Arc<dyn LockGuard> {
        Arc::clone(&self.lock)
    }

    /// Durably binds the directory to a cluster; it stays bound for good.
    ///
    /// # Errors
    /// [`DirError::ForeignCluster`] if it is bound to another one, or what the file system says.
    pub fn bind_cluster(&self, cluster: ClusterId) -> Result<(), DirError> {
        self.check_cluster(cluster)?;
        let current = *self.identity();
        if current.cluster.is_none() {
            let bound = Identity {
                cluster: Some(cluster),
                ..current
            };
            self.write_file(IDENTITY_NAME, &bound.to_bytes())?;
            *self.identity() = bound;
        }
        Ok(())
    }

    /// The bytes last written under `name`, or `None`.
    ///
    /// # Errors
    /// [`DirError::RecordName`], a damaged or newer record, or what the file system says.
    pub fn read_record(&self, name: &str) -> Result<Option<Bytes>, DirError> {
        check_name(name)?;
        read_file(self.vfs.as_ref(), &self.path, name)
    }

    /// Atomically and durably replaces the bytes under `name`: after a crash the old or the new
    /// bytes are there, whole.
    ///
    /// # Errors
    /// [`DirError::RecordName`], [`DirError::RecordTooLarge`], or what the file system says; then
    /// either version may be there.
    pub fn write_record(&self, name: &str, bytes: &[u8]) -> Result<(), DirError> {
        check_name(name)?;
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(DirError::RecordTooLarge(bytes.len()));
        }
        self.write_file(name, bytes)
    }

    fn write_file(&self, name: &str, bytes: &[u8]) -> Result<(), DirError> {
        let path = record_path(&self.path, name);
        let temporary = path.with_extension(format!("rec{TEMPORARY_SUFFIX}"));
        let content = small::encode(name, bytes);
        let mut buffer = AlignedBuffer::zeroed(content.len().div_ceil(BLOCK_BYTES));
        buffer.bytes_mut()[..content.len()].copy_from_slice(&content);
        let vfs = self.vfs.as_ref();
        remove_if_there(vfs, &temporary)
            .map_err(|source| io_error("remove", &temporary, source))?;
        let write = || {
            match write_new(vfs, &temporary, &buffer) {
                Err(error) if is_full(&error) => self.write_spare(&temporary, &buffer, error)?,
                outcome => outcome?,
            }
            // The size must be durable before the file can get the record's name.
            self.vfs.sync_dir(&self.path)?;
            self.vfs.rename(&temporary, &path)?;
            self.vfs.sync_dir(&self.path)
        };
        write().map_err(|source| io_error("write", &path, source))?;
        // The block of the version before is free now.
        replenish_records(vfs, &self.path)
            .map_err(|source| io_error("keep spare blocks in", &self.path, source))
    }

    /// Writes a file of one block into a spare one, because the disk is full.
    fn write_spare(&self, path: &Path, content: &AlignedBuffer, full: io::Error) -> io::Result<()> {
        let vfs = self.vfs.as_ref();
        remove_if_there(vfs, path)?;
        let spare = match content.len() {
            ..=BLOCK_BYTES => {
                let bytes = content.len() as u64;
                FOR_RECORDS.take((vfs, &self.path), path, bytes, Taker::Desperate)?
            }
            _ => None,
        };
        let file = spare.ok_or(full)?.file;
        file.write_at(0, content.as_aligned())?;
        file.sync_data()
    }

    fn identity(&self) -> MutexGuard<'_, Identity> {
        // The value is plain data, whole at every moment.
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Identity {
    fn to_bytes(self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u64(self.node.0);
        out.u64(self.incarnation.0);
        out.u64(self.boot.counter);
        out.u64(self.boot.nonce);
        out.u32(u32::from(self.cluster.is_some()));
        out.bytes(&self.cluster.unwrap_or(ClusterId([0; 16])).0);
        out.into_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut input = Reader::new(bytes);
        let node = NodeId(input.u64()?);
        let incarnation = Incarnation(input.u64()?);
        let boot = Boot {
            counter: input.u64()?,
            nonce: input.u64()?,
        };
        let bound = input.u32()?;
        let cluster = ClusterId(input.array()?);
        let cluster = match bound {
            0 => None,
            1 => Some(cluster),
            _ => return None,
        };
        input.is_empty().then_some(Self {
            node,
            incarnation,
            cluster,
            boot,
        })
    }
}

fn write_new(vfs: &dyn Vfs, path: &Path, content: &AlignedBuffer) -> io::Result<()> {
    let file = vfs.create(path)?;
    file.write_at(0, content.as_aligned())?;
    if is_planted(Mutant::RecordNotSynced) {
        return Ok(());
    }
    file.sync_data()
}

fn lock(vfs: &dyn Vfs, path: &Path) -> Result<Box<dyn LockGuard>, DirError> {
    let lock_path = path.join(LOCK_NAME);
    vfs.lock(&lock_path).map_err(|source| {
        if source.kind() == io::ErrorKind::WouldBlock {
            DirError::Locked(path.to_path_buf())
        } else {
            io_error("lock", &lock_path, source)
        }
    })
}

fn read_identity(vfs: &dyn Vfs, path: &Path) -> Result<Option<Identity>, DirError> {
    let Some(bytes) = read_file(vfs, path, IDENTITY_NAME)? else {
        return Ok(None);
    };
    let damaged = || DirError::Damaged(record_path(path, IDENTITY_NAME));
    Identity::from_bytes(&bytes).map(Some).ok_or_else(damaged)
}

fn read_file(vfs: &dyn Vfs, directory: &Path, name: &str) -> Result<Option<Bytes>, DirError> {
    let path = record_path(directory, name);
    let file = match vfs.open(&path, Access::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("open", &path, error)),
    };
    let content = file
        .content(Writers::Possible)
        .map_err(|source| io_error("read", &path, source))?;
    match small::decode(name, &content) {
        Ok(bytes) => Ok(Some(Bytes::copy_from_slice(bytes))),
        Err(SmallFileError::Damaged) => Err(DirError::Damaged(path)),
        Err(SmallFileError::UnsupportedVersion(version)) => {
            Err(DirError::UnsupportedVersion { path, version })
        }
    }
}

fn record_path(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}{RECORD_SUFFIX}"))
}

fn check_name(name: &str) -> Result<(), DirError> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=MAX_RECORD_NAME_BYTES).contains(&name.len()) && name.bytes().all(allowed) {
        Ok(())
    } else {
        Err(DirError::RecordName(name.to_owned()))
    }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> DirError {
    DirError::Io {
        action,
        path: path.to_path_buf(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::MemVfs;

    fn open(vfs: &MemVfs, node: u64) -> Result<DataDir, DirError> {
        DataDir::open(vfs.shared(), Path::new("data"), NodeId(node))
    }

    #[test]
    fn a_directory_that_is_created_says_so_before_it_says_whose_it_is() {
        let made = (NodeId(3), Incarnation(77));
        let note = ("restore", &b"begun"[..]);
        let vfs = MemVfs::new(7);
        let create = |vfs: &MemVfs| DataDir::create(vfs.shared(), Path::new("data"), made, note);
        assert_eq!(create(&vfs).unwrap().incarnation(), Incarnation(77));
        assert!(matches!(create(&vfs), Err(DirError::NotEmpty(_))));
        let again = open(&vfs, 3).unwrap();
        assert_eq!(
            (again.incarnation(), again.boot().counter),
            (Incarnation(77), 2)
        );
        let mut seen_identity = 0;
        for operations in 0..40 {
            let vfs = MemVfs::new(7);
            vfs.stop_after(operations);
            let is_made = create(&vfs).is_ok();
            for keep in [false, true] {
                let after = vfs.crash(&mut |_| keep);
                let has_identity = read_identity(&after, Path::new("data")).unwrap().is_some();
                let noted = read_file(&after, Path::new("data"), "restore").unwrap();
                assert!(
                    noted.is_some() || !has_identity,
                    "after {operations} operations"
                );
                seen_identity += u32::from(has_identity && !is_made);
            }
        }
        assert!(seen_identity > 0, "a crash fell behind the identity");
    }

    #[test]
    fn each_open_counts_a_boot_with_another_nonce_in_the_same_incarnation() {
        let vfs = MemVfs::new(7);
        let (incarnation, first) = {
            let dir = open(&vfs, 3).unwrap();
            (dir.incarnation(), dir.boot())
        };
        let dir = open(&vfs.crash(&mut |_| false), 3).unwrap();
        assert_eq!((first.counter, dir.boot().counter), (1, 2));
        assert_ne!(first.nonce, dir.boot().nonce);
        assert_eq!(dir.incarnation(), incarnation);
    }

    #[test]
    fn another_nodes_or_a_busy_directory_is_refused() {
        let vfs = MemVfs::new(7);
        let dir = open(&vfs, 3).unwrap();
        assert!(matches!(open(&vfs, 3), Err(DirError::Locked(_))));
        drop(dir);
        let error = open(&vfs, 4).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the data directory data belongs to node n3, not to n4; start node n3 on it or choose another directory"
        );
        assert_eq!(open(&vfs, 3).unwrap().boot().counter, 2);
    }

    #[test]
    fn a_cluster_is_bound_once() {
        let vfs = MemVfs::new(7);
        let dir = open(&vfs, 3).unwrap();
        assert_eq!(dir.cluster(), None);
        dir.bind_cluster(ClusterId([1; 16])).unwrap();
        dir.bind_cluster(ClusterId([1; 16])).unwrap();
        assert!(matches!(
            dir.bind_cluster(ClusterId([2; 16])),
            Err(DirError::ForeignCluster { .. })
        ));
        drop(dir);
        assert_eq!(open(&vfs, 3).unwrap().cluster(), Some(ClusterId([1; 16])));
    }

    #[test]
    fn records_are_old_or_new_at_every_cut() {
        let start = MemVfs::new(7);
        let dir = open(&start, 3).unwrap();
        dir.write_record("members", b"old").unwrap();
        drop(dir);
        let start = start.crash(&mut |_| true);
        for cut in 0..12 {
            for survives in [false, true] {
                let vfs = start.crash(&mut |_| true);
                let dir = open(&vfs, 3).unwrap();
                vfs.stop_after(cut);
                let outcome = dir.write_record("members", b"new");
                let recovered = open(&vfs.crash(&mut |_| survives), 3).unwrap();
                let found = recovered.read_record("members").unwrap().unwrap();
                assert!(found == "new" || found == "old");
                assert!(outcome.is_err() || found == "new");
                assert!(survives || outcome.is_ok() || found == "old");
            }
        }
    }

    #[test]
    fn damaged_records_swapped_records_and_odd_names_are_refused() {
        let vfs = MemVfs::new(7);
        let dir = open(&vfs, 3).unwrap();
        assert_eq!(dir.read_record("a").unwrap(), None);
        dir.write_record("a", &[7; 5000]).unwrap();
        assert_eq!(dir.read_record("a").unwrap().unwrap(), [7; 5000][..]);
        vfs.rename(Path::new("data/a.rec"), Path::new("data/b.rec"))
            .unwrap();
        assert!(matches!(dir.read_record("b"), Err(DirError::Damaged(_))));
        for name in ["", "A", "../x", "IDENTITY"] {
            assert!(matches!(
                dir.read_record(name),
                Err(DirError::RecordName(_))
            ));
        }
        dir.write_record("c", b"x").unwrap();
        vfs.corrupt(Path::new("data/c.rec"), 24, &[1]).unwrap();
        assert!(matches!(dir.read_record("c"), Err(DirError::Damaged(_))));
    }
}
