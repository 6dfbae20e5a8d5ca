//! raft-log: alone, and with a thread that serves several writers as a node's log writer does.

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use raft_log::vfs::RealVfs;
use raft_log::{DataDir, Log, LogIdentity, LogOptions, LogReader, LogWrite};
use raft_proto::{ClusterId, Entry, EntryKind, GroupId, LogIndex, NodeId, Term};
use tempfile::TempDir;

/// Segments beyond this many bytes are deleted, as a snapshot would have it.
const KEPT_BYTES: u64 = 256 << 20;

/// A log in a directory of its own.
pub(super) struct Ours {
    log: Log,
    batch_bytes: u64,
    kept_bytes: u64,
    data: DataDir,
    directory: TempDir,
}

impl Ours {
    /// A new log.
    pub(super) fn new() -> Self {
        let directory = super::directory();
        let data = DataDir::open(RealVfs::shared(), directory.path(), NodeId(1));
        let data = data.expect("a fresh directory opens");
        let log = open(&data);
        Self {
            log,
            batch_bytes: 0,
            kept_bytes: KEPT_BYTES,
            data,
            directory,
        }
    }

    /// A log that is never compacted.
    pub(super) fn growing() -> Self {
        Self {
            kept_bytes: u64::MAX,
            ..Self::new()
        }
    }

    /// One batch of so many entries; returns how many.
    pub(super) fn append_and_sync(&mut self, count: u64, payload: &[u8]) -> u64 {
        let payload = Bytes::copy_from_slice(payload);
        self.stage((0..count).map(|_| payload.clone()));
        self.sync();
        count
    }

    fn stage(&mut self, payloads: impl Iterator<Item = Bytes>) {
        let last = self.log.last_staged().index;
        let entry = |(number, payload)| Entry {
            index: last.plus(number),
            term: Term(1),
            kind: EntryKind::Command,
            payload,
        };
        let write = LogWrite {
            entries: (1..).zip(payloads).map(entry).collect(),
            ..LogWrite::default()
        };
        self.log.stage(write).expect("the entries follow the log");
    }

    fn sync(&mut self) {
        let stats = self.log.sync().expect("the disk works");
        self.batch_bytes += stats.bytes;
        if self.log.disk_bytes() > self.kept_bytes {
            let last = self.log.last();
            self.log
                .compact_prefix(last)
                .expect("the log is not poisoned");
            self.log.sync().expect("the disk works");
        }
    }

    /// Bytes of all batches.
    pub(super) fn batch_bytes(&self) -> u64 {
        self.batch_bytes
    }

    pub(super) fn reader(&self) -> LogReader {
        self.log.reader()
    }

    pub(super) fn last_index(&self) -> LogIndex {
        self.log.last().index
    }

    pub(super) fn path(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// Closes it and opens it again.
    pub(super) fn reopened(self) -> Self {
        let Self { log, data, .. } = self;
        drop(log);
        Self {
            log: open(&data),
            data,
            ..self
        }
    }
}

fn open(data: &DataDir) -> Log {
    let identity = LogIdentity {
        cluster: ClusterId([1; 16]),
        node: data.node(),
        incarnation: data.incarnation(),
        group: GroupId(0),
    };
    let opened = Log::open(data, identity, LogOptions::default());
    opened.expect("the log opens").0
}

/// What a writer hands over: a payload, and where to say that it is durable.
type Job = (Bytes, Sender<()>);

/// A log behind a thread that makes whatever waits one batch.
pub(super) struct Shared {
    jobs: Sender<Job>,
}

impl Shared {
    pub(super) fn start(mut ours: Ours) -> Self {
        let (jobs, waiting) = unbounded::<Job>();
        std::thread::spawn(move || {
            while let Ok(first) = waiting.recv() {
                let mut batch = vec![first];
                batch.extend(waiting.try_iter());
                ours.stage(batch.iter().map(|(payload, _)| payload.clone()));
                ours.sync();
                for (_, done) in batch {
                    // The writer waits for it.
                    let _ = done.send(());
                }
            }
        });
        Self { jobs }
    }

    pub(super) fn writer(&self) -> Writer {
        let (done, durable) = bounded(1);
        Writer {
            jobs: self.jobs.clone(),
            done,
            durable,
        }
    }
}

/// One of several writers.
pub(super) struct Writer {
    jobs: Sender<Job>,
    done: Sender<()>,
    durable: Receiver<()>,
}

impl Writer {
    /// Returns when the entry is durable; one more is.
    pub(super) fn append(&self, payload: &[u8]) -> u64 {
        let job = (Bytes::copy_from_slice(payload), self.done.clone());
        self.jobs.send(job).expect("the log's thread runs");
        self.durable.recv().expect("the log's thread runs");
        1
    }
}
