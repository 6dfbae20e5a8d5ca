//! The object-safe file system that every file access of this crate goes through.
//!
//! [`RealVfs`] is the operating system's, [`MemVfs`] an in-memory one that can be crashed at any
//! operation. A simulator supplies its own to tear, lose, rot, stall or fill a disk. The trait
//! promises as little as disks do: bytes are durable after [`VfsFile::sync_data`], names and sizes
//! only after [`Vfs::sync_dir`] of the directory that holds them.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

mod aligned;
mod map;
mod mem;
mod real;

pub use aligned::{AlignedBuffer, AlignedBytes};
pub use mem::{MemVfs, PendingChange};
pub use real::RealVfs;

/// Alignment of memory, offsets and lengths of every write, in bytes; also the block of the log's
/// format.
pub const BLOCK_BYTES: usize = 4096;

/// Whether a file is opened to be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only reads are allowed.
    Read,
    /// Reads and writes are allowed.
    ReadWrite,
}

/// A file system. Paths are used as given; names are unique in their directory.
pub trait Vfs: Send + Sync + fmt::Debug {
    /// Creates a directory and its missing parents; succeeds if it exists.
    ///
    /// # Errors
    /// The operating system's.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Creates an empty file for reading and writing; fails if the name exists.
    ///
    /// # Errors
    /// `AlreadyExists`, or the operating system's.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>>;

    /// Opens an existing file.
    ///
    /// # Errors
    /// `NotFound`, or the operating system's.
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn VfsFile>>;

    /// Gives a file another name, atomically replacing what has that name: mostly in the same
    /// directory, else in another one of the same file system. It is durable once the new name's
    /// directory is synced.
    ///
    /// # Errors
    /// `NotFound`, or the operating system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Open handles stay usable.
    ///
    /// # Errors
    /// `NotFound`, or the operating system's.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The names of the files of a directory, sorted.
    ///
    /// # Errors
    /// `NotFound`, or the operating system's.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;

    /// Makes creations, renames, removals and sizes of the directory's files durable.
    ///
    /// # Errors
    /// The operating system's. What was to become durable is then unknown.
    fn sync_dir(&self, directory: &Path) -> io::Result<()>;

    /// Takes an exclusive lock on a file, which is created if missing; the lock lasts until the
    /// guard is dropped or the process ends.
    ///
    /// # Errors
    /// `WouldBlock` if another holder has it, or the operating system's.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>>;

    /// 64 random bits: for incarnations, boot nonces and salts.
    ///
    /// # Errors
    /// The operating system's.
    fn random(&self) -> io::Result<u64>;
}

/// An open file. All methods are positioned and may be called from several threads.
pub trait VfsFile: Send + Sync + fmt::Debug {
    /// The current size in bytes.
    ///
    /// # Errors
    /// The operating system's.
    fn size(&self) -> io::Result<u64>;

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before, or the operating system's.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`, a multiple of [`BLOCK_BYTES`]; grows the file if needed.
    ///
    /// # Errors
    /// `StorageFull`, or the operating system's. Any part may have been written.
    fn write_at(&self, offset: u64, bytes: AlignedBytes<'_>) -> io::Result<()>;

    /// As [`VfsFile::write_at`], but past the page cache if the file system can: for bytes that
    /// nobody reads soon, and whose writeback would stand in front of other files' syncs. They are
    /// durable only after [`VfsFile::sync_data`], like all others.
    ///
    /// # Errors
    /// As [`VfsFile::write_at`].
    fn write_through(&self, offset: u64, bytes: AlignedBytes<'_>) -> io::Result<Written> {
        self.write_at(offset, bytes)?;
        Ok(Written::ToCache)
    }

    /// Drops what the page cache holds of a range that is durable, if the file system can, so that
    /// the next read comes from the medium. It may do nothing.
    fn drop_cached(&self, offset: u64, length: u64) {
        let _ = (offset, length);
    }

    /// Makes the written bytes durable (fdatasync).
    ///
    /// # Errors
    /// The operating system's. The bytes must then be taken for lost, and the call must not be
    /// repeated in the hope of better luck: the kernel may have dropped the dirty pages.
    fn sync_data(&self) -> io::Result<()>;

    /// The whole content, for a scan. A file that nobody writes any more may be mapped instead of
    /// copied: see [`Content`].
    ///
    /// # Errors
    /// The operating system's.
    fn content(&self, expectation: Writers) -> io::Result<Content>;
}

/// Where bytes are after [`VfsFile::write_through`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// At the device, which may still hold them in a cache of its own.
    ToDevice,
    /// In the page cache: a sync has to write them.
    ToCache,
}

/// Whether somebody may write a file while its content is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// Nobody writes: a map is allowed.
    None,
    /// Somebody may: the content must be copied.
    Possible,
}

/// The content of a file: copied, or a map that stays pinned while this value lives. A map of a
/// file that shrinks under it ends the process (SIGBUS), which equals a crash.
#[derive(Debug)]
pub struct Content(ContentKind);

#[derive(Debug)]
enum ContentKind {
    Copied(Vec<u8>),
    Mapped(map::FileMap),
}

impl Content {
    /// Content that was copied into memory.
    #[must_use]
    pub fn copied(bytes: Vec<u8>) -> Self {
        Self(ContentKind::Copied(bytes))
    }
}

impl Deref for Content {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            ContentKind::Copied(bytes) => bytes,
            ContentKind::Mapped(map) => map.bytes(),
        }
    }
}

/// Holds an exclusive lock until it is dropped.
pub trait LockGuard: Send + Sync + fmt::Debug {}
