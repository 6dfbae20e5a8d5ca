//! The handle of a running node: MIT 6.824's `Make`, `Start`, `GetState` and `Kill` in Rust.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use raft_proto::{LogPosition, NodeId, SnapshotDescription};
use tokio::sync::{oneshot, watch};

use crate::config::{Parts, RaftConfig, StartError};
use crate::driver::{
    ComparisonOutcome, Input, PartName, ProposalWaiter, QueryWaiter, ReadConsistency,
};
use crate::error::{FatalError, ProposeError, ReadError, SnapshotError, TransferError};
use crate::inbox::{Inbox, Notice, Refused};
use crate::metrics::{Metrics, Recorder};
use crate::refusals::{Refusals, RefusedBy};
use crate::runtime::{self, Shared};
use crate::state::NodeState;

/// One running member of a group. Cheap to clone; all clones mean the same node.
///
/// The node runs until [`Raft::shutdown`] or a [`FatalError`]; dropping the last handle does not
/// stop it.
#[derive(Clone)]
pub struct Raft {
    pub(crate) inbox: Arc<Inbox>,
    state: watch::Receiver<NodeState>,
    recorder: Arc<Recorder>,
    id: NodeId,
    refusals: Arc<Refusals>,
}

/// A command that has a place in the log, but perhaps no outcome yet.
#[derive(Debug)]
pub struct Proposal {
    /// Where it stands, if it is committed.
    pub position: LogPosition,
    outcome: oneshot::Receiver<Result<Bytes, ProposeError>>,
}

impl Proposal {
    /// Waits for the state machine's reply.
    ///
    /// # Errors
    /// [`ProposeError`]; it always ends, at the latest after the configured request timeout.
    pub async fn outcome(self) -> Result<Bytes, ProposeError> {
        self.outcome.await.unwrap_or(Err(ProposeError::Unknown))
    }
}

impl Raft {
    /// Starts a node and returns at once; what takes longer (recovery, forming the cluster) goes
    /// on in the background and shows in [`Raft::state`].
    ///
    /// # Errors
    /// [`StartError`] if the configuration cannot work or a thread cannot be started.
    pub fn start(config: RaftConfig, parts: Parts) -> Result<Self, StartError> {
        config.validate()?;
        let recorder = Arc::<Recorder>::default();
        let inbox = Arc::new(Inbox::new(
            config.max_inbox_notices,
            config.max_inbox_request_bytes,
            Arc::clone(&recorder),
        ));
        let refusals = Arc::<Refusals>::default();
        let id = config.core.id;
        let shared = Shared {
            inbox: Arc::clone(&inbox),
            recorder: Arc::clone(&recorder),
            refusals: Arc::clone(&refusals),
        };
        let state = runtime::spawn(config, parts, shared)?;
        Ok(Self {
            inbox,
            state,
            recorder,
            id,
            refusals,
        })
    }

    /// Proposes a command. Returns as soon as it has a position in the log (6.824's `Start`); the
    /// reply is [`Proposal::outcome`].
    ///
    /// # Errors
    /// [`ProposeError`], if the command gets no position.
    pub async fn propose(&self, command: Bytes) -> Result<Proposal, ProposeError> {
        let (accepted, position) = oneshot::channel();
        let (decided, outcome) = oneshot::channel();
        // A receiver that is gone no longer cares.
        let waiter = ProposalWaiter::new(move |outcome| drop(decided.send(outcome))).with_position(
            move |position| {
                let _ = accepted.send(position);
            },
        );
        self.submit(command, waiter);
        match position.await {
            Ok(position) => Ok(Proposal { position, outcome }),
            // Refused: the waiter was told why and dropped the position's sender.
            Err(_) => match outcome.await {
                Ok(Err(error)) => Err(error),
                Ok(Ok(_)) | Err(_) => Err(ProposeError::Unknown),
            },
        }
    }

    /// Proposes a command without a future: `reply` runs once, on one of the node's threads, and
    /// must not block. For servers, where a task per request would cost more than the request.
    pub fn propose_with(
        &self,
        command: Bytes,
        reply: impl FnOnce(Result<Bytes, ProposeError>) + Send + 'static,
    ) {
        self.submit(command, ProposalWaiter::new(reply));
    }

    /// Reads from the state machine.
    ///
    /// # Errors
    /// [`ReadError`]; the read can be retried here or elsewhere.
    pub async fn read(
        &self,
        query: Bytes,
        consistency: ReadConsistency,
    ) -> Result<Bytes, ReadError> {
        let (answered, answer) = oneshot::channel();
        self.read_with(query, consistency, move |result| {
            drop(answered.send(result))
        });
        answer.await.unwrap_or(Err(ReadError::ShutDown))
    }

    /// Reads without a future; `reply` runs once, on one of the node's threads, and must not block.
    pub fn read_with(
        &self,
        query: Bytes,
        consistency: ReadConsistency,
        reply: impl FnOnce(Result<Bytes, ReadError>) + Send + 'static,
    ) {
        let bytes = query.len().max(1);
        let waiter: QueryWaiter = Box::new(reply);
        let input = Input::Read {
            query,
            consistency,
            waiter,
        };
        let Err(refused) = self.inbox.push_request(input, bytes) else {
            return;
        };
        if let (refused, Input::Read { waiter, .. }) = *refused {
            waiter(Err(match refused {
                Refused::Full => ReadError::Overloaded,
                Refused::Closed => ReadError::ShutDown,
            }));
        }
    }

    /// Hands leadership to a voter and waits until it leads (thesis §3.10).
    ///
    /// # Errors
    /// [`TransferError`]; this node then leads on, unless it says otherwise.
    pub async fn transfer_leadership(&self, to: NodeId) -> Result<(), TransferError> {
        let (done, outcome) = oneshot::channel();
        let waiter = Box::new(move |result| drop(done.send(result)));
        // Refused or dropped: the sender is gone, and the wait ends.
        drop(self.inbox.push_request(Input::Transfer { to, waiter }, 0));
        outcome.await.unwrap_or(Err(TransferError::ShutDown))
    }

    /// Takes a snapshot of what is applied now, and waits until it is durable; the newest one if
    /// nothing was applied since. Commands go on meanwhile.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub async fn take_snapshot(&self) -> Result<SnapshotDescription, SnapshotError> {
        let (done, outcome) = oneshot::channel();
        let waiter = Box::new(move |result| drop(done.send(result)));
        // Refused or dropped: the sender is gone, and the wait ends.
        drop(self.inbox.push_request(Input::TakeSnapshot { waiter }, 0));
        outcome.await.unwrap_or(Err(SnapshotError::ShutDown))
    }

    /// Has the replicas compared, and waits for what the members report; only the leader can start
    /// that. Writes and reads go on meanwhile.
    ///
    /// # Errors
    /// [`ProposeError`]; [`ProposeError::Unknown`] if the comparison was not committed in time.
    pub async fn compare_replicas(&self) -> Result<ComparisonOutcome, ProposeError> {
        let (done, outcome) = oneshot::channel();
        let waiter = Box::new(move |result| drop(done.send(result)));
        // Refused or dropped: the sender is gone, and the wait ends.
        drop(
            self.inbox
                .push_request(Input::CompareReplicas { waiter }, 0),
        );
        outcome.await.unwrap_or(Err(ProposeError::ShutDown))
    }

    /// Reads at most `max_bytes` of a stored snapshot's file from `offset` on; also gives the
    /// file's length. The file is what [`raft_log::snapshot`] verifies and restores. `None` if the
    /// snapshot is not here: it stays for half a minute after the last read, whatever is taken
    /// since.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub async fn read_snapshot(
        &self,
        last_included: LogPosition,
        offset: u64,
        max_bytes: u32,
    ) -> Result<Option<(Bytes, u64)>, SnapshotError> {
        let (done, outcome) = oneshot::channel();
        let waiter = Box::new(move |result| drop(done.send(result)));
        let part = PartName {
            last_included,
            offset,
            max_bytes,
        };
        let input = Input::ReadSnapshot { part, waiter };
        drop(self.inbox.push_request(input, 0));
        outcome.await.unwrap_or(Err(SnapshotError::ShutDown))
    }

    /// What the node knows of its group now; `None` while it is forming or after it stopped.
    pub async fn status(&self) -> Option<crate::Status> {
        let (send, status) = oneshot::channel();
        let waiter = Box::new(move |status| drop(send.send(status)));
        let log_bytes = self.recorder.log_bytes.load(Ordering::Relaxed);
        drop(
            self.inbox
                .push_request(Input::Status { log_bytes, waiter }, 0),
        );
        status.await.ok()
    }

    /// The peers that refuse this node at the moment, each with what that means; forming or running.
    #[must_use]
    pub fn refusals(&self) -> Vec<RefusedBy> {
        self.refusals.all(self.id)
    }

    /// What the node has measured so far. Costs it nothing and never waits for it.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.recorder.read(self.inbox.depth())
    }

    /// Whether it is forming a cluster, running or stopped.
    #[must_use]
    pub fn state(&self) -> NodeState {
        self.state.borrow().clone()
    }

    /// Waits until the state is one that `wanted` accepts, or the node has stopped; returns it.
    pub async fn wait_for(&self, mut wanted: impl FnMut(&NodeState) -> bool) -> NodeState {
        let mut state = self.state.clone();
        let reached =
            state.wait_for(|state| matches!(state, NodeState::Stopped(_)) || wanted(state));
        match reached.await {
            Ok(state) => state.clone(),
            // The node thread ended without a word: it panicked.
            Err(_) => NodeState::Stopped(Some(FatalError::Thread("main"))),
        }
    }

    /// Stops the node and waits until it has: waiting calls end with what is known, connections
    /// are closed, the data directory is free again. A leader hands over first where it can.
    ///
    /// # Errors
    /// The error the node had stopped with before, if it had.
    pub async fn shutdown(&self) -> Result<(), FatalError> {
        self.inbox.push_notice(Notice::Stop);
        match self.wait_for(|_| false).await {
            NodeState::Stopped(Some(error)) => Err(error),
            NodeState::Stopped(None) | NodeState::Running { .. } | NodeState::Forming { .. } => {
                Ok(())
            }
        }
    }

    fn submit(&self, command: Bytes, waiter: ProposalWaiter) {
        let bytes = command.len().max(1);
        let input = Input::Propose { command, waiter };
        let Err(refused) = self.inbox.push_request(input, bytes) else {
            return;
        };
        if let (refused, Input::Propose { waiter, .. }) = *refused {
            waiter.decide(Err(match refused {
                Refused::Full => ProposeError::Overloaded,
                Refused::Closed => ProposeError::ShutDown,
            }));
        }
    }
}
