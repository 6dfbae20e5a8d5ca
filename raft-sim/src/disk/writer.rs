//! Does what the log-writer thread of a real node does: all that waits goes into one write and one
//! fsync; a full disk is tried again; an idle log vouches for its last batch.

use std::collections::VecDeque;

use raft_core::PersistId;
use raft_log::{Log, LogError, LogWrite};
use raft_node::stage_persist;
use raft_proto::LogPosition;

use crate::checker::LogChange;

/// What the log writer is doing.
enum Busy {
    Idle,
    Syncing {
        through: Option<PersistId>,
        changes: Vec<LogChange>,
    },
    Vouching,
}

/// The writer of a node's log.
pub(crate) struct LogWriter {
    pub(crate) log: Log,
    waiting: VecDeque<(Option<PersistId>, LogChange)>,
    busy: Busy,
    /// The last attempt found no room; what waits by the next one joins it.
    was_full: bool,
    /// Grows with each sync, so that an old reminder to vouch is recognised.
    pub(crate) syncs: u64,
}

/// How a write and its fsync ended.
pub(crate) enum Finished {
    /// There was nothing to report: an idle log, or one that vouched.
    Nothing,
    /// These changes are durable, among them all persists up to this one, if any.
    Synced {
        through: Option<PersistId>,
        changes: Vec<LogChange>,
    },
    /// There is no room: nothing was torn, and it is to be tried again. Perhaps term and vote of the
    /// persists up to this one have become durable ahead of the rest.
    DiskFull {
        ahead: Option<(PersistId, LogChange)>,
        /// Whether they were not durable before.
        has_written: bool,
    },
}

impl LogWriter {
    pub(crate) fn new(log: Log) -> Self {
        Self {
            log,
            waiting: VecDeque::new(),
            busy: Busy::Idle,
            was_full: false,
            syncs: 0,
        }
    }

    pub(crate) fn push(&mut self, id: PersistId, install: Option<LogPosition>, write: LogWrite) {
        let change = LogChange::Write { install, write };
        self.waiting.push_back((Some(id), change));
    }

    pub(crate) fn push_compaction(&mut self, through: LogPosition) {
        self.waiting.push_back((None, LogChange::Compact(through)));
    }

    /// Begins to sync all that waits, unless it is busy. Returns whether it began.
    pub(crate) fn begin_sync(&mut self) -> Result<bool, LogError> {
        if !matches!(self.busy, Busy::Idle) || self.waiting.is_empty() {
            return Ok(false);
        }
        self.stage_waiting(None, Vec::new())?;
        Ok(true)
    }

    /// Stages all that waits behind the changes that are staged already.
    fn stage_waiting(
        &mut self,
        mut through: Option<PersistId>,
        mut changes: Vec<LogChange>,
    ) -> Result<(), LogError> {
        for (id, change) in self.waiting.drain(..) {
            match &change {
                LogChange::Write { install, write } => {
                    stage_persist(&mut self.log, *install, write.clone())?;
                }
                LogChange::Compact(position) => self.log.compact_prefix(*position)?,
            }
            through = id.or(through);
            changes.push(change);
        }
        self.busy = Busy::Syncing { through, changes };
        Ok(())
    }

    /// Begins to vouch for the last batch, if the log is idle since the sync of this number.
    pub(crate) fn begin_vouching(&mut self, since: u64) -> bool {
        let is_due = since == self.syncs
            && matches!(self.busy, Busy::Idle)
            && self.waiting.is_empty()
            && self.log.needs_vouching();
        if is_due {
            self.busy = Busy::Vouching;
        }
        is_due
    }

    /// The write and its fsync come to their end. After an error nothing may follow but
    /// [`LogWriter::in_flight`].
    pub(crate) fn finish(&mut self) -> Result<Finished, LogError> {
        self.syncs += 1;
        if std::mem::take(&mut self.was_full) {
            self.stage_late_comers()?;
        }
        match std::mem::replace(&mut self.busy, Busy::Idle) {
            Busy::Idle => Ok(Finished::Nothing),
            Busy::Vouching => match self.log.vouch_if_idle() {
                // Vouching takes no room of its own.
                Ok(_) | Err(LogError::DiskFull { .. }) => Ok(Finished::Nothing),
                Err(error) => Err(error),
            },
            Busy::Syncing { through, changes } => self.sync(through, changes),
        }
    }

    fn sync(
        &mut self,
        through: Option<PersistId>,
        mut changes: Vec<LogChange>,
    ) -> Result<Finished, LogError> {
        let had = self.log.hard_state();
        let Err(error) = self.log.sync() else {
            return Ok(Finished::Synced { through, changes });
        };
        let is_full = matches!(error, LogError::DiskFull { .. });
        let ahead = match is_full && self.log.is_hard_state_durable() {
            true => take_hard_state(&mut changes),
            false => None,
        };
        self.busy = Busy::Syncing { through, changes };
        if !is_full {
            return Err(error);
        }
        self.was_full = true;
        Ok(Finished::DiskFull {
            ahead: through.zip(ahead),
            has_written: self.log.hard_state() != had,
        })
    }

    /// Adds what came in while the disk was full to what is to be tried again.
    fn stage_late_comers(&mut self) -> Result<(), LogError> {
        if let Busy::Syncing { through, changes } = &mut self.busy
            && !self.waiting.is_empty()
        {
            let (through, staged) = (*through, std::mem::take(changes));
            self.stage_waiting(through, staged)?;
        }
        Ok(())
    }

    /// Changes under way, a next attempt on a full disk included: a crash may leave them durable
    /// or not.
    pub(crate) fn in_flight(&self) -> Vec<LogChange> {
        let late = self.waiting.iter().map(|(_, change)| change);
        match &self.busy {
            Busy::Idle | Busy::Vouching => Vec::new(),
            Busy::Syncing { changes, .. } if self.was_full => {
                changes.iter().chain(late).cloned().collect()
            }
            Busy::Syncing { changes, .. } => changes.clone(),
        }
    }
}

/// Takes the newest term and vote out of these changes, as a change of its own.
fn take_hard_state(changes: &mut [LogChange]) -> Option<LogChange> {
    let mut newest = None;
    let mut end_is_known = false;
    for change in changes {
        if let LogChange::Write { write, .. } = change {
            end_is_known |= write.end_is_known;
            newest = write.hard_state.take().or(newest);
        }
    }
    let write = LogWrite {
        hard_state: newest,
        end_is_known,
        ..LogWrite::default()
    };
    newest.is_some().then_some(LogChange::Write {
        install: None,
        write,
    })
}
