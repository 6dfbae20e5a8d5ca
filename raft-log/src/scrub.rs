//! Reads what nobody reads, so that rot is found while another node still has a good copy.
//!
//! A pass goes through the sealed segments of the live log, oldest first, and then through the stored
//! snapshots. It is stepped with a budget of bytes and has no thread of its own. What it reads is
//! dropped from the page cache first where the file system can, because rot is on the medium.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use raft_proto::LogPosition;

use crate::damage::Hole;
use crate::error::FileError;
use crate::format::preamble::Preamble;
use crate::format::seal::{self, SealState};
use crate::index::Index;
use crate::readable;
use crate::reader::LogReader;
use crate::recovery::scan::Scanner;
use crate::recovery::scanned::{AtUnknown, Before, Copies, Extent};
use crate::segment::SegmentFile;
use crate::snapshot::{SnapshotError, SnapshotStore};
use crate::vfs::BLOCK_BYTES;

/// Most bytes that one step reads, whatever its budget.
const MAX_STEP_BYTES: u64 = 1 << 20;

/// A pass over what is stored, that goes on for ever.
#[derive(Debug)]
pub struct Scrubber {
    index: Arc<RwLock<Index>>,
    snapshots: SnapshotStore,
    at: At,
}

/// Where the pass is.
#[derive(Debug)]
enum At {
    /// Looks for the first segment after this sequence.
    Segments { after: u64 },
    /// Reads this one; so much of it was read.
    Segment {
        file: Arc<SegmentFile>,
        bytes: Vec<u8>,
    },
    /// Looks for the first snapshot after this position.
    Snapshots { after: Option<LogPosition> },
    /// Reads this one from here on.
    Snapshot { position: LogPosition, offset: u64 },
}

/// What a step has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubStep {
    /// How many bytes were read.
    pub read_bytes: u64,
    /// Whether the pass is at its end; the next step begins another one.
    pub pass_ended: bool,
    /// What was found.
    pub findings: Vec<ScrubFinding>,
}

/// Damage that a scrub has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScrubFinding {
    /// The content of these entries is lost here: give them to [`crate::Log::report_rot`] and
    /// fetch them.
    Entries {
        /// The entries.
        lost: Hole,
        /// Their segment.
        segment: u64,
        /// Its file.
        path: PathBuf,
    },
    /// Something of a segment that the log needs to be opened is damaged, and no entry is lost yet:
    /// a copy of a batch's identity, the preamble, the seal.
    Segment {
        /// The segment.
        segment: u64,
        /// Its file.
        path: PathBuf,
        /// Where, in bytes.
        offset: u64,
    },
    /// A stored snapshot is damaged; it is not served any more.
    Snapshot {
        /// Its position.
        position: LogPosition,
        /// What is damaged.
        message: String,
    },
}

impl std::fmt::Display for ScrubFinding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Entries {
                lost,
                segment,
                path,
            } => write!(
                f,
                "entries {} to {} in segment {segment} ({}) are damaged",
                lost.first,
                lost.last,
                path.display()
            ),
            Self::Segment {
                segment,
                path,
                offset,
            } => write!(
                f,
                "segment {segment} ({}) is damaged at offset {offset}; no entry is lost yet",
                path.display()
            ),
            Self::Snapshot { position, message } => {
                write!(f, "the snapshot at {position} is damaged: {message}")
            }
        }
    }
}

impl Scrubber {
    /// A scrubber at the start of a pass.
    #[must_use]
    pub fn new(reader: &LogReader, snapshots: SnapshotStore) -> Self {
        Self {
            index: reader.index(),
            snapshots,
            at: At::Segments { after: 0 },
        }
    }

    /// Reads about so many bytes, at most a MiB and at least a block, and says what it found. A whole
    /// segment is kept in memory until all of it was read.
    ///
    /// # Errors
    /// What the file system says, but for sectors that cannot be read, which are damage. The next
    /// step goes on behind what failed.
    pub fn step(&mut self, budget_bytes: u64) -> Result<ScrubStep, FileError> {
        let budget = budget_bytes.clamp(BLOCK_BYTES as u64, MAX_STEP_BYTES);
        let start = At::Segments { after: 0 };
        match std::mem::replace(&mut self.at, start) {
            At::Segments { after } => {
                self.at = match self.segment_after(after) {
                    Some(file) => At::Segment {
                        file,
                        bytes: Vec::new(),
                    },
                    None => At::Snapshots { after: None },
                };
                Ok(ScrubStep::default())
            }
            At::Segment { file, bytes } => self.read_segment(file, bytes, budget),
            At::Snapshots { after } => self.next_snapshot(after),
            At::Snapshot { position, offset } => Ok(self.read_snapshot(position, offset, budget)),
        }
    }

    /// The live segment with the lowest sequence above this one.
    fn segment_after(&self, sequence: u64) -> Option<Arc<SegmentFile>> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        index.segment_after(sequence)
    }

    fn read_segment(
        &mut self,
        file: Arc<SegmentFile>,
        mut bytes: Vec<u8>,
        budget: u64,
    ) -> Result<ScrubStep, FileError> {
        let after = file.sequence;
        self.at = At::Segments { after };
        let size = file.segment_bytes;
        if bytes.is_empty() && is_written(&file)? {
            return Ok(ScrubStep::default());
        }
        let start = bytes.len() as u64;
        let end = size.min(start + budget);
        file.file.drop_cached(start, end - start);
        let read = readable::range(file.file.as_ref(), start, end);
        let read = read.map_err(|source| FileError::new("scrub", &file.path, source))?;
        let read_bytes = read.len() as u64;
        bytes.extend_from_slice(&read);
        let mut step = ScrubStep {
            read_bytes,
            ..ScrubStep::default()
        };
        // A file that is shorter than it was ends the reading, too.
        if read_bytes == end - start && end < size {
            self.at = At::Segment { file, bytes };
        } else {
            step.findings = self.judge_segment(&file, &bytes);
        }
        Ok(step)
    }

    /// What of a sealed segment is not as written.
    fn judge_segment(&self, file: &Arc<SegmentFile>, bytes: &[u8]) -> Vec<ScrubFinding> {
        let mut findings = Vec::new();
        let damaged = |offset| ScrubFinding::Segment {
            segment: file.sequence,
            path: file.path.clone(),
            offset,
        };
        // A segment has at most 2^30 bytes.
        let at = seal::offset(file.segment_bytes) as usize;
        let unsealed = &bytes[..at.min(bytes.len())];
        let mut offsets = Vec::new();
        match Preamble::decode(bytes) {
            Ok(preamble) if preamble.sequence == file.sequence => {
                let block = bytes.get(at..at + BLOCK_BYTES);
                let state = block.map_or(SealState::Damaged, |block| {
                    seal::decode(&file.checksum, at as u64, block)
                });
                let extent = match state {
                    SealState::Sealed(seal) => Extent::Until(seal.end),
                    SealState::Open | SealState::Damaged => {
                        findings.push(damaged(at as u64));
                        Extent::Open
                    }
                };
                let skip = AtUnknown::Skip;
                let scanner = Scanner::new(unsealed, &preamble, &file.checksum, extent, skip);
                let before = Before::first_of(&preamble);
                let scan = scanner.scan(preamble.batches_start(), before);
                findings.extend(scan.damage.iter().map(|damage| damaged(damage.offset)));
                for batch in &scan.batches {
                    if batch.copies == Copies::One {
                        findings.push(damaged(batch.identity.fixed.start));
                    }
                    offsets.extend(batch.runs.iter().flat_map(|run| &run.offsets).copied());
                }
                offsets.sort_unstable();
                let lost = self.lost_entries(file, &offsets);
                findings.extend(lost.into_iter().map(|lost| entries(file, lost)));
            }
            // Live reads do not need it, so nothing is lost until the next start.
            Ok(_) | Err(_) => findings.push(damaged(0)),
        }
        findings
    }

    /// The live entries that stand in this segment, and not at one of these places.
    fn lost_entries(&self, file: &SegmentFile, offsets: &[u32]) -> Vec<Hole> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let mut lost: Vec<Hole> = Vec::new();
        for (entry, offset) in index.places_in(file.sequence) {
            if offsets.binary_search(&offset).is_ok() {
                continue;
            }
            match lost.last_mut() {
                Some(hole) if hole.last.next() == entry => hole.last = entry,
                Some(_) | None => lost.push(Hole {
                    first: entry,
                    last: entry,
                }),
            }
        }
        lost
    }

    fn next_snapshot(&mut self, after: Option<LogPosition>) -> Result<ScrubStep, FileError> {
        let positions = match self.snapshots.positions() {
            Ok(positions) => positions,
            Err(SnapshotError::File(error)) => return Err(error),
            Err(_) => Vec::new(),
        };
        let key = |position: &LogPosition| (position.index, position.term);
        let next = positions
            .into_iter()
            .find(|found| after.is_none_or(|after| key(found) > key(&after)));
        match next {
            Some(position) => {
                self.at = At::Snapshot {
                    position,
                    offset: 0,
                };
                Ok(ScrubStep::default())
            }
            None => Ok(ScrubStep {
                pass_ended: true,
                ..ScrubStep::default()
            }),
        }
    }

    fn read_snapshot(&mut self, position: LogPosition, offset: u64, budget: u64) -> ScrubStep {
        let after = Some(position);
        self.at = At::Snapshots { after };
        let mut step = ScrubStep::default();
        // At most MAX_STEP_BYTES.
        match self.snapshots.read_part(position, offset, budget as u32) {
            Ok(Some((part, total))) => {
                step.read_bytes = part.len() as u64;
                let next = offset + step.read_bytes;
                if next < total && step.read_bytes > 0 {
                    self.at = At::Snapshot {
                        position,
                        offset: next,
                    };
                }
            }
            // It was replaced by a newer one.
            Ok(None) => {}
            Err(error) => step.findings.push(ScrubFinding::Snapshot {
                position,
                message: error.to_string(),
            }),
        }
        step
    }
}

/// Whether the segment is the one that is written: it has no seal yet.
fn is_written(file: &SegmentFile) -> Result<bool, FileError> {
    let at = seal::offset(file.segment_bytes);
    let end = file.segment_bytes;
    file.file.drop_cached(at, end - at);
    let block = readable::range(file.file.as_ref(), at, end);
    let block = block.map_err(|source| FileError::new("scrub", &file.path, source))?;
    let is_whole = block.len() == BLOCK_BYTES;
    Ok(is_whole && seal::decode(&file.checksum, at, &block) == SealState::Open)
}

fn entries(file: &SegmentFile, lost: Hole) -> ScrubFinding {
    ScrubFinding::Entries {
        lost,
        segment: file.sequence,
        path: file.path.clone(),
    }
}

#[cfg(test)]
mod tests {
    use raft_proto::LogIndex;

    use super::*;

    #[test]
    fn findings_say_what_where_and_whether_it_is_lost() {
        let lost = Hole {
            first: LogIndex(3),
            last: LogIndex(5),
        };
        let path = PathBuf::from("log-0/0000000000000002.wal");
        let found = ScrubFinding::Entries {
            lost,
            segment: 2,
            path,
        };
        assert_eq!(
            found.to_string(),
            "entries 3 to 5 in segment 2 (log-0/0000000000000002.wal) are damaged"
        );
    }
}
