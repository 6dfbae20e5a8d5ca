//! okaywal 0.3, with files as large as our segments and a checkpoint that has nothing to do.

use std::io;
use std::sync::Arc;

use okaywal::{Configuration, Entry, EntryId, LogManager, SegmentReader, WriteAheadLog};
use tempfile::TempDir;

/// As large as our segments.
const FILE_BYTES: u32 = 64 << 20;
/// When a file is full, so that its preallocated space is not left.
const FULL_BYTES: u64 = 56 << 20;
/// What is written at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// A log that several writers share.
#[derive(Clone)]
pub(super) struct Okay {
    log: WriteAheadLog,
    _directory: Arc<TempDir>,
}

impl Okay {
    pub(super) fn new() -> Self {
        let directory = super::directory();
        let configuration = Configuration::default_for(directory.path())
            .preallocate_bytes(FILE_BYTES)
            .checkpoint_after_bytes(FULL_BYTES)
            .buffer_bytes(BUFFER_BYTES);
        Self {
            log: configuration.open(Nothing).expect("a fresh log opens"),
            _directory: Arc::new(directory),
        }
    }

    /// One entry of so many chunks, which is what it syncs together; returns how many.
    pub(super) fn append_and_sync(&mut self, count: u64, payload: &[u8]) -> u64 {
        let mut writer = self.log.begin_entry().expect("the log takes entries");
        for _ in 0..count {
            writer.write_chunk(payload).expect("the disk works");
        }
        writer.commit().expect("the disk works");
        count
    }
}

#[derive(Debug)]
struct Nothing;

impl LogManager for Nothing {
    fn recover(&mut self, _entry: &mut Entry<'_>) -> io::Result<()> {
        Ok(())
    }

    fn checkpoint_to(
        &mut self,
        _last: EntryId,
        _entries: &mut SegmentReader,
        _log: &WriteAheadLog,
    ) -> io::Result<()> {
        Ok(())
    }
}
