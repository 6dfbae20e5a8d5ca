//! The log against the bare disk: append and sync of batches, beside a loop that does nothing but
//! checksum, write and fdatasync the same bytes at the same alignment into a zero-written file.
//!
//! ```text
//! cargo bench -p benches --bench wal
//! ```
//!
//! The files are in `TMPDIR` (default `/var/tmp`), which must be on a real disk: on a tmpfs an
//! fdatasync costs nothing and the numbers mean nothing.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use raft_log::vfs::{AlignedBuffer, BLOCK_BYTES, RealVfs, Vfs};
use raft_log::{DataDir, Log, LogIdentity, LogOptions, LogWrite};
use raft_proto::{ClusterId, Entry, EntryKind, GroupId, LogIndex, NodeId, Term};
use tempfile::TempDir;

/// Entries per sync, and payload bytes of each.
const SHAPES: [(u64, usize); 4] = [(1, 256), (16, 256), (256, 256), (1, 64 << 10)];
/// What a batch adds to its payloads: 32 bytes a record and an identity at both ends.
const RECORD_OVERHEAD_BYTES: usize = 32;
const IDENTITY_BYTES: usize = 224;
/// Size of the file that the bare loop writes, as large as a segment.
const FILE_BYTES: u64 = 64 << 20;

fn directory() -> TempDir {
    let parent =
        std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    tempfile::tempdir_in(parent).expect("TMPDIR can be written")
}

fn open(path: &Path) -> (DataDir, Log) {
    let dir = DataDir::open(RealVfs::shared(), path, NodeId(1)).expect("a fresh directory opens");
    let identity = LogIdentity {
        cluster: ClusterId([1; 16]),
        node: dir.node(),
        incarnation: dir.incarnation(),
        group: GroupId(0),
    };
    let opened = Log::open(&dir, identity, LogOptions::default());
    let (log, _) = opened.expect("a fresh log opens");
    (dir, log)
}

/// A payload without zero sectors, as real ones are.
fn payload(bytes: usize) -> Bytes {
    (0..bytes).map(|number| (number % 251) as u8 + 1).collect()
}

fn append_and_sync(log: &mut Log, count: u64, payload: &Bytes) {
    let last = log.last_staged().index;
    let entry = |number| Entry {
        index: last.plus(number),
        term: Term(1),
        kind: EntryKind::Command,
        payload: payload.clone(),
    };
    let write = LogWrite {
        entries: (1..=count).map(entry).collect(),
        ..LogWrite::default()
    };
    log.stage(write).expect("the entries follow the log");
    log.sync().expect("the disk works");
    // Old segments are deleted, as a snapshot would have it, so that the disk does not fill up.
    if log.disk_bytes() > 16 * FILE_BYTES {
        let through = LogIndex(log.last().index.0);
        log.compact_prefix(raft_proto::LogPosition {
            index: through,
            term: Term(1),
        })
        .expect("the log is not poisoned");
        log.sync().expect("the disk works");
    }
}

/// The bytes of a batch, written round and round over a zero-written file.
struct BareFile {
    _directory: TempDir,
    file: std::sync::Arc<dyn raft_log::vfs::VfsFile>,
    offset: u64,
}

impl BareFile {
    fn new() -> Self {
        let directory = directory();
        let path = directory.path().join("bare");
        let file = RealVfs.create(&path).expect("a fresh file is created");
        let zeros = AlignedBuffer::zeroed(256);
        for offset in (0..FILE_BYTES).step_by(zeros.len()) {
            file.write_at(offset, zeros.as_aligned())
                .expect("there is room");
        }
        file.sync_data().expect("the disk works");
        Self {
            _directory: directory,
            file,
            offset: 0,
        }
    }

    fn write(&mut self, buffer: &AlignedBuffer) {
        black_box(crc32fast::hash(buffer));
        if self.offset + buffer.len() as u64 > FILE_BYTES {
            self.offset = 0;
        }
        self.file
            .write_at(self.offset, buffer.as_aligned())
            .expect("there is room");
        self.file.sync_data().expect("the disk works");
        self.offset += buffer.len() as u64;
    }
}

fn wal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wal");
    group
        .sample_size(50)
        .measurement_time(Duration::from_secs(5));
    for (count, bytes) in SHAPES {
        let shape = format!("{count}x{bytes}B");
        group.throughput(Throughput::Elements(count));
        let content = payload(bytes);
        let directory = directory();
        let (_dir, mut log) = open(directory.path());
        group.bench_function(BenchmarkId::new("append+sync", &shape), |bencher| {
            bencher.iter(|| append_and_sync(&mut log, count, &content));
        });
        drop(log);
        let batch = count as usize * (bytes + RECORD_OVERHEAD_BYTES) + 2 * IDENTITY_BYTES;
        let mut buffer = AlignedBuffer::zeroed(batch.div_ceil(BLOCK_BYTES).max(2));
        buffer.bytes_mut().fill(7);
        let mut bare = BareFile::new();
        group.bench_function(BenchmarkId::new("bare", &shape), |bencher| {
            bencher.iter(|| bare.write(&buffer));
        });
    }
    group.finish();
}

criterion_group!(benches, wal);
criterion_main!(benches);
