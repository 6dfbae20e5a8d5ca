//! Looks around while calls go on: who belongs to the cluster now, and who leads if the endpoint
//! that is asked falls silent.
//!
//! One task for all calls of a client. It asks for the members after a new connection, after a
//! redirect, and once a second while calls are made. When a call waits for longer than it should,
//! or no leader is known, it asks every endpoint again and again until one of them says that it
//! leads: the waiting calls then turn to that one. A call that only waits for a slow leader is
//! not disturbed, because nobody else claims to lead.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use raft_proto::NodeId;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::pool::{Connected, Pool};
use crate::protocol::{self, MemberList, RequestKind, ResponseKind};

/// How often the members are asked for while calls are made.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// How long a look around goes on after the last call that asked for one.
const SEARCH_LASTS: Duration = Duration::from_millis(600);
/// Pause between two questions to one endpoint while a leader is searched.
const ASK_AGAIN: Duration = Duration::from_millis(15);
/// How long one endpoint may take to answer such a question, or to accept a connection.
const ANSWER_BOUND: Duration = Duration::from_millis(300);

/// Why a call asks to look around.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// This node, which was asked, is silent.
    Silent(NodeId),
    /// No leader is known.
    Leaderless,
}

/// What calls tell the scout, and it tells them.
pub(super) struct Signals {
    wake: Notify,
    doubt: Mutex<Option<(Doubt, Instant)>>,
    is_refresh_wanted: AtomicBool,
    was_used: AtomicBool,
    /// Grows each time another endpoint is to be asked.
    moved: watch::Sender<u64>,
}

impl Signals {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            wake: Notify::new(),
            doubt: Mutex::default(),
            is_refresh_wanted: AtomicBool::new(false),
            was_used: AtomicBool::new(false),
            moved: watch::Sender::new(0),
        })
    }

    /// A call is made.
    pub(super) fn note_use(&self) {
        self.was_used.store(true, Ordering::Relaxed);
    }

    /// Asks for the members soon.
    pub(super) fn refresh(&self) {
        self.is_refresh_wanted.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Asks to look for a leader.
    pub(super) fn doubt(&self, doubt: Doubt) {
        *self.current_doubt() = Some((doubt, Instant::now()));
        self.wake.notify_one();
    }

    /// Changes when another endpoint is to be asked.
    pub(super) fn moved(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    fn current_doubt(&self) -> MutexGuard<'_, Option<(Doubt, Instant)>> {
        self.doubt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The doubt there is, unless the last call that had it is long gone.
    fn lasting_doubt(&self) -> Option<Doubt> {
        let mut current = self.current_doubt();
        if current.is_some_and(|(_, since)| since.elapsed() > SEARCH_LASTS) {
            *current = None;
        }
        current.map(|(doubt, _)| doubt)
    }

    fn found(&self) {
        *self.current_doubt() = None;
        self.moved.send_modify(|generation| *generation += 1);
    }
}

/// Looks around until the pool is gone.
pub(super) async fn run(pool: Weak<Pool>, signals: Arc<Signals>) {
    loop {
        let waited = tokio::time::timeout(REFRESH_INTERVAL, signals.wake.notified()).await;
        let Some(pool) = pool.upgrade() else { return };
        if signals.lasting_doubt().is_some() {
            search(&pool, &signals).await;
        }
        let is_wanted = signals.is_refresh_wanted.swap(false, Ordering::Relaxed);
        let is_due = waited.is_err() && signals.was_used.swap(false, Ordering::Relaxed);
        if is_wanted || is_due {
            refresh(&pool).await;
        }
    }
}

/// Asks the endpoint that is in use who belongs to the cluster; if none is, any that answers.
async fn refresh(pool: &Arc<Pool>) {
    let addresses = match pool.preferred_address() {
        Some(address) => vec![address],
        None => pool.addresses(),
    };
    for address in addresses {
        if let Some(list) = ask(pool, &address).await {
            return pool.adopt(&list);
        }
    }
}

/// Asks everybody until somebody says that it leads, or nobody wants to know any more.
async fn search(pool: &Arc<Pool>, signals: &Signals) {
    let (tell, mut told) = mpsc::channel(1);
    let mut asking = JoinSet::new();
    let mut asked = BTreeSet::new();
    let mut newest_term = 0;
    while let Some(doubt) = signals.lasting_doubt() {
        for address in pool.addresses() {
            if asked.insert(address.clone()) {
                asking.spawn(ask_again_and_again(Arc::clone(pool), address, tell.clone()));
            }
        }
        let Ok(answer) = tokio::time::timeout(ANSWER_BOUND, told.recv()).await else {
            continue;
        };
        // We hold a sender ourselves, so there is always an answer to come.
        let Some((address, list)) = answer else {
            return;
        };
        newest_term = newest_term.max(list.term);
        pool.adopt(&list);
        let leads = list.leader == Some(list.from) && list.term == newest_term;
        if leads && doubt != Doubt::Silent(list.from) {
            pool.prefer_working(&address);
            signals.found();
        }
    }
}

/// Asks one endpoint for the members, until it is stopped.
async fn ask_again_and_again(
    pool: Arc<Pool>,
    address: String,
    tell: mpsc::Sender<(String, MemberList)>,
) {
    loop {
        if let Some(list) = ask(&pool, &address).await
            && tell.send((address.clone(), list)).await.is_err()
        {
            return;
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// Asks one endpoint for the members, once; older servers do not know the question.
async fn ask(pool: &Pool, address: &str) -> Option<MemberList> {
    let connected: Connected = pool.connect_to(address, ANSWER_BOUND).await.ok()?;
    let kind = RequestKind::Members as u8;
    let asked = connected.connection.request(kind, &[], bytes::Bytes::new());
    let response = tokio::time::timeout(ANSWER_BOUND, asked).await.ok()?.ok()?;
    match ResponseKind::from_number(response.kind) {
        Some(ResponseKind::Members) => protocol::from_body(&response.body).ok(),
        _ => None,
    }
}
