//! Reads a file of which the disk may refuse parts, or which is shorter than it was.
//!
//! A sector that the disk cannot read any more is damage like any other. A map of it would end the
//! process at every start (SIGBUS), so a log that is to be repaired is read by copying.

use std::io;

use rustix::io::Errno;

use crate::vfs::{BLOCK_BYTES, Content, VfsFile};

/// How much is read at once, in bytes.
const AT_ONCE_BYTES: usize = 1 << 20;
/// What stands in for a block that cannot be read. Not zeros: those mean that nothing was written.
const UNREADABLE: u8 = 0xee;

/// The content of a file of `size` bytes; blocks that the disk cannot read are filled with a pattern.
pub(crate) fn content(file: &dyn VfsFile, size: u64) -> io::Result<Content> {
    let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
    for (number, chunk) in bytes.chunks_mut(AT_ONCE_BYTES).enumerate() {
        read_chunk(file, (number * AT_ONCE_BYTES) as u64, chunk)?;
    }
    Ok(Content::copied(bytes))
}

/// The bytes from `start` to `end`, or to the end of the file; blocks that the disk cannot read are
/// filled with a pattern.
pub(crate) fn range(file: &dyn VfsFile, start: u64, end: u64) -> io::Result<Vec<u8>> {
    let length = |end: u64| usize::try_from(end.saturating_sub(start)).map_err(io::Error::other);
    let mut bytes = vec![0; length(end)?];
    match read_chunk(file, start, &mut bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            bytes.truncate(length(file.size()?.min(end))?);
            if !bytes.is_empty() {
                read_chunk(file, start, &mut bytes)?;
            }
        }
        outcome => outcome?,
    }
    Ok(bytes)
}

fn read_chunk(file: &dyn VfsFile, offset: u64, chunk: &mut [u8]) -> io::Result<()> {
    match file.read_at(offset, chunk) {
        Err(error) if is_medium_error(&error) => read_blocks(file, offset, chunk),
        outcome => outcome,
    }
}

fn read_blocks(file: &dyn VfsFile, offset: u64, chunk: &mut [u8]) -> io::Result<()> {
    for (number, block) in chunk.chunks_mut(BLOCK_BYTES).enumerate() {
        let offset = offset + (number * BLOCK_BYTES) as u64;
        match file.read_at(offset, block) {
            Err(error) if is_medium_error(&error) => block.fill(UNREADABLE),
            outcome => outcome?,
        }
    }
    Ok(())
}

fn is_medium_error(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::IO.raw_os_error())
}
