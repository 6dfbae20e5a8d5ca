//! The log-writer thread: everything that waits becomes one write and one fsync (group commit).
//! While that runs, the next batch gathers in the channel.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use raft_core::{IndexRange, PersistId};
use raft_log::{Log, LogError, LogWrite};
use raft_proto::{LogIndex, LogPosition};

use crate::driver::Input;
use crate::error::FatalError;
use crate::inbox::{Inbox, Notice};
use crate::metrics::Recorder;

/// An idle log says within this time that its last batch is synced, so that recovery need not
/// tell torn from corrupt for it.
const IDLE_BEFORE_VOUCHING: Duration = Duration::from_millis(10);

/// How often a full disk is tried again.
const DISK_FULL_RETRY: Duration = Duration::from_millis(250);

/// How many tries are told of once: ten seconds of them.
const TRIES_PER_LINE: u64 = 40;

/// A change of the log, in the order of the driver's outputs.
pub(super) enum WriteJob {
    /// A persist of the core.
    Persist {
        id: PersistId,
        /// The log starts anew after this position, together with the write.
        install: Option<LogPosition>,
        write: LogWrite,
    },
    /// Everything up to here goes.
    Compact(LogPosition),
    /// Entries turned out to be damaged.
    ReportRot(IndexRange),
}

/// What is staged and not yet durable.
#[derive(Default)]
struct Staged {
    /// The last persist.
    persist: Option<PersistId>,
    /// The last compaction.
    compacted: Option<LogIndex>,
    /// The persist up to which term and vote were reported durable ahead of the rest.
    ahead: Option<PersistId>,
}

/// What came in while the disk was full.
enum Staging {
    /// More was staged, or not.
    GoOn,
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
        let mut staged = Staged::default();
        self.stage(first, &mut staged)?;
        // What waits is bounded by the core's windows; the log splits what exceeds a batch.
        while let Ok(job) = self.jobs.try_recv() {
            self.stage(job, &mut staged)?;
        }
        let mut tries = 0;
        while let Err(error) = self.sync() {
            // Nothing is torn, and what is staged stays so: it is written once there is room.
            let LogError::DiskFull { .. } = &error else {
                return Err(error);
            };
            if tries % TRIES_PER_LINE == 0 {
                tracing::error!(node = self.log.node().0, %error, "writes wait for room on the disk");
            }
            tries += 1;
            self.inbox.push_notice(Notice::Input(Input::DiskFull));
            self.report_ahead(&mut staged);
            match self.stage_more(Instant::now() + DISK_FULL_RETRY, &mut staged)? {
                Staging::GoOn => {}
                // The node stops; whatever waits for these writes is told so.
                Staging::Ended => return Err(error),
            }
        }
        if tries > 0 {
            tracing::info!(
                node = self.log.node().0,
                "the disk has room again; what waited is written"
            );
        }
        let persisted = staged.persist.map(Input::Persisted);
        let compacted = staged.compacted.map(Input::Compacted);
        for input in persisted.into_iter().chain(compacted) {
            self.inbox.push_notice(Notice::Input(input));
        }
        Ok(())
    }

    fn stage(&mut self, job: WriteJob, staged: &mut Staged) -> Result<(), LogError> {
        match job {
            WriteJob::Persist { id, install, write } => {
                staged.persist = Some(id);
                stage_persist(&mut self.log, install, write)
            }
            WriteJob::Compact(through) => {
                staged.compacted = Some(through.index);
                self.log.compact_prefix(through)
            }
            WriteJob::ReportRot(range) => {
                self.log.report_rot(range.first, range.last);
                Ok(())
            }
        }
    }

    /// Says that term and vote are durable, which wait for no room, if nobody knows it yet.
    fn report_ahead(&self, staged: &mut Staged) {
        if staged.ahead < staged.persist && self.log.is_hard_state_durable() {
            staged.ahead = staged.persist;
            let ahead = staged.ahead.map(Input::HardStatePersisted);
            ahead
                .into_iter()
                .for_each(|input| self.inbox.push_notice(Notice::Input(input)));
        }
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

    /// Stages what comes in until then, or until there is a vote, for which there is room.
    fn stage_more(&mut self, until: Instant, staged: &mut Staged) -> Result<Staging, LogError> {
        loop {
            match self.jobs.recv_deadline(until) {
                Ok(job) => {
                    self.stage(job, staged)?;
                    if !self.log.is_hard_state_durable() {
                        return Ok(Staging::GoOn);
                    }
                }
                Err(RecvTimeoutError::Timeout) => return Ok(Staging::GoOn),
                Err(RecvTimeoutError::Disconnected) => return Ok(Staging::Ended),
            }
        }
    }
}

/// Stages a persist, and before it the installation of a snapshot: both are durable together.
///
/// # Errors
/// As [`Log::stage`].
pub fn stage_persist(
    log: &mut Log,
    install: Option<LogPosition>,
    write: LogWrite,
) -> Result<(), LogError> {
    if let Some(position) = install {
        log.compact_prefix(position)?;
        // What the log has behind the position goes, too, whatever it is: the core knows of nothing
        // there.
        let truncate_from = Some(position.index.next());
        log.stage(LogWrite {
            truncate_from,
            ..LogWrite::default()
        })?;
    }
    log.stage(write)
}
