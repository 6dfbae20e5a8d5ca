//! One peer: its queues, its connections, and which of several connections stays.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quinn::Connection;
use raft_proto::{Boot, Class, Incarnation, NodeId};
use tokio::sync::watch;

use crate::config::NetLimits;
use crate::error::{CloseCode, ConnectError};
use crate::handler::PeerHandler;
use crate::queue::{Batch, Rejected, SendQueue};

/// Whose boot of which life is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) incarnation: Incarnation,
    pub(crate) boot: Boot,
}

/// One established main connection.
pub(crate) struct Link {
    pub(crate) connection: Connection,
    pub(crate) life: Life,
    /// Set when another connection takes over: no more is written, what was written is finished.
    retired: watch::Sender<bool>,
    /// Set when the link's messages must not be delivered any more.
    is_dead: AtomicBool,
    /// The peer has finished its streams.
    has_peer_finished: AtomicBool,
}

impl Link {
    pub(crate) fn new(connection: Connection, life: Life) -> Arc<Self> {
        Arc::new(Self {
            connection,
            life,
            retired: watch::Sender::new(false),
            is_dead: AtomicBool::new(false),
            has_peer_finished: AtomicBool::new(false),
        })
    }

    pub(crate) fn retire(&self) {
        self.retired.send_replace(true);
    }

    pub(crate) fn retirement(&self) -> watch::Receiver<bool> {
        self.retired.subscribe()
    }

    fn is_retired(&self) -> bool {
        *self.retired.borrow()
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::Relaxed)
    }

    pub(crate) fn close(&self, code: CloseCode) {
        self.is_dead.store(true, Ordering::Relaxed);
        self.connection.close(code.number(), b"");
    }
}

/// What becomes of the connection there is when a new one is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Succession {
    /// The new one belongs to an older boot: it must go.
    NewIsStale,
    /// The old one belongs to an older boot or another life: it is dead, close it.
    CloseOld,
    /// The same boot; both sides dialled, or one of them lost its end. We decide for the pair:
    /// finish the old one without losing what is under way on it.
    RetireOld,
    /// The same boot, and the other side decides for the pair: keep both until it has.
    KeepBoth,
}

/// Two connections of one pair: the node of lower id decides, so that the two sides cannot choose
/// differently. It keeps the newest, because the other side dials only when it has none.
pub(crate) fn succession(old: Life, new: Life, we_decide: bool) -> Succession {
    if old.incarnation != new.incarnation {
        return Succession::CloseOld;
    }
    match new.boot.counter.cmp(&old.boot.counter) {
        std::cmp::Ordering::Less => Succession::NewIsStale,
        std::cmp::Ordering::Greater => Succession::CloseOld,
        std::cmp::Ordering::Equal if new.boot != old.boot => Succession::CloseOld,
        std::cmp::Ordering::Equal if we_decide => Succession::RetireOld,
        std::cmp::Ordering::Equal => Succession::KeepBoth,
    }
}

/// What the tasks that dial a peer wait for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Target {
    /// Where it is; `None` if it only ever came to us.
    pub(crate) address: Option<String>,
    /// A main connection exists.
    pub(crate) is_connected: bool,
    /// It was removed, or the transport is shutting down.
    pub(crate) is_dismissed: bool,
}

/// Counters of one peer, all since the transport started.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) sent_messages: [AtomicU64; 3],
    pub(crate) sent_bytes: [AtomicU64; 3],
    pub(crate) received_messages: [AtomicU64; 3],
    pub(crate) received_bytes: [AtomicU64; 3],
    pub(crate) dropped: [AtomicU64; 3],
    pub(crate) connections: AtomicU64,
}

impl Counters {
    /// A batch was taken from a queue and is written.
    pub(crate) fn sending(&self, class: Class, batch: &Batch) {
        add(&self.sent_messages[class as usize], batch.frames() as u64);
        add(&self.sent_bytes[class as usize], batch.bytes() as u64);
    }

    /// A message with a body of this many bytes arrived.
    pub(crate) fn received(&self, class: Class, bytes: usize) {
        add(&self.received_messages[class as usize], 1);
        add(&self.received_bytes[class as usize], bytes as u64);
    }
}

/// Adds to a counter that nothing is synchronised by.
pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

/// Everything about one peer.
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    we_decide: bool,
    queues: [SendQueue; 3],
    links: Mutex<Vec<Arc<Link>>>,
    bulk: Mutex<Option<Connection>>,
    reported: Mutex<Option<Life>>,
    last_error: Mutex<Option<ConnectError>>,
    pub(crate) target: watch::Sender<Target>,
    pub(crate) counters: Counters,
}

impl Peer {
    pub(crate) fn new(local: NodeId, id: NodeId, limits: &NetLimits) -> Arc<Self> {
        Arc::new(Self {
            id,
            we_decide: local < id,
            queues: Class::ALL.map(|class| SendQueue::new(limits.queue(class))),
            links: Mutex::default(),
            bulk: Mutex::default(),
            reported: Mutex::default(),
            last_error: Mutex::default(),
            target: watch::Sender::new(Target::default()),
            counters: Counters::default(),
        })
    }

    pub(crate) fn queue(&self, class: Class) -> &SendQueue {
        &self.queues[class as usize]
    }

    /// Queues a frame by means of `add`, or counts it as dropped.
    pub(crate) fn push(
        &self,
        class: Class,
        bytes: usize,
        add_frame: impl FnOnce(&mut Batch),
    ) -> Result<(), Rejected> {
        match self.queue(class).push(bytes, add_frame) {
            Ok(_) => Ok(()),
            Err(rejected) => {
                add(&self.counters.dropped[class as usize], 1);
                Err(rejected)
            }
        }
    }

    /// Takes a connection into service, or says that it is stale.
    pub(crate) fn install(&self, link: &Arc<Link>) -> Result<(), CloseCode> {
        let mut links = lock(&self.links);
        if self.target.borrow().is_dismissed {
            return Err(CloseCode::Removed);
        }
        if link.connection.close_reason().is_some() {
            // Already over, so it must not take the place of a living one.
            return Err(CloseCode::Replaced);
        }
        match links
            .last()
            .map(|old| succession(old.life, link.life, self.we_decide))
        {
            None => {}
            Some(Succession::NewIsStale) => return Err(CloseCode::Replaced),
            Some(Succession::CloseOld) => {
                links
                    .drain(..)
                    .for_each(|old| old.close(CloseCode::Replaced));
                self.forget_waiting();
            }
            Some(Succession::RetireOld) => links.iter().for_each(|old| old.retire()),
            Some(Succession::KeepBoth) => links
                .iter()
                .filter(|old| old.has_peer_finished.load(Ordering::Relaxed))
                .for_each(|old| old.retire()),
        }
        links.push(Arc::clone(link));
        add(&self.counters.connections, 1);
        *lock(&self.last_error) = None;
        self.target.send_modify(|target| target.is_connected = true);
        Ok(())
    }

    /// The peer has finished writing on a link. If there is another one, that is the one it
    /// keeps, and this one is finished from our side too.
    pub(crate) fn peer_finished(&self, link: &Arc<Link>) {
        let links = lock(&self.links);
        link.has_peer_finished.store(true, Ordering::Relaxed);
        if links.iter().any(|other| !Arc::ptr_eq(other, link)) {
            link.retire();
        }
    }

    /// A link has ended.
    pub(crate) fn remove(&self, link: &Arc<Link>) {
        let mut links = lock(&self.links);
        links.retain(|other| !Arc::ptr_eq(other, link));
        if links.iter().all(|other| other.is_retired()) {
            // A retired link sends nothing any more: without its successor it is of no use.
            links
                .drain(..)
                .for_each(|other| other.close(CloseCode::Replaced));
            self.forget_waiting();
            self.target
                .send_modify(|target| target.is_connected = false);
        }
    }

    /// Tells the handler what has changed since it was told last.
    pub(crate) fn report(&self, handler: &dyn PeerHandler) {
        let mut reported = lock(&self.reported);
        let current = lock(&self.links).last().map(|link| link.life);
        if *reported == current {
            return;
        }
        if reported.is_some() {
            handler.on_peer_down(self.id);
        }
        if let Some(life) = current {
            handler.on_peer_up(self.id, life.incarnation, life.boot);
        }
        *reported = current;
    }

    /// Remembers the outgoing bulk connection, to close it when the peer goes.
    pub(crate) fn set_bulk(&self, connection: Option<Connection>) {
        *lock(&self.bulk) = connection;
    }

    pub(crate) fn set_error(&self, error: ConnectError) -> bool {
        let mut last = lock(&self.last_error);
        let is_new = last.as_ref() != Some(&error);
        *last = Some(error);
        is_new
    }

    pub(crate) fn last_error(&self) -> Option<ConnectError> {
        lock(&self.last_error).clone()
    }

    /// The newest link.
    pub(crate) fn current(&self) -> Option<Arc<Link>> {
        lock(&self.links).last().cloned()
    }

    /// Ends everything with this peer at once.
    pub(crate) fn dismiss(&self, code: CloseCode) {
        self.target.send_modify(|target| target.is_dismissed = true);
        for link in lock(&self.links).iter() {
            link.close(code);
        }
        self.forget_waiting();
    }

    /// Lets every link write what waits and finish.
    pub(crate) fn retire_all(&self) {
        self.target.send_modify(|target| target.is_dismissed = true);
        for link in lock(&self.links).iter() {
            link.retire();
        }
    }

    /// What waits was meant for a peer that is gone.
    fn forget_waiting(&self) {
        for class in Class::ALL {
            let count = self.queue(class).clear();
            add(&self.counters.dropped[class as usize], count as u64);
        }
        if let Some(bulk) = lock(&self.bulk).take() {
            bulk.close(CloseCode::Replaced.number(), b"");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done under these locks, so a panic elsewhere does not spoil them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(incarnation: u64, counter: u64, nonce: u64) -> Life {
        Life {
            incarnation: Incarnation(incarnation),
            boot: Boot { counter, nonce },
        }
    }

    #[test]
    fn newer_boots_win_and_older_ones_are_stale() {
        for we_decide in [true, false] {
            let judge = |old, new| succession(old, new, we_decide);
            assert_eq!(judge(life(1, 4, 7), life(1, 5, 1)), Succession::CloseOld);
            assert_eq!(judge(life(1, 5, 1), life(1, 4, 7)), Succession::NewIsStale);
            assert_eq!(judge(life(1, 5, 1), life(2, 1, 1)), Succession::CloseOld);
            assert_eq!(judge(life(1, 5, 1), life(1, 5, 2)), Succession::CloseOld);
        }
    }

    #[test]
    fn exactly_one_side_decides_between_equal_boots() {
        let same = life(1, 5, 1);
        assert_eq!(succession(same, same, true), Succession::RetireOld);
        assert_eq!(succession(same, same, false), Succession::KeepBoth);
    }
}
