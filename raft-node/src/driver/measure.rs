//! What the driver measures on the way: nothing here decides anything.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use raft_core::{RaftCore, Role, Time};
use raft_proto::{LogIndex, NodeId};

use super::proposals::ProposalWaiter;
use crate::metrics::Recorder;

/// Counts for the recorder of the node, and remembers since when commands are under way.
#[derive(Default)]
pub(super) struct Measure {
    pub(super) recorder: Arc<Recorder>,
    /// Commands handed to the applier: where they stand, and when they were proposed.
    answering: VecDeque<(LogIndex, Time)>,
}

/// What a node has lost to its disk, and got back, since its process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepairCounts {
    /// Entries that turned out to be damaged.
    pub entries_lost: u64,
    /// Entries among them whose content came back from peers.
    pub entries_healed: u64,
    /// Snapshots that turned out to be damaged.
    pub snapshots_lost: u64,
    /// Snapshots that took the place of what was damaged.
    pub snapshots_healed: u64,
}

impl Measure {
    pub(super) fn repairs(&self) -> RepairCounts {
        RepairCounts {
            entries_lost: self.recorder.entries_lost.read(),
            entries_healed: self.recorder.entries_healed.read(),
            snapshots_lost: self.recorder.snapshots_lost.read(),
            snapshots_healed: self.recorder.snapshots_healed.read(),
        }
    }

    pub(super) fn reporting_to(recorder: Arc<Recorder>) -> Self {
        Self {
            recorder,
            answering: VecDeque::new(),
        }
    }

    /// A committed command goes to the applier, which answers its waiter.
    pub(super) fn handed_over(&mut self, index: LogIndex, waiter: Option<&ProposalWaiter>) {
        if let Some(since) = waiter.and_then(ProposalWaiter::since) {
            self.answering.push_back((index, since));
        }
    }

    /// The applier has answered everything up to here.
    pub(super) fn applied(&mut self, now: Time, through: LogIndex) {
        while let Some((_, since)) = self.answering.pop_front_if(|(index, _)| *index <= through) {
            let nanos = now.0.saturating_sub(since.0);
            self.recorder.proposal_duration.record(nanos);
        }
    }

    pub(super) fn disk_stalled(&self) {
        self.recorder.is_disk_stalled.store(1, Ordering::Relaxed);
    }

    pub(super) fn disk_progressed(&self) {
        self.recorder.is_disk_stalled.store(0, Ordering::Relaxed);
    }

    pub(super) fn role_changed(&self, role: Role) {
        match role {
            Role::PreCandidate => self.recorder.elections.add(1),
            // A candidate was a pre-candidate before, or was told to campaign at once.
            Role::Candidate | Role::Leader | Role::Follower => {}
        }
    }

    pub(super) fn leader_changed(&self, leader: Option<NodeId>) {
        if leader.is_some() {
            self.recorder.leader_changes.add(1);
        }
    }

    pub(super) fn flushed(&self, core: &RaftCore, entry_buffer_bytes: u64) {
        self.recorder.observe(core, entry_buffer_bytes);
    }
}
