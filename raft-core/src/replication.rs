//! Which append to send next, and to whom (§5.3, thesis §10.2.1).

use raft_proto::{LogIndex, LogPosition, NodeId};

use crate::config::MAX_APPEND_ENTRIES;
use crate::core::RaftCore;
use crate::output::{AppendOrder, FetchedOrder, IndexRange, Transmit};
use crate::progress::{Progress, Window};
use crate::roles::{Leader, RoleState};

impl RaftCore {
    /// The next append that some peer is ready for, peers in turn. Entries may leave before this
    /// node's own fsync, but not before the driver was handed their content.
    pub(crate) fn next_append_order(&mut self) -> Option<AppendOrder> {
        if self.is_halted() {
            return None;
        }
        let window = Window {
            messages: self.config.max_inflight_messages,
            bytes: self.config.max_inflight_bytes,
        };
        self.offer_snapshots(window);
        let handed = self.persists.handed_index();
        let RoleState::Leader(leader) = &self.role else {
            return None;
        };
        let last = self.log.last_index();
        let to = next_ready(leader, |id| {
            let progress = &leader.peers[&id];
            let next = progress.next_index();
            // A probe waits for its entries rather than go without them.
            let is_handed = next <= handed || handed == last;
            is_handed && progress.is_ready(handed, window)
        })?;
        self.order_for(to, window)
    }

    /// Offers a snapshot to every peer that is ready for entries which are compacted (§7).
    fn offer_snapshots(&mut self, window: Window) {
        let base = self.log.base().index;
        if base == LogIndex::ZERO {
            return;
        }
        let handed = self.persists.handed_index();
        let RoleState::Leader(leader) = &self.role else {
            return;
        };
        let lags = |p: &Progress| p.next_index() <= base && p.is_ready(handed, window);
        let lagging = leader.peers.iter().filter(|(_, p)| lags(p));
        let lagging: Vec<NodeId> = lagging.map(|(id, _)| *id).collect();
        for to in lagging {
            self.offer_snapshot(to);
        }
    }

    fn order_for(&mut self, to: NodeId, window: Window) -> Option<AppendOrder> {
        let term = self.term();
        let handed = self.persists.handed_index();
        let (now, commit_index, epoch) = (self.now, self.commit_index, self.epoch);
        let RoleState::Leader(leader) = &mut self.role else {
            return None;
        };
        leader.cursor = to;
        let progress = leader.peers.get_mut(&to)?;
        let next = progress.next_index();
        let previous = LogPosition {
            index: next.previous(),
            term: self.log.term_at(next.previous())?,
        };
        let max_bytes = self.config.max_append_bytes;
        let packed = self.log.pack(next, handed, max_bytes, MAX_APPEND_ENTRIES);
        let entries = packed.map(|(range, _)| range);
        let bytes = packed.map_or(0, |(_, bytes)| bytes);
        leader.last_sequence += 1;
        let sequence = leader.last_sequence;
        progress.send(sequence, previous, entries, bytes, window, now);
        Some(AppendOrder {
            to,
            term,
            sequence,
            previous,
            commit_index,
            last: entries.map_or(previous.index, |range| range.last),
            runs: entries.map_or_else(Vec::new, |range| self.log.runs_in(range)),
            epoch,
        })
    }
}

impl RaftCore {
    /// Answers a peer that asked for entries which it lost; the driver fills in the content.
    pub(crate) fn send_found(
        &mut self,
        to: NodeId,
        entries: Option<IndexRange>,
        never_had: Vec<LogPosition>,
        unavailable: Vec<LogPosition>,
    ) {
        self.outbox.push_back(Transmit::Fetched(FetchedOrder {
            to,
            term: self.term(),
            entries,
            runs: entries.map_or_else(Vec::new, |range| self.log.runs_in(range)),
            never_had,
            unavailable,
        }));
    }
}

/// The first peer after the cursor, in a circle, that is ready.
fn next_ready(leader: &Leader, is_ready: impl Fn(NodeId) -> bool) -> Option<NodeId> {
    let mut after = leader.peers.keys().filter(|id| **id > leader.cursor);
    let mut until = leader.peers.keys().filter(|id| **id <= leader.cursor);
    after
        .find(|id| is_ready(**id))
        .or_else(|| until.find(|id| is_ready(**id)))
        .copied()
}
