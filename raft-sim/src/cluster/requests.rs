//! Commands and queries, from the scenario itself or from simulated clients, and their answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use raft_node::driver::{Input, ProposalWaiter, QueryWaiter, ReadConsistency};
use raft_node::{ProposeError, ReadError, TransferError};
use raft_proto::{LogPosition, NodeId};

use super::node::ProcessId;
use super::{Cluster, Event};
use crate::client::{CallError, Request, WaitId};
use crate::network::Direction;

/// Names a request of the scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// A command that has a place in the log, but perhaps no outcome yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// Where it stands, if it is committed.
    pub position: LogPosition,
    /// For [`Cluster::outcome`].
    pub ticket: Ticket,
}

/// Who gets an answer.
#[derive(Clone, Copy, Debug)]
enum Addressee {
    Scenario(Ticket),
    Client {
        client: u64,
        wait: WaitId,
    },
    /// Nobody who does anything with it.
    Nobody,
}

struct Answer {
    from: ProcessId,
    to: Addressee,
    outcome: Result<Bytes, CallError>,
}

/// Answers that nodes have given and the world has not looked at. Waiters may be called from any
/// thread in a real node, hence the lock; here it is never contended.
#[derive(Clone, Default)]
pub(super) struct Mailbox(Arc<Mutex<Vec<Answer>>>);

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, Vec<Answer>> {
        // Every change is one push or a swap, so a panic elsewhere leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn command_waiter(&self, from: ProcessId, to: Addressee) -> ProposalWaiter {
        let mailbox = self.clone();
        ProposalWaiter::new(move |outcome| {
            let outcome = outcome.map_err(CallError::from);
            mailbox.lock().push(Answer { from, to, outcome });
        })
    }

    fn query_waiter(&self, from: ProcessId, to: Addressee) -> QueryWaiter {
        let mailbox = self.clone();
        Box::new(move |outcome: Result<Bytes, ReadError>| {
            let outcome = outcome.map_err(CallError::from);
            mailbox.lock().push(Answer { from, to, outcome });
        })
    }
}

/// Requests of the scenario.
#[derive(Default)]
pub(super) struct Tickets {
    last: u64,
    outcomes: BTreeMap<Ticket, Result<Bytes, CallError>>,
}

impl Tickets {
    fn next(&mut self) -> Ticket {
        self.last += 1;
        Ticket(self.last)
    }
}

impl Cluster {
    /// Proposes a command at a node, at once and without a network in between: `Start` of MIT
    /// 6.824. The reply of the state machine comes later as [`Cluster::outcome`].
    ///
    /// # Errors
    /// [`ProposeError`] if the command gets no place in the log; [`ProposeError::ShutDown`] if the
    /// node does not run.
    pub fn propose(&mut self, node: NodeId, command: Bytes) -> Result<Proposed, ProposeError> {
        let (mailbox, ticket) = (self.mailbox.clone(), self.tickets.next());
        let position = Arc::new(Mutex::new(None));
        let Some(process) = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut()) else {
            return Err(ProposeError::ShutDown);
        };
        let id = process.id;
        let accepted = Arc::clone(&position);
        let waiter = mailbox
            .command_waiter(id, Addressee::Scenario(ticket))
            .with_position(move |at| {
                *accepted.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
            });
        let local = process.clock.local(self.now);
        process
            .driver
            .handle(local, Input::Propose { command, waiter });
        self.schedule_step(id);
        self.deliver_answers();
        let position = *position.lock().unwrap_or_else(PoisonError::into_inner);
        match position {
            Some(position) => Ok(Proposed { position, ticket }),
            None => match self.tickets.outcomes.remove(&ticket) {
                Some(Err(CallError::Propose(error))) => Err(error),
                outcome => panic!("{node} neither accepts nor refuses a command: {outcome:?}"),
            },
        }
    }

    /// Asks a node for something; the answer comes later as [`Cluster::outcome`]. A node that does
    /// not run never answers.
    pub fn query(&mut self, node: NodeId, query: Bytes, consistency: ReadConsistency) -> Ticket {
        let ticket = self.tickets.next();
        if let Some(id) = self.running(node) {
            let waiter = self.mailbox.query_waiter(id, Addressee::Scenario(ticket));
            let input = Input::Read {
                query,
                consistency,
                waiter,
            };
            self.give(id, input);
        }
        ticket
    }

    /// What a flood is made of: a command and a query that any state accepts.
    pub fn set_probes(&mut self, command: Bytes, query: Bytes) {
        self.probes = (command, query);
    }

    /// Asks a node for so many writes and as many linearizable reads at once, whatever comes of it.
    pub fn flood(&mut self, node: NodeId, count: u64) {
        let Some(id) = self.running(node) else {
            return;
        };
        let (command, query) = self.probes.clone();
        for _ in 0..count {
            let (command, query) = (command.clone(), query.clone());
            let waiter = self.mailbox.command_waiter(id, Addressee::Nobody);
            self.give(id, Input::Propose { command, waiter });
            let consistency = ReadConsistency::Linearizable;
            let waiter = self.mailbox.query_waiter(id, Addressee::Nobody);
            let read = Input::Read {
                query,
                consistency,
                waiter,
            };
            self.give(id, read);
        }
    }

    /// Asks a node to hand its leadership to another one; the outcome is an event in the trace and
    /// shows in [`Cluster::leader`].
    ///
    /// # Errors
    /// [`TransferError::ShutDown`] if the node does not run; what the node says later is not
    /// reported.
    pub fn transfer_leadership(&mut self, node: NodeId, to: NodeId) -> Result<(), TransferError> {
        let id = self.running(node).ok_or(TransferError::ShutDown)?;
        let waiter = Box::new(|_outcome| {});
        self.give(id, Input::Transfer { to, waiter });
        Ok(())
    }

    /// What became of a request; `None` while that is not known.
    #[must_use]
    pub fn outcome(&self, ticket: Ticket) -> Option<&Result<Bytes, CallError>> {
        self.tickets.outcomes.get(&ticket)
    }

    pub(super) fn take_client_request(
        &mut self,
        (client, wait): (u64, WaitId),
        node: NodeId,
        request: Request,
    ) {
        let Some(id) = self.running(node) else {
            return;
        };
        let to = Addressee::Client { client, wait };
        let input = match request {
            Request::Write(command) => {
                self.record(node, "takes", "write", &[("client", client)]);
                let waiter = self.mailbox.command_waiter(id, to);
                Input::Propose { command, waiter }
            }
            Request::Read(query, consistency) => {
                self.record(node, "takes", "read", &[("client", client)]);
                let waiter = self.mailbox.query_waiter(id, to);
                Input::Read {
                    query,
                    consistency,
                    waiter,
                }
            }
        };
        self.give(id, input);
    }

    /// Hands out the answers that nodes have given.
    pub(super) fn deliver_answers(&mut self) {
        let answers = std::mem::take(&mut *self.mailbox.lock());
        for Answer { from, to, outcome } in answers {
            match to {
                Addressee::Scenario(ticket) => {
                    self.tickets.outcomes.insert(ticket, outcome);
                }
                Addressee::Nobody => {
                    if let Err(error) = &outcome {
                        self.mark_outcome(error);
                    }
                }
                // The dead do not talk: what a crash drops never reaches a client.
                Addressee::Client { .. } if self.process(from).is_none() => {}
                Addressee::Client { client, wait } => {
                    if let Err(error) = &outcome {
                        self.mark_outcome(error);
                    }
                    let is_ok = u64::from(outcome.is_ok());
                    let numbers = [("client", client), ("ok", is_ok)];
                    self.record(from.node, "answers", "", &numbers);
                    let answer = outcome;
                    self.travel(
                        client,
                        Direction::Reply,
                        Event::ClientReply { wait, answer },
                    );
                }
            }
        }
    }

    pub(super) fn running(&self, node: NodeId) -> Option<ProcessId> {
        let process = self.nodes.get(&node)?.process.as_ref()?;
        Some(process.id)
    }
}
