//! From a fresh data directory to a member of a cluster: carries out what [`Formation`] decides.

use std::sync::Arc;

use bytes::Bytes;
use raft_log::{DataDir, Log, LogIdentity, LogOptions, LogWrite};
use raft_proto::{
    ClusterId, Entry, EntryKind, GroupId, HardState, LogIndex, LogPosition, NodeId, Term,
};
use tokio::task::{spawn_blocking, yield_now};
use tokio::time::sleep_until;

use super::Life;
use super::node_thread::Clock;
use crate::config::StartKind;
use crate::driver::Input;
use crate::error::FatalError;
use crate::formation::{
    Event, FORMATION_RECORD, Formation, FormedResponder, InitialVoters, Local, Start,
};
use crate::inbox::Notice;
use crate::link::Link;
use crate::recover;
use crate::restore;
use crate::state::NodeState;
use crate::transport::Transport;

/// The cluster's first entry has term 1, so the term of a new cluster is 1 from the start.
const FIRST: LogPosition = LogPosition {
    index: LogIndex::FIRST,
    term: Term(1),
};

impl Life {
    /// Waits until this node belongs to a cluster, and its log has the first entry. `None` if it
    /// was asked to stop before.
    pub(super) async fn form(
        &self,
        clock: Clock,
        link: &Link,
        transport: &dyn Transport,
    ) -> Result<Option<FormedResponder>, FatalError> {
        recover::check_settled(&self.directory).map_err(formation_error)?;
        let finished = restore::check_finished(&self.directory);
        finished.map_err(|error| FatalError::UnfinishedRestore(Arc::new(error)))?;
        let stored = self.directory.read_record(FORMATION_RECORD);
        let stored = stored.map_err(directory_error)?;
        let formed = stored.as_deref().map(FormedResponder::from_record);
        if let Some(responder) = formed.transpose().map_err(formation_error)?.flatten() {
            return Ok(Some(responder));
        }
        let node = self.config.core.id;
        let start = match &self.config.start {
            StartKind::Form { initial_voters } => {
                let voters = InitialVoters::new(node, initial_voters.clone());
                let voters = voters.map_err(formation_error)?;
                link.set_forming(voters.clone());
                transport.set_peers(&others(node, voters.as_slice()));
                Start::Form(voters)
            }
            StartKind::Join { peers } => {
                transport.set_peers(&others(node, peers));
                Start::Join
            }
        };
        let local = Local {
            node,
            incarnation: link.incarnation(),
        };
        let mut formation = Formation::new(local, start, stored.as_deref(), clock.now())
            .map_err(formation_error)?;
        loop {
            if let Some(responder) = self.carry_out(clock, &mut formation, transport).await? {
                return Ok(Some(responder));
            }
            self.state.send_replace(NodeState::Forming {
                waiting_for: formation.waiting_for(),
            });
            if self.hear(clock, &mut formation).await?.is_stopping() {
                return Ok(None);
            }
        }
    }

    /// Does everything that is decided; returns the responder once the node is formed.
    async fn carry_out(
        &self,
        clock: Clock,
        formation: &mut Formation,
        transport: &dyn Transport,
    ) -> Result<Option<FormedResponder>, FatalError> {
        loop {
            while let Some((to, message)) = formation.poll_transmit() {
                // Lost messages are repeated.
                let _ = transport.send(to, false, message);
            }
            if let Some(persist) = formation.poll_persist() {
                let directory = Arc::clone(&self.directory);
                let write = move || directory.write_record(FORMATION_RECORD, &persist.record);
                blocking(write).await?.map_err(directory_error)?;
                formation.handle_persisted(clock.now(), persist.id);
                continue;
            }
            match formation.poll_event() {
                None => return Ok(None),
                Some(Event::Failed(error)) => return Err(formation_error(error)),
                Some(Event::Formed { first_entry, .. }) => {
                    let responder = FormedResponder::new(first_entry);
                    return responder.map(Some).map_err(formation_error);
                }
                Some(Event::WriteFirstEntry {
                    first_entry,
                    cluster,
                }) => {
                    let directory = Arc::clone(&self.directory);
                    let options = self.config.log;
                    let create = move || create_log(&directory, cluster, options, first_entry);
                    blocking(create).await??;
                    formation.handle_log_created();
                }
            }
        }
    }

    /// Waits for something to happen, and tells the formation.
    async fn hear(&self, clock: Clock, formation: &mut Formation) -> Result<Heard, FatalError> {
        let mut notices = Vec::new();
        // The transport's tasks run on this thread, too, however fast requests come in.
        yield_now().await;
        match formation.poll_timeout() {
            Some(due) => tokio::select! {
                biased;
                () = self.inbox.take(&mut notices) => {}
                () = sleep_until(clock.instant(due)) => {}
            },
            None => self.inbox.take(&mut notices).await,
        }
        let now = clock.now();
        for notice in notices.drain(..) {
            match notice {
                Notice::Failed(error) => return Err(error),
                Notice::Stop => return Ok(Heard::Stop),
                // Nothing is restored yet.
                Notice::Machine(_) => {}
                Notice::Refused { peer, refusal } => {
                    formation.handle_refused(now, peer, &refusal);
                }
                Notice::Input(Input::Message { from, message, .. }) => {
                    formation.handle_message(now, from, &message);
                }
                Notice::Input(Input::PeerUp {
                    peer, incarnation, ..
                }) => formation.handle_peer_up(peer, incarnation),
                Notice::Input(Input::PeerDown { peer }) => formation.handle_peer_down(peer),
                // Dropping a request tells its waiter that nothing comes of it.
                Notice::Input(input) => input.refuse(),
            }
        }
        if formation.poll_timeout().is_some_and(|due| due <= now) {
            formation.handle_timeout(now);
        }
        Ok(Heard::News)
    }
}

/// What came of waiting.
enum Heard {
    News,
    Stop,
}

impl Heard {
    fn is_stopping(&self) -> bool {
        match self {
            Self::Stop => true,
            Self::News => false,
        }
    }
}

/// Makes the log's first entry durable; done again after a crash, it changes nothing.
fn create_log(
    directory: &DataDir,
    cluster: ClusterId,
    options: LogOptions,
    first_entry: Bytes,
) -> Result<(), FatalError> {
    let identity = LogIdentity {
        cluster,
        node: directory.node(),
        incarnation: directory.incarnation(),
        group: GroupId(0),
    };
    let opened = Log::open(directory, identity, options);
    let (mut log, recovered) = opened.map_err(|e| FatalError::OpenLog(Arc::new(e)))?;
    if recovered.last != LogPosition::ZERO {
        return Ok(());
    }
    let write = LogWrite {
        hard_state: Some(HardState {
            term: FIRST.term,
            vote: None,
        }),
        entries: vec![Entry {
            index: FIRST.index,
            term: FIRST.term,
            kind: EntryKind::Membership,
            payload: first_entry,
        }],
        ..LogWrite::default()
    };
    let written = log.stage(write).and_then(|()| log.sync());
    written.map(drop).map_err(|e| FatalError::Log(Arc::new(e)))
}

/// All of these but the node itself.
pub(super) fn others(node: NodeId, all: &[(NodeId, String)]) -> Vec<(NodeId, String)> {
    let others = all.iter().filter(|(id, _)| *id != node);
    others.cloned().collect()
}

/// Runs what waits for a disk away from the main thread.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, FatalError> {
    let done = spawn_blocking(work).await;
    done.map_err(|_| FatalError::Thread("blocking"))
}

pub(super) fn directory_error(error: raft_log::DirError) -> FatalError {
    FatalError::Directory(Arc::new(error))
}

pub(super) fn formation_error(error: impl ToString) -> FatalError {
    FatalError::Formation(error.to_string())
}
