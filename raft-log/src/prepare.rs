//! Writes the next segment with zeros before it is needed.
//!
//! Zeros are as many bytes as the log itself, on the same disk. Written as fast as possible through
//! the page cache they stood in front of the log's own syncs, so they go past it, and not much
//! faster than the log needs them ([`Pace`]). Before a segment the reserve is filled up, which a full
//! disk leaves to what must not wait for room ([`crate::reserve`]).

use raft_proto::mutants::{Mutant, is_planted};

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::dir::TEMPORARY_SUFFIX;
use crate::error::FileError;
use crate::options::{MIN_SEGMENT_BYTES, Preparation};
use crate::reserve::{FOR_SEGMENTS, Taker, remove_if_there};
use crate::vfs::{AlignedBuffer, BLOCK_BYTES, Vfs, VfsFile, Written};

/// How many blocks of zeros one write takes: 256 KiB, which no sync of the log waits for long.
const ZERO_BLOCKS: usize = 64;
/// After how many such writes zeros in the page cache are synced, so that no sync of the log waits
/// for many.
const WRITES_PER_SYNC: u64 = 16;
/// Zeros for each byte that the log writes, in halves: a segment is ready when two thirds of the
/// one before are used.
const ZEROS_PER_BYTE_HALVES: u64 = 3;
/// How long the log must have written nothing for zeros to go on without it.
const IDLE: Duration = Duration::from_millis(10);

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
    /// Size of each file of the reserve.
    reserve_bytes: u64,
    made: u64,
    stop: Arc<AtomicBool>,
    pace: Arc<Pace>,
}

/// How many zeros may be written now: what the log's own writes allow, one write whenever the log
/// has been idle for a moment, and all of them while the log waits for its segment.
#[derive(Debug)]
struct Pace {
    allowed: Mutex<Allowed>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Allowed {
    Bytes(u64),
    Everything,
}

impl Allowed {
    /// Takes so many bytes, if they are allowed.
    fn take(&mut self, bytes: u64) -> bool {
        match self {
            Self::Everything => true,
            Self::Bytes(allowed) if *allowed >= bytes => {
                *allowed -= bytes;
                true
            }
            Self::Bytes(_) => false,
        }
    }

    /// The log has written so many bytes.
    fn add(&mut self, written: u64) {
        match self {
            Self::Everything => {}
            Self::Bytes(allowed) => {
                *allowed = allowed.saturating_add(written * ZEROS_PER_BYTE_HALVES / 2);
            }
        }
    }
}

impl Pace {
    /// The first segment is not paced: that of an open is small, and soon used.
    const fn new() -> Self {
        Self {
            allowed: Mutex::new(Allowed::Everything),
            changed: Condvar::new(),
        }
    }

    fn set(&self, allowed: Allowed) {
        *self.lock() = allowed;
        self.changed.notify_one();
    }

    fn add(&self, written: u64) {
        self.lock().add(written);
        self.changed.notify_one();
    }

    /// Waits until so many bytes may be written.
    fn wait_for(&self, bytes: u64) {
        let mut allowed = self.lock();
        while !allowed.take(bytes) {
            let before = *allowed;
            let waited = self.changed.wait_timeout(allowed, IDLE);
            allowed = waited.unwrap_or_else(PoisonError::into_inner).0;
            if *allowed == before {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Allowed> {
        // No change of a number can be left half done.
        self.allowed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ZeroedFiles {
    pub(crate) fn new(vfs: Arc<dyn Vfs>, directory: &Path, reserve_bytes: u64) -> Self {
        Self {
            vfs,
            directory: directory.to_path_buf(),
            reserve_bytes,
            made: 0,
            stop: Arc::default(),
            pace: Arc::new(Pace::new()),
        }
    }

    /// Makes one. On failure nothing of it stays.
    pub(crate) fn make(&mut self, segment_bytes: u64) -> Result<PreparedSegment, FileError> {
        self.made += 1;
        let name = format!("prepared-{}{TEMPORARY_SUFFIX}", self.made);
        let path = self.directory.join(name);
        let file = self.make_file(&path, segment_bytes)?;
        Ok(PreparedSegment {
            path,
            file,
            segment_bytes,
        })
    }

    /// Takes a file of at least so many bytes from the reserve, to become a segment.
    pub(crate) fn take_reserve(
        &mut self,
        least_bytes: u64,
        taker: Taker,
    ) -> Result<Option<PreparedSegment>, FileError> {
        take_reserve(self.vfs.as_ref(), &self.directory, least_bytes, taker)
    }

    /// Makes what is wanting in the reserve, as far as there is room.
    pub(crate) fn replenish(&mut self) -> Result<(), FileError> {
        let directory = self.directory.clone();
        let failed = |source| FileError::new("keep a reserve in", &directory, source);
        let vfs = Arc::clone(&self.vfs);
        let bytes = self.reserve_bytes;
        let wanting = FOR_SEGMENTS.wanting(vfs.as_ref(), &directory, bytes);
        let wanting = wanting.map_err(failed)?;
        for path in wanting {
            let temporary = path.with_extension("tmp");
            remove_if_there(vfs.as_ref(), &temporary).map_err(failed)?;
            match self.make_file(&temporary, bytes) {
                Ok(_) => {}
                // There is none until there is room.
                Err(error) if error.is_disk_full() => return Ok(()),
                Err(error) => return Err(error),
            }
            vfs.rename(&temporary, &path).map_err(failed)?;
            vfs.sync_dir(&directory).map_err(failed)?;
        }
        Ok(())
    }

    /// A file of zeros, durable but for its name. On failure nothing of it stays.
    fn make_file(&self, path: &Path, bytes: u64) -> Result<Arc<dyn VfsFile>, FileError> {
        self.fill(path, bytes).map_err(|source| {
            // Best effort: the next open removes what this does not.
            let _ = self.vfs.remove(path);
            FileError::new("prepare segment", path, source)
        })
    }

    fn fill(&self, path: &Path, segment_bytes: u64) -> io::Result<Arc<dyn VfsFile>> {
        let file = self.vfs.create(path)?;
        // A segment has at most 2^18 blocks.
        let blocks = (segment_bytes / BLOCK_BYTES as u64) as usize;
        let zeros = AlignedBuffer::zeroed(ZERO_BLOCKS.min(blocks));
        let step = zeros.len() as u64;
        let mut unsynced = 0;
        for offset in (0..segment_bytes).step_by(zeros.len()) {
            let length = step.min(segment_bytes - offset) as usize;
            self.pace.wait_for(length as u64);
            if self.stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let chunk = zeros.as_aligned().first_blocks(length / BLOCK_BYTES);
            match file.write_through(offset, chunk)? {
                Written::ToDevice => {}
                Written::ToCache => unsynced += 1,
            }
            if unsynced == WRITES_PER_SYNC {
                unsynced = 0;
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
    directory: PathBuf,
    /// `None` once the worker is to end.
    requests: Option<Sender<u64>>,
    results: Receiver<Result<PreparedSegment, FileError>>,
    outstanding: bool,
    stop: Arc<AtomicBool>,
    pace: Arc<Pace>,
    thread: Option<JoinHandle<()>>,
    vfs: Arc<dyn Vfs>,
}

impl SegmentPreparer {
    /// A preparer that starts at once with its first segment, if it works in the background.
    pub(crate) fn start(
        mut files: ZeroedFiles,
        segment_bytes: u64,
        preparation: Preparation,
    ) -> Result<Self, FileError> {
        let mode = match preparation {
            Preparation::Inline => {
                files.replenish()?;
                Mode::Inline(files)
            }
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

    /// The log has written so many bytes, so that as many zeros and some more may be.
    pub(crate) fn note_written(&self, bytes: u64) {
        match &self.mode {
            Mode::Inline(_) => {}
            Mode::Background(worker) => worker.pace.add(bytes),
        }
    }

    /// The next segment; waits for it if it is not ready yet.
    pub(crate) fn take(&mut self) -> Result<PreparedSegment, FileError> {
        match &mut self.mode {
            Mode::Inline(files) => {
                files.replenish()?;
                files.make(self.segment_bytes)
            }
            Mode::Background(worker) => {
                worker.pace.set(Allowed::Everything);
                worker.request(self.segment_bytes);
                let mut taken = worker.receive();
                if taken.as_ref().is_err_and(FileError::is_disk_full) {
                    // It was full when the segment was asked for, perhaps long ago.
                    worker.request(self.segment_bytes);
                    taken = worker.receive();
                }
                if taken.is_ok() {
                    worker.pace.set(Allowed::Bytes(0));
                    worker.request(self.segment_bytes);
                }
                taken
            }
        }
    }

    /// A file of at least so many bytes from the reserve, to become the next segment; `None` if there
    /// is none. Only after [`SegmentPreparer::take`] has failed, so that nobody fills the reserve up
    /// meanwhile.
    pub(crate) fn take_reserve(
        &mut self,
        least_bytes: u64,
        taker: Taker,
    ) -> Result<Option<PreparedSegment>, FileError> {
        match &mut self.mode {
            Mode::Inline(files) => files.take_reserve(least_bytes, taker),
            Mode::Background(worker) => {
                assert!(!worker.outstanding, "the worker is idle after a failure");
                take_reserve(worker.vfs.as_ref(), &worker.directory, least_bytes, taker)
            }
        }
    }
}

/// Takes a file from the reserve under the name of a prepared segment.
fn take_reserve(
    vfs: &dyn Vfs,
    directory: &Path,
    least_bytes: u64,
    taker: Taker,
) -> Result<Option<PreparedSegment>, FileError> {
    let path = directory.join(format!("prepared-from-reserve{TEMPORARY_SUFFIX}"));
    let taken = FOR_SEGMENTS
        .take(
            (vfs, directory),
            &path,
            least_bytes.max(MIN_SEGMENT_BYTES),
            taker,
        )
        .map_err(|source| FileError::new("take the reserve as", &path, source))?;
    Ok(taken.map(|taken| PreparedSegment {
        path,
        file: taken.file,
        segment_bytes: taken.bytes,
    }))
}

impl Worker {
    fn start(mut files: ZeroedFiles) -> Result<Self, FileError> {
        let (requests, requested) = channel();
        let (finished, results) = channel();
        let stop = Arc::clone(&files.stop);
        let pace = Arc::clone(&files.pace);
        let vfs = Arc::clone(&files.vfs);
        let directory = files.directory.clone();
        let work = move || {
            while let Ok(segment_bytes) = requested.recv() {
                let made = files.replenish().and_then(|()| files.make(segment_bytes));
                if finished.send(made).is_err() {
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
            directory,
            requests: Some(requests),
            results,
            outstanding: false,
            stop,
            pace,
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
        self.pace.set(Allowed::Everything);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_allowed_by_what_the_log_writes() {
        let mut allowed = Allowed::Bytes(0);
        assert!(!allowed.take(3));
        allowed.add(2);
        assert!(allowed.take(3));
        assert_eq!(allowed, Allowed::Bytes(0));
        allowed.add(u64::MAX / 4);
        assert!(allowed.take(1 << 40));
    }

    #[test]
    fn nobody_waits_for_zeros_that_the_log_waits_for() {
        let mut allowed = Allowed::Everything;
        assert!(allowed.take(u64::MAX));
        allowed.add(7);
        assert_eq!(allowed, Allowed::Everything);
    }

    #[test]
    fn an_idle_log_holds_no_zeros_up() {
        let pace = Pace::new();
        pace.set(Allowed::Bytes(0));
        // Returns although the log writes nothing: the test hangs if it does not.
        pace.wait_for(1 << 20);
        assert_eq!(*pace.lock(), Allowed::Bytes(0));
    }
}
