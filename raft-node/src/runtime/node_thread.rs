//! The node's main thread: inbox, driver and transport in one single-threaded tokio runtime, so
//! that a message costs no hop between threads on its way from the socket to the core and back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use raft_core::Time;
use raft_proto::{Membership, Message, NodeId};
use tokio::task::yield_now;
use tokio::time::sleep_until;

use super::applier::{Applier, ApplierJob};
use super::forming::others;
use super::greeting::Greeter;
use super::log_writer::WriteJob;
use crate::driver::{Driver, Input, LogReadRequest, Output, SnapshotJob};
use crate::error::FatalError;
use crate::inbox::{Inbox, Notice};
use crate::transport::Transport;

/// How long an orderly stop waits for a successor: about two default election timeouts.
const HAND_OVER_MS: u64 = 1_500;

/// Monotonic time since the node started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    pub(super) fn starting_now() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    pub(super) fn now(&self) -> Time {
        // 584 years of nanoseconds fit.
        Time(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    pub(super) fn instant(&self, time: Time) -> tokio::time::Instant {
        (self.start + Duration::from_nanos(time.0)).into()
    }
}

/// Everything that the main thread holds while the node runs.
pub(super) struct NodeThread {
    pub(super) driver: Driver,
    pub(super) clock: Clock,
    pub(super) inbox: Arc<Inbox>,
    pub(super) greeter: Greeter,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) writer: Sender<WriteJob>,
    pub(super) reader: Sender<LogReadRequest>,
    pub(super) snapshotter: Sender<SnapshotJob>,
    pub(super) applier: Applier,
    /// Ends the scrub thread when it is dropped.
    pub(super) _scrubber: Sender<()>,
    /// Whom to dial while the log does not name this node.
    pub(super) join_peers: Vec<(NodeId, String)>,
}

/// Whether the node goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Serving,
    /// Asked to stop; leadership is being handed over until then.
    HandingOver {
        until: Time,
    },
}

impl NodeThread {
    /// Runs until somebody asks it to stop, or something fails for good. Whatever waits then is
    /// answered with what is known.
    pub(super) async fn run(mut self) -> Result<(), FatalError> {
        let core = self.driver.core();
        tracing::info!(
            node = core.id().0,
            term = core.term().0,
            index = core.last_position().index.0,
            applied = core.applied_index().0,
            "the log is open; the node takes part"
        );
        let outcome = self.serve().await;
        self.inbox.close();
        // A worker says what failed before its channel closes, so that is in the inbox by now.
        let outcome = match (outcome, self.inbox.take_failure()) {
            (Err(FatalError::Thread(_)), Some(cause)) => Err(cause),
            (outcome, _) => outcome,
        };
        self.inbox.discard();
        self.driver.shut_down();
        outcome
    }

    async fn serve(&mut self) -> Result<(), FatalError> {
        let mut notices = Vec::new();
        let mut mode = Mode::Serving;
        self.step()?;
        loop {
            self.wait(mode, &mut notices).await;
            let now = self.clock.now();
            for notice in notices.drain(..) {
                match notice {
                    Notice::Input(input) => {
                        let input = self.greeter.intercept(self.transport.as_ref(), input);
                        if let Some(input) = input {
                            self.driver.handle(now, input);
                        }
                    }
                    Notice::Machine(machine) => {
                        self.applier.take_back(machine, &self.inbox)?;
                    }
                    Notice::Failed(error) => {
                        self.leave(now);
                        return Err(error);
                    }
                    Notice::Refused { .. } => self.heed_refusals()?,
                    Notice::Stop => mode = self.hand_over(now, mode),
                }
            }
            self.step()?;
            if let Mode::HandingOver { until } = mode {
                // The successor commits what this node proposed, and tells it within moments.
                let is_done = !self.driver.is_leader() && !self.driver.has_undecided();
                if is_done || self.clock.now() >= until {
                    return Ok(());
                }
            }
        }
    }

    /// Waits until something comes in or a deadline passes.
    async fn wait(&self, mode: Mode, notices: &mut Vec<Notice>) {
        if self.inbox.try_take(notices) {
            // The tasks of the transport run on this thread, too: they get their turn however
            // fast requests come in from other threads.
            return yield_now().await;
        }
        let stop_at = match mode {
            Mode::Serving => None,
            Mode::HandingOver { until } => Some(until),
        };
        let due = self.driver.poll_timeout().into_iter().chain(stop_at).min();
        match due {
            Some(due) => tokio::select! {
                biased;
                () = self.inbox.take(notices) => {}
                () = sleep_until(self.clock.instant(due)) => {}
            },
            None => self.inbox.take(notices).await,
        }
    }

    /// A leader that stops in order hands over first, so that writes pause for a round trip
    /// instead of an election timeout.
    fn hand_over(&mut self, now: Time, mode: Mode) -> Mode {
        if mode != Mode::Serving {
            return mode;
        }
        let Some(to) = self.driver.best_successor() else {
            return Mode::HandingOver { until: now };
        };
        // Whether it worked shows in the role.
        let waiter = Box::new(drop);
        self.driver.handle(now, Input::Transfer { to, waiter });
        Mode::HandingOver {
            until: now.plus_ms(HAND_OVER_MS),
        }
    }

    /// This node ends now, because something failed for good. If it leads and a voter has all that
    /// it sent, that one is told to campaign at once; else the others notice that it is gone.
    fn leave(&mut self, now: Time) {
        let Some(to) = self.driver.best_successor() else {
            return;
        };
        let waiter = Box::new(drop);
        self.driver.handle(now, Input::Transfer { to, waiter });
        self.driver.flush(now);
        while let Some(output) = self.driver.poll_output() {
            // What is to be written or applied waits for ever, and nobody is told that it was done.
            if let Output::Send {
                to,
                uncounted,
                message,
            } = output
            {
                self.send(now, to, uncounted, message);
            }
        }
    }

    /// Lets time pass, and carries out what the driver decided.
    fn step(&mut self) -> Result<(), FatalError> {
        // Sampled after the inbox was drained, so that what came in late is not late twice.
        let now = self.clock.now();
        if self.driver.poll_timeout().is_some_and(|due| due <= now) {
            self.driver.handle_timeout(now);
        }
        self.driver.flush(now);
        self.greeter.set_leader(self.driver.core().leader());
        while let Some(output) = self.driver.poll_output() {
            self.carry_out(now, output)?;
        }
        Ok(())
    }

    /// The transport counts what it drops, and Raft repairs it; for an append it does so sooner if
    /// it is told.
    fn send(&mut self, now: Time, to: NodeId, uncounted: bool, message: Message) {
        let sequence = if let Message::AppendRequest(append) = &message {
            Some(append.sequence)
        } else {
            None
        };
        if let (Err(_), Some(sequence)) = (self.transport.send(to, uncounted, message), sequence) {
            self.driver.handle(now, Input::Unsent { to, sequence });
        }
    }

    fn set_peers(&mut self, membership: &Membership, leaving: &[(NodeId, String)]) {
        self.greeter.set_membership(membership);
        let node = self.driver.core().id();
        let members = membership.members.iter();
        let mut all: Vec<_> = members.map(|(id, m)| (*id, m.address.clone())).collect();
        all.extend_from_slice(leaving);
        if !membership.contains(node) {
            // Its log is too far behind to say who the members are today.
            let given = self.join_peers.iter();
            all.extend(given.filter(|(id, _)| !membership.contains(*id)).cloned());
        }
        let others = others(node, &all);
        self.greeter.link.retain_refusals(&others);
        self.transport.set_peers(&others);
    }

    /// The transport tries again, and what a refusal means was logged. But a node that can take no
    /// part any more stops, so that whoever watches it learns of it.
    fn heed_refusals(&self) -> Result<(), FatalError> {
        let membership = self.driver.core().membership();
        let for_good = self.greeter.link.refusals_for_good(membership);
        if for_good.is_empty() {
            return Ok(());
        }
        Err(FatalError::Refused(for_good))
    }

    fn carry_out(&mut self, now: Time, output: Output) -> Result<(), FatalError> {
        match output {
            Output::Write { id, install, write } => {
                self.write(WriteJob::Persist { id, install, write })?;
            }
            Output::Compact(through) => self.write(WriteJob::Compact(through))?,
            Output::ReportRot(range) => self.write(WriteJob::ReportRot(range))?,
            Output::Halt(error) => return Err(error),
            Output::Snapshot(job) => self
                .snapshotter
                .send(job)
                .map_err(|_| FatalError::Thread("snapshotter"))?,
            Output::ReadLog(request) => self
                .reader
                .send(request)
                .map_err(|_| FatalError::Thread("reader"))?,
            Output::Send {
                to,
                uncounted,
                message,
            } => self.send(now, to, uncounted, message),
            Output::Peers {
                membership,
                leaving,
            } => self.set_peers(&membership, &leaving),
            Output::Apply(batch) => self.applier.give(ApplierJob::Apply(batch), &self.inbox)?,
            Output::Cut(step) => self.applier.give(ApplierJob::Cut(step), &self.inbox)?,
            Output::Restore(position) => {
                let job = ApplierJob::Restore(position);
                self.applier.give(job, &self.inbox)?;
            }
        }
        Ok(())
    }

    fn write(&self, job: WriteJob) -> Result<(), FatalError> {
        let sent = self.writer.send(job);
        sent.map_err(|_| FatalError::Thread("writer"))
    }
}
