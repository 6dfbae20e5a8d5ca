//! A store built from a cut: versions come in the order of the cut and are checked against all
//! that must hold between them.

use std::collections::HashMap;

use super::Store;
use super::cut::CutSummary;
use super::history::Ended;
use super::record::{HashedKey, Meta, Record};
use crate::limits;
use crate::operation::Revision;
use crate::reply::PairRef;
use crate::snapshot::{RestoreError, SupersededRef, ensure};

/// Takes the versions of a cut and builds the store from them.
#[derive(Debug)]
pub(crate) struct Restorer {
    store: Store,
    summary: CutSummary,
    /// The number in history of the latest version of every key that has one there.
    latest: HashMap<Box<[u8]>, u64>,
}

impl Restorer {
    pub(crate) fn new(summary: CutSummary) -> Result<Self, RestoreError> {
        ensure(
            Revision::FIRST <= summary.oldest && summary.oldest <= summary.revision,
            "the oldest revision is not between the first and the latest",
        )?;
        let mut store = Store::new(summary.retention);
        store.revision = summary.revision;
        store.oldest = summary.oldest;
        Ok(Self {
            store,
            summary,
            latest: HashMap::new(),
        })
    }

    /// Takes the next version of history.
    pub(crate) fn superseded(&mut self, version: &SupersededRef<'_>) -> Result<(), RestoreError> {
        let SupersededRef { until, pair } = version;
        ensure(
            self.summary.oldest < *until && *until <= self.summary.revision,
            "a version was superseded before the oldest revision or after the latest",
        )?;
        ensure(
            pair.mod_revision < *until,
            "a version was superseded before it was written",
        )?;
        let history = &self.store.history;
        let number = history.next_number();
        let before = history.version(number - 1);
        ensure(
            before.is_none_or(|before| before.until <= *until),
            "history is out of order",
        )?;
        let previous = self.latest.insert(pair.key.0.into(), number);
        let (_, record) = self.record(pair, previous)?;
        // Whatever replaces it says so later.
        self.store.history.push(record, *until, Ended::Deleted);
        Ok(())
    }

    /// Takes the next live record.
    pub(crate) fn live(&mut self, pair: &PairRef<'_>) -> Result<(), RestoreError> {
        ensure(
            self.store
                .live
                .last()
                .is_none_or(|last| last.key() < pair.key.0),
            "keys are out of order",
        )?;
        let previous = if self.latest.is_empty() {
            None
        } else {
            self.latest.remove(pair.key.0)
        };
        let (key_hash, record) = self.record(pair, previous)?;
        let store = &mut self.store;
        store.live_hash = store.live_hash.wrapping_add(record.hash());
        store.live_bytes += (pair.key.0.len() + pair.value.0.len()) as u64;
        store.live.push(key_hash, record);
        Ok(())
    }

    /// The store, if it is complete and has the hash of the one that was cut.
    pub(crate) fn finish(mut self) -> Result<Store, RestoreError> {
        let summary = &self.summary;
        ensure(
            self.store.key_count() == summary.live,
            "the number of keys is not the one announced",
        )?;
        ensure(
            self.store.history.len() == summary.superseded,
            "the number of versions in history is not the one announced",
        )?;
        // What was not succeeded by anything was deleted.
        for (key, number) in self.latest {
            self.store.history.bury(key, number);
        }
        let found = self.store.hash();
        if found != summary.hash {
            let expected = summary.hash;
            return Err(RestoreError::Hash { expected, found });
        }
        Ok(self.store)
    }

    /// The record of a pair, linked to the version before it; and its key's hash.
    fn record(
        &mut self,
        pair: &PairRef<'_>,
        previous: Option<u64>,
    ) -> Result<(u64, Record), RestoreError> {
        let (key, value) = (pair.key.0, pair.value.0);
        ensure(
            limits::check_key(key).is_ok() && limits::check_value(value).is_ok(),
            "a key or value exceeds the limits",
        )?;
        ensure(
            Revision::FIRST < pair.create_revision
                && pair.create_revision <= pair.mod_revision
                && pair.mod_revision <= self.summary.revision,
            "a version was created or written at an impossible revision",
        )?;
        ensure(
            (pair.version == 1) == (pair.create_revision == pair.mod_revision)
                && (1..=pair.mod_revision.0).contains(&pair.version),
            "a version number does not fit its revisions",
        )?;
        if let Some(number) = previous {
            self.link(pair, number)?;
        }
        let meta = Meta {
            create_revision: pair.create_revision,
            mod_revision: pair.mod_revision,
            version: pair.version,
            previous: previous.unwrap_or(0),
        };
        let key = HashedKey::new(key);
        Ok((key.hash, Record::new(key, meta, [value, b""])))
    }

    /// Checks that a pair can follow a version of history under the same key, and notes whether it
    /// replaced it.
    fn link(&mut self, pair: &PairRef<'_>, number: u64) -> Result<(), RestoreError> {
        let Some(previous) = self.store.history.version(number) else {
            panic!("nothing is compacted while a store is built");
        };
        let meta = previous.record.meta();
        if previous.until == pair.mod_revision {
            ensure(
                meta.create_revision == pair.create_revision && meta.version + 1 == pair.version,
                "a version does not follow from the one it replaced",
            )?;
            self.store.history.mark_replaced(number);
            return Ok(());
        }
        ensure(
            pair.version == 1 && previous.until < pair.create_revision,
            "a version does not follow from the one before it",
        )
    }
}
