//! The core's events, turned into answers for those who wait and into log lines.

use raft_core::{
    Event, IndexRange, MembershipStage, ProposalOutcome, ReadId, RepairNews, Time, TransferOutcome,
};
use raft_proto::mutants::{Mutant, is_planted};
use raft_proto::{LogIndex, LogPosition, NodeId, Term};

use super::Driver;
use super::io::Output;
use super::peers::peers_of;
use crate::error::{FatalError, ProposeError, ReadError, TransferError};

impl Driver {
    pub(super) fn take_events(&mut self, now: Time) {
        while let Some(event) = self.core.poll_event() {
            match event {
                Event::ProposalsDecided {
                    range,
                    term,
                    outcome,
                } => self.decide(range, term, outcome),
                Event::ReadReady { id, index } => self.reads.confirmed(id.0, index),
                Event::ReadFailed { id, reason: _ } => self.fail_read(id),
                Event::TransferEnded { to, outcome } => self.end_transfer(to, outcome),
                Event::MembershipChanged { index, stage } => {
                    self.tell_membership(index, stage);
                    self.outputs.push_back(peers_of(&self.core));
                }
                Event::RoleChanged { role, term } => {
                    self.measure.role_changed(role);
                    tracing::info!(
                        node = self.core.config().id.0,
                        term = term.0,
                        ?role,
                        "role changed"
                    );
                }
                Event::LeaderChanged { leader, term } => {
                    self.measure.leader_changed(leader);
                    let (node, leader) = (self.core.config().id.0, leader.map(|id| id.0));
                    tracing::info!(node, term = term.0, leader, "leader changed");
                    self.abandon_lost_fetch(now);
                }
                Event::SnapshotOffered { from, snapshot } => {
                    self.begin_fetch(now, from, snapshot);
                }
                Event::SnapshotWanted { peer } => {
                    let (node, peer) = (self.core.config().id.0, peer.0);
                    tracing::info!(node, peer, "a peer needs a snapshot");
                    self.snapshots.want();
                }
                Event::Repair(news) => self.tell_repair(news),
                Event::CountsAgain => {
                    let (node, term) = (self.core.id().0, self.core.term().0);
                    tracing::info!(node, term, "this node counts again");
                }
                Event::PeerViolated { peer, violation } => {
                    let (node, peer) = (self.core.config().id.0, peer.0);
                    tracing::error!(node, peer, ?violation, "a peer broke the protocol");
                }
                Event::Halted => {
                    tracing::error!(node = self.core.config().id.0, "consensus halted")
                }
            }
        }
        self.changes.settle(&self.core);
    }

    fn tell_repair(&mut self, news: RepairNews) {
        let node = self.core.id().0;
        let recorder = &self.measure.recorder;
        match news {
            RepairNews::Missing(IndexRange { first, last }) => {
                recorder.entries_lost.add(last.0 - first.0 + 1);
                let (first, last) = (first.0, last.0);
                tracing::error!(
                    node,
                    first,
                    last,
                    "entries are damaged; peers are asked for them"
                );
            }
            RepairNews::SnapshotLost(position) => {
                recorder.snapshots_lost.add(1);
                let index = position.index.0;
                tracing::error!(
                    node,
                    index,
                    "the snapshot is damaged; peers are asked for one"
                );
            }
            RepairNews::Refilled(IndexRange { first, last }) => {
                recorder.entries_healed.add(last.0 - first.0 + 1);
                let (first, last) = (first.0, last.0);
                tracing::info!(node, first, last, "entries are healed from a peer");
            }
            RepairNews::Covered(position) => {
                recorder.snapshots_healed.add(1);
                let index = position.index.0;
                tracing::info!(node, index, "a snapshot covers what was damaged");
            }
            RepairNews::Dropped(IndexRange { first, last }) => {
                let (first, last) = (first.0, last.0);
                tracing::warn!(
                    node,
                    first,
                    last,
                    "entries are dropped that were damaged and, as enough members say, never committed"
                );
            }
            RepairNews::Lost(IndexRange { first, last }) => {
                let error = FatalError::LostContent { first, last };
                tracing::error!(node, %error, "this node stops");
                self.outputs.push_back(Output::Halt(error));
            }
        }
    }

    fn tell_membership(&self, index: LogIndex, stage: MembershipStage) {
        let membership = self.core.membership();
        let voters: Vec<_> = membership.voters.iter().map(|id| id.0).collect();
        tracing::info!(
            node = self.core.id().0,
            term = self.core.term().0,
            index = index.0,
            ?stage,
            ?voters,
            is_joint = membership.is_joint(),
            "membership changed"
        );
    }

    fn decide(&mut self, range: IndexRange, term: Term, outcome: ProposalOutcome) {
        self.changes.decided(range, term, outcome);
        let error = match outcome {
            // The applier answers these with the state machine's reply.
            ProposalOutcome::Committed => return,
            ProposalOutcome::Superseded { .. } if is_planted(Mutant::OutcomeByIndexOnly) => return,
            ProposalOutcome::Superseded { by } => ProposeError::Superseded { by },
            ProposalOutcome::Unknown => ProposeError::Unknown,
        };
        for index in range.indexes() {
            if let Some(waiter) = self.proposals.take(LogPosition { index, term }) {
                waiter.decide(Err(error.clone()));
            }
        }
    }

    pub(super) fn fail_read(&mut self, id: ReadId) {
        let leader = self.hint(self.core.leader());
        self.reads.fail(id.0, &ReadError::NotConfirmed { leader });
    }

    fn end_transfer(&mut self, to: NodeId, outcome: TransferOutcome) {
        let Some(waiter) = self.transfer.take() else {
            return;
        };
        waiter(match outcome {
            TransferOutcome::Transferred => Ok(()),
            TransferOutcome::OtherLeader(leader) => Err(TransferError::OtherLeader(leader)),
            TransferOutcome::TimedOut => Err(TransferError::TimedOut(to)),
            TransferOutcome::Aborted => Err(TransferError::Aborted(to)),
        });
    }
}
