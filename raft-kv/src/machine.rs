//! The replicated state machine: sessions decide whether a command counts, the store carries it out.

use std::io::{self, Read};

use bytes::Bytes;
use raft_node::{Applied, StateMachine, Step};
use raft_proto::mutants::{Mutant, is_planted};
use raft_proto::{LogIndex, Term};
use xxhash_rust::xxh3::xxh3_64_with_seed;

mod cut;
mod long;
#[cfg(test)]
mod model;
#[cfg(test)]
mod model_test;

use self::cut::MachineCut;
use crate::codec::DecodeError;
use crate::command::{Command, Query};
use crate::operation::Operation;
use crate::reply::{Refusal, ReplyRef, StoreStatus};
use crate::session::{Admission, LeaderTime, Origin, SessionId, SessionTable};
use crate::store::{Retention, Store};
use crate::txn::Txn;

/// Store and sessions of one replica.
///
/// ```
/// use bytes::Bytes;
/// use raft_kv::command::{Command, Query};
/// use raft_kv::machine::KvMachine;
/// use raft_kv::operation::{KeyRange, Operation, RangeQuery};
/// use raft_kv::reply::Reply;
/// use raft_proto::{LogIndex, Term};
///
/// let mut machine = KvMachine::default();
/// let operation = Operation::Put { key: b"colour", value: b"red" };
/// let command = Command::Write { origin: None, operation }.encode().to_bytes();
/// machine.apply(LogIndex(2), Term(1), &command);
///
/// let query = Query::Range(RangeQuery::new(KeyRange::One(b"colour"))).to_bytes();
/// let Reply::Range(found) = Reply::from_bytes(&machine.query(&query))? else { panic!() };
/// assert_eq!(&found.pairs[0].value[..], b"red");
/// # Ok::<(), raft_kv::codec::DecodeError>(())
/// ```
#[derive(Debug)]
pub struct KvMachine {
    store: Store,
    sessions: SessionTable,
    applied_index: LogIndex,
    /// A snapshot that is being taken.
    cut: Option<MachineCut>,
}

impl Default for KvMachine {
    fn default() -> Self {
        Self::new(Retention::default())
    }
}

impl KvMachine {
    /// The state before the first command. `retention` must be the same on every replica.
    #[must_use]
    pub fn new(retention: Retention) -> Self {
        Self {
            store: Store::new(retention),
            sessions: SessionTable::default(),
            applied_index: LogIndex::ZERO,
            cut: None,
        }
    }

    /// A hash of everything replicated: equal states have equal hashes.
    #[must_use]
    pub fn hash(&self) -> u64 {
        state_hash(self.store.hash(), self.sessions.hash())
    }

    /// What is kept for sessions is counted right, and within [`crate::limits`].
    ///
    /// # Panics
    /// If it is not.
    #[cfg(feature = "simulation")]
    pub(crate) fn check_memory(&self) {
        assert!(
            self.sessions.counts_right(),
            "memory: bytes of replies are not counted right"
        );
        assert!(
            self.sessions.is_within_limits(),
            "memory: more is kept for sessions than the limits allow"
        );
    }

    /// What the machine knows about itself.
    #[must_use]
    pub fn status(&self) -> StoreStatus {
        StoreStatus {
            applied_index: self.applied_index.0,
            revision: self.store.revision(),
            hash: self.hash(),
            keys: self.store.key_count(),
            bytes: self.store.data_bytes(),
            sessions: self.sessions.len() as u64,
            oldest_revision: self.store.oldest_revision(),
        }
    }

    /// Applies the command at a log index, proposed by the leader of a term, and returns a [`crate::reply::Reply`] as bytes.
    ///
    /// # Panics
    /// On a command of another format version: newer replicas carry it out, so going on without
    /// it would make this one answer from a state that never was.
    pub fn apply(&mut self, index: LogIndex, term: Term, command: &[u8]) -> Bytes {
        assert!(
            index > self.applied_index,
            "commands are applied once and in order"
        );
        self.applied_index = index;
        self.sessions.clock.observe_term(term);
        match Command::decode(command) {
            Ok(command) => self.carry_out(index, &command),
            Err(error @ DecodeError::UnsupportedVersion { .. }) => panic!(
                "the command at log index {} has {error}; this replica stops before it diverges: \
                 install the version that the rest of the cluster runs",
                index
            ),
            // Every replica of this version finds the same.
            Err(
                DecodeError::Empty | DecodeError::Malformed | DecodeError::PayloadLength { .. },
            ) => ReplyRef::Refused(Refusal::Malformed).to_bytes(),
        }
    }

    /// Answers a query; the answer is a [`crate::reply::Reply`] as bytes, too.
    #[must_use]
    pub fn query(&self, query: &[u8]) -> Bytes {
        match Query::decode(query) {
            Ok(Query::Range(range)) => match self.store.range_ref(&range) {
                Ok(found) => ReplyRef::Range(found).to_bytes(),
                Err(refusal) => ReplyRef::Refused(refusal).to_bytes(),
            },
            Ok(Query::Status) => ReplyRef::Status(self.status()).to_bytes(),
            Err(_) => ReplyRef::Refused(Refusal::Malformed).to_bytes(),
        }
    }

    fn carry_out(&mut self, index: LogIndex, command: &Command<'_>) -> Bytes {
        match command {
            Command::Write { origin, operation } => {
                self.once(*origin, |machine| machine.write(operation))
            }
            Command::Txn { origin, txn } => self.once(*origin, |machine| machine.transact(txn)),
            Command::Register { stamp, ttl_ms } => {
                self.observe(*stamp);
                self.sweep();
                let session = SessionId(index.0);
                match self.sessions.register(session, *ttl_ms) {
                    Ok(()) => ReplyRef::Registered(session).to_bytes(),
                    Err(refusal) => ReplyRef::Refused(refusal).to_bytes(),
                }
            }
            Command::KeepAlive {
                stamp,
                session,
                acknowledged,
            } => {
                self.observe(*stamp);
                let lives = self.sessions.keep_alive(*session, *acknowledged);
                self.sweep();
                if lives {
                    ReplyRef::KeptAlive.to_bytes()
                } else {
                    ReplyRef::SessionExpired.to_bytes()
                }
            }
            Command::Tick { stamp } => {
                self.observe(*stamp);
                self.sweep();
                ReplyRef::Ticked.to_bytes()
            }
        }
    }

    fn observe(&mut self, stamp: LeaderTime) {
        if self.cut.is_none() || !is_planted(Mutant::ClockStopsForCut) {
            self.sessions.clock.observe_stamp(stamp);
        }
    }

    fn sweep(&mut self) {
        if self.cut.is_none() || !is_planted(Mutant::ExpiryWaitsForCut) {
            self.sessions.sweep();
        }
    }

    /// Carries out a change, unless its session says that it was before, or must not be.
    fn once(&mut self, origin: Option<Origin>, change: impl FnOnce(&mut Self) -> Bytes) -> Bytes {
        let Some(origin) = origin else {
            return change(self);
        };
        match self.sessions.admit(origin) {
            Admission::Apply => {
                let reply = change(self);
                self.sessions.record(origin, reply.clone());
                reply
            }
            Admission::Replay(_) if is_planted(Mutant::RetryAppliedTwice) => change(self),
            Admission::Replay(reply) => reply,
            Admission::Refuse(refusal) => ReplyRef::Refused(refusal).to_bytes(),
            Admission::Expired => ReplyRef::SessionExpired.to_bytes(),
        }
    }

    fn write(&mut self, operation: &Operation<'_>) -> Bytes {
        // Servers check this before they propose; the check here holds whatever is in the log.
        if operation.check().is_err() {
            return ReplyRef::Refused(Refusal::Malformed).to_bytes();
        }
        match self.store.apply(operation) {
            Ok(reply) => ReplyRef::Write(reply).to_bytes(),
            Err(refusal) => ReplyRef::Refused(refusal).to_bytes(),
        }
    }

    fn transact(&mut self, txn: &Txn<'_>) -> Bytes {
        if txn.check().is_err() {
            return ReplyRef::Refused(Refusal::Malformed).to_bytes();
        }
        match self.store.transact(txn) {
            Ok(reply) => ReplyRef::Txn((&reply).into()).to_bytes(),
            Err(refusal) => ReplyRef::Refused(refusal).to_bytes(),
        }
    }
}

/// The hash of a whole state.
fn state_hash(store: u64, sessions: u64) -> u64 {
    xxh3_64_with_seed(&store.to_le_bytes(), sessions)
}

impl StateMachine for KvMachine {
    fn apply(&mut self, applied: Applied<'_>) -> Bytes {
        Self::apply(self, applied.index, applied.term, applied.command)
    }

    fn query(&mut self, query: &Bytes) -> Bytes {
        Self::query(self, query)
    }

    fn takes_long(&self, step: Step<'_>) -> bool {
        long::takes_long(self, step)
    }

    fn state_hash(&self) -> Option<u64> {
        Some(self.hash())
    }

    fn begin_snapshot(&mut self) {
        Self::begin_snapshot(self);
    }

    fn snapshot_part(&mut self, max_bytes: usize) -> Option<Bytes> {
        Self::snapshot_part(self, max_bytes)
    }

    fn end_snapshot(&mut self) {
        Self::end_snapshot(self);
    }

    fn restore(&mut self, source: &mut dyn Read) -> io::Result<()> {
        Self::restore(self, source)
    }
}

#[cfg(test)]
#[path = "machine_test.rs"]
mod tests;
