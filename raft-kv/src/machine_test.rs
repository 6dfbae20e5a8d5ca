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

fn put(key: &'static [u8], value: &'static [u8]) -> Command<'static> {
    Command::Write {
        origin: None,
        operation: Operation::Put { key, value },
    }
}

fn snapshot(machine: &mut KvMachine, slice: usize) -> Vec<u8> {
    machine.begin_snapshot();
    let mut bytes = Vec::new();
    while let Some(part) = machine.snapshot_part(slice) {
        bytes.extend_from_slice(&part);
    }
    machine.end_snapshot();
    bytes
}

/// A machine with something of everything in it.
fn small_replica() -> (Replica, SessionId) {
    let mut replica = Replica::new();
    let session = replica.register(7, 5_000);
    replica.apply(&append(session, 1, 0));
    replica.apply(&append(session, 3, 1));
    replica.apply(&put(b"gone", b"g"));
    replica.apply(&Command::Write {
        origin: None,
        operation: Operation::Delete {
            range: KeyRange::One(b"gone"),
        },
    });
    (replica, session)
}

#[test]
fn snapshots_keep_their_bytes() {
    let (mut replica, _) = small_replica();
    let bytes = snapshot(&mut replica.machine, 1 << 16);
    let store_hash = replica.machine.store.hash().to_le_bytes();
    let hash = replica.machine.hash().to_le_bytes();
    let mut expected = vec![1];
    let mut block = |parts: &[&[u8]]| {
        let content = parts.concat();
        expected.extend_from_slice(&(content.len() as u32).to_le_bytes());
        expected.extend_from_slice(&content);
    };
    block(&[
        b"\x00\x05",
        b"\x00\x01\x01\x07\x00\xfb\xe8\x03",
        b"\x01\x05\x01\xfc\xa0\x86\x01\x00\xfc\x00\x00\x00\x04\x02\x01",
        b"\xfd",
        &store_hash,
    ]);
    block(&[b"\x01\x01\xfb\x88\x13\x00\x01\x02"]);
    block(&[b"\x02\x02\x00\x01\x04\x01\x00\x03\x00"]);
    block(&[
        b"\x03\x02",
        b"\x03\x01k\x02\x02\x01\x01x",
        b"\x05\x04gone\x04\x04\x01\x01g",
    ]);
    block(&[b"\x04\x01", b"\x01k\x02\x03\x02\x02xx"]);
    block(&[b"\x05\xfd", &hash]);
    assert_eq!(bytes, expected);
    let mut restored = KvMachine::default();
    restored.restore(&mut &bytes[..]).unwrap();
    assert_eq!(restored.status(), replica.machine.status());
}

#[test]
fn a_write_counts_once_across_a_snapshot() {
    let (mut replica, session) = small_replica();
    let first = replica.apply(&append(session, 4, 1));
    let bytes = snapshot(&mut replica.machine, 1);
    let mut restored = Replica::new();
    restored.machine.restore(&mut &bytes[..]).unwrap();
    assert_eq!(restored.apply(&append(session, 4, 1)), first);
    assert_eq!(restored.get(b"k").as_deref(), Some(&b"xxx"[..]));
    let acknowledged = restored.apply(&append(session, 1, 0));
    let refused = Reply::Refused(Refusal::AlreadyAcknowledged);
    assert_eq!(acknowledged, refused);
    restored.apply(&append(session, 5, 1));
    assert_eq!(restored.get(b"k").as_deref(), Some(&b"xxxx"[..]));
}

#[test]
fn sessions_are_cut_as_they_were() {
    let (mut replica, session) = small_replica();
    let hash = replica.machine.hash();
    replica.machine.begin_snapshot();
    // One is acknowledged and answered meanwhile, another expires, a third one is new.
    replica.apply(&append(session, 4, 3));
    let stamp = LeaderTime(60_000);
    replica.apply(&Command::Tick { stamp });
    replica.register(60_001, 1_000);
    let mut bytes = Vec::new();
    while let Some(part) = replica.machine.snapshot_part(16) {
        bytes.extend_from_slice(&part);
    }
    replica.machine.end_snapshot();
    let mut restored = Replica::new();
    restored.machine.restore(&mut &bytes[..]).unwrap();
    assert_eq!(restored.machine.hash(), hash);
    let again = restored.apply(&append(session, 3, 1));
    assert!(matches!(again, Reply::Write(_)), "{again:?}");
    assert_eq!(restored.get(b"k").as_deref(), Some(&b"xx"[..]));
}

#[test]
fn parts_have_about_the_length_asked_for() {
    let mut replica = Replica::new();
    for n in 0..2_000_u32 {
        let key = n.to_be_bytes();
        let operation = Operation::Put {
            key: &key,
            value: &[7; 100],
        };
        replica.apply(&Command::Write {
            origin: None,
            operation,
        });
    }
    replica.machine.begin_snapshot();
    let mut parts = 0;
    while let Some(part) = replica.machine.snapshot_part(4096) {
        assert!(part.len() <= 4096 + 2 * 200, "{}", part.len());
        parts += 1;
    }
    assert!((50..80).contains(&parts), "{parts} parts");
    assert_eq!(replica.machine.snapshot_part(4096), None);
    replica.machine.end_snapshot();
    assert_eq!(replica.machine.snapshot_part(4096), None);
}

#[test]
fn a_snapshot_of_another_version_is_named() {
    let mut bytes = snapshot(&mut small_replica().0.machine, 100);
    bytes[0] = 9;
    let refused = KvMachine::default().restore(&mut &bytes[..]).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::InvalidData);
    assert!(refused.to_string().contains("version 9"), "{refused}");
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

/// Bytes of which many are commands: a version, small numbers, and some of any kind.
fn almost_a_command() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![4 => 0..5u8, 1 => any::<u8>()];
    proptest::collection::vec(byte, 0..30).prop_map(|mut bytes| {
        bytes.insert(0, 1);
        bytes
    })
}

proptest! {
    /// Whatever is in the log, or is asked, is answered; and what the machine becomes can be
    /// snapshotted and restored.
    #[test]
    fn anything_in_the_log_is_survived(
        commands in proptest::collection::vec(almost_a_command(), 0..40),
    ) {
        let mut replica = Replica::new();
        replica.register(0, 60_000);
        for command in &commands {
            let index = replica.machine.applied_index.next();
            let reply = replica.machine.apply(index, Term(1), command);
            prop_assert!(Reply::from_bytes(&reply).is_ok());
            let reply = replica.machine.query(command);
            prop_assert!(Reply::from_bytes(&reply).is_ok());
        }
        prop_assert!(replica.machine.sessions.counts_right());
        let bytes = snapshot(&mut replica.machine, 50);
        let mut restored = KvMachine::default();
        prop_assert!(restored.restore(&mut &bytes[..]).is_ok());
        prop_assert_eq!(restored.status(), replica.machine.status());
        prop_assert!(restored.sessions.counts_right());
    }

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
