//! A file system in memory that costs next to nothing: files are shared until they are written.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft_log::vfs::{Access, AlignedBytes, Content, LockGuard, Vfs, VfsFile, Writers};

type Bytes = Arc<Vec<u8>>;

/// Files by their names. Clones of the value share them, [`FlatVfs::copy`] does not.
#[derive(Clone, Debug, Default)]
pub struct FlatVfs(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<PathBuf, Arc<Mutex<Bytes>>>,
    locks: BTreeSet<PathBuf>,
    random: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FlatVfs {
    /// Another one with the same files, and without locks.
    pub fn copy(&self) -> Self {
        let state = lock(&self.0);
        let copy = |(path, file): (&PathBuf, &Arc<Mutex<Bytes>>)| {
            (path.clone(), Arc::new(Mutex::new(Arc::clone(&lock(file)))))
        };
        Self(Arc::new(Mutex::new(State {
            files: state.files.iter().map(copy).collect(),
            locks: BTreeSet::new(),
            random: state.random,
        })))
    }

    /// It, as the trait object that the crate takes.
    pub fn shared(&self) -> Arc<dyn Vfs> {
        Arc::new(self.clone())
    }

    /// The content of a file.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let file = Arc::clone(lock(&self.0).files.get(path)?);
        let content = lock(&file).to_vec();
        Some(content)
    }

    /// Replaces the content of a file, and makes it if need be.
    pub fn set_content(&self, path: &Path, content: Vec<u8>) {
        let file = Arc::new(Mutex::new(Arc::new(content)));
        lock(&self.0).files.insert(path.to_path_buf(), file);
    }
}

#[derive(Debug)]
struct FlatFile(Arc<Mutex<Bytes>>);

#[derive(Debug)]
struct FlatLock(FlatVfs, PathBuf);

impl LockGuard for FlatLock {}

impl Drop for FlatLock {
    fn drop(&mut self) {
        lock(&self.0.0).locks.remove(&self.1);
    }
}

impl Vfs for FlatVfs {
    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        let mut state = lock(&self.0);
        if state.files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = Arc::new(Mutex::new(Bytes::default()));
        state.files.insert(path.to_path_buf(), Arc::clone(&file));
        Ok(Arc::new(FlatFile(file)))
    }

    fn open(&self, path: &Path, _: Access) -> io::Result<Arc<dyn VfsFile>> {
        let found = lock(&self.0).files.get(path).map(Arc::clone);
        Ok(Arc::new(FlatFile(found.ok_or(io::ErrorKind::NotFound)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = lock(&self.0);
        let file = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_path_buf(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = lock(&self.0).files.remove(path);
        removed
            .map(drop)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let state = lock(&self.0);
        let inside = state
            .files
            .keys()
            .filter(|path| path.parent() == Some(directory));
        Ok(inside
            .filter_map(|path| path.file_name()?.to_str().map(String::from))
            .collect())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        if !lock(&self.0).locks.insert(path.to_path_buf()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(FlatLock(self.clone(), path.to_path_buf())))
    }

    fn random(&self) -> io::Result<u64> {
        let mut state = lock(&self.0);
        state.random = state
            .random
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(1);
        Ok(state.random ^ state.random >> 29)
    }
}

impl VfsFile for FlatFile {
    fn size(&self) -> io::Result<u64> {
        Ok(lock(&self.0).len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let content = lock(&self.0);
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let source = content.get(start..start.saturating_add(buffer.len()));
        buffer.copy_from_slice(source.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: AlignedBytes<'_>) -> io::Result<()> {
        let mut content = lock(&self.0);
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start + bytes.len();
        let content = Arc::make_mut(&mut content);
        if content.len() < end {
            content.resize(end, 0);
        }
        content[start..end].copy_from_slice(bytes.bytes());
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn content(&self, _: Writers) -> io::Result<Content> {
        Ok(Content::copied(lock(&self.0).to_vec()))
    }
}
