//! Linearizability of a history, by the algorithm of Wing and Gong with Lowe's memory of visited
//! configurations ("Testing for linearizability", 2016).
//!
//! The history is cut into parts that do not affect each other (one per key), because the search
//! is exponential in the number of operations that overlap. A bound on the number of steps makes
//! the answer [`Verdict::Undecided`] instead of endless.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::hash::Hash;

use raft_core::Time;

/// The sequential object that a history is compared with.
pub trait Model {
    /// Which part of the object an operation concerns; operations on different parts do not affect
    /// each other.
    type Part: Ord + Clone + Debug;
    /// The state of one part.
    type State: Clone + Eq + Hash;
    /// What a client asks.
    type Input;
    /// What it is told.
    type Output;

    /// The part that an operation concerns.
    fn part(&self, input: &Self::Input) -> Self::Part;

    /// The state of a part before the first operation.
    fn initial(&self, part: &Self::Part) -> Self::State;

    /// The state after the operation, or `None` if it cannot give this output in this state. The
    /// output of an operation that was not answered is `None`: then any would do.
    fn step(
        &self,
        state: &Self::State,
        input: &Self::Input,
        output: Option<&Self::Output>,
    ) -> Option<Self::State>;
}

/// One call of a client.
#[derive(Clone, Debug)]
pub struct Operation<I, O> {
    /// Who called; for the report.
    pub client: u64,
    /// What was asked.
    pub input: I,
    /// When.
    pub called: Time,
    /// When the answer came and what it was; `None` if none did: the operation may then have
    /// taken effect at any time after the call, or not at all.
    pub answered: Option<(Time, O)>,
}

/// Whether a history is linearizable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<P> {
    /// It is.
    Linearizable,
    /// It is not.
    NotLinearizable {
        /// The part of the object at which it fails.
        part: P,
        /// The most operations that could be put into an order, as positions in the history.
        longest: Vec<usize>,
    },
    /// The search was given up after the allowed number of steps.
    Undecided {
        /// The part at which it was given up.
        part: P,
    },
}

/// Checks a history; each part of it in at most `max_steps` steps of the search.
///
/// ```
/// use raft_core::Time;
/// use raft_sim::checker::linearizability::{check, Model, Operation, Verdict};
///
/// /// One register: `Some(v)` writes `v`, `None` reads.
/// struct Register;
///
/// impl Model for Register {
///     type Part = ();
///     type State = u64;
///     type Input = Option<u64>;
///     type Output = u64;
///     fn part(&self, _: &Option<u64>) {}
///     fn initial(&self, _: &()) -> u64 {
///         0
///     }
///     fn step(&self, state: &u64, input: &Option<u64>, output: Option<&u64>) -> Option<u64> {
///         match input {
///             Some(value) => Some(*value),
///             None => output.is_none_or(|seen| seen == state).then_some(*state),
///         }
///     }
/// }
///
/// let call = |input, from, to, output| Operation {
///     client: 1,
///     input,
///     called: Time::from_ms(from),
///     answered: Some((Time::from_ms(to), output)),
/// };
/// let fresh = [call(Some(7), 0, 5, 0), call(None, 6, 9, 7)];
/// assert_eq!(check(&Register, &fresh, 1000), Verdict::Linearizable);
/// let stale = [call(Some(7), 0, 5, 0), call(None, 6, 9, 0)];
/// assert!(matches!(check(&Register, &stale, 1000), Verdict::NotLinearizable { .. }));
/// ```
pub fn check<M: Model>(
    model: &M,
    history: &[Operation<M::Input, M::Output>],
    max_steps: u64,
) -> Verdict<M::Part> {
    let mut parts: BTreeMap<M::Part, Vec<usize>> = BTreeMap::new();
    for (at, operation) in history.iter().enumerate() {
        parts
            .entry(model.part(&operation.input))
            .or_default()
            .push(at);
    }
    let mut undecided = None;
    for (part, members) in parts {
        let mut search = Search::new(model, history, members, model.initial(&part));
        match search.run(max_steps) {
            Outcome::Found => {}
            Outcome::Impossible => {
                let longest = search.longest_in_history();
                return Verdict::NotLinearizable { part, longest };
            }
            Outcome::GaveUp => undecided = Some(part),
        }
    }
    undecided.map_or(Verdict::Linearizable, |part| Verdict::Undecided { part })
}

enum Outcome {
    Found,
    Impossible,
    GaveUp,
}

/// A call or an answer in the order of time. Entries form a doubly linked list, from which both
/// entries of an operation are lifted while it is part of the order tried.
#[derive(Clone, Copy, Debug)]
struct Event {
    /// Position in `Search::members`.
    operation: usize,
    kind: EventKind,
    before: usize,
    after: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EventKind {
    Head,
    Call,
    Answer,
}

struct Search<'a, M: Model> {
    model: &'a M,
    history: &'a [Operation<M::Input, M::Output>],
    members: Vec<usize>,
    events: Vec<Event>,
    /// Per member: its call and its answer in `events`.
    places: Vec<(usize, usize)>,
    state: M::State,
    done: Bits,
    visited: HashSet<(Bits, M::State)>,
    /// The order tried: member and the state before it.
    order: Vec<(usize, M::State)>,
    longest: Vec<usize>,
}

const HEAD: usize = 0;

impl<'a, M: Model> Search<'a, M> {
    fn new(
        model: &'a M,
        history: &'a [Operation<M::Input, M::Output>],
        members: Vec<usize>,
        state: M::State,
    ) -> Self {
        // At equal times a call comes before an answer: the two overlap.
        let mut moments = Vec::with_capacity(2 * members.len());
        for (operation, at) in members.iter().enumerate() {
            let answered = history[*at].answered.as_ref();
            let end = answered.map_or(Time(u64::MAX), |(time, _)| *time);
            moments.push((history[*at].called, 0, operation));
            moments.push((end, 1, operation));
        }
        moments.sort_unstable();
        let mut events = vec![Event {
            operation: usize::MAX,
            kind: EventKind::Head,
            before: HEAD,
            after: 1,
        }];
        let mut places = vec![(0, 0); members.len()];
        for (_, kind, operation) in moments {
            let place = events.len();
            let kind = if kind == 0 {
                places[operation].0 = place;
                EventKind::Call
            } else {
                places[operation].1 = place;
                EventKind::Answer
            };
            events.push(Event {
                operation,
                kind,
                before: place - 1,
                after: place + 1,
            });
        }
        Self {
            model,
            history,
            done: Bits::new(members.len()),
            members,
            events,
            places,
            state,
            visited: HashSet::new(),
            order: Vec::new(),
            longest: Vec::new(),
        }
    }

    fn run(&mut self, max_steps: u64) -> Outcome {
        let mut at = self.events[HEAD].after;
        for _ in 0..max_steps {
            let Some(event) = self.events.get(at).copied() else {
                // The end of the list: only unanswered operations could stand before it, and
                // those are put into the order too.
                return Outcome::Found;
            };
            match event.kind {
                EventKind::Call => {
                    at = match self.try_operation(event.operation) {
                        Tried::Moved => self.events[HEAD].after,
                        Tried::Refused => event.after,
                    };
                }
                EventKind::Answer if self.is_unanswered(event.operation) => {
                    // It need not have happened: nothing that was answered is left.
                    return Outcome::Found;
                }
                EventKind::Head | EventKind::Answer => match self.take_back() {
                    Some(operation) => at = self.events[self.places[operation].0].after,
                    None => return Outcome::Impossible,
                },
            }
        }
        Outcome::GaveUp
    }

    /// Puts the operation next in the order, if its output is possible and leads to anything new.
    fn try_operation(&mut self, operation: usize) -> Tried {
        let called = &self.history[self.members[operation]];
        let output = called.answered.as_ref().map(|(_, output)| output);
        let Some(next) = self.model.step(&self.state, &called.input, output) else {
            return Tried::Refused;
        };
        self.done.set(operation);
        if !self.visited.insert((self.done.clone(), next.clone())) {
            self.done.clear(operation);
            return Tried::Refused;
        }
        let before = std::mem::replace(&mut self.state, next);
        self.order.push((operation, before));
        let (call, answer) = self.places[operation];
        self.lift(call);
        self.lift(answer);
        if self.order.len() > self.longest.len() {
            self.longest = self.order.iter().map(|(operation, _)| *operation).collect();
        }
        Tried::Moved
    }

    /// Takes the last operation of the order back.
    fn take_back(&mut self) -> Option<usize> {
        let (operation, before) = self.order.pop()?;
        self.state = before;
        self.done.clear(operation);
        let (call, answer) = self.places[operation];
        self.put_back(answer);
        self.put_back(call);
        Some(operation)
    }

    fn is_unanswered(&self, operation: usize) -> bool {
        self.history[self.members[operation]].answered.is_none()
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

    fn longest_in_history(&self) -> Vec<usize> {
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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Bits(Box<[u64]>);

impl Bits {
    fn new(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)].into())
    }

    fn set(&mut self, bit: usize) {
        self.0[bit / 64] |= 1 << (bit % 64);
    }

    fn clear(&mut self, bit: usize) {
        self.0[bit / 64] &= !(1 << (bit % 64));
    }
}

#[cfg(test)]
#[path = "linearizability_test.rs"]
mod tests;
