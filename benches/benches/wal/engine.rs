//! raft-engine 0.4.2 at its best: files prefilled for recycling, no compression.

use std::sync::Arc;

use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, LogBatch, MessageExt, ReadableSize};
use tempfile::TempDir;

/// As large as our segments.
const FILE_BYTES: u64 = 64 << 20;
/// Beyond this many bytes the log is purged; one and a half times as much is prefilled.
const KEPT_BYTES: u64 = 256 << 20;
/// The index is the first eight bytes of the payload: the message has no other place for it, and
/// the payload no other content that matters.
const INDEX_BYTES: usize = 8;

#[derive(Clone)]
struct Entries;

impl MessageExt for Entries {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        let index = entry.value.first_chunk::<INDEX_BYTES>();
        u64::from_le_bytes(*index.expect("every payload has an index"))
    }
}

/// A log, or one group of a log that several share.
pub(super) struct Engine {
    engine: Arc<raft_engine::Engine>,
    directory: Arc<TempDir>,
    batch: LogBatch,
    group: u64,
    last: u64,
    unpurged_bytes: u64,
    kept_bytes: u64,
}

impl Engine {
    pub(super) fn new() -> Self {
        Self::keeping(KEPT_BYTES)
    }

    /// A log that is not purged before it has so many bytes.
    pub(super) fn keeping(kept_bytes: u64) -> Self {
        let directory = super::directory();
        let engine = open(directory.path(), kept_bytes);
        Self {
            engine: Arc::new(engine),
            directory: Arc::new(directory),
            batch: LogBatch::default(),
            group: 1,
            last: 0,
            unpurged_bytes: 0,
            kept_bytes,
        }
    }

    /// The same log for another writer, with a group of its own.
    pub(super) fn of_group(&self, group: u64) -> Self {
        Self {
            engine: Arc::clone(&self.engine),
            directory: Arc::clone(&self.directory),
            batch: LogBatch::default(),
            group,
            last: self.engine.last_index(group).unwrap_or(0),
            unpurged_bytes: 0,
            kept_bytes: self.kept_bytes,
        }
    }

    /// One batch of so many entries; returns how many.
    pub(super) fn append_and_sync(&mut self, count: u64, payload: &[u8]) -> u64 {
        let entry = |index: u64| {
            let mut value = payload.to_vec();
            value[..INDEX_BYTES].copy_from_slice(&index.to_le_bytes());
            BytesValue {
                value,
                ..BytesValue::default()
            }
        };
        let entries: Vec<_> = (self.last + 1..=self.last + count).map(entry).collect();
        let added = self.batch.add_entries::<Entries>(self.group, &entries);
        added.expect("the entries follow the log");
        self.engine
            .write(&mut self.batch, true)
            .expect("the disk works");
        self.last += count;
        self.unpurged_bytes += count * payload.len() as u64;
        if self.unpurged_bytes > self.kept_bytes / 2 {
            self.unpurged_bytes = 0;
            self.engine.compact_to(self.group, self.last);
            self.engine.purge_expired_files().expect("the disk works");
        }
        count
    }

    pub(super) fn path(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// Reads entries `first` to `last`; returns how many bytes they have.
    pub(super) fn read(&self, first: u64, last: u64) -> u64 {
        let mut entries = Vec::new();
        let fetched = self.engine.fetch_entries_to::<Entries>(
            self.group,
            first,
            last + 1,
            None,
            &mut entries,
        );
        fetched.expect("the entries are there");
        entries.iter().map(|entry| entry.value.len() as u64).sum()
    }

    pub(super) fn last_index(&self) -> u64 {
        self.last
    }

    /// Closes it and opens it again.
    pub(super) fn reopened(self) -> Self {
        let Self {
            engine, directory, ..
        } = self;
        drop(engine);
        let engine = open(directory.path(), self.kept_bytes);
        assert_eq!(engine.last_index(self.group), Some(self.last));
        Self {
            engine: Arc::new(engine),
            directory,
            ..self
        }
    }
}

fn open(path: &std::path::Path, kept_bytes: u64) -> raft_engine::Engine {
    let config = Config {
        dir: path.to_str().expect("the path is UTF-8").to_string(),
        target_file_size: ReadableSize(FILE_BYTES),
        purge_threshold: ReadableSize(kept_bytes),
        batch_compression_threshold: ReadableSize(0),
        enable_log_recycle: true,
        // Only what is written again and again is recycled; files of a log that grows are not.
        prefill_for_recycle: kept_bytes == KEPT_BYTES,
        ..Config::default()
    };
    raft_engine::Engine::open(config).expect("the engine opens")
}
