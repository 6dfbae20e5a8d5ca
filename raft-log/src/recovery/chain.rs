//! Finds the segments of the live log, newest first, and scans them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft_proto::LogPosition;

use super::judge::{FileSize, Place, judge_segment};
use super::scan::{BatchDamage, Extent, Finish, Scanner, SegmentScan};
use crate::error::{Damage, DamageKind, FileError, OpenError, Owner, SuspectIdentity, UnknownEnd};
use crate::format::checksum::Checksum;
use crate::format::preamble::{Preamble, PreambleError, Predecessor};
use crate::format::seal::{self, SealState};
use crate::options::LogIdentity;
use crate::segment::{SegmentFile, path_of, sequence_of};
use crate::vfs::{Access, BLOCK_BYTES, Content, Vfs, Writers};

/// A segment of the live log, scanned.
#[derive(Debug)]
pub(crate) struct LoadedSegment {
    pub(crate) file: Arc<SegmentFile>,
    pub(crate) preamble: Preamble,
    pub(crate) content: Content,
    pub(crate) scan: SegmentScan,
}

/// The segments of the live log, oldest first, and all segment files that there are.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) segments: Vec<LoadedSegment>,
    pub(crate) sequences: Vec<u64>,
}

/// Loads the chain of segments that leads back from the newest one as far as entries are live.
/// An empty chain means that there is no segment at all.
pub(crate) fn load(
    vfs: &dyn Vfs,
    directory: &Path,
    identity: LogIdentity,
) -> Result<Chain, OpenError> {
    let names = vfs
        .list(directory)
        .map_err(|source| FileError::new("list", directory, source))?;
    let mut sequences: Vec<u64> = names.iter().filter_map(|name| sequence_of(name)).collect();
    sequences.sort_unstable();
    let mut segments = Vec::new();
    let Some(&newest) = sequences.last() else {
        return Ok(Chain {
            segments,
            sequences,
        });
    };
    let loader = Loader {
        vfs,
        directory,
        identity,
        newest,
    };
    let head = loader.load_head()?;
    let mark = head
        .scan
        .batches
        .last()
        .map_or(head.preamble.mark, |batch| batch.identity.fixed.mark);
    segments.push(head);
    // Each step goes to a lower sequence, so the walk ends.
    while let Some((needed, successor)) = next_needed(&segments, mark) {
        let segment = loader.load_continued(needed, successor, mark)?;
        segments.push(segment);
    }
    segments.reverse();
    Ok(Chain {
        segments,
        sequences,
    })
}

/// The segment before the oldest loaded one, if live entries may stand in it.
fn next_needed(
    segments: &[LoadedSegment],
    mark: LogPosition,
) -> Option<(Option<Predecessor>, &Preamble)> {
    let oldest = &segments.last()?.preamble;
    (oldest.base.index > mark.index).then_some((oldest.predecessor, oldest))
}

struct Loader<'a> {
    vfs: &'a dyn Vfs,
    directory: &'a Path,
    identity: LogIdentity,
    newest: u64,
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

impl Loader<'_> {
    fn load_head(&self) -> Result<LoadedSegment, OpenError> {
        let unknown = |reason, first: LogPosition| {
            let damage = Damage {
                segment: self.newest,
                path: path_of(self.directory, self.newest),
                offset: 0,
                first: first.index.next(),
                last: None,
                kind: DamageKind::UnknownEnd(reason),
            };
            OpenError::from(damage)
        };
        let opened = match self.open(self.newest, Writers::Possible) {
            Ok(opened) => opened,
            Err(Unusable::Refused(error)) => return Err(error),
            Err(Unusable::Missing) => {
                return Err(unknown(UnknownEnd::NoSegment, LogPosition::ZERO));
            }
            Err(Unusable::Preamble) => {
                return Err(unknown(UnknownEnd::Preamble, LogPosition::ZERO));
            }
        };
        let place = Place::Head {
            newest: self.newest,
        };
        if let Some(reason) = judge_segment(place, opened.size, opened.seal) {
            return Err(unknown(reason, opened.preamble.base));
        }
        let scan = scan_opened(&opened, Extent::Open);
        self.finish(opened, scan, |damage| damage.kind.clone())
    }

    fn load_continued(
        &self,
        needed: Option<Predecessor>,
        successor: &Preamble,
        mark: LogPosition,
    ) -> Result<LoadedSegment, OpenError> {
        let sequence = needed.map_or(0, |predecessor| predecessor.sequence);
        // All runs of the live log stand in the successor's preamble: what is missing is known.
        let known = || {
            let mut metadata = successor.metadata.clone();
            metadata.compact_through(mark.index, successor.base.index);
            DamageKind::Suspect(SuspectIdentity {
                keep: mark,
                last: successor.base,
                term_runs: metadata.runs,
                hard_state: None,
            })
        };
        let damaged = |offset| {
            OpenError::from(Damage {
                segment: sequence,
                path: path_of(self.directory, sequence),
                offset,
                first: mark.index.next(),
                last: Some(successor.base.index),
                kind: known(),
            })
        };
        let Some(predecessor) = needed.filter(|p| p.sequence < successor.sequence) else {
            return Err(damaged(0));
        };
        let opened = match self.open(sequence, Writers::None) {
            Ok(opened) => opened,
            Err(Unusable::Refused(error)) => return Err(error),
            Err(Unusable::Missing | Unusable::Preamble) => return Err(damaged(0)),
        };
        let place = Place::Continued {
            newest: self.newest,
        };
        if let Some(reason) = judge_segment(place, opened.size, opened.seal) {
            return Err(Damage {
                segment: sequence,
                path: opened.file.path,
                offset: seal::offset(opened.preamble.segment_bytes),
                first: successor.base.index.next(),
                last: None,
                kind: DamageKind::UnknownEnd(reason),
            }
            .into());
        }
        let scan = scan_opened(&opened, Extent::Until(predecessor.end));
        self.finish(opened, scan, |damage| match &damage.kind {
            DamageKind::Suspect(identity) if damage.last.is_some() => {
                DamageKind::Suspect(identity.clone())
            }
            DamageKind::Suspect(_) | DamageKind::UnknownEnd(_) => known(),
        })
    }

    /// Turns a scan into a loaded segment, or its damage into an error.
    fn finish(
        &self,
        opened: Opened,
        scan: SegmentScan,
        kind: impl Fn(&BatchDamage) -> DamageKind,
    ) -> Result<LoadedSegment, OpenError> {
        if let Finish::Damaged(damage) = &scan.finish {
            return Err(Damage {
                segment: opened.preamble.sequence,
                path: opened.file.path,
                offset: damage.offset,
                first: damage.first,
                last: damage.last,
                kind: kind(damage),
            }
            .into());
        }
        Ok(LoadedSegment {
            file: Arc::new(opened.file),
            preamble: opened.preamble,
            content: opened.content,
            scan,
        })
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
        let content = file
            .content(writers)
            .map_err(|source| failed("read", source))?;
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

fn scan_opened(opened: &Opened, extent: Extent) -> SegmentScan {
    let preamble = &opened.preamble;
    let unsealed = usize::try_from(seal::offset(preamble.segment_bytes)).unwrap_or(usize::MAX);
    let bytes = &opened.content[..unsealed.min(opened.content.len())];
    Scanner::new(bytes, preamble, &opened.file.checksum, extent)
        .scan(preamble.batches_start(), preamble.base)
}
