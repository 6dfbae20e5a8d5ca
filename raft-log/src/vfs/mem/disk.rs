//! What a simulated disk holds: names, files, and which of their changes are durable.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::PendingChange;

/// The unit that a disk writes whole or not at all, in bytes.
const SECTOR_BYTES: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Disk {
    pub(super) inodes: Vec<Inode>,
    pub(super) names: BTreeMap<PathBuf, usize>,
    pub(super) durable_names: BTreeMap<PathBuf, usize>,
    pub(super) pending_names: Vec<NameChange>,
    pub(super) locks: BTreeSet<PathBuf>,
    pub(super) random: u64,
    pub(super) operations: u64,
    pub(super) faults: Faults,
    /// The disk as it was before each operation, while somebody wants to know.
    pub(super) recording: Option<Vec<Disk>>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    pub(super) content: Vec<u8>,
    pub(super) durable: Vec<u8>,
    pub(super) pending: BTreeSet<usize>,
    /// Sectors that a failed sync has marked clean: no later sync writes them, and only a crash
    /// shows whether they were written.
    pub(super) doubtful: BTreeSet<usize>,
    /// The size that survives a crash; follows the size at a sync of the directory.
    pub(super) durable_size: usize,
}

#[derive(Clone, Debug)]
pub(super) enum NameChange {
    Link {
        path: PathBuf,
        inode: usize,
    },
    Unlink {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
        inode: usize,
    },
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) stop_after: Option<u64>,
    pub(super) fail_syncs_from: Option<u64>,
    pub(super) syncs: u64,
    pub(super) capacity_bytes: Option<usize>,
}

impl Disk {
    pub(super) fn inode_of(&self, path: &Path) -> io::Result<usize> {
        let inode = self.names.get(path).copied();
        inode.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Counts an operation, or fails it because the machine has stopped.
    pub(super) fn count(&mut self) -> io::Result<()> {
        let stopped = self
            .faults
            .stop_after
            .is_some_and(|at| self.operations >= at);
        self.operations += 1;
        if stopped {
            return Err(io::Error::other("the simulated machine has stopped"));
        }
        if self.recording.is_some() {
            let image = self.image();
            self.recording.get_or_insert_default().push(image);
        }
        Ok(())
    }

    /// A copy with all that is pending, without locks and faults. Files that no name leads to, now
    /// or after a crash, are left empty.
    pub(super) fn image(&self) -> Self {
        let named = self.names.values().chain(self.durable_names.values());
        let mut reachable: BTreeSet<usize> = named.copied().collect();
        for change in &self.pending_names {
            match change {
                NameChange::Link { inode, .. } | NameChange::Rename { inode, .. } => {
                    reachable.insert(*inode);
                }
                NameChange::Unlink { .. } => {}
            }
        }
        let copy = |(number, inode): (usize, &Inode)| match reachable.contains(&number) {
            true => inode.clone(),
            false => Inode::default(),
        };
        Self {
            inodes: self.inodes.iter().enumerate().map(copy).collect(),
            names: self.names.clone(),
            durable_names: self.durable_names.clone(),
            pending_names: self.pending_names.clone(),
            random: self.random,
            ..Self::default()
        }
    }

    pub(super) fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending_names.push(change);
    }
}

impl NameChange {
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Link { path, .. } | Self::Unlink { path } | Self::Rename { to: path, .. } => path,
        }
    }

    pub(super) fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Link { path, inode } => {
                names.insert(path.clone(), *inode);
            }
            Self::Unlink { path } => {
                names.remove(path);
            }
            Self::Rename { from, to, inode } => {
                if names.get(from) == Some(inode) {
                    names.remove(from);
                }
                names.insert(to.clone(), *inode);
            }
        }
    }
}

impl Inode {
    pub(super) fn has_pending_size(&self) -> bool {
        self.content.len() != self.durable_size
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if self.content.len() < end {
            self.content.resize(end, 0);
        }
        self.content[offset..end].copy_from_slice(bytes);
        for sector in offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            self.doubtful.remove(&sector);
            if sector_of(&self.content, sector) == sector_of(&self.durable, sector) {
                self.pending.remove(&sector);
            } else {
                self.pending.insert(sector);
            }
        }
    }

    pub(super) fn sync(&mut self) {
        self.durable.resize(self.content.len(), 0);
        for sector in std::mem::take(&mut self.pending) {
            let start = sector * SECTOR_BYTES;
            let end = (start + SECTOR_BYTES).min(self.content.len());
            self.durable[start..end].copy_from_slice(&self.content[start..end]);
        }
    }

    /// A failed sync: what was to be written is taken for written from now on.
    pub(super) fn fail_sync(&mut self) {
        self.doubtful.append(&mut self.pending);
    }

    pub(super) fn after_crash(
        &self,
        path: Option<&Path>,
        keep: &mut dyn FnMut(PendingChange<'_>) -> bool,
    ) -> Self {
        let mut image = self.durable.clone();
        image.resize(self.content.len(), 0);
        for &sector in self.pending.union(&self.doubtful) {
            let number = sector as u64;
            if keep(PendingChange::Sector {
                path,
                sector: number,
            }) {
                let start = sector * SECTOR_BYTES;
                let end = (start + SECTOR_BYTES).min(image.len());
                image[start..end].copy_from_slice(&self.content[start..end]);
            }
        }
        if self.has_pending_size() && !keep(PendingChange::Size { path }) {
            image.truncate(self.durable_size);
        }
        Self {
            durable_size: image.len(),
            durable: image.clone(),
            content: image,
            pending: BTreeSet::new(),
            doubtful: BTreeSet::new(),
        }
    }
}

/// A sector padded with zeros beyond the end of the file.
pub(super) fn sector_of(bytes: &[u8], sector: usize) -> [u8; SECTOR_BYTES] {
    let mut content = [0; SECTOR_BYTES];
    let start = (sector * SECTOR_BYTES).min(bytes.len());
    let end = (start + SECTOR_BYTES).min(bytes.len());
    content[..end - start].copy_from_slice(&bytes[start..end]);
    content
}
