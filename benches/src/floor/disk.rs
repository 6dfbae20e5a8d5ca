//! The disk of a floor process: a thread that checksums, writes and syncs whatever waits, at
//! whole blocks, into a file that was written with zeros before.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crossbeam_channel::{Receiver, Sender};
use raft_log::vfs::{AlignedBuffer, BLOCK_BYTES, RealVfs, Vfs, VfsFile};
use tokio::sync::Notify;

use crate::Failure;

/// Size of the file in bytes; it is written round and round.
const FILE_BYTES: u64 = 64 << 20;

/// Bytes to be made durable, and how many entries there are with them.
type Job = (u64, Vec<u8>);

/// A disk thread.
pub struct Disk {
    jobs: Sender<Job>,
    done: Arc<Done>,
}

/// How many entries are durable.
#[derive(Debug, Default)]
pub struct Done {
    durable: AtomicU64,
    /// Woken when there are more.
    pub changed: Notify,
}

impl Done {
    /// How many entries are durable.
    pub fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }
}

impl Disk {
    /// Prepares the file and starts the thread.
    ///
    /// # Errors
    /// The file system's.
    pub fn start(path: &Path) -> Result<Self, Failure> {
        let file = RealVfs.create(path)?;
        let zeros = AlignedBuffer::zeroed(256);
        for offset in (0..FILE_BYTES).step_by(zeros.len()) {
            file.write_at(offset, zeros.as_aligned())?;
        }
        file.sync_data()?;
        let (jobs, waiting) = crossbeam_channel::unbounded();
        let done = Arc::<Done>::default();
        let mut writer = Writer {
            file,
            waiting,
            done: Arc::clone(&done),
            buffer: AlignedBuffer::new(),
            offset: 0,
        };
        let thread = thread::Builder::new().name("disk".to_string());
        thread.spawn(move || writer.run())?;
        Ok(Self { jobs, done })
    }

    /// Hands bytes over; `entries` counts all entries up to the last of these.
    pub fn write(&self, entries: u64, bytes: Vec<u8>) {
        // The thread lives as long as the process.
        let _ = self.jobs.send((entries, bytes));
    }

    /// How far it is.
    #[must_use]
    pub fn done(&self) -> Arc<Done> {
        Arc::clone(&self.done)
    }
}

struct Writer {
    file: Arc<dyn VfsFile>,
    waiting: Receiver<Job>,
    done: Arc<Done>,
    buffer: AlignedBuffer,
    offset: u64,
}

impl Writer {
    fn run(&mut self) {
        while let Ok(first) = self.waiting.recv() {
            let mut jobs = vec![first];
            jobs.extend(self.waiting.try_iter());
            let entries = jobs.last().map_or(0, |(entries, _)| *entries);
            self.write(&jobs);
            self.done.durable.store(entries, Ordering::Release);
            self.done.changed.notify_one();
        }
    }

    fn write(&mut self, jobs: &[Job]) {
        let bytes: usize = jobs.iter().map(|(_, bytes)| bytes.len()).sum();
        self.buffer.reset(bytes.div_ceil(BLOCK_BYTES).max(1));
        let mut rest = self.buffer.bytes_mut();
        for (_, bytes) in jobs {
            let (here, after) = rest.split_at_mut(bytes.len());
            here.copy_from_slice(bytes);
            rest = after;
        }
        std::hint::black_box(crc32fast::hash(&self.buffer));
        if self.offset + self.buffer.len() as u64 > FILE_BYTES {
            self.offset = 0;
        }
        let written = self.file.write_at(self.offset, self.buffer.as_aligned());
        written.expect("there is room");
        self.file.sync_data().expect("the disk works");
        self.offset += self.buffer.len() as u64;
    }
}
