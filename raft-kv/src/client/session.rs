//! A session as its user holds it: numbers writes, repeats them safely, keeps itself alive.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::call::Repetition;
use super::request::{Request, Write};
use super::window::Window;
use super::{Client, ClientError, reply_of, unexpected};
use crate::protocol::{KeepAliveRequest, RequestKind};
use crate::reply::{Reply, TxnReply, WriteReply};
use crate::session::{Origin, Sequence, SessionId};
use crate::txn::Txn;

/// A session of a client. Many writes may be under way at a time, each counts once, and each may
/// be carried out before or after any other that is under way with it.
///
/// Cheap to clone; all clones mean the same session. It is kept alive until the last one is
/// dropped; the cluster forgets it one time-to-live later.
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    state: Arc<State>,
    keeper: AbortHandle,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

struct State {
    id: SessionId,
    window: Mutex<Window>,
    /// A write finished, so there may be room.
    room: Notify,
    has_expired: AtomicBool,
}

impl Session {
    pub(super) fn start(client: Client, id: SessionId, ttl_ms: u64) -> Self {
        let state = Arc::new(State {
            id,
            window: Mutex::default(),
            room: Notify::new(),
            has_expired: AtomicBool::new(false),
        });
        let keeper = keep_alive(client.clone(), Arc::clone(&state), ttl_ms);
        let keeper = tokio::spawn(keeper).abort_handle();
        Self {
            shared: Arc::new(Shared {
                client,
                state,
                keeper,
            }),
        }
    }

    /// The session's id.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.shared.state.id
    }

    /// Whether the cluster has forgotten the session. Then register another one: for new writes.
    #[must_use]
    pub fn has_expired(&self) -> bool {
        self.shared.state.has_expired.load(Ordering::Relaxed)
    }

    /// Carries out a write; it counts once, however often it has to be sent. Waits for earlier
    /// writes while [`crate::limits::SESSION_WINDOW`] are under way.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::is_unknown`] if the deadline passed, or the session
    /// expired, while the write may have been carried out.
    pub async fn write(&self, write: &Write) -> Result<WriteReply, ClientError> {
        write.check()?;
        let reply = self
            .counted(|origin| Request::write(write, Some(origin)))
            .await?;
        if let Reply::Write(written) = reply {
            return Ok(written);
        }
        Err(self.unexpected(&reply))
    }

    /// Carries out a transaction; it counts once, as a write does.
    ///
    /// # Errors
    /// As [`Session::write`].
    pub async fn txn(&self, txn: &Txn<'_>) -> Result<TxnReply, ClientError> {
        txn.check()?;
        let reply = self
            .counted(|origin| Request::txn(txn, Some(origin)))
            .await?;
        if let Reply::Txn(done) = reply {
            return Ok(done);
        }
        Err(self.unexpected(&reply))
    }

    /// Sends a request under the next number, as often as it takes.
    async fn counted(&self, request: impl FnOnce(Origin) -> Request) -> Result<Reply, ClientError> {
        let state = &self.shared.state;
        let (sequence, acknowledged) = state.begin().await;
        // The number is finished when this call ends, also if its future is dropped: it will not
        // be sent again.
        let _finish = FinishOnDrop { state, sequence };
        let request = request(Origin {
            session: state.id,
            sequence,
            acknowledged,
        });
        let client = &self.shared.client;
        reply_of(client.call(&request, Repetition::CountedOnce).await?)
    }

    fn unexpected(&self, reply: &Reply) -> ClientError {
        if *reply == Reply::SessionExpired {
            self.shared.state.has_expired.store(true, Ordering::Relaxed);
        }
        unexpected(reply)
    }

    /// Sets a key: [`Session::write`] of [`Write::put`].
    ///
    /// # Errors
    /// As [`Session::write`].
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<WriteReply, ClientError> {
        self.write(&Write::put(key, value)).await
    }
}

struct FinishOnDrop<'a> {
    state: &'a State,
    sequence: Sequence,
}

impl Drop for FinishOnDrop<'_> {
    fn drop(&mut self) {
        self.state.window().finish(self.sequence);
        self.state.room.notify_one();
    }
}

impl State {
    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn begin(&self) -> (Sequence, Sequence) {
        loop {
            if let Some(begun) = self.window().begin() {
                // Room for one more may be left, and a wake-up that was meant for it is used up.
                self.room.notify_one();
                return begun;
            }
            self.room.notified().await;
        }
    }
}

/// Shows a sign of life three times per time-to-live, until the session has expired.
async fn keep_alive(client: Client, state: Arc<State>, ttl_ms: u64) {
    let mut ticks = tokio::time::interval(Duration::from_millis(ttl_ms / 3));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first tick comes at once, and the session has just been registered.
    ticks.tick().await;
    while !state.has_expired.load(Ordering::Relaxed) {
        ticks.tick().await;
        let alive = KeepAliveRequest {
            session: state.id,
            acknowledged: state.window().acknowledged(),
        };
        let request = Request::of(RequestKind::KeepAlive, &alive);
        // A cluster that cannot answer now may at the next tick.
        if let Ok(answer) = client.call(&request, Repetition::Harmless).await
            && matches!(reply_of(answer), Ok(Reply::SessionExpired))
        {
            state.has_expired.store(true, Ordering::Relaxed);
        }
    }
}
