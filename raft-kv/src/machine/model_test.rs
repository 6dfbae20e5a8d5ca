//! The machine against a naive one, over random histories: every kind of command and query, retries
//! under sessions, compaction and retention, snapshots taken in slices between writes, restores.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use raft_proto::{LogIndex, Term};

use super::model::Model;
use super::{KvMachine, Retention};
use crate::command::{Command, Query};
use crate::operation::{
    Expected, KeyRange, Operation, Order, RangeQuery, Revision, Select, SortBy,
};
use crate::reply::{Refusal, Reply};
use crate::session::{LeaderTime, Origin, Sequence, SessionId};
use crate::txn::{Compare, CompareTarget, Previous, Relation, Txn, TxnOperation};

/// Keys that an arbitrary byte string stands for: few, so that histories of one key grow long, and
/// with prefixes of each other.
type Key = Vec<u8>;

#[derive(Clone, Debug)]
enum Range {
    One(Key),
    Interval(Key, Key),
    From(Key),
    Prefix(Key),
}

/// A read; the revision lies `back` before the one after the latest.
#[derive(Clone, Debug)]
struct Read {
    range: Range,
    back: u64,
    limit: u64,
    order: Order,
    select: Select,
    sort_by: SortBy,
}

#[derive(Clone, Debug)]
enum Change {
    Put(Key, Vec<u8>),
    Append(Key, Vec<u8>),
    Delete(Range),
    SwapAbsent(Key, Vec<u8>),
    SwapValue(Key, Vec<u8>, Vec<u8>),
    /// The mod revision lies this far back.
    SwapRevision(Key, u64, Vec<u8>),
    /// To the revision this far before the one after the latest.
    Compact(u64),
    Txn(Vec<Condition>, Vec<Part>, Vec<Part>),
}

#[derive(Clone, Debug)]
struct Condition {
    range: Range,
    relation: Relation,
    target: u8,
    number: u64,
    value: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Part {
    Put(Key, Vec<u8>, Previous),
    Delete(Range, Previous),
    Read(Read),
}

#[derive(Clone, Debug)]
enum Step {
    Change(Change),
    /// Under one of the sessions: its number and what it acknowledges count back from the latest.
    InSession(usize, u64, u64, Change),
    Read(Read),
    BeginSnapshot,
    /// The next slice of the snapshot, of about this many bytes.
    Slice(usize),
    GiveUpSnapshot,
    /// The rest of the snapshot, which is restored; whether history goes on from it.
    Restore(bool),
}

fn key() -> impl Strategy<Value = Key> {
    let byte = prop_oneof![Just(b'a'), Just(b'b'), Just(0xff)];
    proptest::collection::vec(byte, 1..4)
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(b'x'), Just(b'y')];
    proptest::collection::vec(byte, 0..3)
}

fn range() -> impl Strategy<Value = Range> {
    let prefix = proptest::collection::vec(prop_oneof![Just(b'a'), Just(0xff)], 0..3);
    prop_oneof![
        2 => key().prop_map(Range::One),
        1 => (key(), key()).prop_map(|(from, to)| Range::Interval(from, to)),
        1 => key().prop_map(Range::From),
        1 => prefix.prop_map(Range::Prefix),
    ]
}

fn previous() -> impl Strategy<Value = Previous> {
    prop_oneof![Just(Previous::Omitted), Just(Previous::Returned)]
}

fn read() -> impl Strategy<Value = Read> {
    let back = prop_oneof![2 => Just(u64::MAX), 3 => 0..30u64];
    let order = prop_oneof![Just(Order::Ascending), Just(Order::Descending)];
    let select = prop_oneof![
        3 => Just(Select::Pairs),
        1 => Just(Select::KeysOnly),
        1 => Just(Select::CountOnly)
    ];
    let sort_by = prop_oneof![
        4 => Just(SortBy::Key),
        1 => Just(SortBy::CreateRevision),
        1 => Just(SortBy::ModRevision),
        1 => Just(SortBy::Version),
        1 => Just(SortBy::Value),
    ];
    (range(), back, 0..4u64, order, select, sort_by).prop_map(
        |(range, back, limit, order, select, sort_by)| Read {
            range,
            back,
            limit,
            order,
            select,
            sort_by,
        },
    )
}

fn condition() -> impl Strategy<Value = Condition> {
    let relation = prop_oneof![
        Just(Relation::Equal),
        Just(Relation::NotEqual),
        Just(Relation::Less),
        Just(Relation::Greater)
    ];
    (range(), relation, 0..4u8, 0..6u64, value()).prop_map(
        |(range, relation, target, number, value)| Condition {
            range,
            relation,
            target,
            number,
            value,
        },
    )
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![
        4 => (key(), value(), previous()).prop_map(|(k, v, p)| Part::Put(k, v, p)),
        1 => (range(), previous()).prop_map(|(r, p)| Part::Delete(r, p)),
        2 => read().prop_map(Part::Read),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let parts = || proptest::collection::vec(part(), 0..4);
    prop_oneof![
        8 => (key(), value()).prop_map(|(k, v)| Change::Put(k, v)),
        3 => (key(), value()).prop_map(|(k, v)| Change::Append(k, v)),
        3 => range().prop_map(Change::Delete),
        1 => (key(), value()).prop_map(|(k, v)| Change::SwapAbsent(k, v)),
        1 => (key(), value(), value()).prop_map(|(k, o, v)| Change::SwapValue(k, o, v)),
        1 => (key(), 0..6u64, value()).prop_map(|(k, n, v)| Change::SwapRevision(k, n, v)),
        1 => (0..20u64).prop_map(Change::Compact),
        6 => (proptest::collection::vec(condition(), 0..2), parts(), parts())
            .prop_map(|(c, t, o)| Change::Txn(c, t, o)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let in_session = (0..3usize, 0..4u64, 0..6u64, change());
    prop_oneof![
        12 => change().prop_map(Step::Change),
        4 => in_session.prop_map(|(s, back, acked, c)| Step::InSession(s, back, acked, c)),
        8 => read().prop_map(Step::Read),
        1 => Just(Step::BeginSnapshot),
        4 => (1..120usize).prop_map(Step::Slice),
        1 => prop_oneof![
            1 => Just(Step::GiveUpSnapshot),
            4 => any::<bool>().prop_map(Step::Restore)
        ],
    ]
}

impl Range {
    fn borrowed(&self) -> KeyRange<'_> {
        match self {
            Self::One(key) => KeyRange::One(key),
            Self::Interval(from, to) => KeyRange::Interval { from, to },
            Self::From(key) => KeyRange::From(key),
            Self::Prefix(key) => KeyRange::Prefix(key),
        }
    }
}

impl Read {
    fn borrowed(&self, now: Revision) -> RangeQuery<'_> {
        RangeQuery {
            range: self.range.borrowed(),
            limit: self.limit,
            revision: Revision((now.0 + 1).saturating_sub(self.back)),
            order: self.order,
            select: self.select,
            sort_by: self.sort_by,
        }
    }
}

impl Part {
    fn borrowed(&self, now: Revision) -> TxnOperation<'_> {
        match self {
            Self::Put(key, value, previous) => TxnOperation::Put {
                key,
                value,
                previous: *previous,
            },
            Self::Delete(range, previous) => TxnOperation::Delete {
                range: range.borrowed(),
                previous: *previous,
            },
            Self::Read(read) => TxnOperation::Range(read.borrowed(now)),
        }
    }
}

impl Condition {
    fn borrowed(&self, now: Revision) -> Compare<'_> {
        let at = Revision(now.0.saturating_sub(self.number));
        Compare {
            range: self.range.borrowed(),
            relation: self.relation,
            target: match self.target {
                0 => CompareTarget::Value(&self.value),
                1 => CompareTarget::Version(self.number),
                2 => CompareTarget::CreateRevision(at),
                _ => CompareTarget::ModRevision(at),
            },
        }
    }
}

/// What is applied to the machine and to the model.
enum Borrowed<'a> {
    Operation(Operation<'a>),
    Txn(Txn<'a>),
}

impl Change {
    fn borrowed(&self, now: Revision) -> Borrowed<'_> {
        let swap = |key, expected, value| Operation::CompareAndSwap {
            key,
            expected,
            value,
        };
        Borrowed::Operation(match self {
            Self::Put(key, value) => Operation::Put { key, value },
            Self::Append(key, value) => Operation::Append { key, value },
            Self::Delete(range) => Operation::Delete {
                range: range.borrowed(),
            },
            Self::SwapAbsent(key, value) => swap(key, Expected::Absent, value),
            Self::SwapValue(key, old, value) => swap(key, Expected::Value(old), value),
            Self::SwapRevision(key, back, value) => {
                let at = Revision(now.0.saturating_sub(*back));
                swap(key, Expected::ModRevision(at), value)
            }
            Self::Compact(back) => Operation::Compact {
                revision: Revision((now.0 + 1).saturating_sub(*back)),
            },
            Self::Txn(compares, then, otherwise) => {
                return Borrowed::Txn(Txn {
                    compares: compares.iter().map(|c| c.borrowed(now)).collect(),
                    then: then.iter().map(|part| part.borrowed(now)).collect(),
                    otherwise: otherwise.iter().map(|part| part.borrowed(now)).collect(),
                });
            }
        })
    }
}

/// Of one session: what is acknowledged, and the replies after it.
#[derive(Clone, Default)]
struct NaiveSession {
    id: u64,
    latest: u64,
    acknowledged: u64,
    replies: BTreeMap<u64, Reply>,
}

/// Everything that should be in the machine.
#[derive(Clone)]
struct Expectation {
    model: Model,
    sessions: Vec<NaiveSession>,
}

struct Taking {
    bytes: Vec<u8>,
    /// What was expected and the machine's hash when it began.
    expected: Expectation,
    hash: u64,
    applied_index: LogIndex,
}

struct World {
    machine: KvMachine,
    expected: Expectation,
    taking: Option<Taking>,
}

impl World {
    fn new(retention: Retention) -> Self {
        let mut world = Self {
            machine: KvMachine::new(retention),
            expected: Expectation {
                model: Model::new(retention),
                sessions: vec![],
            },
            taking: None,
        };
        for _ in 0..3 {
            let stamp = LeaderTime(0);
            let register = Command::Register {
                stamp,
                ttl_ms: 5_000,
            };
            let Reply::Registered(SessionId(id)) = world.apply(&register) else {
                panic!("not registered");
            };
            world.expected.sessions.push(NaiveSession {
                id,
                ..NaiveSession::default()
            });
        }
        world
    }

    fn apply(&mut self, command: &Command<'_>) -> Reply {
        let index = self.machine.applied_index.next();
        let command = command.encode().to_bytes();
        let reply = self.machine.apply(index, Term(1), &command);
        Reply::from_bytes(&reply).expect("a reply of this version")
    }

    fn query(&self, query: &RangeQuery<'_>) -> Reply {
        let reply = self.machine.query(&Query::Range(*query).to_bytes());
        Reply::from_bytes(&reply).expect("a reply of this version")
    }

    /// Sends a change to the machine.
    fn send(&mut self, origin: Option<Origin>, change: &Change) -> Reply {
        let now = self.expected.model.revision();
        match change.borrowed(now) {
            Borrowed::Operation(operation) => self.apply(&Command::Write { origin, operation }),
            Borrowed::Txn(txn) => self.apply(&Command::Txn { origin, txn }),
        }
    }

    /// Carries a change out in the model.
    fn expect(&mut self, change: &Change) -> Reply {
        let model = &mut self.expected.model;
        let reply = match change.borrowed(model.revision()) {
            Borrowed::Operation(operation) => model.apply(&operation).map(Reply::Write),
            Borrowed::Txn(txn) => model.transact(&txn).map(Reply::Txn),
        };
        reply.unwrap_or_else(Reply::Refused)
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Change(change) => {
                let found = self.send(None, change);
                prop_assert_eq!(found, self.expect(change));
            }
            Step::InSession(session, back, acked, change) => {
                self.write_in_session(*session, *back, *acked, change)?;
            }
            Step::Read(read) => {
                let query = read.borrowed(self.expected.model.revision());
                self.check_read(&query)?;
            }
            Step::BeginSnapshot if self.taking.is_none() => {
                self.machine.begin_snapshot();
                self.taking = Some(Taking {
                    bytes: vec![],
                    expected: self.expected.clone(),
                    hash: self.machine.hash(),
                    applied_index: self.machine.applied_index,
                });
            }
            Step::Slice(bytes) => {
                if let Some(taking) = &mut self.taking
                    && let Some(part) = self.machine.snapshot_part(*bytes)
                {
                    taking.bytes.extend_from_slice(&part);
                }
            }
            Step::GiveUpSnapshot => {
                self.machine.end_snapshot();
                self.taking = None;
            }
            Step::Restore(go_on) => {
                if let Some(taking) = self.taking.take() {
                    self.restore(taking, *go_on)?;
                }
            }
            Step::BeginSnapshot => {}
        }
        self.check()
    }

    fn write_in_session(
        &mut self,
        session: usize,
        back: u64,
        acked: u64,
        change: &Change,
    ) -> Result<(), TestCaseError> {
        let state = &mut self.expected.sessions[session];
        // 0 is the next new write, anything else one that was sent before.
        let sequence = (state.latest + 1).saturating_sub(back).max(1);
        state.latest = state.latest.max(sequence);
        let acknowledged = state.latest.saturating_sub(acked).min(sequence - 1);
        let origin = Origin {
            session: SessionId(state.id),
            sequence: Sequence(sequence),
            acknowledged: Sequence(acknowledged),
        };
        state.acknowledged = state.acknowledged.max(acknowledged);
        let first = match state.replies.get(&sequence) {
            _ if sequence <= state.acknowledged => {
                Some(Reply::Refused(Refusal::AlreadyAcknowledged))
            }
            first => first.cloned(),
        };
        let found = self.send(Some(origin), change);
        let expected = match first {
            Some(first) => first,
            None => {
                let reply = self.expect(change);
                let replies = &mut self.expected.sessions[session].replies;
                replies.insert(sequence, reply.clone());
                reply
            }
        };
        prop_assert_eq!(found, expected);
        Ok(())
    }

    fn check_read(&self, query: &RangeQuery<'_>) -> Result<(), TestCaseError> {
        let expected = match self.expected.model.range(query) {
            Ok(found) => Reply::Range(found),
            Err(refusal) => Reply::Refused(refusal),
        };
        prop_assert_eq!(self.query(query), expected, "{:?}", query);
        Ok(())
    }

    fn restore(&mut self, mut taking: Taking, go_on: bool) -> Result<(), TestCaseError> {
        while let Some(part) = self.machine.snapshot_part(64) {
            taking.bytes.extend_from_slice(&part);
        }
        self.machine.end_snapshot();
        // Whatever the machine was before is replaced.
        let mut machine = KvMachine::new(Retention::ALL);
        machine
            .restore(&mut &taking.bytes[..])
            .expect("it is whole");
        prop_assert_eq!(machine.hash(), taking.hash);
        prop_assert_eq!(machine.store.hash(), machine.store.recompute_hash());
        prop_assert_eq!(machine.applied_index, taking.applied_index);
        let restored = Self {
            machine,
            expected: taking.expected,
            taking: None,
        };
        restored.check()?;
        let model = &restored.expected.model;
        for revision in model.oldest..=model.revision().0 {
            let mut query = RangeQuery::new(KeyRange::Prefix(b""));
            query.revision = Revision(revision);
            restored.check_read(&query)?;
        }
        if go_on {
            *self = restored;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let (store, model) = (&self.machine.store, &self.expected.model);
        prop_assert_eq!(store.revision(), model.revision());
        prop_assert_eq!(store.oldest_revision().0, model.oldest);
        let pairs = model.latest().values();
        let bytes: usize = pairs.map(|kv| kv.key.len() + kv.value.len()).sum();
        prop_assert_eq!(store.data_bytes(), bytes as u64);
        prop_assert_eq!(store.key_count(), model.latest().len() as u64);
        prop_assert_eq!(store.hash(), store.recompute_hash());
        prop_assert!(self.machine.sessions.counts_right());
        Ok(())
    }
}

fn retention() -> impl Strategy<Value = Retention> {
    let bounded = (0..12u64, 0..60u64).prop_map(|(versions_max, bytes_max)| Retention {
        versions_max,
        bytes_max,
    });
    prop_oneof![Just(Retention::ALL), bounded]
}

proptest! {
    #[test]
    fn the_machine_agrees_with_a_naive_one(
        retention in retention(),
        steps in proptest::collection::vec(step(), 1..160),
    ) {
        let mut world = World::new(retention);
        for step in &steps {
            world.step(step)?;
        }
        // Nothing that a compaction should free is left.
        world.machine.end_snapshot();
        let revision = world.expected.model.revision();
        world.machine.store.compact(revision).expect("it exists");
        prop_assert_eq!(world.machine.store.history_len(), 0);
    }

    /// A snapshot that was damaged anywhere is refused, without a panic.
    #[test]
    fn a_damaged_snapshot_is_refused(
        steps in proptest::collection::vec(step(), 1..60),
        at in any::<prop::sample::Index>(),
        to in any::<u8>(),
    ) {
        let mut world = World::new(Retention::ALL);
        for step in &steps {
            world.step(step)?;
        }
        world.machine.end_snapshot();
        world.machine.begin_snapshot();
        let mut bytes = vec![];
        while let Some(part) = world.machine.snapshot_part(100) {
            bytes.extend_from_slice(&part);
        }
        let whole = Bytes::from(bytes.clone());
        let at = at.index(bytes.len());
        let mut machine = KvMachine::default();
        prop_assert!(machine.restore(&mut &whole[..at]).is_err(), "cut at {}", at);
        if bytes[at] != to {
            bytes[at] = to;
            // The applied index is no part of the hash: the log has the last word on it.
            let is_refused = machine.restore(&mut &bytes[..]).is_err();
            let is_index = machine.hash() == world.machine.hash();
            prop_assert!(is_refused || is_index, "byte {} of {}", at, bytes.len());
        }
        machine.restore(&mut &whole[..]).expect("it is whole");
        bytes = whole.to_vec();
        bytes.push(0);
        prop_assert!(machine.restore(&mut &bytes[..]).is_err());
    }
}
