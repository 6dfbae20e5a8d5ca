//! What a log may say of itself after damage: a state it was in, with the right content or none.

use raft_log::vfs::MemVfs;
use raft_log::{
    DamageKind, DataDir, Hole, Log, LogEnd, LogOptions, LogWrite, OnDamage, OpenError, ReadError,
    Recovered,
};
use raft_proto::{Entry, EntryKind, HardState, LogIndex, LogPosition, Membership, TermRun};

use crate::support::{Model, open_with};

/// Small segments, and damage is reported.
pub(crate) fn reporting() -> LogOptions {
    LogOptions {
        on_damage: OnDamage::Report,
        ..LogOptions::small()
    }
}

pub(crate) type Opened = (DataDir, Log, Recovered);

pub(crate) fn open_reporting(vfs: &MemVfs) -> Opened {
    open_with(vfs, reporting()).unwrap()
}

/// All states that a log was durably in, the last one being the truth.
#[derive(Clone, Debug, Default)]
pub(crate) struct History(pub(crate) Vec<Model>);

impl History {
    pub(crate) fn truth(&self) -> &Model {
        self.0.last().unwrap()
    }

    /// Checks what an open found, and returns the state that it found.
    pub(crate) fn check(&self, opened: &Opened, name: &str) -> Model {
        let (_, log, recovered) = opened;
        let is_found = |model: &&Model| same_identity(model, recovered);
        let state = self.0.iter().rev().find(is_found);
        let Some(state) = state else {
            panic!("{name}: never in this state: {recovered:?}");
        };
        if recovered.end == LogEnd::Known && recovered.dropped_torn.is_none() {
            assert_eq!(state, self.truth(), "{name}: {recovered:?}");
            assert_eq!(recovered.hard_state, self.truth().hard_state, "{name}");
        }
        let hard_states: Vec<HardState> = self.0.iter().map(|model| model.hard_state).collect();
        assert!(hard_states.contains(&recovered.hard_state), "{name}");
        assert_eq!(log.missing(), recovered.missing, "{name}");
        assert_eq!(log.end(), recovered.end, "{name}");
        check_content(log, recovered, state, name);
        Model {
            hard_state: recovered.hard_state,
            ..state.clone()
        }
    }
}

fn check_content(log: &Log, recovered: &Recovered, state: &Model, name: &str) {
    let reader = log.reader();
    let is_missing = |index: LogIndex| {
        let mut holes = recovered.missing.iter();
        holes.any(|hole| hole.first <= index && index <= hole.last)
    };
    let mut good = 0;
    for (entry, size) in state.entries.iter().zip(&recovered.entry_sizes) {
        let read = reader.read(entry.index, entry.index, u64::MAX);
        if is_missing(entry.index) {
            let refused = read.unwrap_err();
            assert!(
                matches!(refused, ReadError::Missing { .. }),
                "{name}: {refused}"
            );
            assert_eq!(*size, 0, "{name}");
        } else {
            assert_eq!(read.unwrap(), std::slice::from_ref(entry), "{name}");
            assert_eq!(*size as usize, entry.payload.len(), "{name}");
            good += 1;
        }
    }
    let lost: u64 = recovered
        .missing
        .iter()
        .map(|hole| hole.last.since(hole.first) + 1)
        .sum();
    assert_eq!(good + lost, state.entries.len() as u64, "{name}");
    // A read of everything ends where content is missing.
    let (first, last) = (recovered.first_index, recovered.last.index);
    if first <= last && !is_missing(first) {
        let read = reader.read(first, last, u64::MAX).unwrap();
        let end = recovered
            .missing
            .first()
            .map_or(last, |hole| hole.first.previous());
        assert_eq!(read.len() as u64, end.since(first) + 1, "{name}");
    }
}

fn same_identity(model: &Model, recovered: &Recovered) -> bool {
    let mut runs: Vec<TermRun> = Vec::new();
    for entry in &model.entries {
        if runs.last().is_none_or(|run| run.term != entry.term) {
            let (first, term) = (entry.index, entry.term);
            runs.push(TermRun { first, term });
        }
    }
    let members = model
        .entries
        .iter()
        .filter(|entry| entry.kind == EntryKind::Membership);
    let members: Vec<_> = members
        .map(|entry| (entry.index, Membership::from_bytes(&entry.payload).unwrap()))
        .collect();
    model.mark == recovered.snapshot.unwrap_or(LogPosition::ZERO)
        && model.last() == recovered.last
        && runs == recovered.term_runs
        && members == recovered.memberships
}

/// The entries of a state that stand in these holes.
pub(crate) fn lost_entries(state: &Model, missing: &[Hole]) -> Vec<Entry> {
    let is_lost = |entry: &&Entry| {
        let mut holes = missing.iter();
        holes.any(|hole| hole.first <= entry.index && entry.index <= hole.last)
    };
    state.entries.iter().filter(is_lost).cloned().collect()
}

/// Gives a log back what it misses, and what it does not know of its end.
pub(crate) fn repair(log: &mut Log, state: &Model) -> Result<(), raft_log::LogError> {
    log.stage(LogWrite {
        refill: lost_entries(state, &log.missing()),
        end_is_known: true,
        ..LogWrite::default()
    })?;
    log.sync().map(drop)
}

/// Whether the log opens if damage is refused, and that it changes nothing if not.
pub(crate) fn is_refused(vfs: &MemVfs) -> bool {
    let before = vfs.operations();
    match open_with(vfs, LogOptions::small()) {
        Ok(_) => false,
        Err(OpenError::Damaged(damage)) => {
            assert!(!damage.to_string().is_empty());
            match damage.kind {
                DamageKind::Suspect(_) => assert!(damage.last.is_some()),
                DamageKind::UnknownEnd(_) => assert!(damage.last.is_none()),
            }
            // The boot counter's record is all that is written.
            assert!(vfs.operations() <= before + 8);
            true
        }
        Err(other) => panic!("not damage: {other}"),
    }
}
