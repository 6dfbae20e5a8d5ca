//! Reads the batches of one segment's bytes until they end or fail, and gathers the evidence.

use raft_proto::{LogIndex, LogPosition};

use super::judge::{
    Beyond, Content, Evidence, Header, LastBlock, NamedByNext, Verdict, Vouched, ZeroSectors, judge,
};
use crate::error::{DamageKind, SuspectIdentity};
use crate::format::batch::{End, FIXED_BYTES, Fixed, Identity, fixed_at};
use crate::format::checksum::Checksum;
use crate::format::preamble::Preamble;
use crate::format::record::{self, RECORD_ALIGN, record_bytes};
use crate::format::{SECTOR_BYTES, is_zero, zero_sectors};
use crate::vfs::BLOCK_BYTES;

/// A whole batch.
#[derive(Clone, Debug)]
pub(crate) struct ScannedBatch {
    pub(crate) identity: Identity,
    /// Offsets of its records, in units of [`RECORD_ALIGN`] bytes.
    pub(crate) offsets: Vec<u32>,
    /// Payload bytes of its records.
    pub(crate) sizes: Vec<u32>,
    pub(crate) copies: Copies,
}

/// How many copies of a batch's identity are as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copies {
    Both,
    /// The other is damaged on the disk.
    One,
}

/// The batches of a segment.
#[derive(Clone, Debug)]
pub(crate) struct SegmentScan {
    pub(crate) batches: Vec<ScannedBatch>,
    /// Where the last whole batch ends.
    pub(crate) end: u64,
    pub(crate) finish: Finish,
}

/// How a segment's batches end.
#[derive(Clone, Debug)]
pub(crate) enum Finish {
    /// Nothing follows.
    Clean,
    /// A torn batch follows; its identity, if its head or tail was written.
    Torn(Option<Fixed>),
    /// Damage.
    Damaged(BatchDamage),
}

/// Damage of a batch.
#[derive(Clone, Debug)]
pub(crate) struct BatchDamage {
    pub(crate) offset: u64,
    /// The entries that may be affected.
    pub(crate) first: LogIndex,
    pub(crate) last: Option<LogIndex>,
    /// Where the next batch starts, if the damaged one's length is known.
    pub(crate) next: Option<u64>,
    pub(crate) kind: DamageKind,
}

/// How far a segment counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Up to here, says its successor, and all of it was synced.
    Until(u64),
    /// Up to its seal: it is the newest.
    Open,
}

/// Bytes of a segment and what is needed to read them.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    /// The segment up to where it counts.
    bytes: &'a [u8],
    checksum: &'a Checksum,
    extent: Extent,
    /// Everything before this offset was synced before the segment had its name.
    copied_end: u64,
}

impl<'a> Scanner<'a> {
    /// A scanner of a segment without its seal; what lies beyond `extent` is never looked at.
    pub(crate) fn new(
        unsealed: &'a [u8],
        preamble: &Preamble,
        checksum: &'a Checksum,
        extent: Extent,
    ) -> Self {
        let counted = match extent {
            Extent::Until(end) => usize::try_from(end).unwrap_or(usize::MAX),
            Extent::Open => unsealed.len(),
        };
        Self {
            bytes: &unsealed[..counted.min(unsealed.len())],
            checksum,
            extent,
            copied_end: preamble.copied_end,
        }
    }

    /// Reads batches from `start`, after which the log ends with `last`.
    pub(crate) fn scan(&self, start: u64, mut last: LogPosition) -> SegmentScan {
        let mut batches = Vec::new();
        let mut at = start;
        loop {
            if at >= self.bytes.len() as u64 {
                return self.finished(batches, at, last);
            }
            match self.examine(at, last) {
                Examined::Whole(batch) => {
                    at = batch.identity.fixed.end();
                    last = batch.identity.fixed.last;
                    batches.push(batch);
                }
                Examined::Ended(finish) => {
                    return SegmentScan {
                        batches,
                        end: at,
                        finish,
                    };
                }
            }
        }
    }

    /// The bytes are used up; they must have reached as far as the segment counts.
    fn finished(&self, batches: Vec<ScannedBatch>, at: u64, last: LogPosition) -> SegmentScan {
        let finish = match self.extent {
            Extent::Until(end) if end != at => Finish::Damaged(BatchDamage {
                offset: at,
                first: last.index.next(),
                last: None,
                next: None,
                kind: DamageKind::Suspect(SuspectIdentity {
                    keep: last,
                    last,
                    term_runs: Vec::new(),
                    hard_state: None,
                }),
            }),
            Extent::Until(_) | Extent::Open => Finish::Clean,
        };
        SegmentScan {
            batches,
            end: at,
            finish,
        }
    }

    fn examine(&self, at: u64, last: LogPosition) -> Examined {
        let head = fixed_at(self.bytes, End::Head, self.checksum, at);
        if let Some(batch) = head.and_then(|fixed| self.whole_batch(&fixed)) {
            return Examined::Whole(batch);
        }
        let (evidence, mut known) = self.gather(at, head);
        let finish = match judge(&evidence) {
            Verdict::Whole => match known.readable.take() {
                Some(batch) => return Examined::Whole(batch),
                None => unreachable!("a batch is whole only if it could be read"),
            },
            Verdict::Clean => Finish::Clean,
            Verdict::Torn => Finish::Torn(known.own),
            Verdict::Suspect => Finish::Damaged(self.suspect(at, last, &known)),
            Verdict::Unknown(reason) => Finish::Damaged(BatchDamage {
                offset: at,
                first: last.index.next(),
                last: None,
                next: None,
                kind: DamageKind::UnknownEnd(reason),
            }),
        };
        Examined::Ended(finish)
    }

    /// Everything of the batch, if both identities and all records are as written.
    fn whole_batch(&self, fixed: &Fixed) -> Option<ScannedBatch> {
        let tail_offset = fixed.end() - FIXED_BYTES as u64;
        if fixed_at(self.bytes, End::Tail, self.checksum, tail_offset)? != *fixed {
            return None;
        }
        let identity = fixed.identity(self.bytes, End::Head, self.checksum)?;
        if fixed.identity(self.bytes, End::Tail, self.checksum)? != identity {
            return None;
        }
        self.with_records(identity, Copies::Both)
    }

    /// Everything of the batch that these fixed parts name, if one copy of its identity and all
    /// records are as written.
    fn readable_batch(&self, head: Option<Fixed>, tail: Option<Fixed>) -> Option<ScannedBatch> {
        let fixed = head.or(tail)?;
        if tail.is_some_and(|tail| tail != fixed) {
            return None;
        }
        let of = |end| fixed.identity(self.bytes, end, self.checksum);
        let identity = of(End::Head).or_else(|| of(End::Tail))?;
        self.with_records(identity, Copies::One)
    }

    /// The batch of this identity, if all its records are as written.
    fn with_records(&self, identity: Identity, copies: Copies) -> Option<ScannedBatch> {
        let fixed = &identity.fixed;
        let count = fixed.entry_count as usize;
        if fixed.last.index.since(fixed.keep.index) != count as u64 {
            return None;
        }
        // The records of a batch are as many as fit, whatever its count claims.
        let mut offsets = Vec::new();
        let mut sizes = Vec::new();
        let mut at = fixed.records_start();
        for number in 0..count {
            let record = self.slice(at, fixed.records_limit())?;
            let (header, _, payload) = record::check(record, self.checksum, at)?;
            if header.index != fixed.keep.index.plus(number as u64 + 1) {
                return None;
            }
            offsets.push(u32::try_from(at / RECORD_ALIGN as u64).ok()?);
            sizes.push(header.payload_bytes);
            at += record_bytes(payload.len()) as u64;
        }
        Some(ScannedBatch {
            identity,
            offsets,
            sizes,
            copies,
        })
    }

    fn gather(&self, at: u64, head: Option<Fixed>) -> (Evidence, Known) {
        let tail = match head {
            Some(fixed) => {
                let offset = fixed.end() - FIXED_BYTES as u64;
                let found = fixed_at(self.bytes, End::Tail, self.checksum, offset);
                found.filter(|tail| tail.start == at)
            }
            None => self.find_tail(at),
        };
        let own = head.or(tail);
        let readable = self.readable_batch(head, tail);
        let later = self.later_identities(at);
        let named = later
            .next
            .as_ref()
            .is_some_and(|next| next.fixed.previous.start == at);
        let sector = self.slice(at, at + SECTOR_BYTES as u64).unwrap_or_default();
        let after = own.map_or(at + SECTOR_BYTES as u64, |fixed| fixed.end());
        let rest = self
            .slice(after, self.bytes.len() as u64)
            .unwrap_or_default();
        let surplus = own.is_some_and(|fixed| {
            let batch = self.slice(fixed.start, fixed.end()).unwrap_or_default();
            zero_sectors(batch) > fixed.zero_sectors
        });
        let vouched =
            later.vouched > at || at < self.copied_end || matches!(self.extent, Extent::Until(_));
        let evidence = Evidence {
            header: match head {
                Some(_) => Header::Valid,
                None if is_zero(sector) => Header::Zero,
                None => Header::Corrupt,
            },
            last_block: if tail.is_some() {
                LastBlock::Valid
            } else {
                LastBlock::Missing
            },
            content: match readable {
                Some(_) => Content::OneCopy,
                None => Content::Damaged,
            },
            zero_sectors: if surplus {
                ZeroSectors::Surplus
            } else {
                ZeroSectors::AsWritten
            },
            vouched: if vouched { Vouched::Yes } else { Vouched::No },
            named_by_next: if named {
                NamedByNext::Yes
            } else {
                NamedByNext::No
            },
            beyond: if is_zero(rest) {
                Beyond::Zero
            } else {
                Beyond::Written
            },
        };
        let next = later.next.filter(|_| named);
        let known = Known {
            own,
            next,
            readable,
        };
        (evidence, known)
    }

    /// The tail of the batch that starts at `at`, wherever it ends.
    fn find_tail(&self, at: u64) -> Option<Fixed> {
        let ends = (at..=self.bytes.len() as u64).step_by(BLOCK_BYTES).skip(2);
        let mut tails = ends.filter_map(|end| {
            fixed_at(
                self.bytes,
                End::Tail,
                self.checksum,
                end - FIXED_BYTES as u64,
            )
        });
        tails.find(|tail| tail.start == at)
    }

    /// What batches that start after `at` say, judged by either of their ends.
    fn later_identities(&self, at: u64) -> Later {
        let mut later = Later {
            vouched: 0,
            next: None,
        };
        let blocks = (at..self.bytes.len() as u64).step_by(BLOCK_BYTES).skip(1);
        for block in blocks {
            let tail_offset = block + (BLOCK_BYTES - FIXED_BYTES) as u64;
            for (end, offset) in [(End::Head, block), (End::Tail, tail_offset)] {
                let found = fixed_at(self.bytes, end, self.checksum, offset);
                let Some(fixed) = found.filter(|fixed| fixed.start > at) else {
                    continue;
                };
                later.vouched = later.vouched.max(fixed.vouched);
                if later.next.is_none() {
                    later.next = fixed.identity(self.bytes, end, self.checksum);
                }
            }
        }
        later
    }

    fn suspect(&self, at: u64, last: LogPosition, known: &Known) -> BatchDamage {
        let own = known.own.as_ref();
        let named = known.next.as_ref().and_then(|next| next.previous.as_ref());
        let keep = own
            .map(|fixed| fixed.keep)
            .or(named.map(|previous| previous.fixed.keep));
        let end = own
            .map(|fixed| fixed.last)
            .or(named.map(|previous| previous.fixed.last));
        let length = own
            .map(|fixed| fixed.length)
            .or(named.map(|previous| previous.fixed.length));
        let own_runs = own.and_then(|fixed| {
            let head = fixed.identity(self.bytes, End::Head, self.checksum);
            let identity = head.or_else(|| fixed.identity(self.bytes, End::Tail, self.checksum));
            identity.map(|identity| identity.metadata.runs)
        });
        let runs = own_runs.or_else(|| named.map(|previous| previous.metadata.runs.clone()));
        let keep = keep.unwrap_or(last);
        let end = end.unwrap_or(last);
        BatchDamage {
            offset: at,
            first: keep.index.next(),
            last: Some(end.index),
            next: length.map(|length| at + length),
            kind: DamageKind::Suspect(SuspectIdentity {
                keep,
                last: end,
                term_runs: runs.unwrap_or_default(),
                hard_state: own.map(|fixed| fixed.hard_state),
            }),
        }
    }

    fn slice(&self, start: u64, end: u64) -> Option<&'a [u8]> {
        let start = usize::try_from(start).ok()?;
        let end = usize::try_from(end).ok()?;
        self.bytes.get(start..end)
    }
}

enum Examined {
    Whole(ScannedBatch),
    Ended(Finish),
}

/// What later batches say.
struct Later {
    /// The largest offset that one of them vouches for.
    vouched: u64,
    /// The first of them.
    next: Option<Identity>,
}

/// Where a damaged batch's identity is known from.
struct Known {
    own: Option<Fixed>,
    /// The batch that names it.
    next: Option<Identity>,
    /// The batch, if one copy of its identity is enough to read it.
    readable: Option<ScannedBatch>,
}
