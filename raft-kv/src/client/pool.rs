//! Connections to the endpoints of a cluster: made when needed, shared by all calls, made anew
//! when lost.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use raft_net::ConnectError;
use raft_net::client::{ClientConnection, ClientEndpoint};
use tokio::task::JoinSet;

use super::call::{Attempt, Problem};
use super::error::is_permanent;
use super::route::{Advice, Route};
use super::scout::{Doubt, Signals};
use crate::protocol::{MemberList, Redirect};

/// How long an endpoint has to accept us before the next one is asked, too.
const HEAD_START: Duration = Duration::from_millis(50);

/// A connection, and the endpoint it leads to.
#[derive(Clone)]
pub(super) struct Connected {
    pub(super) address: Arc<str>,
    pub(super) connection: ClientConnection,
    pub(super) activity: Arc<Activity>,
}

/// When a connection last brought an answer that took a quorum.
pub(super) struct Activity {
    origin: tokio::time::Instant,
    /// Nanoseconds after `origin`.
    last_ns: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self {
            origin: tokio::time::Instant::now(),
            last_ns: AtomicU64::new(0),
        }
    }

    /// Such an answer has come.
    pub(super) fn note(&self) {
        // A u64 of nanoseconds lasts for centuries.
        let now = self.origin.elapsed().as_nanos() as u64;
        self.last_ns.fetch_max(now, Ordering::Relaxed);
    }

    /// When the last one came.
    pub(super) fn last(&self) -> tokio::time::Instant {
        self.origin + Duration::from_nanos(self.last_ns.load(Ordering::Relaxed))
    }
}

/// All connections of a client.
pub(super) struct Pool {
    endpoint: ClientEndpoint,
    connections_per_peer: usize,
    started: Instant,
    state: Mutex<State>,
    signals: Arc<Signals>,
    discovery: Discovery,
}

/// Where a client's endpoints come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Discovery {
    /// From the cluster: the addresses of its members, from the first answer on and after every
    /// change. Those that were given are the way in, and are tried again if all else fails.
    #[default]
    Learned,
    /// From the configuration only: these nodes are meant, and no others.
    Given,
}

struct State {
    route: Route,
    peers: HashMap<String, Arc<Peer>>,
    /// Cluster, term and commit index of the newest list of members.
    known: Option<(String, u64, u64)>,
}

/// The connections to one endpoint.
struct Peer {
    address: Arc<str>,
    slots: Vec<Slot>,
    next: AtomicUsize,
    activity: Arc<Activity>,
}

/// Whether a connection was made for the call that got it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Age {
    New,
    Known,
}

#[derive(Default)]
struct Slot {
    current: Mutex<Option<ClientConnection>>,
    /// Held while connecting, so that it is done once for all who wait; with the last failure.
    connecting: tokio::sync::Mutex<Option<(Instant, ConnectError)>>,
}

impl Pool {
    pub(super) fn new(
        endpoint: ClientEndpoint,
        endpoints: Vec<String>,
        connections_per_peer: usize,
        discovery: Discovery,
    ) -> Self {
        Self {
            endpoint,
            connections_per_peer: connections_per_peer.max(1),
            started: Instant::now(),
            state: Mutex::new(State {
                route: Route::new(endpoints),
                peers: HashMap::new(),
                known: None,
            }),
            signals: Signals::new(),
            discovery,
        }
    }

    /// Where calls tell of doubts, and hear of another endpoint to ask.
    pub(super) fn signals(&self) -> &Arc<Signals> {
        &self.signals
    }

    /// Whether the scout has anything to do.
    pub(super) const fn discovery(&self) -> Discovery {
        self.discovery
    }

    /// A connection to the endpoint that is asked at the moment, made within `bound` if there is
    /// none; without such an endpoint, to whichever answers first.
    pub(super) async fn connect<T>(&self, bound: Duration) -> Result<Connected, Attempt<T>> {
        self.signals.note_use();
        let preferred = self.preferred();
        if let Some(peer) = preferred {
            return match self.connect_peer(&peer, bound).await {
                Ok(connected) => Ok(connected),
                Err(error) => {
                    self.fails(&peer.address);
                    Err(Attempt::NotDone(not_connected(&peer.address, &error)))
                }
            };
        }
        self.connect_any(bound).await
    }

    /// A connection to one given endpoint.
    pub(super) async fn connect_to(
        &self,
        address: &str,
        bound: Duration,
    ) -> Result<Connected, ConnectError> {
        let peer = self.state().peer(address, self.connections_per_peer);
        self.connect_peer(&peer, bound).await
    }

    async fn connect_peer(
        &self,
        peer: &Arc<Peer>,
        bound: Duration,
    ) -> Result<Connected, ConnectError> {
        let (connection, age) = peer.connect(&self.endpoint, bound).await?;
        if age == Age::New {
            self.is_connected(peer, &connection);
        }
        Ok(peer.connected(connection))
    }

    /// A new connection tells which node is there, and is an occasion to ask for the members.
    fn is_connected(&self, peer: &Peer, connection: &ClientConnection) {
        let mut state = self.state();
        if state.route.knows(&peer.address) {
            state.route.identify(&peer.address, connection.node());
        }
        self.signals.refresh();
    }

    /// Asks one endpoint after the other, without waiting long for any; the first that accepts us
    /// is the one to ask from now on.
    async fn connect_any<T>(&self, bound: Duration) -> Result<Connected, Attempt<T>> {
        let mut waiting = self.all_peers().into_iter();
        let mut attempts = JoinSet::new();
        let mut problems = Vec::new();
        loop {
            if let Some(peer) = waiting.next() {
                let endpoint = self.endpoint.clone();
                attempts.spawn(async move {
                    let outcome = peer.connect(&endpoint, bound).await;
                    (peer, outcome)
                });
            }
            let patience = match waiting.len() {
                0 => Duration::MAX,
                _ => HEAD_START,
            };
            match tokio::time::timeout(patience, attempts.join_next()).await {
                // Nothing yet: ask the next one, too.
                Err(_) | Ok(Some(Err(_))) => {}
                Ok(Some(Ok((peer, Ok((connection, age)))))) => {
                    self.state().route.works(&peer.address);
                    if age == Age::New {
                        self.is_connected(&peer, &connection);
                    }
                    return Ok(peer.connected(connection));
                }
                Ok(Some(Ok((peer, Err(error))))) => problems.push((peer, error)),
                Ok(None) => {
                    self.start_over();
                    return Err(Attempt::NotDone(nobody_connected(&problems)));
                }
            }
        }
    }

    /// An endpoint has not done its part.
    pub(super) fn fails(&self, address: &str) {
        let now = self.now();
        self.state().route.fails(address, now);
    }

    /// Another endpoint had better be asked next.
    pub(super) fn leave(&self, address: &str) {
        self.state().route.leave(address);
    }

    /// An endpoint says that it does not lead.
    pub(super) fn redirected(&self, from: &str, redirect: &Redirect) -> Advice {
        let now = self.now();
        let advice = self.state().route.redirected(from, redirect, now);
        match advice {
            Advice::Follow => self.signals.refresh(),
            Advice::Wait => self.signals.doubt(Doubt::Leaderless),
        }
        advice
    }

    /// Somebody tells who belongs to the cluster: its endpoints from now on, unless that is older
    /// than what is known.
    pub(super) fn adopt(&self, list: &MemberList) {
        if self.discovery == Discovery::Given || list.members.is_empty() {
            return;
        }
        let mut state = self.state();
        if state.known.as_ref().is_some_and(|(cluster, term, index)| {
            *cluster == list.cluster && (list.term, list.commit_index) < (*term, *index)
        }) {
            return;
        }
        state.known = Some((list.cluster.clone(), list.term, list.commit_index));
        state.route.set_members(&list.members);
        let State { route, peers, .. } = &mut *state;
        // Calls under way keep their connections until they end.
        peers.retain(|address, _| route.knows(address));
    }

    /// Nobody can be reached: whoever answers next is believed, and may be one of those given.
    fn start_over(&self) {
        let mut state = self.state();
        state.known = None;
        state.route.start_over();
    }

    /// The endpoint that is asked at the moment.
    pub(super) fn preferred_address(&self) -> Option<String> {
        self.state().route.preferred().map(str::to_owned)
    }

    /// Whether calls are to ask another endpoint than this one.
    pub(super) fn is_elsewhere(&self, address: &str) -> bool {
        let state = self.state();
        let preferred = state.route.preferred();
        preferred.is_some_and(|preferred| preferred != address)
    }

    /// Asks this endpoint from now on, until it fails.
    pub(super) fn prefer(&self, address: &str) {
        let mut state = self.state();
        if let Some(before) = state.route.preferred().map(str::to_owned) {
            state.route.leave(&before);
        }
        state.route.works(address);
    }

    /// Asks this endpoint, which has just answered, from now on.
    pub(super) fn prefer_working(&self, address: &str) {
        self.state().route.trust(address);
        self.prefer(address);
    }

    /// All endpoints known.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.state().route.endpoints().map(str::to_owned).collect()
    }

    pub(super) async fn shutdown(&self, bound: Duration) {
        self.endpoint.shutdown(bound).await;
    }

    fn preferred(&self) -> Option<Arc<Peer>> {
        let mut state = self.state();
        let address = state.route.preferred()?;
        if let Some(peer) = state.peers.get(address) {
            return Some(Arc::clone(peer));
        }
        let address = address.to_owned();
        Some(state.peer(&address, self.connections_per_peer))
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn all_peers(&self) -> Vec<Arc<Peer>> {
        let now = self.now();
        let mut state = self.state();
        let in_order = state.route.all(now);
        let addresses: Vec<String> = in_order.into_iter().map(str::to_owned).collect();
        let peer = |address: &String| state.peer(address, self.connections_per_peer);
        addresses.iter().map(peer).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn peer(&mut self, address: &str, connections: usize) -> Arc<Peer> {
        if let Some(peer) = self.peers.get(address) {
            return Arc::clone(peer);
        }
        let peer = Arc::new(Peer {
            address: address.into(),
            slots: (0..connections).map(|_| Slot::default()).collect(),
            next: AtomicUsize::new(0),
            activity: Arc::new(Activity::new()),
        });
        self.peers.insert(address.to_owned(), Arc::clone(&peer));
        peer
    }
}

impl Peer {
    fn connected(&self, connection: ClientConnection) -> Connected {
        Connected {
            address: Arc::clone(&self.address),
            connection,
            activity: Arc::clone(&self.activity),
        }
    }

    async fn connect(
        &self,
        endpoint: &ClientEndpoint,
        bound: Duration,
    ) -> Result<(ClientConnection, Age), ConnectError> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let slot = &self.slots[turn % self.slots.len()];
        if let Some(connection) = slot.usable() {
            return Ok((connection, Age::Known));
        }
        let asked = Instant::now();
        let mut failure = slot.connecting.lock().await;
        if let Some(connection) = slot.usable() {
            return Ok((connection, Age::Known));
        }
        // Somebody tried while we waited: trying again, one after the other, would take as many
        // timeouts as there are callers.
        if let Some((when, error)) = &*failure
            && *when > asked
        {
            return Err(error.clone());
        }
        match endpoint.connect(&self.address, bound).await {
            Ok(connection) => {
                *slot.current() = Some(connection.clone());
                *failure = None;
                Ok((connection, Age::New))
            }
            Err(error) => {
                *failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }
}

impl Slot {
    fn current(&self) -> MutexGuard<'_, Option<ClientConnection>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection, if there is one that has not ended.
    fn usable(&self) -> Option<ClientConnection> {
        let mut current = self.current();
        if current.as_ref().is_some_and(|c| c.ended().is_some()) {
            *current = None;
        }
        current.clone()
    }
}

fn not_connected(address: &str, error: &ConnectError) -> Problem {
    Problem::NotConnected {
        address: address.to_owned(),
        reason: error.to_string(),
    }
}

/// Nobody accepted us: final only if every endpoint gave a reason that will not go away.
fn nobody_connected(problems: &[(Arc<Peer>, ConnectError)]) -> Problem {
    let each = |(peer, error): &(Arc<Peer>, ConnectError)| format!("{}: {error}", peer.address);
    let reasons: Vec<String> = problems.iter().map(each).collect();
    let reason = reasons.join("; ");
    if !problems.is_empty() && problems.iter().all(|(_, error)| is_permanent(error)) {
        return Problem::Incompatible(reason);
    }
    Problem::NoEndpoint(reason)
}
