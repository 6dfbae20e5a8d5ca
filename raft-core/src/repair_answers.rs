//! Answers to peers that repair themselves: entries by name, and snapshots that cover what they lost.

use raft_proto::{
    DescribeSnapshotRequest, DescribeSnapshotResponse, FetchEntriesRequest, LogIndex, NodeId,
};

use crate::core::RaftCore;
use crate::output::{Event, IndexRange};
use crate::repair::MAX_WANTED;

impl RaftCore {
    /// A peer asks for entries that it lost. Whoever answers for a log must not be about to answer
    /// for the same entries in an earlier term, so the later term of the asker is taken over, unless
    /// a leader is alive that this would disturb.
    pub(crate) fn handle_fetch_entries_request(
        &mut self,
        from: NodeId,
        request: &FetchEntriesRequest,
    ) {
        if request.term > self.term() && !self.hears_from_leader() {
            self.become_follower(request.term, None);
        }
        if self.persists.hard_state_waits_for().is_some() {
            // The peer asks again; by then the term is durable.
            return;
        }
        let mut found = Vec::new();
        let mut never_had = Vec::new();
        let mut unavailable = Vec::new();
        for wanted in request.wanted.iter().take(MAX_WANTED as usize) {
            if wanted.index <= self.log.base().index {
                unavailable.push(*wanted);
            } else if !self.log.matches(*wanted) {
                never_had.push(*wanted);
            } else if self.holes.contains(wanted.index) {
                unavailable.push(*wanted);
            } else if wanted.index <= self.persists.handed_index() {
                found.push(wanted.index);
            }
        }
        let range = first_run(&found).and_then(|run| {
            let max_bytes = u64::from(request.max_bytes).min(self.config.max_append_bytes);
            let packed = self.log.pack(run.first, run.last, max_bytes, MAX_WANTED);
            packed.map(|(range, _)| range)
        });
        self.send_found(from, range, never_had, unavailable);
    }

    /// A peer needs a snapshot that covers what it lost. It may know more to be committed than this
    /// node, which may lead, and not be able to commit it without the peer's acknowledgement, which
    /// the peer cannot give before it is healed.
    pub(crate) fn handle_describe_snapshot_request(
        &mut self,
        from: NodeId,
        request: &DescribeSnapshotRequest,
    ) {
        if self.log.matches(request.committed) {
            self.advance_commit(request.committed.index);
        }
        let covers = |index: LogIndex| index >= request.at_least;
        let snapshot = self.saved.clone();
        let snapshot = snapshot.filter(|saved| covers(saved.last_included.index));
        if snapshot.is_none() && covers(self.applied) && self.lost_snapshot.is_none() {
            // By the time it asks again there is one.
            self.events.push_back(Event::SnapshotWanted { peer: from });
        }
        let term = self.term();
        self.send_after_term(from, DescribeSnapshotResponse { term, snapshot }.into());
    }
}

/// The first indexes that follow each other.
fn first_run(indexes: &[LogIndex]) -> Option<IndexRange> {
    let first = *indexes.first()?;
    let follows = |(at, index): &(usize, &LogIndex)| index.0 == first.0 + *at as u64;
    let count = indexes.iter().enumerate().take_while(follows).count();
    IndexRange::new(first, LogIndex(first.0 + count as u64 - 1))
}
