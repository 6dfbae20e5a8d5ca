//! An in-memory file system that is deterministic, counts its operations and can be crashed.
//!
//! Every file has a durable image and the current one. A crash keeps, for each sector written since
//! the last sync and each directory change since the last directory sync, either the old or the new
//! state, as a callback chooses: with n pending changes there are 2^n disks to recover from.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

mod disk;

use self::disk::{Disk, Inode, NameChange};
use super::{Access, AlignedBytes, Content, LockGuard, Vfs, VfsFile, Writers};

/// An in-memory file system; clones share it.
#[derive(Clone, Debug)]
pub struct MemVfs {
    disk: Arc<Mutex<Disk>>,
}

/// A change that is not durable yet, as the callback of [`MemVfs::crash`] sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PendingChange<'a> {
    /// A sector was written.
    Sector {
        /// The file's current name, if it has one.
        path: Option<&'a Path>,
        /// The sector's number in the file.
        sector: u64,
    },
    /// A file grew.
    Size {
        /// The file's current name, if it has one.
        path: Option<&'a Path>,
    },
    /// A name appeared, moved or went away.
    Name {
        /// The name that was changed last.
        path: &'a Path,
    },
}

impl MemVfs {
    /// An empty file system whose random numbers follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let disk = Disk {
            random: seed,
            ..Disk::default()
        };
        Self {
            disk: Arc::new(Mutex::new(disk)),
        }
    }

    /// It, as the trait object that the crate takes.
    #[must_use]
    pub fn shared(&self) -> Arc<dyn Vfs> {
        Arc::new(self.clone())
    }

    /// How many operations that change something or make it durable were asked for so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.disk().operations
    }

    /// Lets `count` operations happen from now on and fails every later one, as if the machine
    /// had stopped.
    pub fn stop_after(&self, count: u64) {
        let mut disk = self.disk();
        disk.faults.stop_after = Some(disk.operations + count);
    }

    /// Lifts the injected stop and sync failures: only the process had died, the machine goes on
    /// with what its page cache holds.
    pub fn resume(&self) {
        let mut disk = self.disk();
        disk.faults.stop_after = None;
        disk.faults.fail_syncs_from = None;
    }

    /// Fails the `number`-th sync of file data from now on (1 is the next), and every later one.
    /// The unsynced bytes stay readable, no later sync writes them, and a crash may lose them: as
    /// on a real kernel, which marks pages clean when their writing fails.
    pub fn fail_syncs_from(&self, number: u64) {
        let mut disk = self.disk();
        disk.faults.fail_syncs_from = Some(disk.faults.syncs + number);
    }

    /// Lets writes fail with `StorageFull` once all files together would exceed this many bytes;
    /// `None` lifts the limit.
    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.disk().faults.capacity_bytes = bytes;
    }

    /// Keeps a copy of the disk before every operation from now on, for [`MemVfs::recorded`].
    pub fn record(&self) {
        self.disk().recording = Some(Vec::new());
    }

    /// Ends what [`MemVfs::record`] has begun: the disk as it was before each operation since, and
    /// as it is now, pending changes included. The copies have no locks and no faults; what a crash
    /// at that moment leaves is asked of them by [`MemVfs::crash`].
    #[must_use]
    pub fn recorded(&self) -> Vec<Self> {
        let mut disk = self.disk();
        let mut images = disk.recording.take().unwrap_or_default();
        images.push(disk.image());
        let shared = |disk| Self {
            disk: Arc::new(Mutex::new(disk)),
        };
        images.into_iter().map(shared).collect()
    }

    /// How many changes are pending: a crash can leave 2 to that power different disks.
    #[must_use]
    pub fn pending_changes(&self) -> usize {
        let disk = self.disk();
        let sectors = disk
            .inodes
            .iter()
            .map(|inode| inode.pending.len() + inode.doubtful.len());
        let sizes = disk.inodes.iter().filter(|inode| inode.has_pending_size());
        sectors.sum::<usize>() + sizes.count() + disk.pending_names.len()
    }

    /// The disk as it is after a crash in which exactly the pending changes survived for which
    /// `keep` said so. This one is unchanged; the new one has no locks and no faults.
    #[must_use]
    pub fn crash(&self, keep: &mut dyn FnMut(PendingChange<'_>) -> bool) -> Self {
        let disk = self.disk();
        let mut names = disk.durable_names.clone();
        for change in &disk.pending_names {
            if keep(PendingChange::Name {
                path: change.path(),
            }) {
                change.apply(&mut names);
            }
        }
        let mut paths = vec![None; disk.inodes.len()];
        for (path, inode) in &disk.names {
            paths[*inode] = Some(path.as_path());
        }
        let survivors = disk.inodes.iter().zip(paths);
        let inodes = survivors
            .map(|(inode, path)| inode.after_crash(path, keep))
            .collect();
        Self {
            disk: Arc::new(Mutex::new(Disk {
                inodes,
                durable_names: names.clone(),
                names,
                random: disk.random.wrapping_add(1),
                ..Disk::default()
            })),
        }
    }

    /// Changes bytes of a file, durable image included, behind everybody's back: bit rot, or a
    /// write that went astray.
    ///
    /// # Errors
    /// `NotFound`, or `UnexpectedEof` if the range does not lie in the file.
    pub fn corrupt(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.disk();
        let inode = disk.inode_of(path)?;
        let inode = &mut disk.inodes[inode];
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let range = start..start.saturating_add(bytes.len());
        if range.end > inode.content.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        inode.durable.resize(inode.content.len(), 0);
        inode.content[range.clone()].copy_from_slice(bytes);
        inode.durable[range].copy_from_slice(bytes);
        Ok(())
    }

    /// The current content of a file.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        let disk = self.disk();
        let inode = disk.inode_of(path)?;
        Ok(disk.inodes[inode].content.clone())
    }

    /// Cuts a file to `size` bytes, durably and behind everybody's back.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn shrink(&self, path: &Path, size: usize) -> io::Result<()> {
        let mut disk = self.disk();
        let inode = disk.inode_of(path)?;
        let inode = &mut disk.inodes[inode];
        inode.content.truncate(size);
        inode.durable.truncate(size);
        inode.durable_size = inode.durable_size.min(size);
        Ok(())
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        // A panic while the lock was held left plain data behind, which stays usable.
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vfs for MemVfs {
    fn create_dir_all(&self, _path: &Path) -> io::Result<()> {
        // Directories exist as soon as a file is put into them.
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        let mut disk = self.disk();
        disk.count()?;
        if disk.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = disk.inodes.len();
        disk.inodes.push(Inode::default());
        let path = path.to_path_buf();
        disk.change_name(NameChange::Link { path, inode });
        Ok(self.file(inode, Access::ReadWrite))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn VfsFile>> {
        let inode = self.disk().inode_of(path)?;
        Ok(self.file(inode, access))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.count()?;
        let inode = disk.inode_of(from)?;
        disk.change_name(NameChange::Rename {
            from: from.to_path_buf(),
            to: to.to_path_buf(),
            inode,
        });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.count()?;
        disk.inode_of(path)?;
        let path = path.to_path_buf();
        disk.change_name(NameChange::Unlink { path });
        Ok(())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let disk = self.disk();
        let inside = disk
            .names
            .keys()
            .filter(|path| path.parent() == Some(directory));
        let names = inside.filter_map(|path| path.file_name()?.to_str().map(String::from));
        Ok(names.collect())
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.count()?;
        let inside = |change: &NameChange| change.path().parent() == Some(directory);
        let (synced, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut disk.pending_names)
            .into_iter()
            .partition(inside);
        disk.pending_names = rest;
        for change in synced {
            change.apply(&mut disk.durable_names);
        }
        let inodes: Vec<usize> = disk
            .names
            .iter()
            .filter(|(path, _)| path.parent() == Some(directory))
            .map(|(_, inode)| *inode)
            .collect();
        for inode in inodes {
            let inode = &mut disk.inodes[inode];
            inode.durable_size = inode.content.len();
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        let path = path.to_path_buf();
        if !self.disk().locks.insert(path.clone()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let vfs = self.clone();
        Ok(Box::new(MemLock { vfs, path }))
    }

    fn random(&self) -> io::Result<u64> {
        let mut disk = self.disk();
        // SplitMix64: every state gives one well-mixed number.
        disk.random = disk.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = disk.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Ok(mixed ^ (mixed >> 31))
    }
}

impl MemVfs {
    fn file(&self, inode: usize, access: Access) -> Arc<dyn VfsFile> {
        let vfs = self.clone();
        Arc::new(MemFile { vfs, inode, access })
    }
}

#[derive(Debug)]
struct MemFile {
    vfs: MemVfs,
    inode: usize,
    access: Access,
}

impl VfsFile for MemFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.vfs.disk().inodes[self.inode].content.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let disk = self.vfs.disk();
        let content = &disk.inodes[self.inode].content;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let range = start..start.saturating_add(buffer.len());
        let source = content.get(range).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(source);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: AlignedBytes<'_>) -> io::Result<()> {
        if self.access == Access::Read {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut disk = self.vfs.disk();
        disk.count()?;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start + bytes.len();
        let size = disk.inodes[self.inode].content.len();
        let linked: BTreeSet<usize> = disk.names.values().copied().collect();
        let used: usize = linked
            .iter()
            .map(|inode| disk.inodes[*inode].content.len())
            .sum();
        let grown = used + end.saturating_sub(size);
        if disk
            .faults
            .capacity_bytes
            .is_some_and(|limit| grown > limit)
            && end > size
        {
            return Err(io::ErrorKind::StorageFull.into());
        }
        disk.inodes[self.inode].write(start, bytes.bytes());
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.vfs.disk();
        disk.count()?;
        disk.faults.syncs += 1;
        let syncs = disk.faults.syncs;
        let fails = disk.faults.fail_syncs_from;
        if fails.is_some_and(|from| syncs >= from) {
            disk.inodes[self.inode].fail_sync();
            return Err(io::Error::other("injected sync failure"));
        }
        let inode = &mut disk.inodes[self.inode];
        inode.sync();
        Ok(())
    }

    fn content(&self, _writers: Writers) -> io::Result<Content> {
        let disk = self.vfs.disk();
        Ok(Content::copied(disk.inodes[self.inode].content.clone()))
    }
}

#[derive(Debug)]
struct MemLock {
    vfs: MemVfs,
    path: PathBuf,
}

impl Drop for MemLock {
    fn drop(&mut self) {
        self.vfs.disk().locks.remove(&self.path);
    }
}

impl LockGuard for MemLock {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::AlignedBuffer;

    fn block(fill: u8) -> AlignedBuffer {
        let mut buffer = AlignedBuffer::zeroed(1);
        buffer.bytes_mut().fill(fill);
        buffer
    }

    #[test]
    fn a_crash_keeps_only_what_was_synced_or_chosen() {
        let vfs = MemVfs::new(1);
        let path = Path::new("d/f");
        let file = vfs.create(path).unwrap();
        file.write_at(0, block(1).as_aligned()).unwrap();
        assert!(vfs.crash(&mut |_| false).read_file(path).is_err());
        file.sync_data().unwrap();
        // Synced bytes of a file whose name is not durable are lost with it.
        assert!(vfs.crash(&mut |_| false).read_file(path).is_err());
        vfs.sync_dir(Path::new("d")).unwrap();
        assert_eq!(vfs.pending_changes(), 0);
        file.write_at(0, block(2).as_aligned()).unwrap();
        assert_eq!(vfs.pending_changes(), 8);
        let torn =
            vfs.crash(&mut |change| matches!(change, PendingChange::Sector { sector: 3, .. }));
        let content = torn.read_file(path).unwrap();
        assert_eq!(
            (content[3 * 512 - 1], content[3 * 512], content[4 * 512]),
            (1, 2, 1)
        );
    }

    #[test]
    fn stopped_full_and_failing_disks_say_so() {
        let vfs = MemVfs::new(1);
        let file = vfs.create(Path::new("d/f")).unwrap();
        vfs.set_capacity(Some(4096));
        file.write_at(0, block(1).as_aligned()).unwrap();
        let full = file.write_at(4096, block(1).as_aligned()).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        vfs.fail_syncs_from(2);
        file.sync_data().unwrap();
        file.sync_data().unwrap_err();
        vfs.stop_after(0);
        vfs.rename(Path::new("d/f"), Path::new("d/g")).unwrap_err();
    }
}
