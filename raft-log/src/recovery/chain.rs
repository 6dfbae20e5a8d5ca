//! Finds the segments of the live log, newest first, and scans them.
//!
//! The newest readable segment, the head, says what the log holds: its preamble names term and vote,
//! mark, and the terms and memberships of all live entries before it, and its batches go on from
//! there. Older segments only say where the content of these entries stands. So a damaged or missing
//! older one costs content and nothing else, and a damaged head leaves the end of the log unknown.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft_proto::{HardState, LogPosition};

use super::judge::{FileSize, Place, judge_segment};
use super::scan::Scanner;
use super::scanned::{AtUnknown, Before, Extent, SegmentScan};
use crate::damage::{Damage, DamageKind, SuspectIdentity, UnknownEnd};
use crate::error::{FileError, OpenError, Owner};
use crate::format::checksum::Checksum;
use crate::format::preamble::{Preamble, PreambleError, Predecessor};
use crate::format::seal::{self, SealState};
use crate::options::{LogIdentity, OnDamage};
use crate::readable;
use crate::segment::{SegmentFile, path_of, sequence_of};
use crate::state::newer_hard_state;
use crate::vfs::{Access, BLOCK_BYTES, Content, Vfs, Writers};

/// A segment of the live log, scanned.
#[derive(Debug)]
pub(crate) struct LoadedSegment {
    pub(crate) file: Arc<SegmentFile>,
    pub(crate) preamble: Preamble,
    pub(crate) content: Content,
    pub(crate) scan: SegmentScan,
    pub(crate) extent: Extent,
}

/// The segments of the live log, oldest first, and all segment files that there are.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) segments: Vec<LoadedSegment>,
    pub(crate) sequences: Vec<u64>,
    /// The highest sequence that a file has or names.
    pub(crate) highest: u64,
    /// All that is damaged, newest segment first.
    pub(crate) damage: Vec<Damage>,
    /// Why the end of the log is not known, if something says so beside the log itself.
    pub(crate) unknown: Option<UnknownEnd>,
    /// The newest term and vote that anything readable names.
    pub(crate) hard_state: HardState,
}

/// Loads the chain of segments that leads back from the newest one as far as entries are live. A
/// chain without segments means that there is none that can be read.
pub(crate) fn load(
    vfs: &dyn Vfs,
    directory: &Path,
    identity: LogIdentity,
    on_damage: OnDamage,
) -> Result<Chain, OpenError> {
    let names = vfs
        .list(directory)
        .map_err(|source| FileError::new("list", directory, source))?;
    let mut sequences: Vec<u64> = names.iter().filter_map(|name| sequence_of(name)).collect();
    sequences.sort_unstable();
    let loader = Loader {
        vfs,
        directory,
        identity,
        newest: sequences.last().copied().unwrap_or(0),
        on_damage,
    };
    let mut chain = Chain {
        segments: Vec::new(),
        highest: loader.newest,
        sequences,
        damage: Vec::new(),
        unknown: None,
        hard_state: HardState::default(),
    };
    loader.load_head(&mut chain)?;
    if let Some(head) = chain.segments.last() {
        let last = head.scan.batches.last();
        let mark = last.map_or(head.preamble.mark, |batch| batch.identity.fixed.mark);
        loader.load_older(&mut chain, mark)?;
    }
    chain.segments.reverse();
    Ok(chain)
}

struct Loader<'a> {
    vfs: &'a dyn Vfs,
    directory: &'a Path,
    identity: LogIdentity,
    newest: u64,
    on_damage: OnDamage,
}

/// A segment's file before its batches are scanned.
struct Opened {
    file: SegmentFile,
    preamble: Preamble,
    content: Content,
    size: FileSize,
    seal: SealState,
}

/// Why a segment's file cannot be used.
enum Unusable {
    Missing,
    Preamble,
    Refused(OpenError),
}

impl Chain {
    fn end_unknown(&mut self, reason: UnknownEnd, damage: Damage) {
        self.unknown = self.unknown.or(Some(reason));
        self.damage.push(damage);
    }

    fn note_seal(&mut self, seal: SealState) {
        match seal {
            SealState::Sealed(seal) => {
                self.highest = self.highest.max(seal.successor);
                self.hard_state = newer_hard_state(self.hard_state, seal.hard_state);
            }
            SealState::Open | SealState::Damaged => {}
        }
    }

    /// Adds a scanned segment, and what is damaged in it.
    fn push(&mut self, opened: Opened, scan: SegmentScan, extent: Extent) {
        self.hard_state = newer_hard_state(self.hard_state, scan.hard_state);
        for damage in &scan.damage {
            self.damage.push(Damage {
                segment: opened.preamble.sequence,
                path: opened.file.path.clone(),
                offset: damage.offset,
                first: damage.first,
                last: damage.last,
                kind: damage.kind.clone(),
            });
        }
        // Only from the head is something copied, and no segment is sealed while it is mapped.
        let content = match self.segments.is_empty() {
            true => opened.content,
            false => Content::copied(Vec::new()),
        };
        self.segments.push(LoadedSegment {
            file: Arc::new(opened.file),
            preamble: opened.preamble,
            content,
            scan,
            extent,
        });
    }
}

impl Loader<'_> {
    /// The newest segment that can be read; those after it leave the end unknown.
    fn load_head(&self, chain: &mut Chain) -> Result<(), OpenError> {
        for sequence in chain.sequences.clone().into_iter().rev() {
            let opened = match self.open(sequence, Writers::Possible) {
                Ok(opened) => opened,
                Err(Unusable::Refused(error)) => return Err(error),
                Err(Unusable::Missing | Unusable::Preamble) => {
                    let reason = UnknownEnd::Preamble;
                    chain.end_unknown(
                        reason,
                        self.unknown_end(sequence, reason, LogPosition::ZERO),
                    );
                    continue;
                }
            };
            chain.note_seal(opened.seal);
            let place = Place::Head { newest: sequence };
            if let Some(reason) = judge_segment(place, opened.size, opened.seal) {
                let damage = self.unknown_end(sequence, reason, opened.preamble.base);
                chain.end_unknown(reason, damage);
            }
            // What a sealed one holds beyond its end was copied into the one that is lost.
            let extent = match opened.seal {
                SealState::Sealed(seal) => Extent::Until(seal.end),
                SealState::Open | SealState::Damaged => Extent::Open,
            };
            let scan = scan_opened(&opened, extent, AtUnknown::Stop);
            chain.push(opened, scan, extent);
            return Ok(());
        }
        Ok(())
    }

    /// The segments before the head, as far as live entries may stand in them.
    fn load_older(&self, chain: &mut Chain, mark: LogPosition) -> Result<(), OpenError> {
        // Each round loads or gives up a lower sequence, so the walk ends.
        while let Some(oldest) = chain.segments.last() {
            let successor = oldest.preamble.clone();
            if successor.base.index <= mark.index {
                return Ok(());
            }
            let predecessor = successor
                .predecessor
                .filter(|found| found.sequence < successor.sequence);
            let Some(predecessor) = predecessor else {
                chain.damage.push(self.lost_segment(0, &successor, mark));
                return Ok(());
            };
            match self.open(predecessor.sequence, Writers::None) {
                Ok(opened) => self.add_continued(chain, opened, predecessor, &successor),
                Err(Unusable::Refused(error)) => return Err(error),
                Err(Unusable::Missing | Unusable::Preamble) => {
                    let sequence = predecessor.sequence;
                    chain
                        .damage
                        .push(self.lost_segment(sequence, &successor, mark));
                    if !self.load_before(chain, sequence)? {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn add_continued(
        &self,
        chain: &mut Chain,
        opened: Opened,
        predecessor: Predecessor,
        successor: &Preamble,
    ) {
        chain.note_seal(opened.seal);
        let place = Place::Continued {
            newest: self.newest,
        };
        if let Some(reason) = judge_segment(place, opened.size, opened.seal) {
            let damage = self.unknown_end(predecessor.sequence, reason, successor.base);
            chain.end_unknown(reason, damage);
        }
        let extent = Extent::Until(predecessor.end);
        let scan = scan_opened(&opened, extent, AtUnknown::Skip);
        chain.push(opened, scan, extent);
    }

    /// The newest readable segment before a lost one. Nobody says where it ends, so only what it
    /// vouches for itself counts; whether it is part of the log does not matter, because its records
    /// are taken by index and term. Says whether there was one.
    fn load_before(&self, chain: &mut Chain, lost: u64) -> Result<bool, OpenError> {
        let below = chain.sequences.partition_point(|found| *found < lost);
        let candidates = chain.sequences[..below].to_vec();
        for sequence in candidates.into_iter().rev() {
            let opened = match self.open(sequence, Writers::None) {
                Ok(opened) => opened,
                Err(Unusable::Refused(error)) => return Err(error),
                Err(Unusable::Missing | Unusable::Preamble) => continue,
            };
            chain.note_seal(opened.seal);
            let extent = match opened.seal {
                SealState::Sealed(seal) => Extent::Until(seal.end),
                SealState::Open | SealState::Damaged => {
                    let start = opened.preamble.batches_start();
                    let vouched =
                        scanner(&opened, Extent::Open, AtUnknown::Skip).vouched_end(start);
                    Extent::Until(vouched)
                }
            };
            let scan = scan_opened(&opened, extent, AtUnknown::Skip);
            chain.push(opened, scan, extent);
            return Ok(true);
        }
        Ok(false)
    }

    fn unknown_end(&self, sequence: u64, reason: UnknownEnd, after: LogPosition) -> Damage {
        Damage {
            segment: sequence,
            path: path_of(self.directory, sequence),
            offset: 0,
            first: after.index.next(),
            last: None,
            kind: DamageKind::UnknownEnd(reason),
        }
    }

    /// All runs of the live log stand in the successor's preamble: what is lost is known.
    fn lost_segment(&self, sequence: u64, successor: &Preamble, mark: LogPosition) -> Damage {
        let mut metadata = successor.metadata.clone();
        metadata.compact_through(mark.index, successor.base.index);
        Damage {
            segment: sequence,
            path: path_of(self.directory, sequence),
            offset: 0,
            first: mark.index.next(),
            last: Some(successor.base.index),
            kind: DamageKind::Suspect(SuspectIdentity {
                keep: mark,
                last: successor.base,
                term_runs: metadata.runs,
                hard_state: None,
            }),
        }
    }

    fn open(&self, sequence: u64, writers: Writers) -> Result<Opened, Unusable> {
        let path = path_of(self.directory, sequence);
        let failed =
            |action, source| Unusable::Refused(FileError::new(action, &path, source).into());
        let file = match self.vfs.open(&path, Access::ReadWrite) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Unusable::Missing);
            }
            Err(error) => return Err(failed("open", error)),
        };
        let size = file.size().map_err(|source| failed("look up", source))?;
        if size == 0 {
            return Err(Unusable::Preamble);
        }
        let content = match self.on_damage {
            OnDamage::Refuse => file.content(writers),
            OnDamage::Report => readable::content(file.as_ref(), size),
        };
        let content = content.map_err(|source| failed("read", source))?;
        let preamble = self.check_preamble(&content, sequence, &path)?;
        let checksum = Checksum::new(preamble.salt, sequence);
        let seal_offset = seal::offset(preamble.segment_bytes);
        let block = usize::try_from(seal_offset)
            .ok()
            .and_then(|at| content.get(at..at + BLOCK_BYTES));
        Ok(Opened {
            size: if size == preamble.segment_bytes {
                FileSize::Right
            } else {
                FileSize::Wrong
            },
            seal: block.map_or(SealState::Damaged, |block| {
                seal::decode(&checksum, seal_offset, block)
            }),
            file: SegmentFile {
                sequence,
                path,
                segment_bytes: preamble.segment_bytes,
                checksum,
                file,
            },
            preamble,
            content,
        })
    }

    fn check_preamble(
        &self,
        content: &[u8],
        sequence: u64,
        path: &Path,
    ) -> Result<Preamble, Unusable> {
        let path = || PathBuf::from(path);
        let preamble = match Preamble::decode(content) {
            Ok(preamble) => preamble,
            Err(PreambleError::Damaged) => return Err(Unusable::Preamble),
            Err(PreambleError::UnsupportedVersion(version)) => {
                return Err(Unusable::Refused(OpenError::UnsupportedVersion {
                    path: path(),
                    version,
                }));
            }
        };
        if preamble.identity != self.identity {
            return Err(Unusable::Refused(OpenError::ForeignSegment {
                path: path(),
                expected: Owner(self.identity),
                found: Owner(preamble.identity),
            }));
        }
        // A segment under another's name is not that segment.
        if preamble.sequence == sequence {
            Ok(preamble)
        } else {
            Err(Unusable::Preamble)
        }
    }
}

fn scan_opened(opened: &Opened, extent: Extent, at_unknown: AtUnknown) -> SegmentScan {
    let preamble = &opened.preamble;
    let before = Before::first_of(preamble);
    scanner(opened, extent, at_unknown).scan(preamble.batches_start(), before)
}

fn scanner(opened: &Opened, extent: Extent, at_unknown: AtUnknown) -> Scanner<'_> {
    let preamble = &opened.preamble;
    let unsealed = usize::try_from(seal::offset(preamble.segment_bytes)).unwrap_or(usize::MAX);
    let bytes = &opened.content[..unsealed.min(opened.content.len())];
    Scanner::new(bytes, preamble, &opened.file.checksum, extent, at_unknown)
}
