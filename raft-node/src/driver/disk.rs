//! Watches whether the disk makes progress with the writes it was given (D11).

use std::time::Duration;

use raft_core::{PersistId, Time};

use super::after;

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
        is_due
    }
}
