//! The operating system's file system.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Advice, FlockOperation, OFlags, fadvise, flock};

use super::map::FileMap;
use super::{
    Access, AlignedBytes, Content, ContentKind, LockGuard, Vfs, VfsFile, Writers, Written,
};

/// The operating system's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealVfs;

impl RealVfs {
    /// It, as the trait object that the crate takes.
    #[must_use]
    pub fn shared() -> Arc<dyn Vfs> {
        Arc::new(Self)
    }
}

impl Vfs for RealVfs {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        // Each new directory is made durable in its parent: losing the root loses everything.
        let mut missing = Vec::new();
        let mut current = Some(path);
        while let Some(directory) = current.filter(|d| !d.as_os_str().is_empty() && !d.exists()) {
            missing.push(directory);
            current = directory.parent();
        }
        for directory in missing.into_iter().rev() {
            match std::fs::create_dir(directory) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                outcome => outcome?,
            }
            let parent = directory
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            self.sync_dir(parent.unwrap_or(Path::new(".")))?;
        }
        if path.is_dir() {
            Ok(())
        } else {
            Err(io::ErrorKind::NotADirectory.into())
        }
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn VfsFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(access == Access::ReadWrite)
            .open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            // A name that is not UTF-8 is not one of ours.
            if let (true, Ok(name)) = (
                entry.file_type()?.is_file(),
                entry.file_name().into_string(),
            ) {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(RealLock { _file: file }))
    }

    fn random(&self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
        Ok(u64::from_le_bytes(bytes))
    }
}

#[derive(Debug)]
struct RealFile(File);

impl VfsFile for RealFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&self, offset: u64, bytes: AlignedBytes<'_>) -> io::Result<()> {
        self.0.write_all_at(bytes.bytes(), offset)
    }

    fn write_through(&self, offset: u64, bytes: AlignedBytes<'_>) -> io::Result<Written> {
        // A handle of its own, because the flag belongs to the open file; opened anew for each
        // write, which are few and large, so that a long log does not hold twice the handles.
        let direct = OpenOptions::new()
            .write(true)
            // The flag is one bit of an int.
            .custom_flags(OFlags::DIRECT.bits() as i32)
            .open(format!("/proc/self/fd/{}", self.0.as_raw_fd()));
        if let Ok(direct) = direct {
            match direct.write_all_at(bytes.bytes(), offset) {
                Ok(()) => return Ok(Written::ToDevice),
                // Some file systems take the flag and then refuse the write.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                Err(error) => return Err(error),
            }
        }
        self.write_at(offset, bytes)?;
        Ok(Written::ToCache)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn drop_cached(&self, offset: u64, length: u64) {
        // Advice: a read that comes from the cache after all is no error.
        let _ = fadvise(&self.0, offset, NonZeroU64::new(length), Advice::DontNeed);
    }

    fn content(&self, writers: Writers) -> io::Result<Content> {
        match writers {
            Writers::None => Ok(Content(ContentKind::Mapped(FileMap::new(&self.0)?))),
            Writers::Possible => {
                let mut bytes = vec![0; usize::try_from(self.size()?).map_err(io::Error::other)?];
                self.read_at(0, &mut bytes)?;
                Ok(Content::copied(bytes))
            }
        }
    }
}

/// The lock belongs to the open file: it ends with it.
#[derive(Debug)]
struct RealLock {
    _file: File,
}

impl LockGuard for RealLock {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::AlignedBuffer;

    #[test]
    fn files_are_created_once_read_back_listed_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let nested = directory.path().join("a/b");
        RealVfs.create_dir_all(&nested).unwrap();
        RealVfs.create_dir_all(&nested).unwrap();
        let path = nested.join("one");
        let file = RealVfs.create(&path).unwrap();
        assert!(RealVfs.create(&path).is_err());
        let mut block = AlignedBuffer::zeroed(1);
        block.bytes_mut()[7] = 9;
        file.write_at(4096, block.as_aligned()).unwrap();
        file.sync_data().unwrap();
        assert_eq!(file.size().unwrap(), 8192);
        let content = file.content(Writers::None).unwrap();
        assert_eq!(content[4096 + 7], 9);
        assert_eq!(&*content, &*file.content(Writers::Possible).unwrap());
        RealVfs.rename(&path, &nested.join("two")).unwrap();
        RealVfs.sync_dir(&nested).unwrap();
        assert_eq!(RealVfs.list(&nested).unwrap(), ["two"]);
        RealVfs.remove(&nested.join("two")).unwrap();
        assert!(RealVfs.list(&nested).unwrap().is_empty());
    }

    #[test]
    fn what_goes_past_the_cache_is_read_through_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = RealVfs.create(&directory.path().join("one")).unwrap();
        let mut blocks = AlignedBuffer::zeroed(2);
        blocks.bytes_mut().fill(9);
        // Written before by the cache, which must not hide what comes past it.
        file.write_at(0, AlignedBuffer::zeroed(4).as_aligned())
            .unwrap();
        file.write_through(8192, blocks.as_aligned()).unwrap();
        file.write_through(16384, blocks.as_aligned()).unwrap();
        file.sync_data().unwrap();
        let content = file.content(Writers::None).unwrap();
        assert_eq!(content.len(), 24576);
        assert!(content[..8192].iter().all(|byte| *byte == 0));
        assert!(content[8192..].iter().all(|byte| *byte == 9));
        // And the other way round.
        file.write_at(8192, AlignedBuffer::zeroed(1).as_aligned())
            .unwrap();
        assert_eq!(file.content(Writers::Possible).unwrap()[8192], 0);
    }

    #[test]
    fn a_lock_is_exclusive_until_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("LOCK");
        let held = RealVfs.lock(&path).unwrap();
        let refused = RealVfs.lock(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        drop(held);
        RealVfs.lock(&path).unwrap();
    }
}
