//! The node's other threads: what each is given, and that none is left behind.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Sender, bounded, unbounded};
use raft_log::{Log, Scrubber, SnapshotStore};
use raft_proto::NodeId;

use super::applier::{self, Applier, Restorer};
use super::log_writer::{LogWriter, WriteJob};
use super::scrubber::ScrubThread;
use super::{reader, snapshotter};
use crate::config::ApplyOn;
use crate::driver::{LogReadRequest, SnapshotJob};
use crate::error::FatalError;
use crate::inbox::{Inbox, Notice};
use crate::machine::StateMachine;
use crate::metrics::Recorder;
use crate::snapshot_keeper::SnapshotKeeper;
use crate::startup::StopFlag;

/// What the threads work with.
pub(super) struct WorkerParts {
    pub(super) log: Log,
    pub(super) snapshots: SnapshotStore,
    pub(super) machine: Box<dyn StateMachine>,
    pub(super) apply_on: ApplyOn,
    pub(super) stop: StopFlag,
    pub(super) recorder: Arc<Recorder>,
    /// 0 for none.
    pub(super) scrub_bytes_per_second: u64,
}

/// The ends of their channels: a thread ends once its own is gone.
pub(super) struct Workers {
    pub(super) writer: Sender<WriteJob>,
    pub(super) reader: Sender<LogReadRequest>,
    pub(super) snapshotter: Sender<SnapshotJob>,
    pub(super) applier: Applier,
    /// Nothing is sent; it ends with this.
    pub(super) scrubber: Sender<()>,
}

impl Workers {
    pub(super) fn start(parts: WorkerParts, threads: &mut Threads) -> Result<Self, FatalError> {
        let node = threads.node;
        let inbox = || Arc::clone(&threads.inbox);

        let (reader, requests) = unbounded();
        let (log_reader, notices) = (parts.log.reader(), inbox());
        let read = move || reader::run(node, &log_reader, &requests, &notices);

        let scrub = ScrubThread {
            node,
            scrubber: Scrubber::new(&parts.log.reader(), parts.snapshots.clone()),
            bytes_per_second: parts.scrub_bytes_per_second,
            recorder: Arc::clone(&parts.recorder),
            inbox: inbox(),
            told: BTreeSet::new(),
        };
        let (scrubber, stopped) = bounded(0);
        let (writer, jobs) = unbounded();
        let log_writer = LogWriter {
            log: parts.log,
            jobs,
            inbox: inbox(),
            recorder: parts.recorder,
        };

        let (snapshotter, jobs) = unbounded();
        let keeper = SnapshotKeeper::new(node, parts.snapshots.clone());
        let notices = inbox();
        let snapshot = move || snapshotter::run(keeper, &jobs, &notices);

        let (machine, notices) = (parts.machine, inbox());
        let restorer = Restorer {
            snapshots: parts.snapshots,
            stop: parts.stop,
        };
        if scrub.bytes_per_second > 0 {
            threads.start("scrubber", Box::new(move || scrub.run(&stopped)))?;
        }
        threads.start("reader", Box::new(read))?;
        threads.start("writer", Box::new(move || log_writer.run()))?;
        threads.start("snapshotter", Box::new(snapshot))?;
        let applier = match parts.apply_on {
            ApplyOn::NodeThread => {
                let (away, jobs) = unbounded();
                let long_work = move || applier::run_away(&restorer, &jobs, &notices);
                threads.start("long work", Box::new(long_work))?;
                Applier::inline(machine, away)
            }
            ApplyOn::OwnThread => {
                let (batches, jobs) = unbounded();
                let apply = move || applier::run(machine, &restorer, &jobs, &notices);
                threads.start("applier", Box::new(apply))?;
                Applier::Thread(batches)
            }
        };
        Ok(Self {
            writer,
            reader,
            snapshotter,
            applier,
            scrubber,
        })
    }
}

/// Threads to wait for at the end, each with its job for messages.
pub(super) struct Threads {
    node: NodeId,
    inbox: Arc<Inbox>,
    started: Vec<(&'static str, JoinHandle<()>)>,
}

impl Threads {
    pub(super) fn new(node: NodeId, inbox: &Arc<Inbox>) -> Self {
        Self {
            node,
            inbox: Arc::clone(inbox),
            started: Vec::new(),
        }
    }

    fn start(
        &mut self,
        job: &'static str,
        work: Box<dyn FnOnce() + Send>,
    ) -> Result<(), FatalError> {
        let builder = thread::Builder::new().name(format!("raft-{}-{job}", self.node));
        let inbox = Arc::clone(&self.inbox);
        let watched = move || {
            let _notice = PanicNotice { inbox, job };
            work();
        };
        let started = builder.spawn(watched);
        let started = started.map_err(|_| FatalError::Thread(job))?;
        self.started.push((job, started));
        Ok(())
    }

    /// Waits until all have ended; tells the job of one that panicked.
    pub(super) fn join(self) -> Result<(), &'static str> {
        let mut outcome = Ok(());
        for (job, thread) in self.started {
            if thread.join().is_err() {
                outcome = outcome.and(Err(job));
            }
        }
        outcome
    }
}

/// Tells the main thread if a worker panics, which would otherwise show only once it is needed.
struct PanicNotice {
    inbox: Arc<Inbox>,
    job: &'static str,
}

impl Drop for PanicNotice {
    fn drop(&mut self) {
        if thread::panicking() {
            let error = FatalError::Thread(self.job);
            self.inbox.push_notice(Notice::Failed(error));
        }
    }
}
