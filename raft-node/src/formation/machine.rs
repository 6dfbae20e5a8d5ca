//! The state machine of one node that belongs to no cluster yet.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use raft_core::{PersistId, Time};
use raft_proto::{
    AdoptRequest, AdoptResponse, ClusterId, GatherAbandoned, GatherRequest, HelloResponse,
    Incarnation, Message, NodeId, Refusal,
};

use super::error::FormationError;
use super::record::{Evidence, FirstEntry, LogState, Promises, Record};
use super::voters::InitialVoters;

/// How often an unanswered message is repeated, in milliseconds.
pub const RETRY_MS: u64 = 250;
/// How long a gatherer that abandons its gathering stays to release the voters, in milliseconds.
pub const RELEASE_MS: u64 = 500;
/// How many peers are remembered as connected.
const MAX_PEERS: usize = 256;
/// How many messages wait for [`Formation::poll_transmit`]; more are dropped and repeated later.
const MAX_OUTGOING: usize = 1024;

/// Which node this is, and which life of its data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// The node.
    pub node: NodeId,
    /// The life of its data directory; durable before [`Formation::new`].
    pub incarnation: Incarnation,
}

/// What the node was started to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Form a cluster of these voters, of which it is one.
    Form(InitialVoters),
    /// Join a cluster that exists and names it, or will.
    Join,
}

/// A record to make durable in place of the one before, atomically.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persist {
    /// To be given to [`Formation::handle_persisted`].
    pub id: PersistId,
    /// The bytes, to be given to [`Formation::new`] at the next start.
    pub record: Bytes,
}

/// What the driver must do, or know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Create the log with `first_entry` as its entry with index 1 and term 1, make it durable,
    /// then call [`Formation::handle_log_created`]. If a log of this cluster exists already, a
    /// crash came between: only make that call.
    WriteFirstEntry {
        /// The entry's payload.
        first_entry: Bytes,
        /// The cluster, which is the hash of it.
        cluster: ClusterId,
    },
    /// The node belongs to the cluster and its log exists. Open it (if it is missing it was lost,
    /// and the node must not start), and hand the first entry out with a
    /// [`crate::formation::FormedResponder`].
    Formed {
        /// The payload of entry 1.
        first_entry: Bytes,
        /// The cluster.
        cluster: ClusterId,
    },
    /// The node must stop and show this error.
    Failed(FormationError),
}

/// One node that belongs to no cluster yet. See [the module](crate::formation) for the protocol.
#[derive(Debug)]
pub struct Formation {
    pub(super) local: Local,
    pub(super) start: Start,
    pub(super) stage: Stage,
    /// Peers with a connection, and who they said they are.
    pub(super) connected: BTreeMap<NodeId, Incarnation>,
    /// What is known about a peer that keeps this node waiting.
    pub(super) notes: BTreeMap<NodeId, String>,
    write: Option<Write>,
    next_persist: PersistId,
    outgoing: VecDeque<(NodeId, Message)>,
    events: VecDeque<Event>,
    retry_at: Time,
}

/// Where the node stands, by what is durable.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    /// The voter of lowest id collects answers.
    Gathering {
        answers: BTreeMap<NodeId, Incarnation>,
    },
    /// Another voter waits to be gathered, then for the first entry.
    Waiting {
        promises: Promises,
        /// Who offered which cluster while the promise to another gatherer stood against it.
        blocked_by: Option<(NodeId, ClusterId)>,
    },
    /// Started to join.
    Joining,
    /// A gatherer that will never form a cluster tells those who promised.
    Abandoned {
        evidence: Evidence,
        unreleased: BTreeSet<NodeId>,
        until: Time,
    },
    /// Belongs to a cluster.
    Formed {
        first_entry: FirstEntry,
        log: LogState,
    },
    /// Gives up at `until`.
    Failing { error: FormationError, until: Time },
    /// Has given up.
    Failed,
}

/// A record on its way to the disk. Everything that arrives meanwhile is dropped, as if lost.
#[derive(Debug)]
struct Write {
    id: PersistId,
    record: Record,
    polled: bool,
    /// Leaves once the record is durable.
    withheld: Option<(NodeId, Message)>,
}

impl Formation {
    /// Starts from what the directory says: `stored` is the last durable [`Persist::record`].
    ///
    /// # Errors
    /// [`FormationError`] if the directory and the way it was started do not fit.
    pub fn new(
        local: Local,
        start: Start,
        stored: Option<&[u8]>,
        now: Time,
    ) -> Result<Self, FormationError> {
        let record = match stored {
            Some(bytes) => Record::decode(bytes)?,
            None => Record::Unformed(Promises::default()),
        };
        let mut formation = Self {
            local,
            start,
            stage: Stage::Joining,
            connected: BTreeMap::new(),
            notes: BTreeMap::new(),
            write: None,
            next_persist: PersistId(1),
            outgoing: VecDeque::new(),
            events: VecDeque::new(),
            retry_at: now,
        };
        formation.check_start(&record)?;
        formation.enter(now, record);
        Ok(formation)
    }

    /// A connection to a peer is up, both hellos exchanged and admitted. `incarnation` is the one
    /// in its hello. Messages of an earlier connection to the peer must not be delivered any more.
    pub fn handle_peer_up(&mut self, peer: NodeId, incarnation: Incarnation) {
        let known = self.connected.contains_key(&peer);
        if peer == self.local.node || (!known && self.connected.len() >= MAX_PEERS) {
            return;
        }
        self.connected.insert(peer, incarnation);
        self.notes.remove(&peer);
        if let Stage::Gathering { answers } = &mut self.stage
            && answers.get(&peer) != Some(&incarnation)
        {
            // Its directory was wiped after it answered: the answer is nobody's.
            answers.remove(&peer);
        }
        if self.write.is_none() {
            self.send_again_to(peer);
        }
    }

    /// The connection to a peer is gone.
    pub fn handle_peer_down(&mut self, peer: NodeId) {
        self.connected.remove(&peer);
    }

    /// A peer answered our hello with a refusal, or later sent one as a message.
    pub fn handle_refused(&mut self, now: Time, peer: NodeId, refusal: &Refusal) {
        if self.write.is_some() {
            return; // The transport tries again, and is refused again.
        }
        let is_member = match refusal {
            Refusal::WrongIncarnation { .. } | Refusal::NotAMember => true,
            Refusal::WrongCluster { .. } => true,
            // Nothing is wrong with this node; the transport tries again.
            Refusal::Unavailable | Refusal::NoCommonVersion { .. } => return,
            Refusal::OldBoot { .. } => false,
            Refusal::WrongIdentity { .. } | Refusal::WrongReceiver { .. } => false,
            Refusal::OtherVoters { .. } => false,
        };
        if let Refusal::OtherVoters { voters } = refusal {
            return self.other_voters(now, peer, voters.clone());
        }
        match &mut self.stage {
            Stage::Gathering { .. } if is_member => {
                let refusal = refusal.clone();
                self.abandon(Evidence::Refused { peer, refusal });
            }
            Stage::Joining if is_member => {
                let why = crate::admission::explain(refusal, self.local.node, peer);
                self.note(peer, why);
            }
            Stage::Gathering { .. } | Stage::Waiting { .. } | Stage::Joining => {
                let (local, refusal) = (self.local.node, refusal.clone());
                let error = FormationError::Refused {
                    local,
                    peer,
                    refusal,
                };
                self.fail(now, error);
            }
            Stage::Abandoned { unreleased, .. } => {
                if is_member {
                    unreleased.remove(&peer);
                }
            }
            Stage::Formed { .. } | Stage::Failing { .. } | Stage::Failed => {}
        }
        self.finish_if_due(now);
    }

    /// A message from a peer whose connection is up. Messages that are not about forming are
    /// ignored.
    pub fn handle_message(&mut self, now: Time, from: NodeId, message: &Message) {
        if self.write.is_some() {
            return;
        }
        if let Message::GatherRequest(request) = message {
            self.handle_gather_request(now, from, request);
        } else if let Message::GatherResponse(response) = message {
            self.handle_gather_response(now, from, response);
        } else if let Message::GatherAbandoned(abandoned) = message {
            self.handle_abandoned(now, from, abandoned.incarnation);
        } else if let Message::AdoptRequest(AdoptRequest { first_entry }) = message {
            self.handle_adopt(now, from, first_entry);
        } else if let Message::HelloResponse(HelloResponse {
            refusal: Some(refusal),
        }) = message
        {
            self.handle_refused(now, from, refusal);
        }
        self.finish_if_due(now);
    }

    /// The record is durable, and replaces the one before.
    ///
    /// # Panics
    /// If no such write was polled.
    pub fn handle_persisted(&mut self, now: Time, id: PersistId) {
        let write = self.write.take().filter(|write| write.polled);
        assert_eq!(write.as_ref().map(|write| write.id), Some(id), "not polled");
        if let Some(write) = write {
            self.enter(now, write.record);
            self.outgoing.extend(write.withheld);
        }
    }

    /// The log exists durably and starts with the first entry ([`Event::WriteFirstEntry`]).
    ///
    /// # Panics
    /// If that event was not given out.
    pub fn handle_log_created(&mut self) {
        let Stage::Formed { first_entry, log } = &self.stage else {
            panic!("no log was asked for");
        };
        assert_eq!(*log, LogState::Pending, "the log exists already");
        let record = Record::Formed(first_entry.clone(), LogState::Created);
        self.write(record, None);
    }

    /// [`Formation::poll_timeout`] has passed.
    pub fn handle_timeout(&mut self, now: Time) {
        if now >= self.retry_at && self.write.is_none() {
            let peers: Vec<NodeId> = self.connected.keys().copied().collect();
            for peer in peers {
                self.send_again_to(peer);
            }
            self.retry_at = now.plus_ms(RETRY_MS);
        }
        self.finish_if_due(now);
    }

    /// When to call [`Formation::handle_timeout`]; `None` if there is nothing to wait for.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        if self.write.is_some() {
            return None;
        }
        match &self.stage {
            Stage::Gathering { .. } | Stage::Waiting { .. } | Stage::Joining => Some(self.retry_at),
            Stage::Abandoned { until, .. } => Some(self.retry_at.min(*until)),
            Stage::Failing { until, .. } => Some(*until),
            Stage::Formed { .. } | Stage::Failed => None,
        }
    }

    /// The next record to make durable. One at a time.
    pub fn poll_persist(&mut self) -> Option<Persist> {
        let write = self.write.as_mut().filter(|write| !write.polled)?;
        write.polled = true;
        let (id, record) = (write.id, write.record.encode());
        Some(Persist { id, record })
    }

    /// The next message to send. It may leave at once: what it promises is durable.
    pub fn poll_transmit(&mut self) -> Option<(NodeId, Message)> {
        self.outgoing.pop_front()
    }

    /// The next thing to do or to know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn check_start(&self, record: &Record) -> Result<(), FormationError> {
        let local = self.local.node;
        match (&self.start, record) {
            (Start::Form(voters), Record::Formed(first_entry, LogState::Pending)) => {
                let Local { node, incarnation } = self.local;
                let cluster = first_entry.cluster();
                let formed = first_entry.voters();
                if formed != *voters {
                    let given = voters.clone();
                    return Err(FormationError::OtherCluster {
                        cluster,
                        formed,
                        given,
                    });
                }
                if !first_entry.names(node, incarnation) {
                    return Err(FormationError::ForeignRecord {
                        local,
                        incarnation,
                        cluster,
                    });
                }
                Ok(())
            }
            (Start::Join, Record::Unformed(promises)) => match promises.current {
                Some(gatherer) => Err(FormationError::Promised { local, gatherer }),
                None => Ok(()),
            },
            (Start::Form(_), Record::Unformed(_))
            | (Start::Form(_), Record::Formed(_, LogState::Created))
            | (_, Record::Abandoned(_))
            | (Start::Join, Record::Formed(..)) => Ok(()),
        }
    }

    /// Takes the stage that the durable record asks for.
    fn enter(&mut self, now: Time, record: Record) {
        self.retry_at = now.plus_ms(RETRY_MS);
        self.stage = match (record, &self.start) {
            (Record::Unformed(_) | Record::Abandoned(_), Start::Join) => Stage::Joining,
            (Record::Unformed(promises), Start::Form(voters)) => {
                if voters.gatherer() == self.local.node {
                    // A promise to the gatherer of another list stays in the record: this node
                    // adopts nobody's entry as long as it gathers.
                    let answers = BTreeMap::new();
                    Stage::Gathering { answers }
                } else {
                    let blocked_by = None;
                    Stage::Waiting {
                        promises,
                        blocked_by,
                    }
                }
            }
            (Record::Abandoned(evidence), Start::Form(voters)) => {
                let (Evidence::MemberFound { peer, .. } | Evidence::Refused { peer, .. }) =
                    &evidence;
                let others = voters.as_slice().iter().map(|(id, _)| *id);
                Stage::Abandoned {
                    unreleased: others
                        .filter(|id| id != peer && *id != self.local.node)
                        .collect(),
                    evidence,
                    until: now.plus_ms(RELEASE_MS),
                }
            }
            (Record::Formed(first_entry, log), Start::Form(_) | Start::Join) => {
                let (payload, cluster) = (first_entry.payload().clone(), first_entry.cluster());
                self.events.push_back(match log {
                    LogState::Pending => Event::WriteFirstEntry {
                        first_entry: payload,
                        cluster,
                    },
                    LogState::Created => Event::Formed {
                        first_entry: payload,
                        cluster,
                    },
                });
                Stage::Formed { first_entry, log }
            }
        };
        for peer in self.connected.clone().into_keys() {
            self.send_again_to(peer);
        }
        self.form_if_complete();
        self.finish_if_due(now);
    }

    pub(super) fn finish_if_due(&mut self, now: Time) {
        let error = match &self.stage {
            Stage::Failing { error, until } if now >= *until => error.clone(),
            Stage::Abandoned {
                evidence,
                unreleased,
                until,
            } if now >= *until || unreleased.is_empty() => {
                let node = self.local.node;
                let address = match &self.start {
                    Start::Form(voters) => voters.address(node).unwrap_or("ADDRESS"),
                    Start::Join => "ADDRESS",
                };
                FormationError::FormedElsewhere {
                    local: node,
                    address: address.to_string(),
                    evidence: evidence.clone(),
                    unreleased: unreleased.iter().copied().collect(),
                }
            }
            Stage::Failing { .. } | Stage::Abandoned { .. } | Stage::Failed => return,
            Stage::Gathering { .. } | Stage::Waiting { .. } => return,
            Stage::Joining | Stage::Formed { .. } => return,
        };
        self.stage = Stage::Failed;
        self.events.push_back(Event::Failed(error));
    }

    /// What this peer should hear (again) while nothing changes.
    fn send_again_to(&mut self, peer: NodeId) {
        let incarnation = self.local.incarnation;
        let message = match (&self.stage, &self.start) {
            (Stage::Gathering { answers }, Start::Form(voters)) => {
                if !voters.contains(peer) || answers.contains_key(&peer) {
                    return;
                }
                let voters = voters.as_slice().to_vec();
                let request = GatherRequest {
                    incarnation,
                    voters,
                };
                request.into()
            }
            (Stage::Abandoned { unreleased, .. }, _) if unreleased.contains(&peer) => {
                GatherAbandoned { incarnation }.into()
            }
            (Stage::Waiting { .. } | Stage::Joining, _) => AdoptResponse { cluster: None }.into(),
            (Stage::Gathering { .. }, Start::Join)
            | (Stage::Abandoned { .. } | Stage::Formed { .. }, _)
            | (Stage::Failing { .. } | Stage::Failed, _) => return,
        };
        self.send(peer, message);
    }

    /// Remembers why a peer keeps this node waiting.
    pub(super) fn note(&mut self, peer: NodeId, note: String) {
        if self.notes.len() < MAX_PEERS || self.notes.contains_key(&peer) {
            self.notes.insert(peer, note);
        }
    }

    pub(super) fn send(&mut self, to: NodeId, message: Message) {
        if self.outgoing.len() < MAX_OUTGOING {
            self.outgoing.push_back((to, message));
        }
    }

    pub(super) fn write(&mut self, record: Record, withheld: Option<(NodeId, Message)>) {
        assert!(self.write.is_none(), "one record at a time");
        let id = self.next_persist;
        self.next_persist = id.next();
        self.write = Some(Write {
            id,
            record,
            polled: false,
            withheld,
        });
    }
}
