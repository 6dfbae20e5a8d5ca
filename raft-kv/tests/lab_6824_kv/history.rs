//! What clients asked and saw, and the sequential store it is compared with.

use std::cell::RefCell;
use std::rc::Rc;

use raft_kv::operation::Revision;
use raft_sim::Time;
use raft_sim::checker::linearizability::{self, Bound, Model, Operation, Verdict};

/// Of the search for an order, for each key.
const BOUND: Bound<'static> = Bound::Steps(20_000_000);

/// A value by length and content: equal for equal bytes, and the fingerprint of a concatenation
/// follows from those of its parts. A collision has a chance of 2^-60 for each comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint {
    hash: u64,
    /// The base to the power of the length.
    shift: u64,
}

/// A Mersenne prime, and a base below it.
const MODULUS: u64 = (1 << 61) - 1;
const BASE: u64 = 0x1a2b_3c4d_5e6f_7081;

impl Fingerprint {
    const EMPTY: Self = Self { hash: 0, shift: 1 };

    pub(crate) fn of(bytes: &[u8]) -> Self {
        bytes.iter().fold(Self::EMPTY, |so_far, byte| {
            so_far.then(Self {
                hash: u64::from(*byte) + 1,
                shift: BASE,
            })
        })
    }

    fn then(self, next: Self) -> Self {
        Self {
            hash: (multiply(self.hash, next.shift) + next.hash) % MODULUS,
            shift: multiply(self.shift, next.shift),
        }
    }
}

fn multiply(a: u64, b: u64) -> u64 {
    // The remainder is below 2^61.
    (u128::from(a) * u128::from(b) % u128::from(MODULUS)) as u64
}

/// What a client asked.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Get(String),
    Put(String, Fingerprint),
    Append(String, Fingerprint),
}

/// What a client was told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    /// The store's revision: after a write, or at a read.
    pub(crate) revision: Revision,
    /// What a read found.
    pub(crate) value: Option<Fingerprint>,
}

/// Keys with values, and the store's revision as far as calls for one key show it.
///
/// Revisions grow with every write, so they must agree with the order of the calls; that is more
/// than linearizability asks, and it makes the search short.
pub(crate) struct KvModel;

/// A key's value, and the latest revision that anybody was told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct KeyState {
    value: Option<Fingerprint>,
    revision: Revision,
}

impl Model for KvModel {
    type Part = String;
    type State = KeyState;
    type Input = Call;
    type Output = Told;

    fn part(&self, input: &Call) -> String {
        match input {
            Call::Get(key) | Call::Put(key, _) | Call::Append(key, _) => key.clone(),
        }
    }

    fn initial(&self, _part: &String) -> KeyState {
        KeyState::default()
    }

    fn step(&self, state: &KeyState, input: &Call, told: Option<&Told>) -> Option<KeyState> {
        let at = told.map(|told| told.revision);
        let written = |value: Fingerprint| {
            at.is_none_or(|at| at > state.revision).then_some(KeyState {
                value: Some(value),
                revision: at.unwrap_or(state.revision),
            })
        };
        match input {
            Call::Put(_, value) => written(*value),
            Call::Append(_, value) => {
                written(state.value.unwrap_or(Fingerprint::EMPTY).then(*value))
            }
            Call::Get(_) => {
                let fits = told.is_none_or(|told| told.value == state.value)
                    && at.is_none_or(|at| at >= state.revision);
                fits.then_some(KeyState {
                    revision: at.unwrap_or(state.revision),
                    ..*state
                })
            }
        }
    }
}

/// The history of all clients of a test.
#[derive(Clone, Default)]
pub(crate) struct History(Rc<RefCell<Vec<Operation<Call, Told>>>>);

impl History {
    /// Notes a call; the answer may follow.
    pub(crate) fn called(&self, client: u64, at: Time, input: Call) -> usize {
        let mut operations = self.0.borrow_mut();
        operations.push(Operation {
            client,
            input,
            called: at,
            answered: None,
        });
        operations.len() - 1
    }

    pub(crate) fn answered(&self, call: usize, at: Time, told: Told) {
        self.0.borrow_mut()[call].answered = Some((at, told));
    }

    pub(crate) fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// # Panics
    /// If the history is not linearizable, or that cannot be decided.
    pub(crate) fn assert_linearizable(&self) {
        let history = self.0.borrow();
        linearizability::assert_linearizable(&KvModel, &history, BOUND);
    }
}

#[test]
fn fingerprints_of_parts_make_that_of_the_whole() {
    let whole = Fingerprint::of(b"hello world");
    assert_eq!(
        Fingerprint::of(b"hello ").then(Fingerprint::of(b"world")),
        whole
    );
    assert_ne!(Fingerprint::of(b"hello wordl"), whole);
    assert_ne!(Fingerprint::of(b"\0"), Fingerprint::of(b"\0\0"));
}

#[test]
fn an_append_carried_out_twice_and_a_revision_that_goes_back_are_found() {
    let told = |revision, value: &str| Told {
        revision: Revision(revision),
        value: Some(Fingerprint::of(value.as_bytes())),
    };
    for (found, fits) in [
        (told(2, "x"), true),
        (told(2, "xx"), false),
        (told(1, "x"), false),
    ] {
        let history = History::default();
        let value = Fingerprint::of(b"x");
        let append = history.called(1, Time::from_ms(1), Call::Append("k".into(), value));
        history.answered(append, Time::from_ms(2), told(2, ""));
        let get = history.called(1, Time::from_ms(3), Call::Get("k".into()));
        history.answered(get, Time::from_ms(4), found);
        let verdict = linearizability::check(&KvModel, &history.0.borrow(), Bound::Steps(1000));
        assert_eq!(verdict == Verdict::Linearizable, fits, "{found:?}");
    }
}
