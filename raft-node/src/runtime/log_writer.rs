//! The log-writer thread: everything that waits becomes one write and one fsync (group commit).
//! While that runs, the next batch gathers in the channel.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use raft_core::PersistId;
use raft_log::{Log, LogError, LogWrite};

use crate::driver::Input;
use crate::error::FatalError;
use crate::inbox::{Inbox, Notice};
use crate::metrics::Recorder;

/// An idle log says within this time that its last batch is synced, so that recovery need not
/// tell torn from corrupt for it.
const IDLE_BEFORE_VOUCHING: Duration = Duration::from_millis(10);

/// How often a full disk is tried again.
const DISK_FULL_RETRY: Duration = Duration::from_millis(250);

/// A write in the order of the core's persists.
pub(super) struct WriteJob {
    pub(super) id: PersistId,
    pub(super) write: LogWrite,
}

/// What came in while the disk was full.
enum Staging {
    /// Writes up to this one, if any.
    Until(Option<PersistId>),
    /// The sender of jobs is gone.
    Ended,
}

/// Owns the log while the node runs.
pub(super) struct LogWriter {
    pub(super) log: Log,
    pub(super) jobs: Receiver<WriteJob>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) recorder: Arc<Recorder>,
}

impl LogWriter {
    /// Runs until the sender of jobs is gone, or the log fails.
    pub(super) fn run(mut self) {
        if let Err(error) = self.serve() {
            let error = FatalError::Log(Arc::new(error));
            self.inbox.push_notice(Notice::Failed(error));
        }
    }

    fn serve(&mut self) -> Result<(), LogError> {
        loop {
            let disk_bytes = self.log.disk_bytes();
            self.recorder.log_bytes.store(disk_bytes, Ordering::Relaxed);
            let first = if self.log.needs_vouching() {
                match self.jobs.recv_timeout(IDLE_BEFORE_VOUCHING) {
                    Ok(job) => job,
                    Err(RecvTimeoutError::Timeout) => {
                        self.log.vouch_if_idle()?;
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => {
                        return self.log.vouch_if_idle().map(drop);
                    }
                }
            } else {
                match self.jobs.recv() {
                    Ok(job) => job,
                    Err(_) => return Ok(()),
                }
            };
            self.write_all_waiting(first)?;
        }
    }

    fn write_all_waiting(&mut self, first: WriteJob) -> Result<(), LogError> {
        let mut last = first.id;
        self.log.stage(first.write)?;
        // What waits is bounded by the core's windows; the log splits what exceeds a batch.
        while let Ok(job) = self.jobs.try_recv() {
            last = job.id;
            self.log.stage(job.write)?;
        }
        while let Err(error) = self.sync() {
            // Nothing is torn, and what is staged stays so: it is written once there is room.
            let LogError::DiskFull { .. } = &error else {
                return Err(error);
            };
            tracing::error!(node = self.log.node().0, %error, "writes wait for room on the disk");
            self.inbox.push_notice(Notice::Input(Input::DiskFull));
            match self.stage_more(Instant::now() + DISK_FULL_RETRY)? {
                Staging::Until(newer) => last = newer.unwrap_or(last),
                // The node stops; whatever waits for these writes is told so.
                Staging::Ended => return Err(error),
            }
        }
        self.inbox
            .push_notice(Notice::Input(Input::Persisted(last)));
        Ok(())
    }

    /// Writes and syncs what is staged, and measures that.
    fn sync(&mut self) -> Result<(), LogError> {
        let began = Instant::now();
        let stats = self.log.sync()?;
        let recorder = &self.recorder;
        recorder.log_sync_duration.record_duration(began.elapsed());
        recorder.log_sync_entries.record(stats.entries);
        recorder.log_sync_bytes.record(stats.bytes);
        Ok(())
    }

    /// Stages what comes in until then; tells the last of it.
    fn stage_more(&mut self, until: Instant) -> Result<Staging, LogError> {
        let mut last = None;
        loop {
            match self.jobs.recv_deadline(until) {
                Ok(job) => {
                    last = Some(job.id);
                    self.log.stage(job.write)?;
                }
                Err(RecvTimeoutError::Timeout) => return Ok(Staging::Until(last)),
                Err(RecvTimeoutError::Disconnected) => return Ok(Staging::Ended),
            }
        }
    }
}
