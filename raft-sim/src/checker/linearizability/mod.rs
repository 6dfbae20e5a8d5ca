//! Linearizability (Herlihy and Wing, 1990) of a history, by the algorithm of Wing and Gong with
//! Lowe's memory of visited configurations ("Testing for linearizability", 2016).
//!
//! One checker for simulated clients and for clients of real processes. The history is cut into
//! parts that do not affect each other (one per key), because the search is exponential in the
//! number of operations that overlap. A [`Bound`] makes the answer [`Verdict::Undecided`] instead
//! of endless; that is never taken for a pass. Steps are the same on every machine, for simulated
//! histories; time is read from the caller's clock, for real ones.

mod search;
mod story;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::time::Duration;

use raft_core::Time;

use self::search::{Outcome, Search};

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

/// How long to search for an order.
#[derive(Clone, Copy)]
pub enum Bound<'a> {
    /// So many steps for each part: the same answer on every machine.
    Steps(u64),
    /// So much time for the whole history, of which each part gets an equal share of what is left.
    Time {
        /// How much.
        limit: Duration,
        /// How long ago the check began, by a clock of the caller; it must not go back.
        elapsed: &'a dyn Fn() -> Duration,
    },
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
    /// The search was given up: the history shows nothing.
    Undecided {
        /// The part at which it was given up.
        part: P,
        /// What ran out.
        spent: Spent,
    },
}

/// What a search ran out of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spent {
    /// The steps of [`Bound::Steps`].
    Steps,
    /// The time of [`Bound::Time`].
    Time,
    /// Memory for visited configurations, which is bounded in any case.
    Memory,
}

/// What a history shows that has no violation; see [`judge`].
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// It is linearizable.
    Linearizable,
    /// Nobody knows; the text says at which part the search was given up, and why.
    Undecided(String),
}

/// Checks a history.
///
/// A part that certainly fails is reported even if another one is undecided.
///
/// ```
/// use raft_core::Time;
/// use raft_sim::checker::linearizability::{check, Bound, Model, Operation, Verdict};
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
/// assert_eq!(check(&Register, &fresh, Bound::Steps(1000)), Verdict::Linearizable);
/// let stale = [call(Some(7), 0, 5, 0), call(None, 6, 9, 0)];
/// let clock = std::time::Instant::now();
/// let bound = Bound::Time {
///     limit: std::time::Duration::from_secs(1),
///     elapsed: &|| clock.elapsed(),
/// };
/// assert!(matches!(check(&Register, &stale, bound), Verdict::NotLinearizable { .. }));
/// ```
pub fn check<M: Model>(
    model: &M,
    history: &[Operation<M::Input, M::Output>],
    bound: Bound<'_>,
) -> Verdict<M::Part> {
    let mut parts: BTreeMap<M::Part, Vec<usize>> = BTreeMap::new();
    for (at, operation) in history.iter().enumerate() {
        parts
            .entry(model.part(&operation.input))
            .or_default()
            .push(at);
    }
    let mut undecided = None;
    let mut left = parts.len() as u32;
    for (part, members) in parts {
        let mut search = Search::new(model, history, members, model.initial(&part));
        match search.run(bound.share_of(left)) {
            Outcome::Found => {}
            Outcome::Impossible => {
                let longest = search.longest_in_history();
                return Verdict::NotLinearizable { part, longest };
            }
            Outcome::GaveUp(spent) => undecided = Some((part, spent)),
        }
        left -= 1;
    }
    undecided.map_or(Verdict::Linearizable, |(part, spent)| Verdict::Undecided {
        part,
        spent,
    })
}

/// Checks a history, for a caller that tells people about it.
///
/// # Errors
/// The story of the part that is not linearizable: what could be put into an order, and what not.
pub fn judge<M>(
    model: &M,
    history: &[Operation<M::Input, M::Output>],
    bound: Bound<'_>,
) -> Result<Judged, String>
where
    M: Model<Input: Debug, Output: Debug>,
{
    match check(model, history, bound) {
        Verdict::Linearizable => Ok(Judged::Linearizable),
        Verdict::Undecided { part, spent } => {
            let operations = story::members(model, history, &part).len();
            let what = spent.name();
            Ok(Judged::Undecided(format!(
                "undecided: the {operations} operations of part {part:?} took more {what} than \
                 the search was given"
            )))
        }
        Verdict::NotLinearizable { part, longest } => {
            Err(story::of_violation(model, history, &part, &longest))
        }
    }
}

/// For tests: nothing but a history that is known to be linearizable passes.
///
/// # Panics
/// If the history is not linearizable, or nobody knows.
pub fn assert_linearizable<M>(
    model: &M,
    history: &[Operation<M::Input, M::Output>],
    bound: Bound<'_>,
) where
    M: Model<Input: Debug, Output: Debug>,
{
    match judge(model, history, bound) {
        Ok(Judged::Linearizable) => {}
        Ok(Judged::Undecided(why)) => panic!("{why}"),
        Err(story) => panic!("{story}"),
    }
}

impl Judged {
    /// Whether nobody knows.
    #[must_use]
    pub const fn is_undecided(&self) -> bool {
        match self {
            Self::Linearizable => false,
            Self::Undecided(_) => true,
        }
    }
}

impl Bound<'_> {
    /// The bound for the next of so many parts that are left.
    fn share_of(&self, parts: u32) -> Self {
        match *self {
            Self::Steps(steps) => Self::Steps(steps),
            Self::Time { limit, elapsed } => {
                let spent = elapsed();
                let share = limit.saturating_sub(spent) / parts.max(1);
                let limit = spent + share;
                Self::Time { limit, elapsed }
            }
        }
    }
}

impl Spent {
    const fn name(self) -> &'static str {
        match self {
            Self::Steps => "steps",
            Self::Time => "time",
            Self::Memory => "memory",
        }
    }
}

#[cfg(test)]
mod tests;
