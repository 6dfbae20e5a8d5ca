//! The transfer of a snapshot to this node: what to ask for, what has arrived, when to give up.
//!
//! Everything between what is stored and what was asked for last fits into one window, so that is
//! also the most that is on the way or waits for the disk. Parts may arrive in any order; they go to
//! the disk in theirs. What is lost is asked for again once nothing has arrived for a while, twice
//! as long after each silence, or at once when the sender is connected anew.

use std::collections::BTreeMap;

use bytes::Bytes;
use raft_core::Time;
use raft_proto::mutants::{Mutant, is_planted};
use raft_proto::{FetchSnapshotResponse, LogPosition, NodeId, SnapshotDescription};

use super::super::after;
use super::jobs::FetchId;
use super::policy::SnapshotPolicy;

/// How often the pause before asking again doubles. More would leave a lossy line unused for most of
/// the patience: with one message in ten lost each way, three asks in a row are lost every so often
/// (lab test `snapshot_install_unreliable_crash`, seed 10).
const MAX_DOUBLINGS: u32 = 1;

/// Shortest pause between two reports of progress to the core, in milliseconds.
const REPORT_MS: u64 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The part file is being opened.
    Opening,
    /// Parts are asked for and stored.
    Running,
    /// All is stored and being checked.
    Finishing,
}

/// A part to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) offset: u64,
    pub(super) max_bytes: u32,
}

/// What a part that arrived is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// These bytes, in order, go to the disk.
    Store(Vec<(u64, Bytes)>),
    /// Nothing: it is late, damaged, or of something else.
    Ignored,
    /// The sender does not have the snapshot.
    Gone,
}

/// One transfer.
pub(super) struct Fetch {
    pub(super) id: FetchId,
    pub(super) from: NodeId,
    pub(super) snapshot: SnapshotDescription,
    phase: Phase,
    /// Everything before it was asked for.
    next_offset: u64,
    /// Everything before it was handed to the disk.
    handed: u64,
    /// Everything before it is in the part file.
    stored: u64,
    durable: u64,
    /// Length of what was asked for and has not arrived, by offset.
    missing: BTreeMap<u64, u32>,
    /// Ends of parts that came shorter than asked for.
    rests: Vec<Ask>,
    /// What arrived before its turn, by offset.
    early: BTreeMap<u64, Bytes>,
    /// When anything last arrived, or was asked for after a silence.
    active_at: Time,
    /// When anything last arrived.
    arrived_at: Time,
    silences: u32,
    reported_at: Option<Time>,
    /// Bytes that arrived and were there already.
    pub(super) repeated_bytes: u64,
}

impl Fetch {
    pub(super) fn new(id: FetchId, from: NodeId, snapshot: SnapshotDescription, now: Time) -> Self {
        Self {
            id,
            from,
            snapshot,
            phase: Phase::Opening,
            next_offset: 0,
            handed: 0,
            stored: 0,
            durable: 0,
            missing: BTreeMap::new(),
            rests: Vec::new(),
            early: BTreeMap::new(),
            active_at: now,
            arrived_at: now,
            silences: 0,
            reported_at: None,
            repeated_bytes: 0,
        }
    }

    pub(super) fn position(&self) -> LogPosition {
        self.snapshot.last_included
    }

    pub(super) fn stored_bytes(&self) -> u64 {
        self.stored
    }

    /// Whether anything of it has yet to come from its owner.
    pub(super) fn needs_owner(&self) -> bool {
        self.phase != Phase::Finishing
    }

    /// The part file is open and has so many bytes already.
    pub(super) fn opened(&mut self, now: Time, received_bytes: u64) {
        if self.phase != Phase::Opening {
            return;
        }
        self.phase = Phase::Running;
        // A file that is longer than the snapshot is found out at the end.
        let start = received_bytes.min(self.snapshot.total_bytes);
        (self.next_offset, self.handed, self.stored) = (start, start, start);
        self.durable = start;
        (self.active_at, self.arrived_at) = (now, now);
    }

    /// The next part to ask for, if the window has room.
    pub(super) fn next_ask(&mut self, policy: &SnapshotPolicy) -> Option<Ask> {
        if let Some(rest) = self.rests.pop() {
            return Some(rest);
        }
        let left = self.snapshot.total_bytes.saturating_sub(self.next_offset);
        let under_way = self.next_offset - self.stored;
        let max_bytes = left.min(u64::from(policy.fetch_part_bytes));
        let window = u64::from(policy.fetch_window_bytes);
        let has_room = under_way == 0 || under_way + max_bytes <= window;
        if self.phase != Phase::Running || max_bytes == 0 || !has_room {
            return None;
        }
        // Bounded by the configured part, which is a u32.
        let ask = Ask {
            offset: self.next_offset,
            max_bytes: max_bytes as u32,
        };
        self.missing.insert(ask.offset, ask.max_bytes);
        self.next_offset += max_bytes;
        Some(ask)
    }

    /// A part arrived.
    pub(super) fn arrived(&mut self, now: Time, part: FetchSnapshotResponse) -> Arrival {
        if part.last_included != self.position() || self.phase != Phase::Running {
            return Arrival::Ignored;
        }
        if part.total_bytes != self.snapshot.total_bytes {
            // Another snapshot of the same position, or none.
            return Arrival::Gone;
        }
        let Some(&asked) = self.missing.get(&part.offset) else {
            self.repeated_bytes += part.data.len() as u64;
            return Arrival::Ignored;
        };
        // A peer's part is never longer than asked for, and only an empty file has empty parts.
        let Some(bytes) = u32::try_from(part.data.len())
            .ok()
            .filter(|bytes| (1..=asked).contains(bytes))
        else {
            return Arrival::Ignored;
        };
        if crc32fast::hash(&part.data) != part.checksum {
            return Arrival::Ignored;
        }
        self.missing.remove(&part.offset);
        if bytes < asked {
            let rest = Ask {
                offset: part.offset + u64::from(bytes),
                max_bytes: asked - bytes,
            };
            self.missing.insert(rest.offset, rest.max_bytes);
            self.rests.push(rest);
        }
        (self.active_at, self.arrived_at) = (now, now);
        self.silences = 0;
        self.early.insert(part.offset, part.data);
        let mut ready = Vec::new();
        while let Some(data) = self.early.remove(&self.handed) {
            let offset = self.handed;
            self.handed += data.len() as u64;
            ready.push((offset, data));
        }
        Arrival::Store(ready)
    }

    /// Bytes are in the part file. Returns how much is durable, if it is time to report that.
    pub(super) fn stored(
        &mut self,
        now: Time,
        stored_bytes: u64,
        durable_bytes: u64,
    ) -> Option<u64> {
        self.stored = self.stored.max(stored_bytes.min(self.handed));
        self.durable = self.durable.max(durable_bytes);
        let is_time = self
            .reported_at
            .is_none_or(|last| now.ms_since(last) >= REPORT_MS);
        if is_time {
            self.reported_at = Some(now);
        }
        is_time.then_some(self.durable)
    }

    /// Whether everything has just come to be stored.
    pub(super) fn take_completion(&mut self) -> bool {
        let is_complete = self.phase == Phase::Running && self.stored == self.snapshot.total_bytes;
        if is_complete {
            self.phase = Phase::Finishing;
        }
        is_complete
    }

    /// When something is overdue.
    pub(super) fn deadline(&self, policy: &SnapshotPolicy) -> Option<Time> {
        let waits = self.phase == Phase::Running && !self.missing.is_empty();
        if !waits || is_planted(Mutant::PartNeverAskedAgain) {
            return None;
        }
        let silence = policy
            .fetch_retry
            .saturating_mul(1 << self.silences.min(MAX_DOUBLINGS));
        Some(after(self.active_at, silence).min(self.end_of_patience(policy)))
    }

    /// Whether nothing has arrived for too long.
    pub(super) fn is_hopeless(&self, now: Time, policy: &SnapshotPolicy) -> bool {
        let waits = self.phase == Phase::Running && !self.missing.is_empty();
        waits && now >= self.end_of_patience(policy)
    }

    /// What to ask for again, because nothing has arrived for a while.
    pub(super) fn overdue(&mut self, now: Time, policy: &SnapshotPolicy) -> Vec<Ask> {
        if self.deadline(policy).is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.silences = self.silences.saturating_add(1);
        self.active_at = now;
        self.all_missing()
    }

    /// The sender is connected anew: what was on the way is lost.
    pub(super) fn reconnected(&mut self, now: Time) -> Vec<Ask> {
        self.active_at = now;
        self.silences = 0;
        if self.phase == Phase::Running {
            self.all_missing()
        } else {
            Vec::new()
        }
    }

    fn all_missing(&self) -> Vec<Ask> {
        let asks = self.missing.iter();
        asks.map(|(&offset, &max_bytes)| Ask { offset, max_bytes })
            .collect()
    }

    fn end_of_patience(&self, policy: &SnapshotPolicy) -> Time {
        after(self.arrived_at, policy.fetch_patience)
    }
}

#[cfg(test)]
#[path = "fetching_test.rs"]
mod tests;
