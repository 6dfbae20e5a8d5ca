//! The shell around the driver: threads, fsync, and the order of starting and stopping.

mod applier;
mod forming;
mod greeting;
mod log_writer;
mod node_thread;
mod reader;
mod scrubber;
mod snapshotter;
mod workers;

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use raft_core::{RaftCore, SnapshotContent};
use raft_log::{DataDir, Log, LogEnd, SnapshotStore};
use raft_proto::{ClusterId, LogPosition, Versions};
use tokio::sync::watch;
use tokio::task::yield_now;

pub use self::applier::{apply_batch, take_cut_step};
pub use self::log_writer::stage_persist;

use self::forming::{blocking, formation_error};
use self::greeting::Greeter;
use self::node_thread::{Clock, NodeThread};
use self::workers::{Threads, WorkerParts, Workers};
use crate::config::{Parts, RaftConfig, StartError, StartKind};
use crate::driver::{Driver, DriverLimits};
use crate::error::FatalError;
use crate::formation::{FormedResponder, InitialVoters};
use crate::inbox::{Inbox, Notice};
use crate::link::Link;
use crate::machine::StateMachine;
use crate::metrics::Recorder;
use crate::refusals::Refusals;
use crate::startup::{self, Opened, StopFlag};
use crate::state::NodeState;
use crate::transport::Transport;

/// Starts the node's main thread.
pub(crate) fn spawn(
    config: RaftConfig,
    parts: Parts,
    shared: Shared,
) -> Result<watch::Receiver<NodeState>, StartError> {
    let Shared {
        inbox,
        recorder,
        refusals,
    } = shared;
    let (state, watched) = watch::channel(NodeState::Forming {
        waiting_for: vec!["its own data directory".to_owned()],
    });
    let name = format!("raft-{}", config.core.id);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name(format!("{name}-io"))
        .build()?;
    thread::Builder::new().name(name).spawn(move || {
        // Dropped last, also if this thread panics.
        let _ending = Ending {
            inbox: Arc::clone(&inbox),
            state: state.clone(),
        };
        let runtime = runtime;
        let life = Life {
            config,
            directory: Arc::new(parts.directory),
            inbox: Arc::clone(&inbox),
            recorder,
            state: state.clone(),
            stop: StopFlag::default(),
        };
        let transport = parts.transport;
        let outcome = runtime.block_on(async {
            let versions = Versions::up_to(life.config.limits.newest_version);
            let (directory, inbox) = (Arc::clone(&life.directory), Arc::clone(&life.inbox));
            let link = Link::new(directory, inbox, versions, refusals)?;
            let transport = transport
                .start(link.clone())
                .map_err(FatalError::Transport)?;
            let transport: Arc<dyn Transport> = transport.into();
            let outcome = life.run(&link, &transport, parts.machine).await;
            transport.shutdown().await;
            link.close();
            outcome
        });
        inbox.close();
        inbox.discard();
        // Tasks of the transport may hold the data directory: it is free once they are gone.
        drop(runtime);
        drop(life);
        state.send_replace(NodeState::Stopped(outcome.err()));
    })?;
    Ok(watched)
}

/// What a node shares with its handle.
pub(crate) struct Shared {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) refusals: Arc<Refusals>,
}

/// Leaves nobody waiting if the main thread panics.
struct Ending {
    inbox: Arc<Inbox>,
    state: watch::Sender<NodeState>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.inbox.close();
        self.inbox.discard();
        if thread::panicking() {
            let error = FatalError::Thread("main");
            self.state.send_replace(NodeState::Stopped(Some(error)));
        }
    }
}

/// What a node needs from start to end.
struct Life {
    config: RaftConfig,
    directory: Arc<DataDir>,
    inbox: Arc<Inbox>,
    recorder: Arc<Recorder>,
    state: watch::Sender<NodeState>,
    /// Raised once the node is to stop: what takes long ends early.
    stop: StopFlag,
}

impl Life {
    async fn run(
        &self,
        link: &Link,
        transport: &Arc<dyn Transport>,
        machine: Box<dyn StateMachine>,
    ) -> Result<(), FatalError> {
        let clock = Clock::starting_now();
        let Some(responder) = self.form(clock, link, transport.as_ref()).await? else {
            return Ok(());
        };
        let cluster = responder.cluster();
        let Some((opened, machine)) = self.open(cluster, machine).await? else {
            return Ok(());
        };
        self.check_company(&responder, &opened)?;
        let config = raft_core::Config {
            incarnation: Some(link.incarnation()),
            ..self.config.core.clone()
        };
        let core = RaftCore::new(config, opened.recovered, clock.now())
            .map_err(|error| FatalError::Core(error.to_string()))?;
        self.check_voters(&responder, &core)?;

        let greeter = Greeter::new(responder, link.clone(), core.membership());
        greeter.hand_out_to_all(transport.as_ref());
        link.repeat_peers();
        let mut threads = Threads::new(self.config.core.id, &self.inbox);
        let parts = self.worker_parts(opened.log, opened.snapshots, machine);
        let outcome = match Workers::start(parts, &mut threads) {
            Ok(workers) => {
                self.state.send_replace(NodeState::Running { cluster });
                let limits = self.limits(transport.as_ref());
                let node = NodeThread {
                    driver: Driver::new(core, limits, opened.newest)
                        .reporting_to(Arc::clone(&self.recorder)),
                    clock,
                    inbox: Arc::clone(&self.inbox),
                    greeter,
                    transport: Arc::clone(transport),
                    writer: workers.writer,
                    reader: workers.reader,
                    snapshotter: workers.snapshotter,
                    applier: workers.applier,
                    _scrubber: workers.scrubber,
                    join_peers: self.config.start.join_peers(),
                };
                node.run().await
            }
            Err(error) => Err(error),
        };
        // Their channels are gone, so they end once they have done what they were given; a restore
        // is given up, because the next start begins it anew.
        self.stop.raise();
        match threads.join() {
            Ok(()) => outcome,
            Err(job) => outcome.and(Err(FatalError::Thread(job))),
        }
    }

    fn worker_parts(
        &self,
        log: Log,
        snapshots: SnapshotStore,
        machine: Box<dyn StateMachine>,
    ) -> WorkerParts {
        WorkerParts {
            log,
            snapshots,
            machine,
            apply_on: self.config.apply_on,
            stop: self.stop.clone(),
            recorder: Arc::clone(&self.recorder),
            scrub_bytes_per_second: self.config.scrub_bytes_per_second,
        }
    }

    /// The membership may have been in what is lost. A node that formed its cluster alone is not found
    /// by anybody then, and says so.
    fn check_company(
        &self,
        responder: &FormedResponder,
        opened: &Opened,
    ) -> Result<(), FatalError> {
        let recovered = &opened.recovered;
        let first = responder.first_entry().membership();
        let was_alone = first.members.keys().all(|id| *id == self.config.core.id);
        if !was_alone || !recovered.memberships.is_empty() {
            return Ok(());
        }
        if let LogEnd::Unknown(reason) = opened.found.end {
            let last = recovered.last.index;
            return Err(FatalError::UnknownEnd { reason, last });
        }
        match (recovered.snapshot_content, recovered.snapshot) {
            (SnapshotContent::Lost, Some(mark)) => {
                Err(FatalError::MissingSnapshot { mark, newest: None })
            }
            (SnapshotContent::Lost | SnapshotContent::Whole, _) => Ok(()),
        }
    }

    /// What is accepted must fit into the log and into a message, here and at the peers, or the
    /// first command that does not would stop them all.
    fn limits(&self, transport: &dyn Transport) -> DriverLimits {
        let mut limits = self.config.limits.clone();
        limits.max_command_bytes = limits
            .max_command_bytes
            .min(self.config.log.max_entry_bytes as usize)
            .min(transport.max_command_bytes());
        limits
    }

    /// Opens log and snapshots, and restores the state machine from the newest one. `None` if the
    /// node was asked to stop before the machine was restored.
    async fn open(
        &self,
        cluster: ClusterId,
        mut machine: Box<dyn StateMachine>,
    ) -> Result<Option<(Opened, Box<dyn StateMachine>)>, FatalError> {
        let directory = Arc::clone(&self.directory);
        let stop = self.stop.clone();
        let (node, options) = (self.config.core.id, self.config.log);
        let open = move || {
            let began = Instant::now();
            let opened = startup::open(&directory, cluster, options)?;
            let took_ms = began.elapsed().as_millis();
            tracing::info!(node = node.0, took_ms, "log open, newest snapshot checked");
            // A formed node's log was created with the first entry. An empty one has lost votes
            // and entries that this node answered for.
            let found = &opened.found;
            let is_empty = found.last == LogPosition::ZERO && found.snapshot.is_none();
            if is_empty && found.end == LogEnd::Known {
                return Err(FatalError::LostLog { node, cluster });
            }
            if let Some(newest) = &opened.newest {
                let (store, position) = (&opened.snapshots, newest.last_included);
                let began = Instant::now();
                startup::restore_unless(&stop, machine.as_mut(), store, position)?;
                let (index, took_ms) = (position.index.0, began.elapsed().as_millis());
                tracing::info!(node = node.0, index, took_ms, "state machine restored");
            }
            Ok((opened, machine))
        };
        let (opened, machine) = match self.refuse_while(blocking(open)).await?? {
            Ok(done) => done,
            Err(FatalError::Restore { .. }) if self.stop.is_raised() => return Ok(None),
            Err(error) => return Err(error),
        };
        if let Some(torn) = &opened.found.dropped_torn {
            tracing::warn!(node = node.0, ?torn, "a torn last batch was dropped");
        }
        Ok(Some((opened, machine)))
    }

    /// Waits for something long. Requests that come meanwhile are refused rather than kept
    /// waiting, and messages are dropped, which Raft repairs.
    async fn refuse_while<T>(&self, work: impl Future<Output = T>) -> Result<T, FatalError> {
        let mut work = std::pin::pin!(work);
        let mut notices = Vec::new();
        let mut is_stopping = false;
        let done = loop {
            tokio::select! {
                biased;
                done = &mut work => break done,
                () = self.inbox.take(&mut notices) => {}
            }
            for notice in notices.drain(..) {
                match notice {
                    Notice::Input(input) => input.refuse(),
                    Notice::Failed(error) => return Err(error),
                    // Nothing is restored yet.
                    Notice::Machine(_) => {}
                    Notice::Refused { .. } => {}
                    Notice::Stop => {
                        is_stopping = true;
                        self.stop.raise();
                    }
                }
            }
            yield_now().await;
        };
        if is_stopping {
            // Nothing is half open now; the main loop stops in order.
            self.inbox.push_notice(Notice::Stop);
        }
        Ok(done)
    }

    /// A formed node may be started with the voters it was formed with, or with today's members.
    fn check_voters(&self, responder: &FormedResponder, core: &RaftCore) -> Result<(), FatalError> {
        let given = match &self.config.start {
            StartKind::Form { initial_voters } if !initial_voters.is_empty() => initial_voters,
            StartKind::Form { .. } | StartKind::Join { .. } => return Ok(()),
        };
        let given = InitialVoters::new(self.config.core.id, given.clone());
        let given = given.map_err(formation_error)?;
        let checked = responder.check_restart(&given, core.membership());
        checked.map_err(formation_error)
    }
}
