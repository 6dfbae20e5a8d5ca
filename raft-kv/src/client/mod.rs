//! The client library: finds the leader, follows hints, retries, and counts writes once.
//!
//! ```no_run
//! use raft_kv::client::{Client, ClientConfig, Write};
//! use raft_net::{TlsFiles, TlsIdentity};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let tls = TlsIdentity::from_files(&TlsFiles {
//!     certificate: "tls/client-app.pem".into(),
//!     key: "tls/client-app-key.pem".into(),
//!     authorities: "tls/ca.pem".into(),
//! })?;
//! let endpoints = vec!["127.0.0.1:7001".to_owned(), "127.0.0.1:7002".to_owned()];
//! let client = Client::new(ClientConfig::new(endpoints, tls))?;
//!
//! // Under a session a write counts once, however often it has to be sent.
//! let session = client.session().await?;
//! session.write(&Write::append("log", "one line\n")).await?;
//! let found = client.get(b"log").await?;
//! # Ok(())
//! # }
//! ```

pub mod call;
mod cluster;
mod error;
mod exchange;
mod pages;
mod pool;
mod request;
pub mod route;
mod scout;
mod session;
mod snapshot;
pub mod window;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_net::TlsIdentity;
use raft_net::client::{ClientEndpoint, ClientOptions};
use tokio::task::AbortHandle;

use self::call::{Attempt, Bounds, Call, CallPolicy, Next, Problem, Repetition};
pub use self::cluster::STATUS_BOUND;
pub use self::error::ClientError;
use self::exchange::{Answer, exchange};
pub use self::pages::Pages;
pub use self::pool::Discovery;
use self::pool::Pool;
use self::request::Request;
pub use self::request::Write;
use self::route::Advice;
pub use self::session::Session;
pub use self::snapshot::SNAPSHOT_PATIENCE;
use crate::command::Query;
use crate::limits::{MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES, SESSION_TTL_MS_DEFAULT};
use crate::operation::{KeyRange, RangeQuery};
use crate::protocol::{
    self, NodeStatus, Redirect, RegisterRequest, RequestKind, ResponseKind, ServerRefusal,
};
use crate::reply::{KeyValue, RangeReply, Reply, TxnReply, WriteReply};
use crate::txn::Txn;

/// What a client needs to know.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Endpoints of the cluster, `host:port`; one that works is enough.
    pub endpoints: Vec<String>,
    /// Whether the cluster's other members are asked, too, and new ones that join.
    pub discovery: Discovery,
    /// The client's certificate, and the authorities it trusts.
    pub tls: TlsIdentity,
    /// Deadline and pauses of every call.
    pub policy: CallPolicy,
    /// Connections to each endpoint. One carries thousands of requests at a time; more than one
    /// use more than one core.
    pub connections: usize,
    /// Silence after which a connection is given up.
    pub idle_timeout: Duration,
    /// Time-to-live of sessions, in milliseconds of the cluster's time.
    pub session_ttl_ms: u64,
}

impl ClientConfig {
    /// Defaults for a cluster with these endpoints.
    #[must_use]
    pub fn new(endpoints: Vec<String>, tls: TlsIdentity) -> Self {
        Self {
            endpoints,
            discovery: Discovery::default(),
            tls,
            policy: CallPolicy::default(),
            connections: 1,
            idle_timeout: Duration::from_secs(1),
            session_ttl_ms: SESSION_TTL_MS_DEFAULT,
        }
    }
}

/// Which states of the store may answer a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// One that holds every write finished before the read began.
    #[default]
    Linearizable,
    /// Whatever the node that is asked has applied; perhaps old.
    Stale,
}

/// A client of one cluster. Cheap to clone; all clones share their connections.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    pool: Arc<Pool>,
    /// The task that looks around.
    scout: Option<AbortHandle>,
    policy: CallPolicy,
    session_ttl_ms: u64,
    /// Grows with every call, for the jitter of its pauses.
    seed: AtomicU64,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(scout) = &self.scout {
            scout.abort();
        }
    }
}

impl Client {
    /// Makes a client. Connects only when needed. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ClientError::NoEndpoint`], and [`ClientError::Setup`] for an expired or unusable
    /// certificate.
    pub fn new(config: ClientConfig) -> Result<Self, ClientError> {
        if config.endpoints.is_empty() {
            return Err(ClientError::NoEndpoint);
        }
        let options = ClientOptions {
            // Both limits are far below 4 GiB.
            max_request_bytes: MAX_REQUEST_BYTES as u32,
            max_response_bytes: MAX_RESPONSE_BYTES as u32,
            idle_timeout: config.idle_timeout,
            ..ClientOptions::default()
        };
        let endpoint = ClientEndpoint::new(&config.tls, options)?;
        let mut seed = [0; 8];
        // Without randomness the pauses of clients started together are alike, nothing worse.
        let _ = getrandom::fill(&mut seed);
        let pool = Pool::new(
            endpoint,
            config.endpoints,
            config.connections,
            config.discovery,
        );
        let pool = Arc::new(pool);
        let scout = match pool.discovery() {
            Discovery::Learned => {
                let signals = Arc::clone(pool.signals());
                let scout = scout::run(Arc::downgrade(&pool), signals);
                Some(tokio::spawn(scout).abort_handle())
            }
            Discovery::Given => None,
        };
        Ok(Self {
            inner: Arc::new(Inner {
                pool,
                scout,
                policy: config.policy,
                session_ttl_ms: config.session_ttl_ms,
                seed: AtomicU64::new(u64::from_le_bytes(seed)),
            }),
        })
    }

    /// Carries out a write without a session. It is sent again only as long as it certainly has
    /// not reached a server.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::is_unknown`] if the write may have been carried out.
    pub async fn write(&self, write: &Write) -> Result<WriteReply, ClientError> {
        write.check()?;
        let request = Request::write(write, None);
        let answer = self.call(&request, Repetition::Forbidden).await?;
        let reply = reply_of(answer)?;
        if let Reply::Write(written) = reply {
            Ok(written)
        } else {
            Err(unexpected(&reply))
        }
    }

    /// Carries out a transaction without a session. It is sent again only as long as it certainly
    /// has not reached a server.
    ///
    /// # Errors
    /// As [`Client::write`].
    pub async fn txn(&self, txn: &Txn<'_>) -> Result<TxnReply, ClientError> {
        txn.check()?;
        let request = Request::txn(txn, None);
        txn_reply(self.call(&request, Repetition::Forbidden).await?)
    }

    /// Sets a key, without a session: [`Client::write`] of [`Write::put`].
    ///
    /// # Errors
    /// As [`Client::write`].
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<WriteReply, ClientError> {
        self.write(&Write::put(key, value)).await
    }

    /// Reads one key, linearizably.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, ClientError> {
        let query = RangeQuery::new(KeyRange::One(key));
        let found = self.range(&query, Consistency::Linearizable).await?;
        Ok(found.pairs.into_iter().next())
    }

    /// Reads keys.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn range(
        &self,
        query: &RangeQuery<'_>,
        consistency: Consistency,
    ) -> Result<RangeReply, ClientError> {
        query.range.check()?;
        let kind = match consistency {
            Consistency::Linearizable => RequestKind::Read,
            Consistency::Stale => RequestKind::ReadLocal,
        };
        let request = Request::query(kind, &Query::Range(*query));
        let answer = self.call(&request, Repetition::Harmless).await?;
        let reply = reply_of(answer)?;
        if let Reply::Range(found) = reply {
            Ok(found)
        } else {
            Err(unexpected(&reply))
        }
    }

    /// Registers a session, under which writes count once.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn session(&self) -> Result<Session, ClientError> {
        let ttl_ms = self.inner.session_ttl_ms;
        let request = Request::of(RequestKind::Register, &RegisterRequest { ttl_ms });
        let answer = self.call(&request, Repetition::Harmless).await?;
        let reply = reply_of(answer)?;
        if let Reply::Registered(id) = reply {
            Ok(Session::start(self.clone(), id, ttl_ms))
        } else {
            Err(unexpected(&reply))
        }
    }

    /// Closes all connections and tells the servers, within `bound`.
    pub async fn close(&self, bound: Duration) {
        self.inner.pool.shutdown(bound).await;
    }

    fn new_call(&self, repetition: Repetition) -> Call {
        let seed = self.inner.seed.fetch_add(1, Ordering::Relaxed);
        Call::new(self.inner.policy, repetition, seed)
    }

    /// Sends a request until it is answered, refused, or out of time.
    async fn call(&self, request: &Request, repetition: Repetition) -> Result<Answer, ClientError> {
        let mut call = self.new_call(repetition);
        let started = Instant::now();
        loop {
            let bounds = call.bounds(started.elapsed());
            let attempt = self.attempt(request, bounds).await;
            match call.next(attempt, started.elapsed()) {
                Next::Done(answer) => return Ok(answer?),
                Next::Retry { after } if after.is_zero() => {}
                Next::Retry { after } => self.pause(after).await,
            }
        }
    }

    /// Waits, but not longer than until a leader is found.
    async fn pause(&self, after: Duration) {
        let mut moved = self.inner.pool.signals().moved();
        // Whichever comes first: there is nothing else to tell.
        let _ = tokio::time::timeout(after, moved.changed()).await;
    }

    async fn attempt(&self, request: &Request, bounds: Bounds) -> Attempt<Answer> {
        let pool = &self.inner.pool;
        let connected = match pool.connect(bounds.connect).await {
            Ok(connected) => connected,
            Err(failed) => return failed,
        };
        let attempt = exchange(pool, &connected, request, bounds).await;
        let address = &connected.address;
        match attempt {
            Attempt::Redirected { from, redirect } => {
                let redirect = match pool.redirected(address, &redirect) {
                    Advice::Follow => redirect,
                    Advice::Wait => Redirect::default(),
                };
                return Attempt::Redirected { from, redirect };
            }
            Attempt::Unsure(_) | Attempt::NotDone(Problem::NotSent(_)) => pool.fails(address),
            Attempt::NotDone(Problem::Refused(ref refusal)) if leaves(refusal) => {
                pool.leave(address);
            }
            Attempt::NotDone(_) | Attempt::Answered(_) => {}
        }
        attempt
    }
}

/// Whether a refusal is a reason to ask another node.
const fn leaves(refusal: &ServerRefusal) -> bool {
    match refusal {
        ServerRefusal::NotReady { .. }
        | ServerRefusal::Stopped
        | ServerRefusal::ReadNotConfirmed
        | ServerRefusal::DiskUnavailable
        | ServerRefusal::Restoring
        | ServerRefusal::Superseded => true,
        ServerRefusal::Overloaded
        | ServerRefusal::TooLarge { .. }
        | ServerRefusal::EmptyKey
        | ServerRefusal::KeyTooLong { .. }
        | ServerRefusal::ValueTooLong { .. }
        | ServerRefusal::UnknownKind { .. }
        | ServerRefusal::UnsupportedVersion { .. }
        | ServerRefusal::Malformed
        | ServerRefusal::NotTransferred { .. }
        | ServerRefusal::TooManyOperations { .. }
        | ServerRefusal::DuplicateKey { .. }
        | ServerRefusal::LeaderNotReady
        | ServerRefusal::MembersNotChanged { .. }
        | ServerRefusal::NoSnapshot { .. }
        | ServerRefusal::SnapshotGone => false,
    }
}

fn reply_of(answer: Answer) -> Result<Reply, ClientError> {
    match answer {
        (ResponseKind::Answer, body) => Ok(Reply::from_bytes(&body)?),
        _ => Err(ClientError::Mismatched),
    }
}

fn txn_reply(answer: Answer) -> Result<TxnReply, ClientError> {
    let reply = reply_of(answer)?;
    if let Reply::Txn(done) = reply {
        Ok(done)
    } else {
        Err(unexpected(&reply))
    }
}

fn status_of(answer: Answer) -> Result<NodeStatus, ClientError> {
    match answer {
        (ResponseKind::Status, body) => Ok(protocol::from_body(&body)?),
        _ => Err(ClientError::Mismatched),
    }
}

/// The error that a reply other than the expected one stands for.
fn unexpected(reply: &Reply) -> ClientError {
    match reply {
        Reply::Refused(refusal) => ClientError::Rejected(*refusal),
        Reply::SessionExpired => ClientError::session_expired(),
        Reply::Write(_)
        | Reply::Registered(_)
        | Reply::KeptAlive
        | Reply::Ticked
        | Reply::Range(_)
        | Reply::Status(_)
        | Reply::Txn(_) => ClientError::Mismatched,
    }
}
