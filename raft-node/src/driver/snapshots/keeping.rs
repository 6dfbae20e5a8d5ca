//! How much of the log and of the old snapshots stays behind the newest snapshot.

use std::time::Duration;

use raft_core::{IndexRange, Replication, Time};
use raft_proto::{LogIndex, LogPosition, SnapshotDescription};

use super::super::io::Output;
use super::super::{Driver, after};
use super::jobs::SnapshotJob;
use super::serving::READER_PATIENCE;
use super::{Room, Snapshots};

/// How often it is looked whether what was kept for somebody can go.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

impl Snapshots {
    /// What the log has up to here, it is about to forget.
    pub(in super::super) fn compacting_through(&self) -> LogIndex {
        self.compacting.unwrap_or_default()
    }

    /// A snapshot that was fetched for the log only is this node's newest one, if it is.
    pub(super) fn keep_fetched(&mut self, fetched: SnapshotDescription) {
        let is_newer =
            |newest: &SnapshotDescription| fetched.last_included.index > newest.last_included.index;
        if self.newest.as_ref().is_none_or(is_newer) {
            self.schedule.replaced(fetched.total_bytes);
            self.newest = Some(fetched);
        }
    }

    /// Writes wait for room.
    pub(in super::super) fn disk_is_full(&mut self) {
        if self.newest.is_some() && self.room == Room::Enough {
            self.room = Room::None;
            self.upkeep_at = Some(Time::ZERO);
        }
    }
}

impl Driver {
    /// Lets go of what nobody needs: entries that the newest snapshot covers, and older snapshots.
    pub(super) fn tend_snapshots(&mut self, now: Time) {
        self.snapshots.upkeep_at = None;
        let Some(newest) = &self.snapshots.newest else {
            return;
        };
        let newest = newest.last_included;
        self.snapshots.readers.expire(now);
        let oldest_read = self.snapshots.readers.oldest();
        let older_read = oldest_read.filter(|read| read.index < newest.index);
        // Those who read from the process before this one ask again soon.
        let began = *self.snapshots.upkeep_began.get_or_insert(now);
        let may_be_read = now < after(began, READER_PATIENCE);
        if !may_be_read {
            let keep = older_read.unwrap_or(newest);
            self.ask(SnapshotJob::RemoveOlder(keep));
        }
        let is_held = self.compact(now, newest.index);
        if is_held || may_be_read || older_read.is_some() {
            self.snapshots.upkeep_at = Some(after(now, UPKEEP_INTERVAL));
        }
    }

    /// The log is compacted up to here.
    pub(in super::super) fn handle_compacted(&mut self, now: Time, through: LogIndex) {
        self.core.handle_compacted(now, through);
        self.snapshots.compacting = None;
    }

    /// Compacts the log as far as it may; returns whether somebody holds entries that could go
    /// otherwise.
    fn compact(&mut self, now: Time, covered: LogIndex) -> bool {
        if self.snapshots.compacting.is_some() {
            return true;
        }
        let base = self.core.base_position().index;
        let room = std::mem::replace(&mut self.snapshots.room, Room::Enough);
        let wanted = match room {
            Room::Enough => {
                let policy = &self.limits.snapshots;
                let kept = self
                    .core
                    .before_last(policy.keep_entries, policy.keep_bytes);
                kept.min(covered)
            }
            Room::None => covered,
        };
        if wanted <= base {
            return false;
        }
        let allowed = match room {
            Room::Enough => self.before_held(now, wanted),
            Room::None => wanted,
        };
        // Every compaction is a write: for a follower that creeps ahead it is not worth one each
        // time.
        let is_worth_it = allowed == wanted || allowed.since(base) >= wanted.since(base) / 4;
        if allowed > base && is_worth_it {
            let term = self.core.term_at(allowed);
            let position = LogPosition {
                index: allowed,
                term: term.expect("an entry after the base has a term"),
            };
            self.snapshots.compacting = Some(allowed);
            self.outputs.push_back(Output::Compact(position));
        }
        allowed < wanted
    }

    /// Everything up to here can go, given who still needs entries: those who read a snapshot will
    /// need what comes after it, and followers in contact what they do not have yet. Whoever would
    /// hold more than the bound gets a snapshot instead.
    fn before_held(&self, now: Time, wanted: LogIndex) -> LogIndex {
        let policy = &self.limits.snapshots;
        let last = self.core.last_position().index;
        let base = self.core.base_position().index;
        let in_contact = self
            .core
            .peers()
            .filter(|peer| after(peer.contact, policy.fetch_patience) > now);
        let held = in_contact.map(|peer| match peer.replication {
            Replication::Probe | Replication::Replicate => peer.match_index,
            Replication::Snapshot => peer.next_index.previous(),
        });
        let held = held.chain(self.snapshots.readers.oldest_of_peers());
        let is_bounded = |held: &LogIndex| {
            let range = IndexRange::new(held.next(), last);
            range.is_none_or(|range| self.core.log_bytes(range) <= policy.max_retained_bytes)
        };
        // What is compacted already cannot be held.
        let held = held.filter(|held| (base..wanted).contains(held));
        held.filter(is_bounded).min().unwrap_or(wanted)
    }
}
