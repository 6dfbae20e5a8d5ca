//! Snapshots of the machine: one cut of store and sessions, in parts, and the way back.

use std::io::{self, Read};

use bytes::Bytes;
use raft_proto::mutants::{Mutant, is_planted};

use super::{KvMachine, state_hash};
use crate::session::{FrozenSessions, SessionRestorer, SessionTable};
use crate::snapshot::{Block, BlockReader, Header, RestoreError, SNAPSHOT_VERSION};
use crate::store::{CutSummary, Restorer, Retention};

/// A snapshot that is being taken.
#[derive(Debug)]
pub(super) struct MachineCut {
    header: Header,
    sessions: FrozenSessions,
    next: Stage,
}

/// Which blocks come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Header,
    Sessions,
    Store,
    End,
    Nothing,
}

impl KvMachine {
    /// Freezes one cut: the state as of now. Takes no time for keys and a reference per session.
    /// Commands go on being applied while its parts are taken.
    ///
    /// # Panics
    /// If a cut is being taken.
    pub fn begin_snapshot(&mut self) {
        assert!(self.cut.is_none(), "one cut at a time");
        let summary = self.store.begin_cut();
        let mut header = Header {
            applied_index: self.applied_index,
            revision: summary.revision,
            oldest: summary.oldest,
            versions_max: summary.retention.versions_max,
            bytes_max: summary.retention.bytes_max,
            superseded: summary.superseded,
            live: summary.live,
            store_hash: summary.hash,
            ..Header::default()
        };
        self.sessions.describe(&mut header);
        self.cut = Some(MachineCut {
            header,
            sessions: self.sessions.freeze(),
            next: Stage::Header,
        });
    }

    /// The next part of the cut, about `max_bytes` long: longer only by what a single key, value or
    /// reply takes. None once the cut is complete, or if there is none.
    pub fn snapshot_part(&mut self, max_bytes: usize) -> Option<Bytes> {
        // The last pair may go beyond the limit; most do so by less than this.
        let mut part = Vec::with_capacity(max_bytes.min(1 << 20) + (4 << 10));
        let cut = self.cut.as_mut()?;
        loop {
            let room = max_bytes.saturating_sub(part.len());
            if room == 0 && !part.is_empty() {
                break;
            }
            let header = &cut.header;
            let next = match cut.next {
                Stage::Header => {
                    part.push(SNAPSHOT_VERSION);
                    Block::Header(*header).append_to(&mut part);
                    Stage::Sessions
                }
                Stage::Sessions if cut.sessions.append_block(&mut part, room) => Stage::Sessions,
                Stage::Sessions => Stage::Store,
                Stage::Store if self.store.cut_block(&mut part, room) => Stage::Store,
                Stage::Store => Stage::End,
                Stage::End => {
                    let sessions = cut.sessions.hash();
                    let hash = state_hash(header.store_hash, sessions);
                    Block::End { hash }.append_to(&mut part);
                    Stage::Nothing
                }
                Stage::Nothing => break,
            };
            cut.next = next;
        }
        (!part.is_empty()).then(|| part.into())
    }

    /// Frees whatever the cut pins, complete or not.
    pub fn end_snapshot(&mut self) {
        self.cut = None;
        self.store.end_cut();
    }

    /// Replaces the whole state by that of a snapshot, after everything in it was checked. On an
    /// error the state is empty.
    ///
    /// # Errors
    /// What reading gives, and [`RestoreError`] as [`io::ErrorKind::InvalidData`].
    pub fn restore(&mut self, source: &mut dyn Read) -> io::Result<()> {
        // What there was goes first, so that memory is never needed twice.
        *self = Self::default();
        let mut blocks = BlockReader::new(source)?;
        let header = match blocks.next_block()? {
            Block::Header(header) => header,
            other @ (Block::Session(_)
            | Block::Replies(_)
            | Block::Superseded(_)
            | Block::Live(_)
            | Block::End { .. }) => return Err(out_of_order(&other, "the header").into()),
        };
        let mut sessions = SessionRestorer::new(&header)?;
        let mut store = Restorer::new(summary(&header))?;
        let mut reached = Stage::Sessions;
        let hash = loop {
            match blocks.next_block()? {
                Block::Session(head) if reached == Stage::Sessions => sessions.session(&head)?,
                Block::Replies(replies) if reached == Stage::Sessions => {
                    sessions.replies(&replies)?;
                }
                Block::Superseded(versions) if reached != Stage::End => {
                    reached = Stage::Store;
                    versions
                        .iter()
                        .try_for_each(|version| store.superseded(version))?;
                }
                Block::Live(pairs) => {
                    reached = Stage::End;
                    pairs.iter().try_for_each(|pair| store.live(pair))?;
                }
                Block::End { hash } => break hash,
                other @ (Block::Header(_)
                | Block::Session(_)
                | Block::Replies(_)
                | Block::Superseded(_)) => return Err(out_of_order(&other, "what follows").into()),
            }
        };
        blocks.finish()?;
        let restored = Self {
            store: store.finish()?,
            sessions: sessions.finish()?,
            applied_index: header.applied_index,
            cut: None,
        };
        let found = restored.hash();
        if found != hash {
            let expected = hash;
            return Err(RestoreError::Hash { expected, found }.into());
        }
        *self = restored;
        if is_planted(Mutant::SnapshotWithoutSessions) {
            self.sessions = SessionTable::default();
        }
        Ok(())
    }
}

const fn summary(header: &Header) -> CutSummary {
    CutSummary {
        revision: header.revision,
        oldest: header.oldest,
        retention: Retention {
            versions_max: header.versions_max,
            bytes_max: header.bytes_max,
        },
        superseded: header.superseded,
        live: header.live,
        hash: header.store_hash,
    }
}

const fn out_of_order(found: &Block<'_>, expected: &'static str) -> RestoreError {
    let found = found.name();
    RestoreError::BlockOrder { found, expected }
}
