//! Serves client requests: checks them, hands them to Raft, and answers when Raft does.
//!
//! Runs on the node's network tasks. A write or read takes no task of its own, waits for nothing
//! here, and its bytes are passed on as they came.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use raft_net::{ClientConnection, ClientHandler};
use raft_node::{Raft, ReadConsistency};
use raft_proto::NodeId;

use super::administration::Work;
use super::responder::{Responder, Unanswered};
use crate::command::{Command, Query};
use crate::protocol::{self, KeepAliveRequest, RegisterRequest, RequestKind, ServerRefusal};
use crate::session::{LeaderTime, Origin};

/// Log time is told at least this often while sessions write, in milliseconds.
const TICK_INTERVAL_MS: u64 = 1_000;

/// What serves the clients of one node.
pub(super) struct Service {
    id: NodeId,
    /// Set right after the node has started; requests that come earlier are refused. Shared with
    /// every request under way, which costs one count and not a clone of the whole handle.
    raft: Arc<OnceLock<Raft>>,
    clock: StampClock,
}

impl Service {
    pub(super) fn new(id: NodeId) -> Self {
        Self {
            id,
            raft: Arc::default(),
            clock: StampClock::new(),
        }
    }

    /// Starts serving.
    pub(super) fn attach(&self, raft: Raft) {
        let attached = self.raft.set(raft);
        assert!(attached.is_ok(), "a service serves one node");
    }

    fn serve(
        &self,
        raft: &Raft,
        kind: RequestKind,
        body: Bytes,
        responder: Responder,
    ) -> Result<(), (Responder, ServerRefusal)> {
        match kind {
            RequestKind::Write => match check_write(&body) {
                Ok(origin) => {
                    if origin == HasSession::Yes {
                        self.tick(raft);
                    }
                    propose(raft, body, responder);
                }
                Err(refusal) => return Err((responder, refusal)),
            },
            RequestKind::Read | RequestKind::ReadLocal => match check_query(&body) {
                Ok(()) => read(raft, kind, body, responder),
                Err(refusal) => return Err((responder, refusal)),
            },
            RequestKind::Register => match protocol::from_body(&body) {
                Ok(RegisterRequest { ttl_ms }) => {
                    let stamp = self.clock.stamp();
                    let command = Command::Register { stamp, ttl_ms };
                    propose(raft, command.encode().to_bytes(), responder);
                }
                Err(error) => return Err((responder, error.into())),
            },
            RequestKind::KeepAlive => match protocol::from_body(&body) {
                Ok(KeepAliveRequest {
                    session,
                    acknowledged,
                }) => {
                    let stamp = self.clock.stamp();
                    let command = Command::KeepAlive {
                        stamp,
                        session,
                        acknowledged,
                    };
                    propose(raft, command.encode().to_bytes(), responder);
                }
                Err(error) => return Err((responder, error.into())),
            },
            RequestKind::Status => return self.administer(raft, Ok(Work::Status), responder),
            RequestKind::Transfer => {
                return self.administer(raft, Work::transfer(&body), responder);
            }
            RequestKind::Members => return self.administer(raft, Work::members(&body), responder),
            RequestKind::ChangeMembers => {
                return self.administer(raft, Work::change_members(&body), responder);
            }
            RequestKind::TakeSnapshot => {
                return self.administer(raft, Work::take_snapshot(&body), responder);
            }
            RequestKind::ReadSnapshot => {
                return self.administer(raft, Work::read_snapshot(&body), responder);
            }
            RequestKind::CompareReplicas => {
                return self.administer(raft, Work::compare_replicas(&body), responder);
            }
        }
        Ok(())
    }

    fn administer(
        &self,
        raft: &Raft,
        work: Result<Work, ServerRefusal>,
        responder: Responder,
    ) -> Result<(), (Responder, ServerRefusal)> {
        match work {
            Ok(work) => {
                tokio::spawn(work.carry_out(self.id, raft.clone(), responder));
                Ok(())
            }
            Err(refusal) => Err((responder, refusal)),
        }
    }

    /// Writes of sessions carry no time of their own; this tells the log the time before them.
    fn tick(&self, raft: &Raft) {
        if let Some(stamp) = self.clock.stamp_if_due() {
            let command = Command::Tick { stamp }.encode().to_bytes();
            // If it is lost, the next one tells the same.
            raft.propose_with(command, drop);
        }
    }
}

impl ClientHandler for Service {
    fn on_request(&self, connection: &ClientConnection, request_id: u64, kind: u8, body: Bytes) {
        let mut responder = Responder {
            connection: connection.clone(),
            request_id,
            raft: Arc::clone(&self.raft),
            unanswered: Unanswered::NotDone,
        };
        let Some(kind) = RequestKind::from_number(kind) else {
            return responder.refuse(&ServerRefusal::UnknownKind { kind });
        };
        let Some(raft) = self.raft.get() else {
            return responder.refuse(&ServerRefusal::NotReady {
                waiting_for: vec!["its own start".to_owned()],
            });
        };
        if changes_state(kind) {
            responder.unanswered = Unanswered::Unknown;
        }
        if let Err((responder, refusal)) = self.serve(raft, kind, body, responder) {
            responder.refuse(&refusal);
        }
    }

    fn on_disconnect(&self, _connection: u64) {
        // Nothing is kept per connection; answers that are still to come go nowhere.
    }
}

/// The leader's clock, as it stamps commands.
struct StampClock {
    started: Instant,
    last_stamp_ms: AtomicU64,
}

impl StampClock {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            last_stamp_ms: AtomicU64::new(0),
        }
    }

    fn now_ms(&self) -> u64 {
        // A u64 of milliseconds lasts longer than any process.
        self.started.elapsed().as_millis() as u64
    }

    fn stamp(&self) -> LeaderTime {
        let now = self.now_ms();
        self.last_stamp_ms.fetch_max(now, Ordering::Relaxed);
        LeaderTime(now)
    }

    /// A stamp, for one caller, if the last one is old.
    fn stamp_if_due(&self) -> Option<LeaderTime> {
        let last = self.last_stamp_ms.load(Ordering::Relaxed);
        let now = self.now_ms();
        if now.saturating_sub(last) < TICK_INTERVAL_MS {
            return None;
        }
        let is_mine =
            self.last_stamp_ms
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed);
        is_mine.ok().map(|_| LeaderTime(now))
    }
}

#[derive(PartialEq, Eq)]
enum HasSession {
    Yes,
    No,
}

const fn changes_state(kind: RequestKind) -> bool {
    match kind {
        RequestKind::Write
        | RequestKind::Register
        | RequestKind::KeepAlive
        | RequestKind::ChangeMembers => true,
        RequestKind::Read
        | RequestKind::ReadLocal
        | RequestKind::Status
        | RequestKind::Transfer
        | RequestKind::Members
        | RequestKind::TakeSnapshot
        | RequestKind::ReadSnapshot
        | RequestKind::CompareReplicas => false,
    }
}

fn check_write(body: &[u8]) -> Result<HasSession, ServerRefusal> {
    let has_session = |origin: Option<Origin>| match origin {
        Some(_) => HasSession::Yes,
        None => HasSession::No,
    };
    match Command::decode(body)? {
        Command::Write { origin, operation } => {
            operation.check()?;
            Ok(has_session(origin))
        }
        Command::Txn { origin, txn } => {
            txn.check()?;
            Ok(has_session(origin))
        }
        // Only servers make these.
        Command::Register { .. } | Command::KeepAlive { .. } | Command::Tick { .. } => {
            Err(ServerRefusal::Malformed)
        }
    }
}

fn check_query(body: &[u8]) -> Result<(), ServerRefusal> {
    match Query::decode(body)? {
        Query::Range(query) => Ok(query.range.check()?),
        Query::Status => Ok(()),
    }
}

fn propose(raft: &Raft, command: Bytes, responder: Responder) {
    raft.propose_with(command, move |outcome| match outcome {
        Ok(reply) => responder.answer(&reply),
        Err(error) => responder.not_proposed(error),
    });
}

fn read(raft: &Raft, kind: RequestKind, query: Bytes, responder: Responder) {
    let consistency = if kind == RequestKind::ReadLocal {
        ReadConsistency::Local
    } else {
        ReadConsistency::Linearizable
    };
    raft.read_with(query, consistency, move |outcome| match outcome {
        Ok(reply) => responder.answer(&reply),
        Err(error) => responder.not_read(error),
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::{KeyRange, Operation, RangeQuery};
    use crate::session::{Origin, Sequence, SessionId};

    #[test]
    fn only_writes_within_the_limits_are_proposed() {
        let put = Operation::Put {
            key: b"k",
            value: b"v",
        };
        let write = |origin, operation| {
            let command = Command::Write { origin, operation };
            check_write(&command.encode().to_bytes())
        };
        assert!(matches!(write(None, put), Ok(HasSession::No)));
        let origin = Origin {
            session: SessionId(1),
            sequence: Sequence(1),
            acknowledged: Sequence(0),
        };
        assert!(matches!(write(Some(origin), put), Ok(HasSession::Yes)));
        let long = vec![0; crate::limits::MAX_VALUE_BYTES + 1];
        let too_long = Operation::Put {
            key: b"k",
            value: &long,
        };
        assert!(matches!(
            write(None, too_long),
            Err(ServerRefusal::ValueTooLong { .. })
        ));
        let nameless = Operation::Put {
            key: b"",
            value: b"v",
        };
        assert!(matches!(
            write(None, nameless),
            Err(ServerRefusal::EmptyKey)
        ));
    }

    #[test]
    fn a_client_cannot_set_the_clock() {
        let stamp = LeaderTime(u64::MAX);
        let tick = Command::Tick { stamp }.encode().to_bytes();
        assert!(matches!(check_write(&tick), Err(ServerRefusal::Malformed)));
        assert!(matches!(
            check_write(b"junk"),
            Err(ServerRefusal::UnsupportedVersion { .. })
        ));
        assert!(matches!(check_write(b""), Err(ServerRefusal::Malformed)));
    }

    #[test]
    fn queries_are_checked() {
        let long = vec![0; crate::limits::MAX_KEY_BYTES + 1];
        let query = Query::Range(RangeQuery::new(KeyRange::One(&long))).to_bytes();
        assert!(matches!(
            check_query(&query),
            Err(ServerRefusal::KeyTooLong { .. })
        ));
        assert!(check_query(&Query::Status.to_bytes()).is_ok());
    }

    #[test]
    fn one_of_many_writers_tells_the_time() {
        let clock = StampClock {
            started: Instant::now() - std::time::Duration::from_secs(10),
            last_stamp_ms: AtomicU64::new(0),
        };
        assert!(clock.stamp_if_due().is_some());
        assert!(clock.stamp_if_due().is_none());
        assert!(clock.stamp() >= LeaderTime(10_000));
    }
}
