//! Real processes under kill -9 and SIGSTOP: what all clients saw together is linearizable.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use raft_kv::client::{Client, ClientError, Session, Write};
use raft_kv::reply::{Outcome, WriteReply};
use raft_sim::Time;
use raft_sim::checker::linearizability::{Bound, Model, Operation, assert_linearizable};
use rustix::process::Signal;
use support::Cluster;
use tokio::task::JoinSet;

/// Keys that all clients share, so that they meet.
const KEYS: u64 = 3;
const CLIENTS: u64 = 6;
/// Operations between two faults, of all clients together.
const OPERATIONS_PER_PHASE: u64 = 150;
/// Time that the search for an order may take.
const SEARCH_TIME: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
enum Action {
    Put(u64),
    Get,
    Swap { old: u64, new: u64 },
    Delete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Written,
    Different,
    Deleted(u64),
    Value(Option<u64>),
}

/// One register for each key.
struct Registers;

impl Model for Registers {
    type Part = u64;
    type State = Option<u64>;
    type Input = (u64, Action);
    type Output = Seen;

    fn part(&self, (key, _): &(u64, Action)) -> u64 {
        *key
    }

    fn initial(&self, _key: &u64) -> Option<u64> {
        None
    }

    fn step(
        &self,
        state: &Option<u64>,
        (_, action): &(u64, Action),
        seen: Option<&Seen>,
    ) -> Option<Option<u64>> {
        let (next, expected) = match *action {
            Action::Put(value) => (Some(value), Seen::Written),
            Action::Get => (*state, Seen::Value(*state)),
            Action::Swap { old, new } if *state == Some(old) => (Some(new), Seen::Written),
            Action::Swap { .. } => (*state, Seen::Different),
            Action::Delete => (None, Seen::Deleted(u64::from(state.is_some()))),
        };
        seen.is_none_or(|seen| *seen == expected).then_some(next)
    }
}

type History = Vec<Operation<(u64, Action), Seen>>;

/// What the clients share.
struct Load {
    began: Instant,
    next_value: AtomicU64,
    finished: AtomicU64,
    is_over: AtomicBool,
}

impl Load {
    fn now(&self) -> Time {
        Time(self.began.elapsed().as_nanos() as u64)
    }
}

fn seen_by(written: WriteReply) -> Seen {
    match written.outcome {
        Outcome::Written => Seen::Written,
        Outcome::Different => Seen::Different,
        Outcome::Deleted { keys } => Seen::Deleted(keys),
        Outcome::Compacted => panic!("nothing is compacted here"),
    }
}

async fn act(
    client: &Client,
    session: Option<&Session>,
    key: u64,
    action: Action,
) -> Result<Seen, ClientError> {
    let name = format!("register/{key}");
    let write = match action {
        Action::Get => {
            let found = client.get(name.as_bytes()).await?;
            let number = |pair: raft_kv::reply::KeyValue| {
                let text = std::str::from_utf8(&pair.value).expect("we wrote text");
                text.parse().expect("we wrote numbers")
            };
            return Ok(Seen::Value(found.map(number)));
        }
        Action::Put(value) => Write::put(name, value.to_string()),
        Action::Swap { old, new } => Write::swap(name, old.to_string(), new.to_string()),
        Action::Delete => Write::delete(name),
    };
    let written = match session {
        Some(session) => session.write(&write).await?,
        None => client.write(&write).await?,
    };
    Ok(seen_by(written))
}

/// One client: even ones write under a session, odd ones without.
async fn run_client(client: Client, number: u64, load: Arc<Load>) -> History {
    let session = match number % 2 {
        0 => Some(client.session().await.expect("the cluster answers")),
        _ => None,
    };
    let mut history = History::new();
    let mut last_seen = 0;
    let mut turn = number;
    while !load.is_over.load(Ordering::Relaxed) {
        turn += 1;
        let key = turn % KEYS;
        let action = match turn % 7 {
            0 | 3 => Action::Put(load.next_value.fetch_add(1, Ordering::Relaxed)),
            1 => Action::Swap {
                old: last_seen,
                new: load.next_value.fetch_add(1, Ordering::Relaxed),
            },
            6 if turn.is_multiple_of(5) => Action::Delete,
            _ => Action::Get,
        };
        let called = load.now();
        let outcome = act(&client, session.as_ref(), key, action).await;
        let answered = match outcome {
            Ok(seen) => {
                if let Seen::Value(Some(value)) = seen {
                    last_seen = value;
                }
                Some((load.now(), seen))
            }
            Err(error) => {
                assert!(error.is_unknown(), "client {number}: {error}");
                None
            }
        };
        load.finished.fetch_add(1, Ordering::Relaxed);
        history.push(Operation {
            client: number,
            input: (key, action),
            called,
            answered,
        });
    }
    history
}

async fn wait_for_progress(load: &Load) {
    let target = load.finished.load(Ordering::Relaxed) + OPERATIONS_PER_PHASE;
    let deadline = Instant::now() + support::PATIENCE;
    while load.finished.load(Ordering::Relaxed) < target {
        assert!(Instant::now() < deadline, "the clients make no progress");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_clients_see_across_faults_is_linearizable() {
    let mut cluster = Cluster::start(3).await;
    let load = Arc::new(Load {
        began: Instant::now(),
        next_value: AtomicU64::new(1),
        finished: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
    });
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        // Each with connections of its own.
        clients.spawn(run_client(cluster.client(), number, Arc::clone(&load)));
    }
    for _ in 0..2 {
        wait_for_progress(&load).await;
        let killed = cluster.leader().await;
        cluster.kill(killed);
        wait_for_progress(&load).await;
        cluster.start_server(killed);
        wait_for_progress(&load).await;
        let stopped = cluster.leader().await;
        cluster.signal(stopped, Signal::STOP);
        wait_for_progress(&load).await;
        cluster.signal(stopped, Signal::CONT);
    }
    wait_for_progress(&load).await;
    load.is_over.store(true, Ordering::Relaxed);
    let mut history = History::new();
    while let Some(seen) = clients.join_next().await {
        history.extend(seen.expect("no client failed"));
    }
    let answered = history.iter().filter(|one| one.answered.is_some()).count();
    assert!(
        answered as u64 > 9 * OPERATIONS_PER_PHASE / 2,
        "{answered} answers"
    );
    let search = Instant::now();
    let bound = Bound::Time {
        limit: SEARCH_TIME,
        elapsed: &|| search.elapsed(),
    };
    assert_linearizable(&Registers, &history, bound);
    cluster.converged(&[1, 2, 3]).await;
}
