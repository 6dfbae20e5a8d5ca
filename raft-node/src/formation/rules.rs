//! What a message about forming does: the rules, apart from the plumbing.

use bytes::Bytes;
use raft_core::Time;
use raft_proto::{
    AdoptResponse, GatherOutcome, GatherRequest, GatherResponse, Incarnation, Message, NodeId,
};

use super::error::FormationError;
use super::machine::{Formation, Stage, Start};
use super::record::{Evidence, FirstEntry, LogState, Promises, Record};
use super::voters::InitialVoters;

/// How long a node that gives up stays, so that its last answers leave, in milliseconds.
pub const FLUSH_MS: u64 = 100;
/// How many earlier incarnations of gatherers a node remembers; one more and it gives up.
pub const MAX_GATHERERS: usize = 64;

impl Formation {
    pub(super) fn handle_gather_request(
        &mut self,
        now: Time,
        from: NodeId,
        request: &GatherRequest,
    ) {
        let gatherer = request.incarnation;
        let answer = |outcome| Message::from(GatherResponse { gatherer, outcome });
        if let Stage::Formed { first_entry, .. } = &self.stage {
            let cluster = first_entry.cluster();
            return self.send(from, answer(GatherOutcome::Formed { cluster }));
        }
        let voters = match &self.start {
            Start::Form(voters) => voters,
            Start::Join => return self.send(from, answer(GatherOutcome::StartedToJoin)),
        };
        if voters.as_slice() != request.voters {
            let voters = voters.as_slice().to_vec();
            self.send(from, answer(GatherOutcome::OtherVoters { voters }));
            return self.other_voters(now, from, request.voters.clone());
        }
        let Stage::Waiting { promises, .. } = &self.stage else {
            return; // Only the voter of lowest id gathers, and that is this node.
        };
        if from != voters.gatherer() {
            return;
        }
        let incarnation = self.local.incarnation;
        let joining = answer(GatherOutcome::Joining { incarnation });
        if promises.current == Some(gatherer) {
            return self.send(from, joining);
        }
        if promises.superseded.contains(&gatherer) {
            return self.send(from, answer(GatherOutcome::Superseded));
        }
        let promises = promises.replaced_by(Some(gatherer));
        self.promise(now, from, promises, joining);
    }

    fn promise(&mut self, now: Time, gatherer: NodeId, promises: Promises, answer: Message) {
        let count = promises.superseded.len();
        if count > MAX_GATHERERS {
            let local = self.local.node;
            let error = FormationError::TooManyGatherers {
                local,
                gatherer,
                count,
            };
            return self.fail(now, error);
        }
        self.write(Record::Unformed(promises), Some((gatherer, answer)));
    }

    pub(super) fn handle_gather_response(
        &mut self,
        now: Time,
        from: NodeId,
        response: &GatherResponse,
    ) {
        let local = self.local.node;
        let Start::Form(voters) = &self.start else {
            return;
        };
        if response.gatherer != self.local.incarnation || !voters.contains(from) {
            return;
        }
        let name = voters.name(from);
        match (&mut self.stage, &response.outcome) {
            (Stage::Gathering { answers }, GatherOutcome::Joining { incarnation }) => {
                // An answer of an earlier life of the peer, overtaken by its reconnect, is void.
                if self.connected.get(&from) == Some(incarnation) {
                    answers.insert(from, *incarnation);
                    self.notes.remove(&from);
                    self.form_if_complete();
                }
            }
            (Stage::Gathering { .. }, GatherOutcome::OtherVoters { voters }) => {
                self.other_voters(now, from, voters.clone());
            }
            (Stage::Gathering { .. }, GatherOutcome::Formed { cluster }) => {
                let (peer, cluster) = (from, *cluster);
                self.abandon(Evidence::MemberFound { peer, cluster });
            }
            (Stage::Gathering { .. }, GatherOutcome::StartedToJoin) => {
                let note = format!("{name} was started with --join; start it without");
                self.note(from, note);
            }
            (Stage::Gathering { .. }, GatherOutcome::Superseded) => {
                self.fail(now, FormationError::Superseded { local, peer: from });
            }
            (Stage::Abandoned { unreleased, .. }, outcome) => match outcome {
                // It answered before it heard of the end.
                GatherOutcome::Joining { .. } => {}
                GatherOutcome::OtherVoters { .. }
                | GatherOutcome::Formed { .. }
                | GatherOutcome::StartedToJoin
                | GatherOutcome::Superseded
                | GatherOutcome::Released => {
                    unreleased.remove(&from);
                }
            },
            (Stage::Gathering { .. }, GatherOutcome::Released)
            | (Stage::Waiting { .. } | Stage::Joining | Stage::Formed { .. }, _)
            | (Stage::Failing { .. } | Stage::Failed, _) => {}
        }
    }

    pub(super) fn handle_abandoned(&mut self, now: Time, from: NodeId, gatherer: Incarnation) {
        let answer = |outcome| Message::from(GatherResponse { gatherer, outcome });
        let released = answer(GatherOutcome::Released);
        match &self.stage {
            Stage::Waiting { promises, .. } => {
                let is_gatherer =
                    matches!(&self.start, Start::Form(voters) if voters.gatherer() == from);
                if !is_gatherer {
                    return;
                }
                if promises.superseded.contains(&gatherer) {
                    return self.send(from, released);
                }
                // Also a gatherer that never asked: it comes after the one that was promised to,
                // so it replaces it, and ends at once.
                let promises = promises.replaced_by(Some(gatherer)).replaced_by(None);
                self.promise(now, from, promises, released);
            }
            Stage::Joining => self.send(from, released),
            Stage::Formed { first_entry, .. } => {
                let cluster = first_entry.cluster();
                self.send(from, answer(GatherOutcome::Formed { cluster }));
            }
            Stage::Gathering { .. } | Stage::Abandoned { .. } => {}
            Stage::Failing { .. } | Stage::Failed => {}
        }
    }

    pub(super) fn handle_adopt(&mut self, now: Time, from: NodeId, payload: &Bytes) {
        let Ok(first_entry) = FirstEntry::parse(payload.clone()) else {
            let note = format!("{from} sent a first entry that this program cannot read");
            self.note(from, note);
            return;
        };
        let (local, cluster) = (self.local.node, first_entry.cluster());
        let names_us = first_entry.names(local, self.local.incarnation);
        match &mut self.stage {
            Stage::Joining => self.adopt(from, first_entry),
            // Meant for another life of this node.
            Stage::Gathering { .. } | Stage::Waiting { .. } if !names_us => {}
            // Only this directory can have made it, and made it durable.
            Stage::Gathering { .. } => {
                self.fail(now, FormationError::LostFormation { local, cluster });
            }
            Stage::Waiting {
                promises,
                blocked_by,
            } => {
                let gatherer = first_entry.gatherer();
                if !gatherer.is_some_and(|gatherer| promises.include(gatherer)) {
                    self.fail(now, FormationError::LostFormation { local, cluster });
                } else if promises.current.is_none() || promises.current == gatherer {
                    self.adopt(from, first_entry);
                } else {
                    *blocked_by = Some((from, cluster));
                }
            }
            Stage::Formed { first_entry, .. } => {
                let cluster = Some(first_entry.cluster());
                self.send(from, AdoptResponse { cluster }.into());
            }
            Stage::Abandoned { .. } | Stage::Failing { .. } | Stage::Failed => {}
        }
    }

    fn adopt(&mut self, from: NodeId, first_entry: FirstEntry) {
        let cluster = Some(first_entry.cluster());
        let record = Record::Formed(first_entry, LogState::Pending);
        self.write(record, Some((from, AdoptResponse { cluster }.into())));
    }

    pub(super) fn form_if_complete(&mut self) {
        let (Stage::Gathering { answers }, Start::Form(voters)) = (&self.stage, &self.start) else {
            return;
        };
        // `answers` holds other voters only, each once.
        if answers.len() + 1 < voters.as_slice().len() {
            return;
        }
        let mut incarnations = answers.clone();
        incarnations.insert(self.local.node, self.local.incarnation);
        let first_entry = FirstEntry::of(&voters.with_incarnations(&incarnations));
        self.write(Record::Formed(first_entry, LogState::Pending), None);
    }

    pub(super) fn abandon(&mut self, evidence: Evidence) {
        self.write(Record::Abandoned(evidence), None);
    }

    pub(super) fn other_voters(&mut self, now: Time, peer: NodeId, theirs: Vec<(NodeId, String)>) {
        let there = InitialVoters::unchecked(theirs);
        match (&self.stage, &self.start) {
            (Stage::Gathering { .. } | Stage::Waiting { .. }, Start::Form(voters)) => {
                let here = voters.clone();
                self.fail(now, FormationError::OtherVoters { peer, here, there });
            }
            (Stage::Joining, _) => {
                let note = format!("{peer} waits to form a cluster of {there}");
                self.note(peer, note);
            }
            (Stage::Gathering { .. } | Stage::Waiting { .. }, Start::Join)
            | (Stage::Abandoned { .. } | Stage::Formed { .. }, _)
            | (Stage::Failing { .. } | Stage::Failed, _) => {}
        }
    }

    pub(super) fn fail(&mut self, now: Time, error: FormationError) {
        let until = now.plus_ms(FLUSH_MS);
        self.stage = Stage::Failing { error, until };
    }
}
