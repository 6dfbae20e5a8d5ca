//! The read-only memory map of a file that nobody writes any more.
#![allow(
    unsafe_code,
    reason = "mapping a file is unsafe: it may change under the map"
)]

use std::fs::File;
use std::io;

/// A read-only map of a whole file.
#[derive(Debug)]
pub(super) struct FileMap(memmap2::Mmap);

impl FileMap {
    /// Maps the file.
    pub(super) fn new(file: &File) -> io::Result<Self> {
        // SAFETY: the caller states (`Writers::None`) that the file is a sealed segment of a data
        // directory this process holds exclusively, or one that it only inspects. Sealed segments
        // are never written, never reused and never shrunk, only unlinked, which leaves the map
        // intact. An outside program that shrinks the file anyway ends the process by SIGBUS,
        // which the format page treats as a crash.
        let map = unsafe { memmap2::Mmap::map(file)? };
        Ok(Self(map))
    }

    /// The mapped bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}
