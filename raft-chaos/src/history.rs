//! What clients asked and were told, and the register with revisions that it is compared with.

use std::sync::Arc;

use raft_sim::checker::linearizability::Model;

/// What a client asks of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Get,
    Put(String),
    Append(String),
    /// Sets the value if it is still what was expected.
    Swap {
        expected: Option<String>,
        new: String,
    },
    Delete,
}

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) key: Arc<str>,
    pub(crate) action: Action,
}

/// A key's value, and the revision that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) value: String,
    pub(crate) modified: u64,
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// The store's revision.
    pub(crate) revision: u64,
    pub(crate) seen: Seen,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Value(Option<Pair>),
    Written,
    Different,
    Deleted(u64),
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Answered(Told),
    /// It has no effect, now or later.
    Refused(String),
    /// It may have an effect, now or later.
    Unknown(String),
}

/// One call, with times in nanoseconds since the load began.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) client: u64,
    pub(crate) question: Question,
    pub(crate) called_ns: u64,
    pub(crate) ended_ns: u64,
    pub(crate) fate: Fate,
}

/// Registers with the service's revisions, one for each key.
pub(crate) struct Registers;

/// A key, and what is known about the store's revision at that point of the order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Register {
    slot: Option<Slot>,
    /// The latest revision that anybody was told of.
    revision: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Slot {
    value: String,
    written: Written,
}

/// Which revision wrote a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Written {
    At(u64),
    /// Nobody was told; a later one than this.
    After(u64),
}

impl Model for Registers {
    type Part = Arc<str>;
    type State = Register;
    type Input = Question;
    type Output = Told;

    fn part(&self, question: &Question) -> Arc<str> {
        Arc::clone(&question.key)
    }

    fn initial(&self, _key: &Arc<str>) -> Register {
        Register::default()
    }

    fn step(&self, state: &Register, question: &Question, told: Option<&Told>) -> Option<Register> {
        let value = state.slot.as_ref().map(|slot| &slot.value);
        match &question.action {
            Action::Get => state.read(told),
            Action::Put(new) => state.write(Some(new.clone()), &Seen::Written, told),
            Action::Append(more) => {
                let new = value.map_or(String::new(), Clone::clone) + more;
                state.write(Some(new), &Seen::Written, told)
            }
            Action::Swap { expected, new } if value == expected.as_ref() => {
                state.write(Some(new.clone()), &Seen::Written, told)
            }
            Action::Swap { .. } => state.stay(&Seen::Different, told),
            Action::Delete if value.is_some() => state.write(None, &Seen::Deleted(1), told),
            Action::Delete => state.stay(&Seen::Deleted(0), told),
        }
    }
}

impl Register {
    fn write(&self, value: Option<String>, seen: &Seen, told: Option<&Told>) -> Option<Self> {
        let (written, revision) = match told {
            None => (Written::After(self.revision), self.revision),
            // A write makes a revision of its own.
            Some(told) if told.seen == *seen && told.revision > self.revision => {
                (Written::At(told.revision), told.revision)
            }
            Some(_) => return None,
        };
        let slot = value.map(|value| Slot { value, written });
        Some(Self { slot, revision })
    }

    fn stay(&self, seen: &Seen, told: Option<&Told>) -> Option<Self> {
        let Some(told) = told else {
            return Some(self.clone());
        };
        let fits = told.seen == *seen && told.revision >= self.revision;
        fits.then(|| Self {
            slot: self.slot.clone(),
            revision: told.revision,
        })
    }

    fn read(&self, told: Option<&Told>) -> Option<Self> {
        let Some(told) = told else {
            return Some(self.clone());
        };
        let Seen::Value(pair) = &told.seen else {
            return None;
        };
        if told.revision < self.revision {
            return None;
        }
        let slot = match (&self.slot, pair) {
            (None, None) => None,
            (Some(slot), Some(pair)) if slot.value == pair.value => {
                let fits = match slot.written {
                    Written::At(revision) => pair.modified == revision,
                    Written::After(revision) => pair.modified > revision,
                };
                if !fits || pair.modified > told.revision {
                    return None;
                }
                Some(Slot {
                    value: pair.value.clone(),
                    written: Written::At(pair.modified),
                })
            }
            (Some(_), Some(_)) | (None, Some(_)) | (Some(_), None) => return None,
        };
        let revision = told.revision;
        Some(Self { slot, revision })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(action: Action) -> Question {
        let key = "k".into();
        Question { key, action }
    }

    fn told(revision: u64, seen: Seen) -> Option<Told> {
        Some(Told { revision, seen })
    }

    fn value(value: &str, modified: u64) -> Seen {
        let value = value.to_owned();
        Seen::Value(Some(Pair { value, modified }))
    }

    fn swap(expected: Option<&str>, new: &str) -> Action {
        let (expected, new) = (expected.map(str::to_owned), new.to_owned());
        Action::Swap { expected, new }
    }

    /// Plays calls one after the other; tells which one does not fit.
    fn misfit(calls: &[(Action, Option<Told>)]) -> Option<usize> {
        let mut state = Register::default();
        for (at, (action, told)) in calls.iter().enumerate() {
            match Registers.step(&state, &ask(action.clone()), told.as_ref()) {
                Some(next) => state = next,
                None => return Some(at),
            }
        }
        None
    }

    #[test]
    fn one_client_sees_what_it_did() {
        let calls = [
            (Action::Get, told(1, Seen::Value(None))),
            (swap(None, "a"), told(2, Seen::Written)),
            (Action::Append("b".to_owned()), told(3, Seen::Written)),
            (Action::Get, told(3, value("ab", 3))),
            (swap(Some("a"), "c"), told(3, Seen::Different)),
            (swap(Some("ab"), "c"), told(5, Seen::Written)),
            (Action::Put("d".to_owned()), None),
            (Action::Get, told(9, value("d", 7))),
            (Action::Delete, told(10, Seen::Deleted(1))),
            (Action::Delete, told(10, Seen::Deleted(0))),
        ];
        assert_eq!(misfit(&calls), None);
    }

    #[test]
    fn what_cannot_have_happened_does_not_fit() {
        let put = (Action::Put("a".to_owned()), told(4, Seen::Written));
        let unknown = (Action::Append("b".to_owned()), None);
        for wrong in [
            (Action::Get, told(9, value("abb", 5))),
            (Action::Get, told(9, value("a", 4))),
            (Action::Get, told(9, Seen::Value(None))),
            // The append came later than the put.
            (Action::Get, told(9, value("ab", 4))),
            // A revision that the store had not reached.
            (Action::Get, told(5, value("ab", 6))),
            (Action::Put("c".to_owned()), told(4, Seen::Written)),
            (Action::Get, told(3, value("ab", 5))),
            (Action::Delete, told(9, Seen::Deleted(0))),
            (swap(None, "c"), told(9, Seen::Written)),
            (swap(Some("ab"), "c"), told(9, Seen::Different)),
        ] {
            let calls = [put.clone(), unknown.clone(), wrong.clone()];
            assert_eq!(misfit(&calls), Some(2), "{wrong:?}");
        }
    }
}
