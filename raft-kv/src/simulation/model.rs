//! What a group of keys does when one client uses it at a time; histories are compared with it.
//!
//! Operations on several keys stay within a group, so groups do not affect each other and each has
//! a history of its own. Every answer tells the store's revision, which must agree with the order
//! of the operations: it grows with every change and never falls. That is more than linearizability
//! asks, and it keeps the search short.

use raft_sim::checker::linearizability::Model;

/// Keys of a group.
pub(super) const KEYS: usize = 2;

/// A key of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) group: u8,
    pub(super) slot: usize,
}

/// What a swap or a transaction expects of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    Absent,
    /// This pair. Every value ends with a number of its own, so the value alone and the revision
    /// alone mean the same, and a client may ask for either.
    Pair(Pair),
}

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Reads one key.
    Get(Key),
    /// Reads the whole group.
    List(u8),
    Put(Key, Vec<u8>),
    Append(Key, Vec<u8>),
    Swap(Key, Expect, Vec<u8>),
    Delete(Key),
    /// Deletes the whole group.
    Clear(u8),
    /// If the first key is as expected, puts the value to every key; otherwise reads the group.
    PutAllIf(u8, Expect, Vec<u8>),
}

/// A pair as a client was told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) value: Vec<u8>,
    pub(super) modified: u64,
}

/// The group as a client saw it.
pub(super) type Pairs = [Option<Pair>; KEYS];

/// What a client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    One(Option<Pair>),
    All(Pairs),
    Written,
    Different,
    Deleted(u64),
    /// The transaction has put its value.
    PutAll,
}

/// An answer: the store's revision, and the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) revision: u64,
    pub(super) seen: Seen,
}

/// A value, and the revision that wrote it if anybody was told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Slot {
    value: Vec<u8>,
    modified: Option<u64>,
}

/// A group, and the latest revision that anybody was told of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Group {
    slots: [Option<Slot>; KEYS],
    revision: u64,
}

/// What an operation does to the group.
enum Effect {
    /// Nothing.
    None,
    /// It changes this.
    Change([Option<Slot>; KEYS]),
}

pub(super) struct Groups;

impl Model for Groups {
    type Part = u8;
    type State = Group;
    type Input = Ask;
    type Output = Told;

    fn part(&self, ask: &Ask) -> u8 {
        match ask {
            Ask::Get(key)
            | Ask::Put(key, _)
            | Ask::Append(key, _)
            | Ask::Swap(key, ..)
            | Ask::Delete(key) => key.group,
            Ask::List(group) | Ask::Clear(group) | Ask::PutAllIf(group, ..) => *group,
        }
    }

    fn initial(&self, _group: &u8) -> Group {
        Group::default()
    }

    fn step(&self, state: &Group, ask: &Ask, told: Option<&Told>) -> Option<Group> {
        let effect = state.effect(ask, told)?;
        let revision = told.map_or(state.revision, |told| told.revision);
        match effect {
            Effect::None => (revision >= state.revision).then(|| Group {
                revision,
                ..state.clone()
            }),
            Effect::Change(slots) => {
                let has_grown = told.is_none() || revision > state.revision;
                has_grown.then_some(Group { slots, revision })
            }
        }
    }
}

impl Group {
    /// `None` if the answer does not fit.
    fn effect(&self, ask: &Ask, told: Option<&Told>) -> Option<Effect> {
        let seen = told.map(|told| &told.seen);
        let slot = |value: Vec<u8>| {
            let modified = told.map(|told| told.revision);
            Some(Slot { value, modified })
        };
        let with = |key: Key, slot: Option<Slot>| {
            let mut slots = self.slots.clone();
            slots[key.slot] = slot;
            Effect::Change(slots)
        };
        let fits = |expected: &Seen| seen.is_none_or(|seen| seen == expected);
        match ask {
            Ask::Get(key) => match seen {
                None => Some(Effect::None),
                Some(Seen::One(pair)) => {
                    is_seen(&self.slots[key.slot], pair).then_some(Effect::None)
                }
                Some(_) => None,
            },
            Ask::List(_) => match seen {
                None => Some(Effect::None),
                Some(Seen::All(pairs)) => self.is_seen_whole(pairs).then_some(Effect::None),
                Some(_) => None,
            },
            Ask::Put(key, value) => fits(&Seen::Written).then(|| with(*key, slot(value.clone()))),
            Ask::Append(key, more) => fits(&Seen::Written).then(|| {
                let before = self.slots[key.slot].as_ref();
                let mut value = before.map_or(Vec::new(), |slot| slot.value.clone());
                value.extend_from_slice(more);
                with(*key, slot(value))
            }),
            Ask::Swap(key, expect, value) => {
                if self.holds(key.slot, expect) {
                    fits(&Seen::Written).then(|| with(*key, slot(value.clone())))
                } else {
                    fits(&Seen::Different).then_some(Effect::None)
                }
            }
            Ask::Delete(key) => {
                let count = u64::from(self.slots[key.slot].is_some());
                fits(&Seen::Deleted(count)).then(|| match count {
                    0 => Effect::None,
                    _ => with(*key, None),
                })
            }
            Ask::Clear(_) => {
                let count = self.slots.iter().flatten().count() as u64;
                fits(&Seen::Deleted(count)).then_some(match count {
                    0 => Effect::None,
                    _ => Effect::Change(Default::default()),
                })
            }
            Ask::PutAllIf(_, expect, value) => {
                if self.holds(0, expect) {
                    let all = [(); KEYS].map(|()| slot(value.clone()));
                    return fits(&Seen::PutAll).then_some(Effect::Change(all));
                }
                match seen {
                    None => Some(Effect::None),
                    Some(Seen::All(pairs)) => self.is_seen_whole(pairs).then_some(Effect::None),
                    Some(_) => None,
                }
            }
        }
    }

    fn holds(&self, slot: usize, expect: &Expect) -> bool {
        match (&self.slots[slot], expect) {
            (found, Expect::Absent) => found.is_none(),
            (None, Expect::Pair(_)) => false,
            (Some(found), Expect::Pair(pair)) => found.value == pair.value,
        }
    }

    fn is_seen_whole(&self, pairs: &Pairs) -> bool {
        let both = self.slots.iter().zip(pairs);
        both.into_iter().all(|(slot, pair)| is_seen(slot, pair))
    }
}

fn is_seen(slot: &Option<Slot>, pair: &Option<Pair>) -> bool {
    match (slot, pair) {
        (None, None) => true,
        (Some(slot), Some(pair)) => {
            slot.value == pair.value && slot.modified.is_none_or(|at| at == pair.modified)
        }
        (None, Some(_)) | (Some(_), None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key { group: 0, slot: 0 };

    fn told(revision: u64, seen: Seen) -> Option<Told> {
        Some(Told { revision, seen })
    }

    fn pair(value: &[u8], modified: u64) -> Option<Pair> {
        let value = value.to_vec();
        Some(Pair { value, modified })
    }

    fn expect(value: &[u8], modified: u64) -> Expect {
        let value = value.to_vec();
        Expect::Pair(Pair { value, modified })
    }

    /// Plays operations one after the other; tells which one does not fit.
    fn misfit(calls: &[(Ask, Option<Told>)]) -> Option<usize> {
        let mut state = Group::default();
        for (at, (ask, told)) in calls.iter().enumerate() {
            match Groups.step(&state, ask, told.as_ref()) {
                Some(next) => state = next,
                None => return Some(at),
            }
        }
        None
    }

    #[test]
    fn one_client_sees_what_it_did() {
        let all = [pair(b"z", 6), pair(b"z", 6)];
        let history = [
            (Ask::Put(KEY, b"a".to_vec()), told(2, Seen::Written)),
            (Ask::Append(KEY, b"b".to_vec()), told(3, Seen::Written)),
            (Ask::Get(KEY), told(3, Seen::One(pair(b"ab", 3)))),
            (
                Ask::Swap(KEY, expect(b"a", 2), b"x".to_vec()),
                told(3, Seen::Different),
            ),
            (
                Ask::Swap(KEY, expect(b"ab", 3), b"c".to_vec()),
                told(4, Seen::Written),
            ),
            (Ask::Delete(KEY), told(5, Seen::Deleted(1))),
            (
                Ask::PutAllIf(0, Expect::Absent, b"z".to_vec()),
                told(6, Seen::PutAll),
            ),
            (
                Ask::PutAllIf(0, Expect::Absent, b"y".to_vec()),
                told(6, Seen::All(all)),
            ),
            (Ask::Clear(0), told(7, Seen::Deleted(2))),
            (Ask::Clear(0), told(7, Seen::Deleted(0))),
        ];
        assert_eq!(misfit(&history), None);
    }

    #[test]
    fn what_cannot_have_happened_does_not_fit() {
        let put = (Ask::Put(KEY, b"a".to_vec()), told(2, Seen::Written));
        let append = (Ask::Append(KEY, b"b".to_vec()), None);
        let wrong = [
            (Ask::Get(KEY), told(3, Seen::One(pair(b"abb", 3)))),
            (Ask::Get(KEY), told(1, Seen::One(pair(b"ab", 1)))),
            (Ask::Get(KEY), told(3, Seen::One(None))),
            (Ask::Put(KEY, b"c".to_vec()), told(2, Seen::Written)),
            (Ask::Delete(KEY), told(3, Seen::Deleted(0))),
            (Ask::Clear(0), told(3, Seen::Deleted(2))),
            (
                Ask::Swap(KEY, Expect::Absent, b"x".to_vec()),
                told(3, Seen::Written),
            ),
            (
                Ask::PutAllIf(0, expect(b"ab", 3), b"x".to_vec()),
                told(3, Seen::All([pair(b"ab", 3), None])),
            ),
        ];
        for call in wrong {
            assert_eq!(
                misfit(&[put.clone(), append.clone(), call.clone()]),
                Some(2),
                "{call:?}"
            );
        }
    }
}
