//! The simulated disk as the file system that the real log writes to.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft_log::vfs::{Access, AlignedBytes, BLOCK_BYTES, Content, LockGuard, Vfs, VfsFile, Writers};

use super::faults::PagesAfterFailure;
use super::medium::{Medium, Name, NameChange, name_of, name_within};
use crate::random::Random;

/// A disk; clones share it. Only one thread uses it, the lock is what the trait asks for.
#[derive(Clone, Debug)]
pub(crate) struct SimVfs(Arc<Mutex<Medium>>);

impl SimVfs {
    pub(super) fn new(random: Random) -> Self {
        Self::from_medium(Medium::new(random))
    }

    pub(super) fn from_medium(medium: Medium) -> Self {
        Self(Arc::new(Mutex::new(medium)))
    }

    pub(super) fn shared(&self) -> Arc<dyn Vfs> {
        Arc::new(self.clone())
    }

    pub(super) fn medium(&self) -> MutexGuard<'_, Medium> {
        // A panic while the lock was held left plain data behind, which stays usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, inode: u64, access: Access) -> Arc<dyn VfsFile> {
        let vfs = self.clone();
        Arc::new(SimFile { vfs, inode, access })
    }
}

impl Vfs for SimVfs {
    fn create_dir_all(&self, _path: &Path) -> io::Result<()> {
        // Directories exist as soon as a file is put into them.
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        let mut medium = self.medium();
        medium.faults.count()?;
        let inode = medium.create(name_of(path))?;
        medium.opened(inode);
        Ok(self.file(inode, Access::ReadWrite))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn VfsFile>> {
        let mut medium = self.medium();
        let inode = medium.inode_of(&name_of(path))?;
        medium.opened(inode);
        Ok(self.file(inode, access))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut medium = self.medium();
        medium.faults.count()?;
        let from = name_of(from);
        let inode = medium.inode_of(&from)?;
        medium.change_name(NameChange::Rename(from, name_of(to), inode));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut medium = self.medium();
        medium.faults.count()?;
        let name = name_of(path);
        medium.inode_of(&name)?;
        medium.change_name(NameChange::Unlink(name));
        Ok(())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let medium = self.medium();
        let directory = name_of(directory);
        let names = medium.names.keys();
        let inside = names.filter_map(|name| name_within(name, &directory));
        Ok(inside.map(String::from).collect())
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        let mut medium = self.medium();
        medium.faults.count()?;
        medium.sync_dir(&name_of(directory));
        medium.collect();
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        let name = name_of(path);
        if !self.medium().locks.insert(name.clone()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let vfs = self.clone();
        Ok(Box::new(SimLock { vfs, name }))
    }

    fn random(&self) -> io::Result<u64> {
        Ok(self.medium().random.bits())
    }
}

#[derive(Debug)]
struct SimFile {
    vfs: SimVfs,
    inode: u64,
    access: Access,
}

impl VfsFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.vfs.medium().inode(self.inode).size() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut medium = self.vfs.medium();
        medium.check_read()?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        medium.inode(self.inode).read(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: AlignedBytes<'_>) -> io::Result<()> {
        if self.access == Access::Read {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut medium = self.vfs.medium();
        medium.faults.count()?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let mut bytes = bytes.bytes();
        let mut outcome = Ok(());
        if medium.tears_write() {
            let blocks = medium.random.below((bytes.len() / BLOCK_BYTES) as u64 + 1);
            bytes = &bytes[..blocks as usize * BLOCK_BYTES];
            medium.faults.met += 1;
            outcome = Err(io::Error::other("injected write error"));
        }
        let growth = (offset + bytes.len()).saturating_sub(medium.inode(self.inode).size());
        if let Some(capacity) = medium.faults.capacity_bytes.filter(|_| growth > 0) {
            let room = capacity.saturating_sub(medium.used_bytes());
            if growth as u64 > room {
                // The disk takes what fits: its last byte may lie in the middle of the write.
                let missing = (growth as u64 - room).next_multiple_of(BLOCK_BYTES as u64);
                bytes = &bytes[..bytes.len().saturating_sub(missing as usize)];
                outcome = Err(io::ErrorKind::StorageFull.into());
            }
        }
        medium.inode(self.inode).write(offset, bytes);
        outcome
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut medium = self.vfs.medium();
        let medium = &mut *medium;
        medium.faults.count()?;
        let failure = medium.faults.fail_sync.take();
        medium.last_synced = Some(self.inode);
        let mut random = medium.random.clone();
        let inode = medium.inode(self.inode);
        match failure {
            None => {
                inode.sync();
                return Ok(());
            }
            Some(PagesAfterFailure::Kept) => inode.fail_sync_keeping(),
            Some(PagesAfterFailure::Lost) => inode.fail_sync_losing(&mut random),
        }
        medium.random = random;
        medium.faults.met += 1;
        Err(io::Error::other("injected sync error"))
    }

    fn content(&self, _writers: Writers) -> io::Result<Content> {
        let mut medium = self.vfs.medium();
        medium.check_read()?;
        let inode = medium.inode(self.inode);
        Ok(Content::copied(inode.whole()))
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.vfs.medium().closed(self.inode);
    }
}

#[derive(Debug)]
struct SimLock {
    vfs: SimVfs,
    name: Name,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.vfs.medium().locks.remove(&self.name);
    }
}

impl LockGuard for SimLock {}
