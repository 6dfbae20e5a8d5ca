//! A simulated client: it repeats calls as the real one decides, and notes what it was told.

use std::time::Duration;

use bytes::Bytes;
use raft_node::{LeaderHint, ProposeError, ReadConsistency, ReadError};
use raft_proto::NodeId;
use raft_sim::{CallError as SimError, SimClient, Time};

use super::history::{Call as Noted, Ended, History};
use super::model::{Ask, Expect, KEYS, Key, Pair, Seen};
use super::wire;
use crate::client::call::{Attempt, Call, CallError, CallPolicy, Next, Problem, Repetition};
use crate::client::window::Window;
use crate::command::Command;
use crate::operation::{Operation, Revision};
use crate::protocol::{Redirect, ServerRefusal};
use crate::reply::{Refusal, Reply};
use crate::session::{LeaderTime, Origin, Sequence, SessionId};

/// Groups of keys of a world.
const GROUPS: u64 = 3;
/// Longest pause between two operations, in milliseconds.
const PAUSE_MS_MAX: u64 = 40;
/// How far the clocks of two nodes are apart, in milliseconds: stamps of different leaders have
/// nothing to do with each other.
const CLOCK_SKEW_MS: u64 = 1_000_000;
/// How long a client waits for the answer to a tick, which nobody needs, in milliseconds.
const TICK_TIMEOUT_MS: u64 = 100;

/// A session as its client holds it.
struct Session {
    id: SessionId,
    ttl_ms: u64,
    window: Window,
    /// When it last showed a sign of life.
    renewed: Time,
}

/// What is sent, to whichever node: clocks of nodes differ, everything else is the same.
enum Sent {
    Fixed(Bytes),
    Register { ttl_ms: u64 },
    KeepAlive(SessionId, u64),
    Query(Bytes),
}

pub(super) struct Clerk {
    client: SimClient,
    nodes: Vec<NodeId>,
    history: History,
    policy: CallPolicy,
    session: Option<Session>,
    /// Where the last answer came from, or who is said to lead.
    node: Option<NodeId>,
    /// What it last saw of a key.
    last_seen: Option<(Key, Pair)>,
    /// The latest revision that it was told of.
    revision: u64,
    serial: u32,
    room: Room,
}

/// Whether an attempt of the present call found no room in its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Enough,
    None,
}

impl Clerk {
    pub(super) fn new(client: SimClient, nodes: Vec<NodeId>, history: History) -> Self {
        let ms = Duration::from_millis;
        // Some are like the real client, some hurry, so that calls end in every way.
        let policy = client.draw(|random| CallPolicy {
            deadline: ms(*random.pick(&[400, 1_500, 5_000])),
            first_attempt: ms(*random.pick(&[100, 300, 1_000])),
            ..CallPolicy::default()
        });
        Self {
            client,
            nodes,
            history,
            policy,
            session: None,
            node: None,
            last_seen: None,
            revision: 1,
            serial: 0,
            room: Room::Enough,
        }
    }

    /// Works until the time is over, or so many operations are done.
    pub(super) async fn play(mut self, until: Time, operations: u64) {
        let uses_sessions = self.client.draw(|random| random.per_mille(750));
        for _ in 0..operations {
            if self.client.now() >= until {
                return;
            }
            if uses_sessions && self.session.is_none() {
                self.register().await;
            }
            self.renew().await;
            if self.client.draw(|random| random.per_mille(20)) {
                self.compact().await;
            } else {
                self.operate().await;
            }
            let ms = self.client.draw(|random| random.below(PAUSE_MS_MAX));
            self.client.sleep_ms(ms).await;
        }
    }

    /// Registers a session; some live so short that an outage outlasts them.
    async fn register(&mut self) {
        self.history.count_other();
        let ttl_ms = self.client.draw(|r| *r.pick(&[1_000, 1_000, 60_000]));
        let sent = Sent::Register { ttl_ms };
        let began = self.client.now();
        let Ok(reply) = self.call(&sent, Repetition::Harmless).await else {
            return;
        };
        let Reply::Registered(id) = reply else {
            let what = format!("a registration got {reply:?}");
            return self.history.broken(what);
        };
        self.session = Some(Session {
            id,
            ttl_ms,
            window: Window::default(),
            renewed: began,
        });
    }

    /// Shows a sign of life when it is due, as the real client does in the background, and
    /// sometimes tells the time, as a server does.
    async fn renew(&mut self) {
        let now = self.client.now();
        let Some(session) = &mut self.session else {
            return;
        };
        if now.ms_since(session.renewed) >= session.ttl_ms / 3 {
            session.renewed = now;
            let sent = Sent::KeepAlive(session.id, session.window.acknowledged().0);
            self.history.count_other();
            match self.call(&sent, Repetition::Harmless).await {
                Ok(Reply::KeptAlive) | Err(_) => {}
                Ok(Reply::SessionExpired) => self.session = None,
                Ok(reply) => self.history.broken(format!("a sign of life got {reply:?}")),
            }
        } else if self.client.draw(|random| random.per_mille(30)) {
            let node = self.next_node();
            let stamp = self.stamp(node);
            let tick = Command::Tick { stamp }.encode().to_bytes();
            // If it is lost, the next one tells the same.
            let _ = self.client.write(node, tick, TICK_TIMEOUT_MS).await;
        }
    }

    async fn compact(&mut self) {
        self.history.count_other();
        let back = self.client.draw(|random| random.below(50));
        let operation = Operation::Compact {
            revision: Revision(self.revision.saturating_sub(back).max(1)),
        };
        let origin = None;
        let command = Command::Write { origin, operation }.encode().to_bytes();
        // An older revision may be gone already, and one that was told of certainly exists.
        match self.call(&Sent::Fixed(command), Repetition::Harmless).await {
            Ok(Reply::Write(_) | Reply::Refused(Refusal::Compacted { .. })) | Err(_) => {}
            Ok(reply) => self.history.broken(format!("a compaction got {reply:?}")),
        }
    }

    /// Does something to a group of keys.
    async fn operate(&mut self) {
        let ask = self.draw();
        let (client, called) = (self.client.id(), self.client.now());
        let (command, outcome) = if let Some(query) = wire::query(&ask) {
            let outcome = self.call(&Sent::Query(query), Repetition::Harmless).await;
            (None, outcome)
        } else {
            let by_revision = self.client.draw(|random| random.per_mille(500));
            let begun = self
                .session
                .as_mut()
                .and_then(|session| Some((session.id, session.window.begin()?)));
            let origin = begun.map(|(session, (sequence, acknowledged))| Origin {
                session,
                sequence,
                acknowledged,
            });
            let repetition = match origin {
                Some(_) => Repetition::CountedOnce,
                None => Repetition::Forbidden,
            };
            let command = wire::command(&ask, origin, by_revision);
            let outcome = self.call(&Sent::Fixed(command.clone()), repetition).await;
            if let (Some(origin), Some(session)) = (origin, &mut self.session) {
                session.window.finish(origin.sequence);
            }
            (Some(command), outcome)
        };
        let ended = match outcome {
            Ok(reply) => self.understand(&ask, &reply),
            Err(CallError::Unknown(_)) => Ended::Unknown,
            Err(CallError::Refused(_) | CallError::TimedOut { .. } | CallError::Unreachable(_)) => {
                match self.room {
                    Room::Enough => Ended::Refused,
                    Room::None => Ended::NoRoom,
                }
            }
        };
        self.history.add(Noted {
            client,
            ask,
            command,
            called,
            ended,
        });
    }

    fn understand(&mut self, ask: &Ask, reply: &Reply) -> Ended {
        if *reply == Reply::SessionExpired {
            // An earlier attempt may have counted.
            self.session = None;
            return Ended::Unknown;
        }
        let Some(told) = wire::told(ask, reply) else {
            self.history.broken(format!("{ask:?} got {reply:?}"));
            return Ended::Unknown;
        };
        self.revision = self.revision.max(told.revision);
        if let (Ask::Get(key), Seen::One(Some(pair))) = (ask, &told.seen) {
            self.last_seen = Some((*key, pair.clone()));
        }
        Ended::Answered(self.client.now(), told)
    }

    fn draw(&mut self) -> Ask {
        self.serial += 1;
        let value = [
            &(self.client.id() as u32).to_be_bytes()[..],
            &self.serial.to_be_bytes()[..],
        ];
        let value = value.concat();
        let (dice, key) = self.client.draw(|random| {
            let key = Key {
                group: random.below(GROUPS) as u8,
                slot: random.below(KEYS as u64) as usize,
            };
            (random.below(100), key)
        });
        let seen = self.last_seen.clone();
        // Without sessions a deletion could not be told from another one.
        let has_session = self.session.is_some();
        match dice {
            0..20 => Ask::Get(key),
            20..35 => Ask::List(key.group),
            35..55 => Ask::Put(key, value),
            55..75 => Ask::Append(key, value),
            75..80 if has_session => Ask::Delete(key),
            80..83 if has_session => Ask::Clear(key.group),
            75..92 => match seen {
                Some((key, pair)) => Ask::Swap(key, Expect::Pair(pair), value),
                None => Ask::Swap(key, Expect::Absent, value),
            },
            _ => match seen {
                Some((key, pair)) if key.slot == 0 => {
                    Ask::PutAllIf(key.group, Expect::Pair(pair), value)
                }
                Some(_) | None => Ask::PutAllIf(key.group, Expect::Absent, value),
            },
        }
    }

    /// Sends a request until it is answered, refused, or out of time.
    async fn call(&mut self, sent: &Sent, repetition: Repetition) -> Result<Reply, CallError> {
        let seed = self.client.draw(raft_sim::Random::bits);
        let mut call = Call::new(self.policy, repetition, seed);
        self.room = Room::Enough;
        let began = self.client.now();
        loop {
            let elapsed = |now: Time| Duration::from_millis(now.ms_since(began));
            let bounds = call.bounds(elapsed(self.client.now()));
            let timeout_ms = bounds.attempt.as_millis().max(1) as u64;
            let attempt = self.attempt(sent, timeout_ms).await;
            match call.next(attempt, elapsed(self.client.now())) {
                Next::Done(outcome) => return outcome,
                Next::Retry { after } if after.is_zero() => {}
                Next::Retry { after } => self.client.sleep_ms(after.as_millis() as u64).await,
            }
        }
    }

    async fn attempt(&mut self, sent: &Sent, timeout_ms: u64) -> Attempt<Reply> {
        let node = self.next_node();
        let stamp = self.stamp(node);
        let answer = match sent {
            Sent::Query(query) => {
                let level = ReadConsistency::Linearizable;
                let query = query.clone();
                self.client.read(node, query, level, timeout_ms).await
            }
            Sent::Fixed(command) => self.client.write(node, command.clone(), timeout_ms).await,
            Sent::Register { ttl_ms } => {
                let ttl_ms = *ttl_ms;
                let command = Command::Register { stamp, ttl_ms }.encode().to_bytes();
                self.client.write(node, command, timeout_ms).await
            }
            Sent::KeepAlive(session, acknowledged) => {
                let command = Command::KeepAlive {
                    stamp,
                    session: *session,
                    acknowledged: Sequence(*acknowledged),
                };
                let command = command.encode().to_bytes();
                self.client.write(node, command, timeout_ms).await
            }
        };
        self.node = match &answer {
            Ok(_) => Some(node),
            Err(error) => hint(error).map(|leader| leader.id),
        };
        let attempt = attempt_of(node, answer);
        match (sent, attempt) {
            // As the real client: the session refuses this attempt, not the write.
            (Sent::Fixed(_), Attempt::Answered(Reply::Refused(refusal)))
                if refusal.is_of_session_room() =>
            {
                self.room = Room::None;
                Attempt::NotDone(Problem::NoRoom(refusal))
            }
            (_, attempt) => attempt,
        }
    }

    fn next_node(&self) -> NodeId {
        let other = self.client.draw(|random| *random.pick(&self.nodes));
        self.node.unwrap_or(other)
    }

    /// A node's clock, by which it stamps commands.
    fn stamp(&self, node: NodeId) -> LeaderTime {
        LeaderTime(self.client.now().as_ms() + node.0 * CLOCK_SKEW_MS)
    }
}

fn hint(error: &SimError) -> Option<&LeaderHint> {
    match error {
        SimError::Propose(ProposeError::NotLeader { leader })
        | SimError::Read(ReadError::NotConfirmed { leader }) => leader.as_ref(),
        SimError::TimedOut | SimError::Propose(_) | SimError::Read(_) => None,
    }
}

/// What the real client makes of what the real server would answer.
fn attempt_of(node: NodeId, answer: Result<Bytes, SimError>) -> Attempt<Reply> {
    let from = node.to_string();
    let refused = |refusal| Attempt::NotDone(Problem::Refused(refusal));
    let redirected = |from, leader: Option<LeaderHint>| Attempt::Redirected {
        from,
        redirect: leader.map_or_else(Redirect::default, |leader| Redirect {
            leader: Some(leader.id),
            address: leader.address,
        }),
    };
    match answer {
        Ok(reply) => match Reply::from_bytes(&reply) {
            Ok(reply) => Attempt::Answered(reply),
            Err(error) => panic!("a reply as sent: {error}"),
        },
        Err(SimError::TimedOut) => Attempt::Unsure(Problem::NoAnswer(from)),
        Err(SimError::Propose(error)) => match error {
            ProposeError::NotLeader { leader } => redirected(from, leader),
            ProposeError::Superseded { .. } => refused(ServerRefusal::Superseded),
            ProposeError::Unknown => Attempt::Unsure(Problem::ServerUnsure),
            ProposeError::DiskUnavailable => refused(ServerRefusal::DiskUnavailable),
            ProposeError::Overloaded => refused(ServerRefusal::Overloaded),
            ProposeError::TooLarge { bytes, limit } => refused(ServerRefusal::TooLarge {
                bytes: bytes as u64,
                limit: limit as u64,
            }),
            ProposeError::ShutDown => refused(ServerRefusal::Stopped),
        },
        Err(SimError::Read(error)) => match error {
            ReadError::NotConfirmed { leader } => redirected(from, leader),
            ReadError::Overloaded => refused(ServerRefusal::Overloaded),
            ReadError::Restoring => refused(ServerRefusal::Restoring),
            ReadError::TimedOut => refused(ServerRefusal::ReadNotConfirmed),
            ReadError::ShutDown => refused(ServerRefusal::Stopped),
        },
    }
}
