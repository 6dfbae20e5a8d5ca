//! Looks at a log without a lock and without changing anything: segments, batches, records,
//! verdicts.
//!
//! [`survey`] gives structured data for `dump` and `verify` tools; its parts implement `Display`.
//! It may run beside the process that writes the log; what is being written then looks torn.
//!
//! ```
//! use std::path::Path;
//! use raft_log::inspect::{survey, Detail};
//! use raft_log::vfs::MemVfs;
//!
//! let vfs = MemVfs::new(1);
//! let report = survey(&vfs, Path::new("data"), Detail::Records)?;
//! assert!(report.segments.is_empty() && report.is_sound());
//! # Ok::<(), raft_log::FileError>(())
//! ```

use std::path::{Path, PathBuf};

mod healed;
mod show;

use raft_proto::{EntryKind, HardState, LogIndex, LogPosition, Term};

use crate::damage::{DamageKind, LogEnd};
use crate::error::{FileError, Owner};
use crate::format::checksum::Checksum;
use crate::format::preamble::{Preamble, PreambleError};
use crate::format::record::{self, RECORD_ALIGN};
use crate::format::seal::{self, SealState};
use crate::recovery::scan::Scanner;
use crate::recovery::scanned::{
    AtUnknown, Before, Copies, Extent, Finish, ScannedBatch, Wholeness,
};
use crate::segment::{path_of, sequence_of};
use crate::vfs::{Access, BLOCK_BYTES, Vfs, Writers};

/// How much of a log is looked at. Checksums are verified either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Segments and batches.
    Batches,
    /// Records too.
    Records,
}

/// All that is in a log's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// The log's directory.
    pub directory: PathBuf,
    /// Its segments, oldest first.
    pub segments: Vec<SegmentReport>,
}

/// One segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentReport {
    /// Its sequence number.
    pub sequence: u64,
    /// Its file.
    pub path: PathBuf,
    /// Size of the file in bytes.
    pub file_bytes: u64,
    /// Whether the log still uses it.
    pub standing: Standing,
    /// What its preamble says.
    pub start: Start,
    /// What stands where its seal belongs.
    pub seal: SealReport,
    /// Its batches, in order, as far as their identity is known.
    pub batches: Vec<BatchReport>,
    /// What was found that is not whole, by offset in bytes.
    pub findings: Vec<Finding>,
}

/// Whether the log still uses a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is the newest, or one that the log uses continues it.
    Used,
    /// Nothing leads to it; the next open deletes it.
    Stray,
}

/// The start of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Valid.
    Valid(SegmentHead),
    /// Written by a newer program, in this format version.
    UnsupportedVersion(u32),
    /// Not valid.
    Damaged,
}

/// What a valid preamble says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHead {
    /// Whose it is.
    pub owner: Owner,
    /// Size the file must have, in bytes.
    pub segment_bytes: u64,
    /// Term and vote when it was started.
    pub hard_state: HardState,
    /// Whether the log knew its end when it was started.
    pub log_end: LogEnd,
    /// Everything up to here is in a snapshot.
    pub mark: LogPosition,
    /// The last entry before its batches.
    pub base: LogPosition,
    /// Sequence and end of the segment it continues.
    pub predecessor: Option<(u64, u64)>,
    /// Number of term runs and of memberships of the live log before it.
    pub metadata: (usize, usize),
}

/// The end of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealReport {
    /// Not sealed.
    Open,
    /// Sealed; names the segment that follows and where its own batches end.
    Sealed {
        /// Sequence of the segment that follows.
        successor: u64,
        /// Where its batches end, in bytes.
        end: u64,
    },
    /// Something else stands there.
    Damaged,
}

/// One batch whose identity is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchReport {
    /// Where it starts, in bytes.
    pub offset: u64,
    /// Its length, in bytes.
    pub bytes: u64,
    /// Term and vote.
    pub hard_state: HardState,
    /// Everything up to here is in a snapshot.
    pub mark: LogPosition,
    /// The last older entry that stays.
    pub keep: LogPosition,
    /// The last entry of the log after it.
    pub last: LogPosition,
    /// Number of its entries.
    pub entries: u32,
    /// Number of records that fill in lost content of older entries.
    pub refills: u32,
    /// Whether the log knew its end.
    pub log_end: LogEnd,
    /// Whether all of it is as written.
    pub is_whole: bool,
    /// Its records, if they were asked for.
    pub records: Vec<RecordReport>,
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordReport {
    /// Where it starts, in bytes.
    pub offset: u64,
    /// Its entry's index.
    pub index: LogIndex,
    /// Its entry's term.
    pub term: Term,
    /// Its entry's kind.
    pub kind: EntryKind,
    /// Length of its payload, in bytes.
    pub payload_bytes: u32,
}

/// Something that is not whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A batch that is being written, or was when the writer stopped. The next open drops it.
    Torn {
        /// Where it starts, in bytes.
        offset: u64,
    },
    /// Damage.
    Damaged {
        /// Where it starts, in bytes.
        offset: u64,
        /// The first entry that may be affected.
        first: LogIndex,
        /// The last one; `None` if nobody knows.
        last: Option<LogIndex>,
        /// What is known about it.
        kind: DamageKind,
    },
    /// Damage that costs nothing: all that was lost is in the log again, in a later segment.
    Healed {
        /// Where it starts, in bytes.
        offset: u64,
        /// The first entry that was affected.
        first: LogIndex,
        /// The last one.
        last: LogIndex,
    },
    /// One of the two identities of a batch is damaged; the other one serves.
    LostCopy {
        /// Where the batch starts, in bytes.
        offset: u64,
    },
    /// The file has not the size that its preamble states, in bytes.
    WrongSize {
        /// That size.
        expected: u64,
    },
    /// The segment that follows, by seal, is missing.
    SuccessorMissing {
        /// Its sequence.
        successor: u64,
    },
    /// The segment that it continues is missing, and live entries were in it.
    PredecessorMissing {
        /// Its sequence.
        predecessor: u64,
    },
}

impl Survey {
    /// Whether nothing but a torn last batch was found, and damage that was healed.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.segments.iter().all(SegmentReport::is_sound)
    }
}

impl SegmentReport {
    /// Whether nothing but a torn last batch was found, and damage that was healed.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let torn =
            |finding: &Finding| matches!(finding, Finding::Torn { .. } | Finding::Healed { .. });
        let whole = matches!(self.start, Start::Valid(_))
            && self.seal != SealReport::Damaged
            && self.findings.iter().all(torn);
        whole || self.standing == Standing::Stray
    }
}

/// Looks at all segments of group 0's log in a data directory. A directory without a log gives an
/// empty survey.
///
/// # Errors
/// What the file system says; damage is no error here but a finding.
pub fn survey(vfs: &dyn Vfs, data_directory: &Path, detail: Detail) -> Result<Survey, FileError> {
    let directory = data_directory.join("log-0");
    let names = match vfs.list(&directory) {
        Ok(names) => names,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(FileError::new("list", &directory, error)),
    };
    let mut sequences: Vec<u64> = names.iter().filter_map(|name| sequence_of(name)).collect();
    sequences.sort_unstable();
    // Newest first: a segment's end is known from the one that continues it.
    let mut segments: Vec<SegmentReport> = Vec::new();
    for &sequence in sequences.iter().rev() {
        let mut used = segments
            .iter()
            .filter(|later| later.standing == Standing::Used);
        let continued = used.find_map(|later| later.end_of(sequence));
        let path = path_of(&directory, sequence);
        let Some(mut report) = look_at(vfs, &path, sequence, continued, detail)? else {
            continue;
        };
        if continued.is_none() && !segments.is_empty() {
            report.standing = Standing::Stray;
        }
        segments.push(report);
    }
    segments.reverse();
    link(&mut segments);
    healed::mark(vfs, &directory, &mut segments)?;
    Ok(Survey {
        directory,
        segments,
    })
}

impl SegmentReport {
    /// Where the segment `sequence` ends, if this one continues it.
    fn end_of(&self, sequence: u64) -> Option<u64> {
        match &self.start {
            Start::Valid(head) => head
                .predecessor
                .filter(|(predecessor, _)| *predecessor == sequence)
                .map(|(_, end)| end),
            Start::UnsupportedVersion(_) | Start::Damaged => None,
        }
    }
}

fn look_at(
    vfs: &dyn Vfs,
    path: &Path,
    sequence: u64,
    continued: Option<u64>,
    detail: Detail,
) -> Result<Option<SegmentReport>, FileError> {
    let failed = |source| FileError::new("read", path, source);
    let file = match vfs.open(path, Access::Read) {
        Ok(file) => file,
        // The log that is being written has just compacted it away.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let file_bytes = file.size().map_err(failed)?;
    // Somebody may be writing or sealing it: it is copied, not mapped.
    let content = file.content(Writers::Possible).map_err(failed)?;
    let mut report = SegmentReport {
        sequence,
        path: path.to_path_buf(),
        file_bytes,
        standing: Standing::Used,
        start: Start::Damaged,
        seal: SealReport::Open,
        batches: Vec::new(),
        findings: Vec::new(),
    };
    match Preamble::decode(&content) {
        Ok(preamble) if preamble.sequence == sequence => {
            report.fill(&content, &preamble, continued, detail);
        }
        Ok(_) | Err(PreambleError::Damaged) => {}
        Err(PreambleError::UnsupportedVersion(version)) => {
            report.start = Start::UnsupportedVersion(version);
        }
    }
    Ok(Some(report))
}

impl SegmentReport {
    fn fill(
        &mut self,
        content: &[u8],
        preamble: &Preamble,
        continued: Option<u64>,
        detail: Detail,
    ) {
        self.start = Start::Valid(SegmentHead {
            owner: Owner(preamble.identity),
            segment_bytes: preamble.segment_bytes,
            hard_state: preamble.hard_state,
            log_end: preamble.log_end,
            mark: preamble.mark,
            base: preamble.base,
            predecessor: preamble.predecessor.map(|p| (p.sequence, p.end)),
            metadata: (
                preamble.metadata.runs.len(),
                preamble.metadata.memberships.len(),
            ),
        });
        if preamble.segment_bytes != self.file_bytes {
            self.findings.push(Finding::WrongSize {
                expected: preamble.segment_bytes,
            });
        }
        let checksum = Checksum::new(preamble.salt, preamble.sequence);
        let offset = seal::offset(preamble.segment_bytes);
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let block = content.get(at..).and_then(|rest| rest.get(..BLOCK_BYTES));
        let state = block.map_or(SealState::Damaged, |block| {
            seal::decode(&checksum, offset, block)
        });
        self.seal = match state {
            SealState::Open => SealReport::Open,
            SealState::Sealed(seal) => SealReport::Sealed {
                successor: seal.successor,
                end: seal.end,
            },
            SealState::Damaged => SealReport::Damaged,
        };
        let extent = continued.map_or(Extent::Open, Extent::Until);
        let bytes = &content[..at.min(content.len())];
        let at_unknown = match extent {
            Extent::Until(_) => AtUnknown::Skip,
            Extent::Open => AtUnknown::Stop,
        };
        let scanner = Scanner::new(bytes, preamble, &checksum, extent, at_unknown);
        let scan = scanner.scan(preamble.batches_start(), Before::first_of(preamble));
        for batch in &scan.batches {
            if batch.copies == Copies::One {
                let offset = batch.identity.fixed.start;
                self.findings.push(Finding::LostCopy { offset });
            }
            self.batches
                .push(report_batch(batch, &checksum, bytes, detail));
        }
        for damage in scan.damage {
            self.findings.push(Finding::Damaged {
                offset: damage.offset,
                first: damage.first,
                last: damage.last,
                kind: damage.kind,
            });
        }
        match scan.finish {
            Finish::Clean | Finish::Unknown(_) => {}
            Finish::Torn(_) => self.findings.push(Finding::Torn { offset: scan.end }),
        }
    }
}

fn report_batch(
    batch: &ScannedBatch,
    checksum: &Checksum,
    bytes: &[u8],
    detail: Detail,
) -> BatchReport {
    let fixed = &batch.identity.fixed;
    let record = |units: &u32| {
        let offset = u64::from(*units) * RECORD_ALIGN as u64;
        let record = bytes.get(usize::try_from(offset).ok()?..)?;
        let (header, kind, _) = record::check(record, checksum, offset)?;
        Some(RecordReport {
            offset,
            index: header.index,
            term: header.term,
            kind,
            payload_bytes: header.payload_bytes,
        })
    };
    BatchReport {
        offset: fixed.start,
        bytes: fixed.length,
        hard_state: fixed.hard_state,
        mark: fixed.mark,
        keep: fixed.keep,
        last: fixed.last,
        entries: fixed.entry_count,
        refills: fixed.refill_count,
        log_end: fixed.log_end,
        is_whole: batch.wholeness == Wholeness::Whole,
        records: match detail {
            Detail::Batches => Vec::new(),
            Detail::Records => {
                let offsets = batch.runs.iter().flat_map(|run| &run.offsets);
                offsets.filter_map(record).collect()
            }
        },
    }
}

/// Finds segments that others name and that are not there.
fn link(segments: &mut [SegmentReport]) {
    let sequences: Vec<u64> = segments.iter().map(|segment| segment.sequence).collect();
    let newest = sequences.last().copied().unwrap_or(0);
    let mark = segments.last().map_or(LogIndex::ZERO, SegmentReport::mark);
    for segment in segments.iter_mut() {
        let is_newest = segment.sequence == newest;
        if let SealReport::Sealed { successor, .. } = segment.seal
            && (successor > newest || is_newest)
        {
            segment
                .findings
                .push(Finding::SuccessorMissing { successor });
        }
        if let Start::Valid(head) = &segment.start
            && let Some((predecessor, _)) = head.predecessor
            && head.base.index > mark
            && !sequences.contains(&predecessor)
        {
            segment
                .findings
                .push(Finding::PredecessorMissing { predecessor });
        }
    }
}

impl SegmentReport {
    /// The newest snapshot mark that it knows.
    fn mark(&self) -> LogIndex {
        let of_start = match &self.start {
            Start::Valid(head) => head.mark.index,
            Start::UnsupportedVersion(_) | Start::Damaged => LogIndex::ZERO,
        };
        self.batches
            .last()
            .map_or(of_start, |batch| batch.mark.index)
    }
}
