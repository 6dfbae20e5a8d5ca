//! The applier: the only one who touches the state machine.

use std::collections::VecDeque;

use crossbeam_channel::{Receiver, Sender};
use raft_log::SnapshotStore;
use raft_proto::mutants::{Mutant, is_planted};
use raft_proto::{Entry, EntryKind, LogPosition};

use crate::driver::{ApplyBatch, ApplyItem, CutStep, Input, ReachedComparison};
use crate::error::FatalError;
use crate::inbox::{Inbox, Notice};
use crate::machine::{Applied, StateMachine, Step};
use crate::startup::{self, StopFlag};

/// What the applier does, in order.
pub(super) enum ApplierJob {
    Apply(ApplyBatch),
    Cut(CutStep),
    Restore(LogPosition),
}

/// Applies a batch and answers those who wait for it; the result belongs to the driver.
pub fn apply_batch(machine: &mut dyn StateMachine, batch: ApplyBatch) -> Input {
    let mut comparisons = Vec::new();
    for item in batch.items {
        match item {
            ApplyItem::Entry(entry, waiter) => {
                if entry.kind != EntryKind::Command {
                    comparisons.extend(reach_comparison(machine, &entry));
                    continue;
                }
                let reply = machine.apply(Applied {
                    index: entry.index,
                    term: entry.term,
                    command: &entry.payload,
                });
                if let Some(waiter) = waiter {
                    waiter.decide(Ok(reply));
                }
            }
            ApplyItem::Query(query, waiter) => waiter(Ok(machine.query(&query))),
        }
    }
    if is_planted(Mutant::ComparesLater) {
        for reached in &mut comparisons {
            reached.state = machine.state_hash();
        }
    }
    Input::Applied {
        through: batch.through,
        bytes: batch.bytes,
        comparisons,
    }
}

/// Raft's own entries only move the index. One that starts a comparison also wants to know the state
/// at just this point.
fn reach_comparison(machine: &dyn StateMachine, entry: &Entry) -> Option<ReachedComparison> {
    match entry.kind {
        EntryKind::Noop if !entry.payload.is_empty() => Some(ReachedComparison {
            entry: entry.position(),
            payload: entry.payload.clone(),
            state: machine.state_hash(),
        }),
        EntryKind::Noop | EntryKind::Command | EntryKind::Membership => None,
    }
}

/// Does a step of a snapshot's cut; the result, if there is one, belongs to the driver.
pub fn take_cut_step(machine: &mut dyn StateMachine, step: CutStep) -> Option<Input> {
    match step {
        CutStep::Begin => {
            machine.begin_snapshot();
            None
        }
        CutStep::Part { cut, max_bytes } => {
            let part = machine.snapshot_part(max_bytes);
            Some(Input::CutPart { cut, part })
        }
        CutStep::End => {
            machine.end_snapshot();
            None
        }
    }
}

/// Where the state machine is.
pub(super) enum Applier {
    /// With a thread of its own, which does everything.
    Thread(Sender<ApplierJob>),
    /// Here, on the main thread.
    Inline(InlineApplier),
}

/// The state machine on the main thread. For whatever takes long it goes to another thread and back;
/// what comes meanwhile waits for it, and the main thread goes on with everything else.
pub(super) struct InlineApplier {
    /// `None` while it is away.
    machine: Option<Box<dyn StateMachine>>,
    waiting: VecDeque<ApplierJob>,
    away: Sender<AwayJob>,
}

/// A state machine, and what takes long.
pub(super) struct AwayJob {
    machine: Box<dyn StateMachine>,
    work: LongWork,
}

enum LongWork {
    Apply(ApplyBatch),
    Restore(LogPosition),
}

impl Applier {
    pub(super) fn inline(machine: Box<dyn StateMachine>, away: Sender<AwayJob>) -> Self {
        Self::Inline(InlineApplier {
            machine: Some(machine),
            waiting: VecDeque::new(),
            away,
        })
    }

    /// Does a job, or has it done, in order.
    pub(super) fn give(&mut self, job: ApplierJob, inbox: &Inbox) -> Result<(), FatalError> {
        match self {
            Self::Thread(jobs) => jobs.send(job).map_err(|_| FatalError::Thread("applier")),
            Self::Inline(applier) => {
                applier.waiting.push_back(job);
                applier.work(inbox)
            }
        }
    }

    /// The state machine comes back.
    pub(super) fn take_back(
        &mut self,
        machine: Box<dyn StateMachine>,
        inbox: &Inbox,
    ) -> Result<(), FatalError> {
        match self {
            Self::Thread(_) => Ok(()),
            Self::Inline(applier) => {
                applier.machine = Some(machine);
                applier.work(inbox)
            }
        }
    }
}

impl InlineApplier {
    /// Does what waits while the machine is here. Results go by way of the inbox, so that the
    /// network has its turn between two batches, or two parts of a cut.
    fn work(&mut self, inbox: &Inbox) -> Result<(), FatalError> {
        while let Some(mut machine) = self.machine.take() {
            let Some(job) = self.waiting.pop_front() else {
                self.machine = Some(machine);
                return Ok(());
            };
            let done = match job {
                ApplierJob::Apply(batch) if takes_long(machine.as_ref(), &batch) => {
                    return self.send_away(machine, LongWork::Apply(batch));
                }
                ApplierJob::Apply(batch) => Some(apply_batch(machine.as_mut(), batch)),
                ApplierJob::Cut(step) => take_cut_step(machine.as_mut(), step),
                ApplierJob::Restore(position) => {
                    return self.send_away(machine, LongWork::Restore(position));
                }
            };
            if let Some(done) = done {
                inbox.push_notice(Notice::Input(done));
            }
            self.machine = Some(machine);
        }
        Ok(())
    }

    fn send_away(&self, machine: Box<dyn StateMachine>, work: LongWork) -> Result<(), FatalError> {
        let sent = self.away.send(AwayJob { machine, work });
        sent.map_err(|_| FatalError::Thread("long work"))
    }
}

fn takes_long(machine: &dyn StateMachine, batch: &ApplyBatch) -> bool {
    batch.items.iter().any(|item| match item {
        ApplyItem::Entry(entry, _) => {
            entry.kind == EntryKind::Command && machine.takes_long(Step::Command(&entry.payload))
        }
        ApplyItem::Query(query, _) => machine.takes_long(Step::Query(query)),
    })
}

/// The applier thread: runs until the sender of jobs is gone.
pub(super) fn run(
    mut machine: Box<dyn StateMachine>,
    restorer: &Restorer,
    jobs: &Receiver<ApplierJob>,
    inbox: &Inbox,
) {
    let machine = machine.as_mut();
    while let Ok(job) = jobs.recv() {
        let notice = match job {
            ApplierJob::Apply(batch) => Some(Notice::Input(apply_batch(machine, batch))),
            ApplierJob::Cut(step) => take_cut_step(machine, step).map(Notice::Input),
            ApplierJob::Restore(position) => Some(restorer.restore(machine, position)),
        };
        if let Some(notice) = notice {
            inbox.push_notice(notice);
        }
    }
}

/// The thread for what takes long: works on machines and gives them back, until the sender of jobs
/// is gone.
pub(super) fn run_away(restorer: &Restorer, jobs: &Receiver<AwayJob>, inbox: &Inbox) {
    while let Ok(AwayJob { mut machine, work }) = jobs.recv() {
        let notice = match work {
            LongWork::Apply(batch) => Notice::Input(apply_batch(machine.as_mut(), batch)),
            LongWork::Restore(position) => restorer.restore(machine.as_mut(), position),
        };
        // Its result first: the next batch may be done, and say so, as soon as the machine is back.
        inbox.push_notice(notice);
        inbox.push_notice(Notice::Machine(machine));
    }
}

/// Where the state machine is restored from.
pub(super) struct Restorer {
    pub(super) snapshots: SnapshotStore,
    pub(super) stop: StopFlag,
}

impl Restorer {
    /// Replaces the state, and says what the main thread is to hear.
    fn restore(&self, machine: &mut dyn StateMachine, position: LogPosition) -> Notice {
        match startup::restore_unless(&self.stop, machine, &self.snapshots, position) {
            Ok(()) => Notice::Input(Input::Restored(position)),
            Err(error) => Notice::Failed(error),
        }
    }
}
