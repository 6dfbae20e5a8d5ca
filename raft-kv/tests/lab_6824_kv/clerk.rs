//! The lab's clerk: a client with a session that retries anywhere until it has an answer.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use raft_kv::command::{Command, Query};
use raft_kv::operation::{KeyRange, Operation, RangeQuery};
use raft_kv::reply::Reply;
use raft_kv::session::{LeaderTime, Origin, Sequence, SessionId};
use raft_node::{LeaderHint, ProposeError, ReadConsistency, ReadError};
use raft_proto::NodeId;
use raft_sim::{CallError, SimClient};

use super::history::{Call, Fingerprint, History, Told};

/// How long a clerk waits for one answer, in milliseconds.
const ATTEMPT_MS: u64 = 300;
/// Pause after a refused attempt, in milliseconds.
const PAUSE_MS: u64 = 10;
/// Time-to-live of sessions, in milliseconds: longer than any test.
const SESSION_TTL_MS: u64 = 3_600_000;

/// The nodes that a clerk may talk to; the test changes them under way.
pub(crate) type Reach = Rc<RefCell<Vec<NodeId>>>;

pub(crate) struct Clerk {
    pub(crate) client: SimClient,
    reach: Reach,
    history: History,
    session: Option<SessionId>,
    last_sequence: u64,
    /// Where the last attempt went, or should go next.
    node: Option<NodeId>,
}

impl Clerk {
    pub(crate) fn new(client: SimClient, reach: Reach, history: History) -> Self {
        Self {
            client,
            reach,
            history,
            session: None,
            last_sequence: 0,
            node: None,
        }
    }

    pub(crate) async fn get(&mut self, key: &str) -> Option<Bytes> {
        let input = Call::Get(key.to_owned());
        let call = self
            .history
            .called(self.client.id(), self.client.now(), input);
        let query = Query::Range(RangeQuery::new(KeyRange::One(key.as_bytes()))).to_bytes();
        let Reply::Range(found) = self.ask(Ask::Query(query)).await else {
            panic!("a range query gets a range");
        };
        let value = found.pairs.into_iter().next().map(|pair| pair.value);
        let told = Told {
            revision: found.revision,
            value: value.as_deref().map(Fingerprint::of),
        };
        self.history.answered(call, self.client.now(), told);
        value
    }

    pub(crate) async fn put(&mut self, key: &str, value: &str) {
        let input = Call::Put(key.to_owned(), Fingerprint::of(value.as_bytes()));
        let (key, value) = (key.as_bytes(), value.as_bytes());
        self.write(Operation::Put { key, value }, input).await;
    }

    pub(crate) async fn append(&mut self, key: &str, value: &str) {
        let input = Call::Append(key.to_owned(), Fingerprint::of(value.as_bytes()));
        let (key, value) = (key.as_bytes(), value.as_bytes());
        self.write(Operation::Append { key, value }, input).await;
    }

    /// Carries a write out exactly once: however often it is sent, session and number stay.
    async fn write(&mut self, operation: Operation<'_>, input: Call) {
        let session = self.session().await;
        let acknowledged = Sequence(self.last_sequence);
        self.last_sequence += 1;
        let origin = Some(Origin {
            session,
            sequence: Sequence(self.last_sequence),
            acknowledged,
        });
        let command = Command::Write { origin, operation }.encode().to_bytes();
        let call = self
            .history
            .called(self.client.id(), self.client.now(), input);
        let reply = self.ask(Ask::Command(command)).await;
        let Reply::Write(written) = reply else {
            panic!("a write gets {reply:?}");
        };
        let told = Told {
            revision: written.revision,
            value: None,
        };
        self.history.answered(call, self.client.now(), told);
    }

    /// Registers a session, once. An attempt whose answer is lost may leave one behind that nobody
    /// uses.
    async fn session(&mut self) -> SessionId {
        if let Some(session) = self.session {
            return session;
        }
        let stamp = LeaderTime(self.client.now().as_ms());
        let ttl_ms = SESSION_TTL_MS;
        let command = Command::Register { stamp, ttl_ms }.encode().to_bytes();
        let Reply::Registered(session) = self.ask(Ask::Command(command)).await else {
            panic!("a registration gets a session");
        };
        self.session = Some(session);
        session
    }

    /// Asks one node after the other until one answers.
    async fn ask(&mut self, ask: Ask) -> Reply {
        loop {
            let node = self.next_node();
            let answer = match &ask {
                Ask::Command(command) => self.client.write(node, command.clone(), ATTEMPT_MS).await,
                Ask::Query(query) => {
                    let level = ReadConsistency::Linearizable;
                    self.client
                        .read(node, query.clone(), level, ATTEMPT_MS)
                        .await
                }
            };
            match answer {
                Ok(reply) => {
                    self.node = Some(node);
                    return Reply::from_bytes(&reply).expect("a reply of this version");
                }
                Err(error) => {
                    self.node = hint(&error).map(|leader| leader.id);
                    self.client.sleep_ms(PAUSE_MS).await;
                }
            }
        }
    }

    fn next_node(&self) -> NodeId {
        let reach = self.reach.borrow();
        match self.node.filter(|node| reach.contains(node)) {
            Some(node) => node,
            None => self.client.draw(|random| *random.pick(&reach)),
        }
    }
}

enum Ask {
    Command(Bytes),
    Query(Bytes),
}

fn hint(error: &CallError) -> Option<&LeaderHint> {
    match error {
        CallError::Propose(ProposeError::NotLeader { leader })
        | CallError::Read(ReadError::NotConfirmed { leader }) => leader.as_ref(),
        CallError::TimedOut | CallError::Propose(_) | CallError::Read(_) => None,
    }
}
