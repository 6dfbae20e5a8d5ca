//! The node thread's inbox: bounded for what comes from outside, wake-driven, drained whole.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use raft_proto::{NodeId, Refusal};
use tokio::sync::Notify;

use crate::driver::Input;
use crate::machine::StateMachine;
use crate::metrics::{InboxDepth, Recorder};

/// What the node thread is told besides the driver's inputs.
pub(crate) enum Notice {
    /// For the driver.
    Input(Input),
    /// The state machine comes back from being restored.
    Machine(Box<dyn StateMachine>),
    /// A thread of the node met an error that nothing may be acknowledged after.
    Failed(crate::error::FatalError),
    /// A peer refuses this node.
    Refused {
        /// The peer.
        peer: NodeId,
        /// Why.
        refusal: Refusal,
    },
    /// Stop, in order.
    Stop,
}

/// Why something was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The inbox is full.
    Full,
    /// The node has stopped.
    Closed,
}

#[derive(Default)]
struct Queue {
    notices: Vec<Notice>,
    /// Bytes of commands and queries waiting.
    request_bytes: usize,
    /// When the first of what waits came in.
    since: Option<Instant>,
    /// Requests that were refused because too much waited.
    refused: u64,
    /// Messages that were dropped because too much waited.
    dropped: u64,
    is_closed: bool,
}

/// Filled by transport, clients and the node's other threads; emptied by the node thread. The
/// lock is held for a push or a swap only, never across an await.
pub(crate) struct Inbox {
    queue: Mutex<Queue>,
    wake: Notify,
    max_notices: usize,
    max_request_bytes: usize,
    recorder: Arc<Recorder>,
}

impl Inbox {
    pub(crate) fn new(
        max_notices: usize,
        max_request_bytes: usize,
        recorder: Arc<Recorder>,
    ) -> Self {
        Self {
            queue: Mutex::default(),
            wake: Notify::new(),
            max_notices,
            max_request_bytes,
            recorder,
        }
    }

    /// How much waits, and what was refused so far.
    pub(crate) fn depth(&self) -> InboxDepth {
        let queue = self.lock();
        InboxDepth {
            waiting: queue.notices.len() as u64,
            waiting_bytes: queue.request_bytes as u64,
            refused: queue.refused,
            dropped: queue.dropped,
        }
    }

    /// A client's request of this many bytes; refused when too much waits. A refused input is
    /// handed back so that its waiter can be answered.
    pub(crate) fn push_request(
        &self,
        input: Input,
        bytes: usize,
    ) -> Result<(), Box<(Refused, Input)>> {
        let mut queue = self.lock();
        if queue.is_closed {
            return Err(Box::new((Refused::Closed, input)));
        }
        let is_full = queue.notices.len() >= self.max_notices
            || queue.request_bytes.saturating_add(bytes) > self.max_request_bytes;
        if is_full && bytes > 0 {
            queue.refused += 1;
            return Err(Box::new((Refused::Full, input)));
        }
        queue.request_bytes += bytes;
        self.push(queue, Notice::Input(input));
        Ok(())
    }

    /// A peer's message; dropped when too much waits, which Raft repairs.
    pub(crate) fn push_message(&self, input: Input) -> Result<(), Refused> {
        let mut queue = self.lock();
        if queue.is_closed {
            return Err(Refused::Closed);
        }
        if queue.notices.len() >= self.max_notices {
            queue.dropped += 1;
            return Err(Refused::Full);
        }
        self.push(queue, Notice::Input(input));
        Ok(())
    }

    /// From the node's own threads: never refused, bounded by what they were given to do.
    pub(crate) fn push_notice(&self, notice: Notice) {
        let queue = self.lock();
        if !queue.is_closed {
            self.push(queue, notice);
        }
    }

    /// Waits until there is something, and swaps it with the empty `into`.
    pub(crate) async fn take(&self, into: &mut Vec<Notice>) {
        loop {
            if self.try_take(into) {
                return;
            }
            self.wake.notified().await;
        }
    }

    /// Swaps what is there with the empty `into`; false if there is nothing.
    pub(crate) fn try_take(&self, into: &mut Vec<Notice>) -> bool {
        assert!(into.is_empty(), "what was taken has been handled");
        let mut queue = self.lock();
        std::mem::swap(&mut queue.notices, into);
        queue.request_bytes = 0;
        let since = queue.since.take();
        drop(queue);
        if let Some(since) = since {
            self.recorder.inbox_wait.record_duration(since.elapsed());
        }
        !into.is_empty()
    }

    /// The first failure among what waits; everything before it is dropped.
    pub(crate) fn take_failure(&self) -> Option<crate::error::FatalError> {
        let waiting = std::mem::take(&mut self.lock().notices);
        waiting.into_iter().find_map(|notice| match notice {
            Notice::Failed(error) => Some(error),
            Notice::Input(_) | Notice::Machine(_) | Notice::Refused { .. } | Notice::Stop => None,
        })
    }

    /// Drops what waits: that tells every waiter that nothing more comes of it.
    pub(crate) fn discard(&self) {
        let waiting = std::mem::take(&mut self.lock().notices);
        drop(waiting);
    }

    /// Refuses everything from now on.
    pub(crate) fn close(&self) {
        self.lock().is_closed = true;
    }

    fn push(&self, mut queue: MutexGuard<'_, Queue>, notice: Notice) {
        let was_empty = queue.notices.is_empty();
        if was_empty {
            queue.since = Some(Instant::now());
        }
        queue.notices.push(notice);
        drop(queue);
        // The taker looks before it sleeps, so only the first one needs to wake it.
        if was_empty {
            self.wake.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // A panic elsewhere leaves the queue as it was: every change to it is one push or swap.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
