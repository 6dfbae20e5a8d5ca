//! The agenda of the world: what happens next, in the order of time and then of scheduling.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use raft_core::Time;

/// When an event happens, and where it waits. Events are large, and the heap moves what it orders.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Scheduled {
    at: Time,
    /// In the order of scheduling; no two are equal, so what follows never decides.
    number: u64,
    slot: usize,
}

/// Events by time; those of the same time in the order in which they were scheduled.
pub(crate) struct Agenda<E> {
    /// The heap gives its largest item first.
    heap: BinaryHeap<Reverse<Scheduled>>,
    slots: Vec<Option<E>>,
    free: Vec<usize>,
    next_number: u64,
}

impl<E> Agenda<E> {
    pub(crate) fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            next_number: 0,
        }
    }

    pub(crate) fn schedule(&mut self, at: Time, event: E) {
        self.next_number += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(event);
        self.heap.push(Reverse(Scheduled {
            at,
            number: self.next_number,
            slot,
        }));
    }

    pub(crate) fn next_time(&self) -> Option<Time> {
        self.heap.peek().map(|next| next.0.at)
    }

    pub(crate) fn pop(&mut self) -> Option<(Time, E)> {
        let Reverse(next) = self.heap.pop()?;
        let event = self.slots[next.slot].take()?;
        self.free.push(next.slot);
        Some((next.at, event))
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
