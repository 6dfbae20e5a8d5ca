//! Simulated clients: plain async code that runs in virtual time, on a tiny executor of its own.
//!
//! A client sends requests to nodes over links that delay and lose them, and waits with timeouts,
//! like a real one. Wake-ups come from the world's agenda only, so a run is deterministic.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use raft_core::Time;
use raft_node::driver::ReadConsistency;
use raft_node::{ProposeError, ReadError};
use raft_proto::NodeId;
use thiserror::Error;

use crate::random::{Random, Stream};

/// Why a request of a client was not answered with a reply of the state machine.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CallError {
    /// No answer came in time: a write may take effect, now or later.
    #[error("no answer came in time")]
    TimedOut,
    /// The node refused the command, or does not know what became of it.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The node could not answer the query.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// What a client asks of a node.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Write(Bytes),
    Read(Bytes, ReadConsistency),
}

/// Names one wait of a client: for an answer, for time to pass, or both.
pub(crate) type WaitId = u64;

/// What clients want from the world.
pub(crate) enum Wish {
    Send {
        wait: WaitId,
        client: u64,
        node: NodeId,
        request: Request,
    },
    Wake {
        wait: WaitId,
        at: Time,
    },
}

/// What a wait ended with.
enum Ending {
    TimePassed,
    Answered(Result<Bytes, CallError>),
}

#[derive(Default)]
struct Wait {
    ending: Option<Ending>,
    waker: Option<Waker>,
}

/// What clients and world share.
#[derive(Default)]
struct Shared {
    now: Cell<Time>,
    next_wait: Cell<WaitId>,
    wishes: RefCell<Vec<Wish>>,
    waits: RefCell<BTreeMap<WaitId, Wait>>,
}

/// A client inside the world; given to the code that plays it.
///
/// See [`crate::Cluster::spawn`] for an example.
pub struct SimClient {
    id: u64,
    shared: Rc<Shared>,
    random: RefCell<Random>,
}

impl SimClient {
    /// Which client this is: they are numbered from 1.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Virtual time.
    #[must_use]
    pub fn now(&self) -> Time {
        self.shared.now.get()
    }

    /// Draws from this client's own stream.
    pub fn draw<T>(&self, draw: impl FnOnce(&mut Random) -> T) -> T {
        draw(&mut self.random.borrow_mut())
    }

    /// Waits.
    pub async fn sleep_ms(&self, ms: u64) {
        let wait = self.begin_wait();
        self.wake_at(wait, ms);
        // Nothing but time ends this wait.
        self.wait(wait).await;
    }

    /// Sends a command to a node and waits for the state machine's reply.
    ///
    /// # Errors
    /// [`CallError`]; after [`CallError::TimedOut`] and [`ProposeError::Unknown`] the command may
    /// take effect nevertheless.
    pub async fn write(
        &self,
        node: NodeId,
        command: Bytes,
        timeout_ms: u64,
    ) -> Result<Bytes, CallError> {
        self.call(node, Request::Write(command), timeout_ms).await
    }

    /// Sends a query to a node and waits for the answer.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn read(
        &self,
        node: NodeId,
        query: Bytes,
        consistency: ReadConsistency,
        timeout_ms: u64,
    ) -> Result<Bytes, CallError> {
        self.call(node, Request::Read(query, consistency), timeout_ms)
            .await
    }

    async fn call(
        &self,
        node: NodeId,
        request: Request,
        timeout_ms: u64,
    ) -> Result<Bytes, CallError> {
        let wait = self.begin_wait();
        self.shared.wishes.borrow_mut().push(Wish::Send {
            wait,
            client: self.id,
            node,
            request,
        });
        self.wake_at(wait, timeout_ms);
        match self.wait(wait).await {
            Ending::Answered(answer) => answer,
            Ending::TimePassed => Err(CallError::TimedOut),
        }
    }

    fn begin_wait(&self) -> WaitId {
        let wait = self.shared.next_wait.get() + 1;
        self.shared.next_wait.set(wait);
        self.shared.waits.borrow_mut().insert(wait, Wait::default());
        wait
    }

    fn wake_at(&self, wait: WaitId, after_ms: u64) {
        let at = self.now().plus_ms(after_ms);
        self.shared
            .wishes
            .borrow_mut()
            .push(Wish::Wake { wait, at });
    }

    fn wait(&self, wait: WaitId) -> Waiting {
        Waiting {
            wait,
            shared: Rc::clone(&self.shared),
        }
    }
}

/// Ends with the first thing that ends the wait.
struct Waiting {
    wait: WaitId,
    shared: Rc<Shared>,
}

impl Future for Waiting {
    type Output = Ending;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Ending> {
        let mut waits = self.shared.waits.borrow_mut();
        let wait = waits.entry(self.wait).or_default();
        match wait.ending.take() {
            Some(ending) => Poll::Ready(ending),
            None => {
                wait.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.shared.waits.borrow_mut().remove(&self.wait);
    }
}

/// Tasks that can go on, in the order in which they were woken.
#[derive(Default)]
struct ReadyQueue(Mutex<VecDeque<usize>>);

impl ReadyQueue {
    fn lock(&self) -> MutexGuard<'_, VecDeque<usize>> {
        // Every change is one push or pop, so a panic elsewhere leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct TaskWaker {
    task: usize,
    ready: Arc<ReadyQueue>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready.lock().push_back(self.task);
    }
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// All clients of a world.
pub(crate) struct Clients {
    seed: u64,
    shared: Rc<Shared>,
    tasks: Vec<Option<Task>>,
    ready: Arc<ReadyQueue>,
    running: usize,
}

impl Clients {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            shared: Rc::default(),
            tasks: Vec::new(),
            ready: Arc::default(),
            running: 0,
        }
    }

    pub(crate) fn spawn<F, T>(&mut self, play: F) -> u64
    where
        F: FnOnce(SimClient) -> T,
        T: Future<Output = ()> + 'static,
    {
        let task = self.tasks.len();
        let id = task as u64 + 1;
        let client = SimClient {
            id,
            shared: Rc::clone(&self.shared),
            random: RefCell::new(Random::stream(self.seed, Stream::Client(id))),
        };
        self.tasks.push(Some(Box::pin(play(client))));
        self.running += 1;
        self.ready.lock().push_back(task);
        id
    }

    /// How many clients have not finished.
    pub(crate) fn running(&self) -> usize {
        self.running
    }

    pub(crate) fn answer(&self, wait: WaitId, answer: Result<Bytes, CallError>) {
        self.end(wait, Ending::Answered(answer));
    }

    pub(crate) fn time_passed(&self, wait: WaitId) {
        self.end(wait, Ending::TimePassed);
    }

    /// The first ending counts; waits that nobody waits for any more are gone.
    fn end(&self, wait: WaitId, ending: Ending) {
        if let Some(wait) = self.shared.waits.borrow_mut().get_mut(&wait)
            && wait.ending.is_none()
        {
            wait.ending = Some(ending);
            if let Some(waker) = wait.waker.take() {
                waker.wake();
            }
        }
    }

    /// Lets every client go on that can; returns what they want.
    pub(crate) fn run(&mut self, now: Time) -> Vec<Wish> {
        self.shared.now.set(now);
        loop {
            let next = self.ready.lock().pop_front();
            let Some(task) = next else {
                break;
            };
            let waker = Waker::from(Arc::new(TaskWaker {
                task,
                ready: Arc::clone(&self.ready),
            }));
            let Some(future) = &mut self.tasks[task] else {
                continue;
            };
            if future
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_ready()
            {
                self.tasks[task] = None;
                self.running -= 1;
            }
        }
        std::mem::take(&mut *self.shared.wishes.borrow_mut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_goes_on_when_its_wait_ends_and_late_answers_are_dropped() {
        let mut clients = Clients::new(1);
        let log = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&log);
        clients.spawn(|client| async move {
            let answer = client.write(NodeId(1), "a".into(), 50).await;
            seen.borrow_mut().push(answer);
            let answer = client.write(NodeId(2), "b".into(), 50).await;
            seen.borrow_mut().push(answer);
        });
        let wishes = clients.run(Time::ZERO);
        let [Wish::Send { wait: first, .. }, Wish::Wake { at, .. }] = wishes[..] else {
            panic!("a request and its timeout");
        };
        assert_eq!(at, Time::from_ms(50));
        clients.time_passed(first);
        let wishes = clients.run(at);
        let [Wish::Send { wait: second, .. }, Wish::Wake { .. }] = wishes[..] else {
            panic!("another request and its timeout");
        };
        clients.answer(first, Ok("late".into()));
        assert!(clients.run(at).is_empty());
        clients.answer(second, Ok("fine".into()));
        clients.time_passed(second);
        assert!(clients.run(at).is_empty());
        assert_eq!(clients.running(), 0);
        assert_eq!(*log.borrow(), [Err(CallError::TimedOut), Ok("fine".into())]);
        assert!(clients.shared.waits.borrow().is_empty());
    }
}
