//! One snapshot being taken: the cut, its parts on their way to the file, and its end.

use bytes::Bytes;
use raft_core::Time;
use raft_proto::{LogIndex, LogPosition, SnapshotDescription};

use super::super::Driver;
use super::super::io::Output;
use super::jobs::{CutId, CutStep, JobError, SnapshotJob, SnapshotWaiter};
use super::policy::Growth;
use super::{SaveProgress, Snapshots};
use crate::error::SnapshotError;

/// Parts that are in memory at a time: one is written while the next one is taken.
const MAX_PARTS_WAITING: usize = 2;

/// What the state machine is to do next about the cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taking {
    /// It was asked for a part.
    Asked,
    /// It is asked once there is room, and time.
    Paused,
    /// All of the cut was taken.
    Done,
}

/// A snapshot that is being taken.
pub(super) struct Saving {
    cut: CutId,
    last_included: LogPosition,
    began: Time,
    /// What had been applied since the cut before.
    growth: Growth,
    taking: Taking,
    /// The next part is not taken before: see [`super::SnapshotPolicy::save_bytes_per_second`].
    next_part_at: Time,
    /// Parts handed over to be written and not yet written.
    writing: usize,
    bytes: u64,
    pub(super) waiters: Vec<SnapshotWaiter>,
}

impl Saving {
    pub(super) fn progress(&self) -> SaveProgress {
        SaveProgress {
            last_included: self.last_included,
            bytes: self.bytes,
        }
    }
}

impl Snapshots {
    fn saving_of(&mut self, cut: CutId) -> Option<&mut Saving> {
        self.saving.as_mut().filter(|saving| saving.cut == cut)
    }
}

impl Driver {
    /// Begins a snapshot if one is due, or somebody waits for one. Call it after what can be
    /// handed to the applier was.
    pub(in super::super) fn pump_snapshots(&mut self, now: Time) {
        self.snapshots.next_cut_at = None;
        if self.snapshots.saving.is_some() {
            return self.resume_saving(now);
        }
        let Some(index) = self.apply.handed_over() else {
            return;
        };
        if index == self.snapshots.covered() {
            return self.answer_with_newest();
        }
        let policy = &self.limits.snapshots;
        let schedule = &self.snapshots.schedule;
        if schedule.is_due(now, policy) || !self.snapshots.waiters.is_empty() {
            return self.begin_saving(now, index);
        }
        self.snapshots.next_cut_at = schedule.deadline(policy);
    }

    /// Nothing was applied since the newest snapshot.
    fn answer_with_newest(&mut self) {
        let newest = self.snapshots.newest.clone();
        for waiter in self.snapshots.waiters.drain(..) {
            waiter(newest.clone().ok_or(SnapshotError::NothingApplied));
        }
    }

    fn begin_saving(&mut self, now: Time, index: LogIndex) {
        let term = self.core.term_at(index);
        let membership = self.core.membership_at(index);
        // What was handed over is committed, and not compacted unless a snapshot covers it.
        let term = term.expect("the term of an entry after the newest snapshot is known");
        let membership = membership.expect("a membership is in force").clone();
        let last_included = LogPosition { index, term };
        self.snapshots.last_cut.0 += 1;
        let cut = self.snapshots.last_cut;
        self.snapshots.saving = Some(Saving {
            cut,
            last_included,
            began: now,
            growth: self.snapshots.schedule.growth(),
            taking: Taking::Asked,
            next_part_at: now,
            writing: 0,
            bytes: 0,
            waiters: std::mem::take(&mut self.snapshots.waiters),
        });
        self.outputs.push_back(Output::Cut(CutStep::Begin));
        self.ask(SnapshotJob::Create {
            cut,
            last_included,
            membership,
        });
        self.ask_for_part(cut);
    }

    fn ask_for_part(&mut self, cut: CutId) {
        let max_bytes = self.limits.snapshots.part_bytes;
        let step = CutStep::Part { cut, max_bytes };
        self.outputs.push_back(Output::Cut(step));
    }

    /// The state machine gave a part of its cut.
    pub(in super::super) fn take_cut_part(&mut self, now: Time, cut: CutId, part: Option<Bytes>) {
        let pace = self.limits.snapshots.save_bytes_per_second;
        let Some(saving) = self.snapshots.saving_of(cut) else {
            return;
        };
        let Some(part) = part else {
            saving.taking = Taking::Done;
            self.outputs.push_back(Output::Cut(CutStep::End));
            return self.ask(SnapshotJob::Finish { cut });
        };
        let bytes = part.len() as u64;
        saving.bytes += bytes;
        saving.writing += 1;
        saving.taking = Taking::Paused;
        saving.next_part_at = saving
            .next_part_at
            .max(now)
            .plus_ns(duration_ns(bytes, pace));
        self.ask(SnapshotJob::Write { cut, part });
        self.resume_saving(now);
    }

    /// A part was written.
    pub(super) fn continue_saving(&mut self, now: Time, cut: CutId) {
        if let Some(saving) = self.snapshots.saving_of(cut) {
            saving.writing -= 1;
            self.resume_saving(now);
        }
    }

    /// Takes the next part if there is room and it is time; else sees to it that it is taken then.
    fn resume_saving(&mut self, now: Time) {
        let Some(saving) = self.snapshots.saving.as_mut() else {
            return;
        };
        let has_room = saving.writing < MAX_PARTS_WAITING;
        if saving.taking != Taking::Paused || !has_room {
            return;
        }
        if now < saving.next_part_at {
            self.snapshots.next_cut_at = Some(saving.next_part_at);
            return;
        }
        saving.taking = Taking::Asked;
        let cut = saving.cut;
        self.ask_for_part(cut);
    }

    /// The snapshot is durable.
    pub(super) fn finish_saving(&mut self, now: Time, cut: CutId, snapshot: SnapshotDescription) {
        let Some(saving) = self.snapshots.saving.take_if(|saving| saving.cut == cut) else {
            return;
        };
        let (node, index) = (self.core.id().0, snapshot.last_included.index.0);
        let bytes = snapshot.total_bytes;
        tracing::info!(node, index, bytes, "a snapshot was taken");
        self.core.handle_snapshot_saved(now, snapshot.clone());
        let policy = &self.limits.snapshots;
        let schedule = &mut self.snapshots.schedule;
        schedule.saved(now, saving.began, saving.growth, bytes, policy);
        self.snapshots.counts.taken += 1;
        for waiter in saving.waiters {
            waiter(Ok(snapshot.clone()));
        }
        self.snapshots.newest = Some(snapshot);
        self.tend_snapshots(now);
    }

    /// The snapshot cannot be written. The log keeps its entries, so nothing is lost; it is tried
    /// again later.
    pub(super) fn fail_saving(&mut self, now: Time, cut: CutId, error: JobError) {
        let Some(saving) = self.snapshots.saving.take_if(|saving| saving.cut == cut) else {
            return;
        };
        let (node, index) = (self.core.id().0, saving.last_included.index.0);
        tracing::warn!(node, index, %error, "a snapshot was not taken; it is tried again");
        if saving.taking != Taking::Done {
            self.outputs.push_back(Output::Cut(CutStep::End));
        }
        self.snapshots.schedule.failed(now);
        self.snapshots.counts.failed += 1;
        for waiter in saving.waiters {
            waiter(Err(SnapshotError::Failed(error.clone())));
        }
    }

    /// The state is about to be replaced: the cut is of no use any more.
    pub(super) fn abandon_saving(&mut self) {
        let Some(saving) = self.snapshots.saving.take() else {
            return;
        };
        if saving.taking != Taking::Done {
            self.outputs.push_back(Output::Cut(CutStep::End));
        }
        self.ask(SnapshotJob::Abandon { cut: saving.cut });
        self.snapshots.waiters.extend(saving.waiters);
    }
}

/// How long so many bytes take at a speed; at most a few seconds for a part.
fn duration_ns(bytes: u64, bytes_per_second: u64) -> u64 {
    let ns = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_second.max(1));
    u64::try_from(ns).unwrap_or(u64::MAX)
}
