//! The agenda of the world: what happens next, in the order of time and then of scheduling.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use raft_core::Time;

struct Scheduled<E> {
    at: Time,
    number: u64,
    event: E,
}

impl<E> Scheduled<E> {
    fn key(&self) -> (Time, u64) {
        (self.at, self.number)
    }
}

impl<E> PartialEq for Scheduled<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<E> Eq for Scheduled<E> {}

impl<E> PartialOrd for Scheduled<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Scheduled<E> {
    /// Reversed, because the heap gives its largest item first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}

/// Events by time; those of the same time in the order in which they were scheduled.
pub(crate) struct Agenda<E> {
    heap: BinaryHeap<Scheduled<E>>,
    next_number: u64,
}

impl<E> Agenda<E> {
    pub(crate) fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
            next_number: 0,
        }
    }

    pub(crate) fn schedule(&mut self, at: Time, event: E) {
        self.next_number += 1;
        self.heap.push(Scheduled {
            at,
            number: self.next_number,
            event,
        });
    }

    pub(crate) fn next_time(&self) -> Option<Time> {
        self.heap.peek().map(|next| next.at)
    }

    pub(crate) fn pop(&mut self) -> Option<(Time, E)> {
        self.heap.pop().map(|next| (next.at, next.event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_in_the_order_scheduled() {
        let mut agenda = Agenda::new();
        for (ms, name) in [(3, "d"), (1, "a"), (2, "b"), (2, "c")] {
            agenda.schedule(Time::from_ms(ms), name);
        }
        assert_eq!(agenda.next_time(), Some(Time::from_ms(1)));
        let order: Vec<_> = std::iter::from_fn(|| agenda.pop())
            .map(|(_, e)| e)
            .collect();
        assert_eq!(order, ["a", "b", "c", "d"]);
    }
}
