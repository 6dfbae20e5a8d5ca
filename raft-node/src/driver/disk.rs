//! What becomes of the writes that the disk was given, and whether it makes progress with them (D11).

use std::time::Duration;

use raft_core::{PersistId, Time};
use raft_proto::mutants::{Mutant, is_planted};

use super::{Driver, after};

impl Driver {
    /// Writes up to this one are durable.
    pub(super) fn persisted(&mut self, now: Time, id: PersistId) {
        self.disk.done(now, id);
        self.measure.disk_progressed();
        self.core.handle_persisted(now, id);
    }

    /// Of this write term and vote are durable; the rest waits for room, and counts as under way.
    pub(super) fn hard_state_persisted(&mut self, now: Time, id: PersistId) {
        self.core.handle_hard_state_persisted(now, id);
    }

    pub(super) fn disk_is_full(&mut self, now: Time) {
        self.measure.recorder.disk_full.add(1);
        self.core.handle_disk_full(now);
        self.snapshots.disk_is_full();
    }
}

/// Writes under way, and since when nothing came of them.
pub(super) struct DiskWatch {
    patience: Duration,
    under_way: Option<UnderWay>,
}

struct UnderWay {
    last: PersistId,
    since: Time,
    /// The stall was noticed.
    is_stalled: bool,
}

impl DiskWatch {
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            patience,
            under_way: None,
        }
    }

    /// A write was handed out.
    pub(super) fn started(&mut self, now: Time, id: PersistId) {
        match &mut self.under_way {
            Some(under_way) => under_way.last = id,
            none @ None => {
                *none = Some(UnderWay {
                    last: id,
                    since: now,
                    is_stalled: false,
                });
            }
        }
    }

    /// Writes up to this one are durable.
    pub(super) fn done(&mut self, now: Time, id: PersistId) {
        self.under_way = self
            .under_way
            .take()
            .filter(|under_way| under_way.last > id)
            .map(|UnderWay { last, .. }| UnderWay {
                last,
                since: now,
                is_stalled: false,
            });
    }

    /// When the disk counts as stalled, unless it makes progress before.
    pub(super) fn deadline(&self) -> Option<Time> {
        let under_way = self.under_way.as_ref().filter(|w| !w.is_stalled)?;
        Some(after(under_way.since, self.patience))
    }

    /// Whether the disk has just come to count as stalled.
    pub(super) fn take_stall(&mut self, now: Time) -> bool {
        let is_due = self.deadline().is_some_and(|deadline| deadline <= now);
        if let Some(under_way) = self.under_way.as_mut().filter(|_| is_due) {
            under_way.is_stalled = true;
        }
        is_due && !is_planted(Mutant::StallUnnoticed)
    }
}
