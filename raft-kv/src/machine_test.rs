//! Tests of the replicated machine: every write of a session counts once, replicas agree.

use std::collections::BTreeMap;

use proptest::prelude::*;
use raft_proto::Term;

use super::*;
use crate::operation::{KeyRange, RangeQuery, Revision};
use crate::reply::{Outcome, Reply, WriteReply};
use crate::session::{LeaderTime, Sequence};

/// A machine that is fed one command after the other.
struct Replica {
    machine: KvMachine,
    term: Term,
}

impl Replica {
    fn new() -> Self {
        Self {
            machine: KvMachine::default(),
            term: Term(1),
        }
    }

    fn apply(&mut self, command: &Command<'_>) -> Reply {
        let index = self.machine.applied_index.next();
        let command = command.encode().to_bytes();
        let reply = self.machine.apply(index, self.term, &command);
        Reply::from_bytes(&reply).unwrap()
    }

    fn get(&mut self, key: &[u8]) -> Option<Bytes> {
        let query = Query::Range(RangeQuery::new(KeyRange::One(key))).to_bytes();
        let Reply::Range(found) = Reply::from_bytes(&self.machine.query(&query)).unwrap() else {
            panic!("not a range reply");
        };
        found.pairs.into_iter().next().map(|pair| pair.value)
    }

    fn register(&mut self, stamp: u64, ttl_ms: u64) -> SessionId {
        let stamp = LeaderTime(stamp);
        let Reply::Registered(session) = self.apply(&Command::Register { stamp, ttl_ms }) else {
            panic!("not registered");
        };
        session
    }
}

fn append(session: SessionId, sequence: u64, acknowledged: u64) -> Command<'static> {
    Command::Write {
        origin: Some(Origin {
            session,
            sequence: Sequence(sequence),
            acknowledged: Sequence(acknowledged),
        }),
        operation: Operation::Append {
            key: b"k",
            value: b"x",
        },
    }
}

#[test]
fn a_retried_write_counts_once_and_gets_the_first_reply() {
    let mut replica = Replica::new();
    let session = replica.register(0, 5_000);
    let first = replica.apply(&append(session, 1, 0));
    let written = WriteReply {
        revision: Revision(2),
        outcome: Outcome::Written,
    };
    assert_eq!(first, Reply::Write(written));
    replica.apply(&append(session, 2, 0));
    // The retry reaches another leader.
    replica.term = Term(3);
    assert_eq!(replica.apply(&append(session, 1, 0)), first);
    assert_eq!(replica.get(b"k").as_deref(), Some(&b"xx"[..]));
}

#[test]
fn a_write_of_an_expired_session_is_not_carried_out() {
    let mut replica = Replica::new();
    let session = replica.register(0, 5_000);
    let stamp = LeaderTime(5_001);
    replica.apply(&Command::Tick { stamp });
    assert_eq!(replica.apply(&append(session, 1, 0)), Reply::SessionExpired);
    assert_eq!(replica.get(b"k"), None);
    assert_eq!(replica.machine.status().sessions, 0);
    let kept = replica.apply(&Command::KeepAlive {
        stamp,
        session,
        acknowledged: Sequence(0),
    });
    assert_eq!(kept, Reply::SessionExpired);
}

#[test]
fn a_refused_append_is_remembered_like_any_reply() {
    let mut replica = Replica::new();
    let session = replica.register(0, 5_000);
    let full = vec![0; crate::limits::MAX_VALUE_BYTES];
    replica.apply(&Command::Write {
        origin: None,
        operation: Operation::Put {
            key: b"k",
            value: &full,
        },
    });
    let refused = replica.apply(&append(session, 1, 0));
    assert!(matches!(
        refused,
        Reply::Refused(Refusal::ValueTooLong { .. })
    ));
    replica.apply(&Command::Write {
        origin: None,
        operation: Operation::Delete {
            range: KeyRange::One(b"k"),
        },
    });
    assert_eq!(replica.apply(&append(session, 1, 0)), refused);
    assert_eq!(replica.get(b"k"), None);
}

#[test]
fn nonsense_in_the_log_changes_nothing() {
    let mut replica = Replica::new();
    let hash = replica.machine.hash();
    for (index, garbage) in [&b""[..], &[1], &[1, 9, 9], &[1, 0, 0, 0, 0, 0]]
        .iter()
        .enumerate()
    {
        let index = LogIndex(1 + index as u64);
        let reply = replica.machine.apply(index, Term(0), garbage);
        let refused = Reply::Refused(Refusal::Malformed);
        assert_eq!(Reply::from_bytes(&reply), Ok(refused), "{garbage:?}");
    }
    assert_eq!(replica.machine.hash(), hash);
}

#[test]
#[should_panic(expected = "format version 2")]
fn a_command_of_a_newer_version_stops_the_replica() {
    let machine = &mut Replica::new().machine;
    machine.apply(LogIndex(1), Term(1), &[2, 0]);
}

/// A step of a random history of one session: which write arrives, with which acknowledgement.
#[derive(Clone, Debug)]
struct Arrival {
    sequence: u64,
    acknowledged: u64,
}

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let arrival = (1..40u64, 0..40u64).prop_map(|(sequence, back)| Arrival {
        sequence,
        acknowledged: sequence.saturating_sub(1 + back),
    });
    proptest::collection::vec(arrival, 0..200)
}

proptest! {
    /// However writes are repeated, delayed and reordered: none counts twice, and one that
    /// arrives unacknowledged counts.
    #[test]
    fn exactly_once_whatever_arrives(arrivals in arrivals()) {
        let mut replica = Replica::new();
        let session = replica.register(0, 60_000);
        let mut replies: BTreeMap<u64, Reply> = BTreeMap::new();
        let mut acknowledged = 0;
        for arrival in arrivals {
            acknowledged = acknowledged.max(arrival.acknowledged);
            let command = append(session, arrival.sequence, arrival.acknowledged);
            let reply = replica.apply(&command);
            if arrival.sequence <= acknowledged {
                prop_assert_eq!(reply, Reply::Refused(Refusal::AlreadyAcknowledged));
            } else if let Some(first) = replies.get(&arrival.sequence) {
                prop_assert_eq!(&reply, first);
            } else {
                let written = matches!(reply, Reply::Write(_));
                prop_assert!(written);
                replies.insert(arrival.sequence, reply);
            }
        }
        let length = replica.get(b"k").map_or(0, |value| value.len());
        prop_assert_eq!(length, replies.len());
    }

    /// Two replicas that apply the same bytes agree on every reply and on the hash.
    #[test]
    fn replicas_agree(commands in proptest::collection::vec(any::<[u8; 6]>(), 1..80)) {
        let mut replicas = [Replica::new(), Replica::new()];
        let mut session = SessionId(0);
        let mut hashes = Vec::new();
        for bytes in commands {
            let [kind, a, b, c, key, value] = bytes;
            let stamp = LeaderTime(u64::from(a) * 100);
            let key = [key % 4];
            let value = [value];
            let operation = Operation::Put { key: &key, value: &value };
            let origin = Origin {
                session,
                sequence: Sequence(u64::from(b)),
                acknowledged: Sequence(u64::from(c)),
            };
            let command = match kind % 5 {
                0 => Command::Register { stamp, ttl_ms: 1_000 + u64::from(b) },
                1 => Command::Tick { stamp },
                2 => Command::KeepAlive { stamp, session, acknowledged: Sequence(u64::from(c)) },
                3 => Command::Write { origin: Some(origin), operation },
                _ => Command::Write { origin: None, operation },
            };
            let [one, two] = replicas.each_mut().map(|replica| replica.apply(&command));
            prop_assert_eq!(&one, &two);
            if let Reply::Registered(id) = one {
                session = id;
            }
            let [one, two] = replicas.each_mut().map(|replica| replica.machine.hash());
            prop_assert_eq!(one, two);
            hashes.push(one);
        }
        let machine = &replicas[0].machine;
        prop_assert_eq!(machine.store.hash(), machine.store.recompute_hash());
    }
}
