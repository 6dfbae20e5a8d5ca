//! How much of one client's work is delivered and not answered, in requests and in bytes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Smaller requests are only counted; remembering the size of each would cost more than they do.
const LARGE_BYTES: usize = 16 << 10;

/// Bounds one client connection's requests between delivery and answer.
pub(crate) struct Outstanding {
    max_requests: usize,
    max_bytes: usize,
    requests: AtomicUsize,
    large_bytes: AtomicUsize,
    large: Mutex<HashMap<u64, usize>>,
    is_reader_waiting: AtomicBool,
    room: Notify,
}

impl Outstanding {
    pub(crate) fn new(max_requests: usize, max_bytes: usize) -> Self {
        Self {
            max_requests,
            max_bytes,
            requests: AtomicUsize::new(0),
            large_bytes: AtomicUsize::new(0),
            large: Mutex::default(),
            is_reader_waiting: AtomicBool::new(false),
            room: Notify::new(),
        }
    }

    /// A request is about to be delivered.
    pub(crate) fn begin(&self, id: u64, bytes: usize) {
        self.requests.fetch_add(1, Ordering::SeqCst);
        if bytes >= LARGE_BYTES {
            let before = self.large().insert(id, bytes);
            self.large_bytes.fetch_add(bytes, Ordering::SeqCst);
            // A client that uses one id twice loses track of nobody but itself.
            self.forget(before);
        }
    }

    /// A request was answered. A second answer to it counts for nothing.
    pub(crate) fn end(&self, id: u64) {
        let decrement = |count: usize| count.checked_sub(1);
        let _ = self
            .requests
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, decrement);
        if self.large_bytes.load(Ordering::SeqCst) > 0 {
            let answered = self.large().remove(&id);
            self.forget(answered);
        }
        self.wake();
    }

    fn forget(&self, bytes: Option<usize>) {
        if let Some(bytes) = bytes {
            self.large_bytes.fetch_sub(bytes, Ordering::SeqCst);
        }
    }

    /// Something has changed that may make room.
    pub(crate) fn wake(&self) {
        if self.is_reader_waiting.load(Ordering::SeqCst) {
            self.room.notify_one();
        }
    }

    fn has_room(&self) -> bool {
        self.requests.load(Ordering::SeqCst) < self.max_requests
            && self.large_bytes.load(Ordering::SeqCst) < self.max_bytes
    }

    /// Waits until there is room, here and by `also`. One waiter at a time.
    pub(crate) async fn wait_for_room(&self, also: impl Fn() -> bool) {
        while !(self.has_room() && also()) {
            self.is_reader_waiting.store(true, Ordering::SeqCst);
            // Checked again, because room made before the flag was seen wakes nobody.
            if !(self.has_room() && also()) {
                self.room.notified().await;
            }
            self.is_reader_waiting.store(false, Ordering::SeqCst);
        }
    }

    fn large(&self) -> MutexGuard<'_, HashMap<u64, usize>> {
        self.large.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_bounded() {
        let outstanding = Outstanding::new(2, usize::MAX);
        outstanding.begin(1, 10);
        assert!(outstanding.has_room());
        outstanding.begin(2, 10);
        assert!(!outstanding.has_room());
        outstanding.end(1);
        assert!(outstanding.has_room());
        // Answers without a request do not make room for more.
        for _ in 0..5 {
            outstanding.end(2);
        }
        outstanding.begin(3, 10);
        outstanding.begin(4, 10);
        assert!(!outstanding.has_room());
    }

    #[test]
    fn bytes_of_large_requests_are_bounded() {
        let outstanding = Outstanding::new(100, 3 * LARGE_BYTES);
        outstanding.begin(1, LARGE_BYTES);
        outstanding.begin(2, 2 * LARGE_BYTES);
        assert!(!outstanding.has_room());
        outstanding.end(1);
        outstanding.end(1);
        assert!(outstanding.has_room());
        outstanding.begin(2, LARGE_BYTES);
        assert_eq!(outstanding.large_bytes.load(Ordering::SeqCst), LARGE_BYTES);
        outstanding.end(2);
        assert_eq!(outstanding.large_bytes.load(Ordering::SeqCst), 0);
    }
}
