//! The search for an order of one part's operations.
//!
//! Calls and answers stand in a list in the order of time. What may come next in the order is any
//! operation whose call stands before the first answer; it is lifted out of the list with its
//! answer. Where an answer stands first, the order tried so far cannot be continued, and its last
//! operation is put back. Operations that were never answered have a list of their own and are
//! tried last: they may stand anywhere after their call, so most places for them are wrong.

use std::collections::HashSet;

use raft_core::Time;

use super::{Bound, Model, Operation, Spent};

/// The clock is looked at once in so many steps.
const STEPS_PER_LOOK: u64 = 256;
/// Bytes that visited configurations may take, about.
const VISITED_BYTES_MAX: usize = 512 << 20;
/// What a visited configuration takes besides its window and its state.
const VISITED_BYTES_EACH: usize = 48;

/// How a search ended.
pub(super) enum Outcome {
    Found,
    Impossible,
    GaveUp(Spent),
}

/// A call or an answer. Entries form two doubly linked lists, from which those of an operation are
/// lifted while it is part of the order tried.
#[derive(Clone, Copy, Debug)]
struct Event {
    /// Position in `Search::members`; the head of a list belongs to nobody.
    operation: usize,
    kind: EventKind,
    /// Place in the order of time, over both lists.
    rank: usize,
    before: usize,
    after: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EventKind {
    Head,
    Call,
    Answer,
    /// The call of an operation that was never answered.
    OpenCall,
}

pub(super) struct Search<'a, M: Model> {
    model: &'a M,
    history: &'a [Operation<M::Input, M::Output>],
    /// Positions in the history, in the order of calls.
    members: Vec<usize>,
    events: Vec<Event>,
    /// Per member: its call and, if there is one, its answer in `events`.
    places: Vec<(usize, Option<usize>)>,
    state: M::State,
    done: Bits,
    visited: HashSet<(Window, M::State)>,
    visited_bytes: usize,
    /// The order tried: member and the state before it.
    order: Vec<(usize, M::State)>,
    longest: Vec<usize>,
}

/// The head of the list of answered operations.
const HEAD: usize = 0;
/// The head of the list of the others.
const OPEN_HEAD: usize = 1;
/// Behind the end of a list.
const END: usize = usize::MAX;

impl<'a, M: Model> Search<'a, M> {
    pub(super) fn new(
        model: &'a M,
        history: &'a [Operation<M::Input, M::Output>],
        mut members: Vec<usize>,
        state: M::State,
    ) -> Self {
        members.sort_by_key(|at| history[*at].called);
        let mut search = Self {
            model,
            history,
            events: Vec::with_capacity(2 + 2 * members.len()),
            places: vec![(0, None); members.len()],
            state,
            done: Bits::new(members.len()),
            visited: HashSet::new(),
            visited_bytes: 0,
            order: Vec::new(),
            longest: Vec::new(),
            members,
        };
        search.list_events();
        search
    }

    fn list_events(&mut self) {
        // At equal times a call comes before an answer: the two overlap.
        let mut moments: Vec<(Time, EventKind, usize)> = Vec::new();
        for (operation, at) in self.members.iter().enumerate() {
            let Operation {
                called, answered, ..
            } = &self.history[*at];
            match answered {
                Some((end, _)) => {
                    moments.push((*called, EventKind::Call, operation));
                    moments.push((*end, EventKind::Answer, operation));
                }
                None => moments.push((*called, EventKind::OpenCall, operation)),
            }
        }
        moments.sort_by_key(|(at, kind, _)| (*at, *kind == EventKind::Answer));
        for head in [HEAD, OPEN_HEAD] {
            self.events.push(Event {
                operation: usize::MAX,
                kind: EventKind::Head,
                rank: 0,
                before: head,
                after: END,
            });
        }
        let (mut last, mut last_open) = (HEAD, OPEN_HEAD);
        for (rank, (_, kind, operation)) in moments.into_iter().enumerate() {
            let place = self.events.len();
            let last = match kind {
                EventKind::OpenCall => &mut last_open,
                EventKind::Head | EventKind::Call | EventKind::Answer => &mut last,
            };
            match kind {
                EventKind::Answer => self.places[operation].1 = Some(place),
                EventKind::Head | EventKind::Call | EventKind::OpenCall => {
                    self.places[operation].0 = place;
                }
            }
            let before = std::mem::replace(last, place);
            self.events[before].after = place;
            self.events.push(Event {
                operation,
                kind,
                rank,
                before,
                after: END,
            });
        }
    }

    pub(super) fn run(&mut self, bound: Bound<'_>) -> Outcome {
        let mut at = self.first();
        let mut steps = 0;
        // The rank of the first answer: what was called after it must wait.
        let mut limit = usize::MAX;
        loop {
            if let Some(spent) = self.spent(bound, steps) {
                return Outcome::GaveUp(spent);
            }
            steps += 1;
            let event = self.events.get(at).copied();
            let Some(event) = event.filter(|event| event.rank <= limit) else {
                // All that could come next was tried.
                match self.take_back() {
                    Some(operation) => (at, limit) = self.behind(operation),
                    None => return Outcome::Impossible,
                }
                continue;
            };
            match event.kind {
                EventKind::Call | EventKind::OpenCall => {
                    match self.try_operation(event.operation) {
                        Tried::Moved if self.events[HEAD].after == END => return Outcome::Found,
                        Tried::Moved => (at, limit) = (self.first(), usize::MAX),
                        Tried::Refused => at = event.after,
                    }
                }
                EventKind::Answer => (at, limit) = (self.events[OPEN_HEAD].after, event.rank),
                // Only where nothing has to be put into an order.
                EventKind::Head => return Outcome::Found,
            }
        }
    }

    /// Where to begin to look for the next operation: at the head if there is none.
    fn first(&self) -> usize {
        match self.events[HEAD].after {
            END => HEAD,
            first => first,
        }
    }

    /// Where to go on after this operation was taken back.
    fn behind(&self, operation: usize) -> (usize, usize) {
        let event = self.events[self.places[operation].0];
        let limit = match event.kind {
            EventKind::OpenCall => self.first_answer(),
            EventKind::Head | EventKind::Call | EventKind::Answer => usize::MAX,
        };
        (event.after, limit)
    }

    /// The rank of the first answer in the list.
    fn first_answer(&self) -> usize {
        let mut at = self.events[HEAD].after;
        while let Some(event) = self.events.get(at) {
            if event.kind == EventKind::Answer {
                return event.rank;
            }
            at = event.after;
        }
        usize::MAX
    }

    fn spent(&self, bound: Bound<'_>, steps: u64) -> Option<Spent> {
        if self.visited_bytes > VISITED_BYTES_MAX {
            return Some(Spent::Memory);
        }
        match bound {
            Bound::Steps(max) => (steps >= max).then_some(Spent::Steps),
            Bound::Time { limit, elapsed } => {
                let is_over = steps.is_multiple_of(STEPS_PER_LOOK) && elapsed() >= limit;
                is_over.then_some(Spent::Time)
            }
        }
    }

    /// Puts the operation next in the order, if its output is possible and leads to anything new.
    fn try_operation(&mut self, operation: usize) -> Tried {
        let called = &self.history[self.members[operation]];
        let output = called.answered.as_ref().map(|(_, output)| output);
        let Some(next) = self.model.step(&self.state, &called.input, output) else {
            return Tried::Refused;
        };
        self.done.set(operation);
        let window = self.done.window();
        let bytes = VISITED_BYTES_EACH + 8 * window.rest.len() + size_of::<M::State>();
        if !self.visited.insert((window, next.clone())) {
            self.done.clear(operation);
            return Tried::Refused;
        }
        self.visited_bytes += bytes;
        let before = std::mem::replace(&mut self.state, next);
        self.order.push((operation, before));
        let (call, answer) = self.places[operation];
        self.lift(call);
        if let Some(answer) = answer {
            self.lift(answer);
        }
        Tried::Moved
    }

    /// Takes the last operation of the order back.
    fn take_back(&mut self) -> Option<usize> {
        if self.order.len() > self.longest.len() {
            self.longest = self.order.iter().map(|(operation, _)| *operation).collect();
        }
        let (operation, before) = self.order.pop()?;
        self.state = before;
        self.done.clear(operation);
        let (call, answer) = self.places[operation];
        if let Some(answer) = answer {
            self.put_back(answer);
        }
        self.put_back(call);
        Some(operation)
    }

    fn lift(&mut self, place: usize) {
        let Event { before, after, .. } = self.events[place];
        self.events[before].after = after;
        if let Some(next) = self.events.get_mut(after) {
            next.before = before;
        }
    }

    fn put_back(&mut self, place: usize) {
        let Event { before, after, .. } = self.events[place];
        self.events[before].after = place;
        if let Some(next) = self.events.get_mut(after) {
            next.before = place;
        }
    }

    pub(super) fn longest_in_history(&self) -> Vec<usize> {
        self.longest
            .iter()
            .map(|operation| self.members[*operation])
            .collect()
    }
}

enum Tried {
    Moved,
    Refused,
}

/// A set of small numbers.
struct Bits {
    words: Vec<u64>,
}

/// A set of operations, without what almost all of them begin with: the words that are full.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Window {
    full: usize,
    rest: Box<[u64]>,
}

impl Bits {
    fn new(count: usize) -> Self {
        Self {
            words: vec![0; count.div_ceil(64)],
        }
    }

    fn set(&mut self, bit: usize) {
        self.words[bit / 64] |= 1 << (bit % 64);
    }

    fn clear(&mut self, bit: usize) {
        self.words[bit / 64] &= !(1 << (bit % 64));
    }

    /// The set, in a form that is equal for equal sets.
    fn window(&self) -> Window {
        let full = self.words.iter().take_while(|word| **word == u64::MAX);
        let full = full.count();
        let used = self.words.iter().rposition(|word| *word != 0);
        let end = used.map_or(full, |last| (last + 1).max(full));
        Window {
            full,
            rest: self.words[full..end].into(),
        }
    }
}
