//! Reserves: files of zeros that are taken when a full disk leaves no room for something that must not
//! wait.
//!
//! A node with a full disk must still be able to make term and vote durable, to raise its mark so that
//! a compaction frees space, and to start, which begins a segment and counts a boot. So some small
//! files of zeros are kept beside the segments and beside the records, durable and with their blocks
//! allocated. One of them becomes the next segment, or the next version of a record, without taking
//! any room.
//!
//! What a crash leaves:
//!
//! * while a file is made, it has a temporary name, under which it is removed later. It gets a
//!   reserve's name only once its zeros and its size are durable;
//! * a file is taken by giving it a temporary name, durably, before anything is written to it. So a
//!   file with a reserve's name was never written to; its zeros are checked all the same, because a
//!   sector of a segment is written or zero. What was taken and has not become what it was taken for
//!   is removed as a temporary file, whose room is then there to make another one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::vfs::{Access, AlignedBuffer, BLOCK_BYTES, Vfs, VfsFile, Writers};

/// A kind of reserve. There are two files of each: one that was taken is given up only once another
/// one has taken its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reserve([&'static str; 2]);

/// For segments; the files are as large as the segment of an open.
pub(crate) const FOR_SEGMENTS: Reserve = Reserve(["reserve-0.zeros", "reserve-1.zeros"]);
/// For records of one block.
pub(crate) const FOR_RECORDS: Reserve = Reserve(["spare-0.zeros", "spare-1.zeros"]);

/// Who takes a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taker {
    /// One that leaves the last file to others.
    Modest,
    /// One that nothing else can help.
    Desperate,
}

/// A file that was taken: it has the given name, and so many bytes, all of them zero.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) file: Arc<dyn VfsFile>,
    pub(crate) bytes: u64,
}

impl Reserve {
    /// Takes a file of at least so many bytes and names it `path`. `None` if there is none.
    pub(crate) fn take(
        self,
        (vfs, directory): (&dyn Vfs, &Path),
        path: &Path,
        least_bytes: u64,
        taker: Taker,
    ) -> io::Result<Option<Taken>> {
        let mut fit = Vec::new();
        for from in self.paths(directory) {
            let Some(file) = open(vfs, &from)? else {
                continue;
            };
            let bytes = file.size()?;
            if bytes >= least_bytes && bytes.is_multiple_of(BLOCK_BYTES as u64) {
                fit.push((from, Taken { file, bytes }));
            }
        }
        while let Some((from, taken)) = fit.pop() {
            if fit.is_empty() && taker == Taker::Modest {
                return Ok(None);
            }
            if is_zero(taken.file.as_ref())? {
                vfs.rename(&from, path)?;
                vfs.sync_dir(directory)?;
                return Ok(Some(taken));
            }
        }
        Ok(None)
    }

    /// The names of files that are not there, or have another size: those are removed.
    pub(crate) fn wanting(
        self,
        vfs: &dyn Vfs,
        directory: &Path,
        bytes: u64,
    ) -> io::Result<Vec<PathBuf>> {
        let mut wanting = Vec::new();
        for path in self.paths(directory) {
            match open(vfs, &path)? {
                Some(file) if file.size()? == bytes => continue,
                Some(_) => vfs.remove(&path)?,
                None => {}
            }
            wanting.push(path);
        }
        Ok(wanting)
    }

    fn paths(self, directory: &Path) -> [PathBuf; 2] {
        self.0.map(|name| directory.join(name))
    }
}

/// Makes what is wanting of the blocks for records, as far as there is room.
pub(crate) fn replenish_records(vfs: &dyn Vfs, directory: &Path) -> io::Result<()> {
    let block = AlignedBuffer::zeroed(1);
    for path in FOR_RECORDS.wanting(vfs, directory, BLOCK_BYTES as u64)? {
        let temporary = path.with_extension("tmp");
        remove_if_there(vfs, &temporary)?;
        let make = || {
            let file = vfs.create(&temporary)?;
            file.write_at(0, block.as_aligned())?;
            file.sync_data()?;
            vfs.sync_dir(directory)?;
            vfs.rename(&temporary, &path)?;
            vfs.sync_dir(directory)
        };
        match make() {
            Err(error) if is_full(&error) => return remove_if_there(vfs, &temporary),
            outcome => outcome?,
        }
    }
    Ok(())
}

/// Removes a file unless there is none.
pub(crate) fn remove_if_there(vfs: &dyn Vfs, path: &Path) -> io::Result<()> {
    match vfs.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether the disk, or what one may use of it, is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn open(vfs: &dyn Vfs, path: &Path) -> io::Result<Option<Arc<dyn VfsFile>>> {
    match vfs.open(path, Access::ReadWrite) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_zero(file: &dyn VfsFile) -> io::Result<bool> {
    let content = file.content(Writers::Possible)?;
    Ok(content.iter().all(|byte| *byte == 0))
}
