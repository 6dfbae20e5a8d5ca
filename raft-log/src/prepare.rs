//! Writes the next segment with zeros before it is needed.

use raft_proto::mutants::{Mutant, is_planted};

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use crate::dir::TEMPORARY_SUFFIX;
use crate::error::FileError;
use crate::options::Preparation;
use crate::vfs::{AlignedBuffer, BLOCK_BYTES, Vfs, VfsFile};

/// How many blocks of zeros one write takes: 1 MiB.
const ZERO_BLOCKS: usize = 256;
/// After how many such writes the zeros are synced, so that no sync of the log waits for many.
const WRITES_PER_SYNC: u64 = 4;

/// A file of zeros, durable but for its name.
#[derive(Debug)]
pub(crate) struct PreparedSegment {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn VfsFile>,
    pub(crate) segment_bytes: u64,
}

/// Makes files of zeros.
#[derive(Debug)]
pub(crate) struct ZeroedFiles {
    vfs: Arc<dyn Vfs>,
    directory: PathBuf,
    made: u64,
    stop: Arc<AtomicBool>,
}

impl ZeroedFiles {
    pub(crate) fn new(vfs: Arc<dyn Vfs>, directory: &Path) -> Self {
        Self {
            vfs,
            directory: directory.to_path_buf(),
            made: 0,
            stop: Arc::default(),
        }
    }

    /// Makes one. On failure nothing of it stays.
    pub(crate) fn make(&mut self, segment_bytes: u64) -> Result<PreparedSegment, FileError> {
        self.made += 1;
        let name = format!("prepared-{}{TEMPORARY_SUFFIX}", self.made);
        let path = self.directory.join(name);
        let made = self.fill(&path, segment_bytes).map(|file| PreparedSegment {
            path: path.clone(),
            file,
            segment_bytes,
        });
        made.map_err(|source| {
            // Best effort: the next open removes what this does not.
            let _ = self.vfs.remove(&path);
            FileError::new("prepare segment", &path, source)
        })
    }

    fn fill(&self, path: &Path, segment_bytes: u64) -> io::Result<Arc<dyn VfsFile>> {
        let file = self.vfs.create(path)?;
        // A segment has at most 2^18 blocks.
        let blocks = (segment_bytes / BLOCK_BYTES as u64) as usize;
        let zeros = AlignedBuffer::zeroed(ZERO_BLOCKS.min(blocks));
        let step = zeros.len() as u64;
        for (count, offset) in (0..segment_bytes).step_by(zeros.len()).enumerate() {
            if self.stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let length = step.min(segment_bytes - offset) as usize;
            let chunk = zeros.as_aligned().first_blocks(length / BLOCK_BYTES);
            file.write_at(offset, chunk)?;
            if (count as u64 + 1).is_multiple_of(WRITES_PER_SYNC) {
                file.sync_data()?;
            }
        }
        file.sync_data()?;
        if is_planted(Mutant::NoDirectoryFsync) {
            return Ok(file);
        }
        // The size must be durable before the file can get a segment's name.
        self.vfs.sync_dir(&self.directory)?;
        Ok(file)
    }
}

/// Keeps one segment prepared ahead of use, as [`Preparation`] says.
#[derive(Debug)]
pub(crate) struct SegmentPreparer {
    segment_bytes: u64,
    mode: Mode,
}

#[derive(Debug)]
enum Mode {
    Inline(ZeroedFiles),
    Background(Worker),
}

#[derive(Debug)]
struct Worker {
    /// `None` once the worker is to end.
    requests: Option<Sender<u64>>,
    results: Receiver<Result<PreparedSegment, FileError>>,
    outstanding: bool,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    vfs: Arc<dyn Vfs>,
}

impl SegmentPreparer {
    /// A preparer that starts at once with its first segment, if it works in the background.
    pub(crate) fn start(
        files: ZeroedFiles,
        segment_bytes: u64,
        preparation: Preparation,
    ) -> Result<Self, FileError> {
        let mode = match preparation {
            Preparation::Inline => Mode::Inline(files),
            Preparation::Background => {
                let mut worker = Worker::start(files)?;
                worker.request(segment_bytes);
                Mode::Background(worker)
            }
        };
        Ok(Self {
            segment_bytes,
            mode,
        })
    }

    /// The next segment; waits for it if it is not ready yet.
    pub(crate) fn take(&mut self) -> Result<PreparedSegment, FileError> {
        match &mut self.mode {
            Mode::Inline(files) => files.make(self.segment_bytes),
            Mode::Background(worker) => {
                worker.request(self.segment_bytes);
                let mut taken = worker.receive();
                if taken.as_ref().is_err_and(FileError::is_disk_full) {
                    // It was full when the segment was asked for, perhaps long ago.
                    worker.request(self.segment_bytes);
                    taken = worker.receive();
                }
                if taken.is_ok() {
                    worker.request(self.segment_bytes);
                }
                taken
            }
        }
    }
}

impl Worker {
    fn start(mut files: ZeroedFiles) -> Result<Self, FileError> {
        let (requests, requested) = channel();
        let (finished, results) = channel();
        let stop = Arc::clone(&files.stop);
        let vfs = Arc::clone(&files.vfs);
        let directory = files.directory.clone();
        let work = move || {
            while let Ok(segment_bytes) = requested.recv() {
                if finished.send(files.make(segment_bytes)).is_err() {
                    break;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("log-preparer".into())
            .spawn(work)
            .map_err(|source| {
                FileError::new("start the segment preparer of", &directory, source)
            })?;
        Ok(Self {
            requests: Some(requests),
            results,
            outstanding: false,
            stop,
            thread: Some(thread),
            vfs,
        })
    }

    /// Asks for a segment unless one is asked for.
    fn request(&mut self, segment_bytes: u64) {
        if self.outstanding {
            return;
        }
        // A worker that is gone is noticed by `receive`.
        let sent = self
            .requests
            .as_ref()
            .map(|requests| requests.send(segment_bytes));
        self.outstanding = matches!(sent, Some(Ok(())));
    }

    fn receive(&mut self) -> Result<PreparedSegment, FileError> {
        self.outstanding = false;
        let gone = |_| {
            let source = io::Error::other("the segment preparer has ended");
            FileError::new("prepare a segment in", Path::new("the log"), source)
        };
        self.results.recv().map_err(gone)?
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // A worker that panicked has already said so on standard error.
            let _ = thread.join();
        }
        for unused in self.results.try_iter().flatten() {
            let _ = self.vfs.remove(&unused.path);
        }
    }
}
