//! Clients that keep the cluster busy, at a bounded rate, and remember everything they were told.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use raft_kv::client::{Client, ClientError, Consistency, Session, Write};
use raft_kv::operation::{KeyRange, RangeQuery};
use raft_kv::reply::{Outcome, WriteReply};
use raft_sim::{Random, Stream};
use tokio::task::JoinSet;

use crate::access::Access;
use crate::history::{Action, Fate, Pair, Question, Record, Seen, Told};
use crate::problem::Problem;
use crate::timeline::Timeline;

/// Deadline of every call.
pub(crate) const CALL_DEADLINE: Duration = Duration::from_secs(3);
/// A call that takes longer than this hangs: nothing in it waits beyond its deadline.
const CALL_HANGS: Duration = Duration::from_secs(30);
/// Keys of each kind that are in use at a time.
const LANES: u64 = 3;
/// Calls of all clients to one key, until the next key takes its place: histories of a key stay
/// short enough to be judged.
const CALLS_PER_KEY: u64 = 250;
/// Of a hundred calls, how many concern keys that are only appended to and read.
const TOKEN_PERCENT: u64 = 40;
/// Longest pause between two calls of a client.
const PAUSE_MAX: Duration = Duration::from_millis(20);
/// Failures after which a client of one node turns to another.
const FAILURES_UNTIL_MOVE: u32 = 3;
/// What stands behind each token of a key that is only appended to.
pub(crate) const TOKEN_END: char = ';';

/// What all clients share.
pub(crate) struct Load {
    began: Instant,
    is_over: AtomicBool,
    /// The next number of a value or token.
    serial: AtomicU64,
    /// Calls made so far, for each kind of key and lane.
    calls: [[AtomicU64; LANES as usize]; 2],
    /// Writes count as progress if they were called at this time or later.
    progress_since_ns: AtomicU64,
    progress: AtomicU64,
    pub(crate) timeline: Timeline,
    records: Mutex<Vec<Record>>,
    problems: Mutex<Vec<Problem>>,
}

/// What a client does with its writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    /// Under a session: each counts once however often it is sent.
    Counted,
    /// Without one: each is sent at most once.
    OneShot,
}

impl Load {
    pub(crate) fn begin() -> Arc<Self> {
        let began = Instant::now();
        Arc::new(Self {
            began,
            is_over: AtomicBool::new(false),
            serial: AtomicU64::new(0),
            calls: Default::default(),
            progress_since_ns: AtomicU64::new(0),
            progress: AtomicU64::new(0),
            timeline: Timeline::begin(began),
            records: Mutex::default(),
            problems: Mutex::default(),
        })
    }

    /// Starts clients. Every third knows one node only; every other writes under sessions.
    pub(crate) fn start(
        self: &Arc<Self>,
        clients: u64,
        seed: u64,
        access: &Arc<Access>,
    ) -> JoinSet<Result<(), Problem>> {
        let mut running = JoinSet::new();
        for number in 0..clients {
            let habit = match number % 2 {
                0 => Habit::Counted,
                _ => Habit::OneShot,
            };
            let random = Random::stream(seed, Stream::Client(number));
            let (load, access) = (Arc::clone(self), Arc::clone(access));
            running.spawn(async move {
                let home = (number % 3 == 2).then_some(number as usize);
                let hand = Hand::new(access, home, habit)?;
                run_client(number, hand, random, load).await
            });
        }
        running
    }

    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Counts, from now on, the writes that are called and acknowledged from now on.
    pub(crate) fn count_progress(&self) {
        self.progress_since_ns
            .store(self.now_ns(), Ordering::Relaxed);
        self.progress.store(0, Ordering::Relaxed);
    }

    /// How many there were.
    pub(crate) fn progress(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// Everything that was recorded.
    pub(crate) fn take_records(&self) -> Vec<Record> {
        std::mem::take(&mut *locked(&self.records))
    }

    /// What clients found wrong by themselves.
    pub(crate) fn take_problems(&self) -> Vec<Problem> {
        std::mem::take(&mut *locked(&self.problems))
    }

    fn now_ns(&self) -> u64 {
        // Campaigns last less than centuries.
        self.began.elapsed().as_nanos() as u64
    }

    fn question(&self, random: &mut Random, last: &Option<(Arc<str>, String)>) -> Question {
        let is_token = random.below(100) < TOKEN_PERCENT;
        let lane = random.below(LANES);
        let calls = &self.calls[usize::from(is_token)][lane as usize];
        let age = calls.fetch_add(1, Ordering::Relaxed) / CALLS_PER_KEY;
        let kind = if is_token { "tokens" } else { "register" };
        let key: Arc<str> = format!("{kind}/{lane}/{age}").into();
        let fresh = || self.serial.fetch_add(1, Ordering::Relaxed).to_string();
        let action = match random.below(10) {
            0..=3 => Action::Get,
            _ if is_token => Action::Append(format!("{}{TOKEN_END}", fresh())),
            4..=6 => Action::Put(fresh()),
            7 => Action::Append(format!("+{}", fresh())),
            8 => Action::Swap {
                expected: last
                    .as_ref()
                    .filter(|(at, _)| *at == key)
                    .map(|(_, value)| value.clone()),
                new: fresh(),
            },
            _ => Action::Delete,
        };
        Question { key, action }
    }

    fn note(&self, record: Record) {
        let is_write = record.question.action != Action::Get;
        let since = self.progress_since_ns.load(Ordering::Relaxed);
        if is_write && matches!(record.fate, Fate::Answered(_)) && record.called_ns >= since {
            self.progress.fetch_add(1, Ordering::Relaxed);
        }
        let took = Duration::from_nanos(record.ended_ns - record.called_ns);
        self.timeline.note(&record.fate, took);
        locked(&self.records).push(record);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One client: one call at a time.
async fn run_client(
    number: u64,
    mut hand: Hand,
    mut random: Random,
    load: Arc<Load>,
) -> Result<(), Problem> {
    let mut last = None;
    while !load.is_over.load(Ordering::Relaxed) {
        // Without a session yet there is nothing to record.
        if hand.prepare().await {
            let question = load.question(&mut random, &last);
            let called_ns = load.now_ns();
            let asked = tokio::time::timeout(CALL_HANGS, hand.ask(&question)).await;
            let fate = match asked {
                Ok(Ok(told)) => {
                    hand.failures = 0;
                    Fate::Answered(told)
                }
                Ok(Err(error)) => hand.fate_of(number, &question, &error, &load)?,
                Err(_) => {
                    locked(&load.problems).push(Problem::CallHangs {
                        client: number,
                        call: format!("{question:?}"),
                        after: CALL_HANGS,
                        deadline: CALL_DEADLINE,
                    });
                    Fate::Unknown("it hangs".to_owned())
                }
            };
            if let Fate::Answered(Told {
                seen: Seen::Value(Some(pair)),
                ..
            }) = &fate
            {
                last = Some((Arc::clone(&question.key), pair.value.clone()));
            }
            load.note(Record {
                client: number,
                question,
                called_ns,
                ended_ns: load.now_ns(),
                fate,
            });
        }
        tokio::time::sleep(PAUSE_MAX.mul_f64(random.below(1_000) as f64 / 1_000.0)).await;
    }
    Ok(())
}

/// How one client reaches the cluster.
struct Hand {
    access: Arc<Access>,
    /// The only node that it knows, if there is one: the list of endpoints at this number.
    home: Option<usize>,
    habit: Habit,
    client: Client,
    session: Option<Session>,
    failures: u32,
}

impl Hand {
    fn new(access: Arc<Access>, home: Option<usize>, habit: Habit) -> Result<Self, Problem> {
        let client = client_at(&access, home)?;
        Ok(Self {
            access,
            home,
            habit,
            client,
            session: None,
            failures: 0,
        })
    }

    /// Whether it can ask: writes that are to be counted need a session.
    async fn prepare(&mut self) -> bool {
        if self.habit == Habit::OneShot {
            return true;
        }
        if self
            .session
            .as_ref()
            .is_some_and(|session| !session.has_expired())
        {
            return true;
        }
        self.session = self.client.session().await.ok();
        self.session.is_some()
    }

    async fn ask(&mut self, question: &Question) -> Result<Told, ClientError> {
        let key = question.key.as_bytes();
        let name = question.key.to_string();
        let write = match &question.action {
            Action::Get => {
                let query = RangeQuery::new(KeyRange::One(key));
                let found = self.client.range(&query, Consistency::Linearizable).await?;
                let pair = found.pairs.into_iter().next().map(|pair| Pair {
                    value: String::from_utf8_lossy(&pair.value).into_owned(),
                    modified: pair.mod_revision.0,
                });
                return Ok(Told {
                    revision: found.revision.0,
                    seen: Seen::Value(pair),
                });
            }
            Action::Put(value) => Write::put(name, value.clone()),
            Action::Append(more) => Write::append(name, more.clone()),
            Action::Swap { expected, new } => match expected {
                Some(expected) => Write::swap(name, expected.clone(), new.clone()),
                None => Write::create(name, new.clone()),
            },
            Action::Delete => Write::delete(name),
        };
        let written = match &self.session {
            Some(session) => session.write(&write).await?,
            None => self.client.write(&write).await?,
        };
        Ok(told_by(written))
    }

    /// What an error means for the call; whoever only knows one node may turn to another.
    fn fate_of(
        &mut self,
        number: u64,
        question: &Question,
        error: &ClientError,
        load: &Load,
    ) -> Result<Fate, Problem> {
        self.failures += 1;
        if let Some(home) = &mut self.home
            && self.failures.is_multiple_of(FAILURES_UNTIL_MOVE)
        {
            *home += 1;
            self.client = client_at(&self.access, self.home)?;
            // It lives in the connections of the client before.
            self.session = None;
        }
        let is_read = question.action == Action::Get;
        let said = error.to_string();
        Ok(match error {
            ClientError::Malformed(_) | ClientError::Mismatched | ClientError::Limit(_) => {
                let said = said.clone();
                let client = number;
                locked(&load.problems).push(Problem::Misunderstood { client, said });
                Fate::Unknown(error.to_string())
            }
            ClientError::Call(_)
            | ClientError::Rejected(_)
            | ClientError::Setup(_)
            | ClientError::SnapshotStalled { .. }
            | ClientError::NoEndpoint => match error.is_unknown() && !is_read {
                true => Fate::Unknown(said),
                false => Fate::Refused(said),
            },
        })
    }
}

fn client_at(access: &Access, home: Option<usize>) -> Result<Client, Problem> {
    Ok(match home {
        Some(number) => access.client_of_one(number, CALL_DEADLINE)?,
        None => access.client(CALL_DEADLINE)?,
    })
}

fn told_by(written: WriteReply) -> Told {
    let seen = match written.outcome {
        Outcome::Written => Seen::Written,
        Outcome::Different => Seen::Different,
        Outcome::Deleted { keys } => Seen::Deleted(keys),
        // Nobody compacts here; as an answer to anything else it fits no model.
        Outcome::Compacted => Seen::Value(None),
    };
    Told {
        revision: written.revision.0,
        seen,
    }
}
