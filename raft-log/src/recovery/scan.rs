//! Reads the batches of one segment's bytes until they end or nobody knows how they go on, and
//! gathers the evidence for what is not whole.

use bytes::Bytes;
use raft_proto::{EntryKind, GroupId, HardState, LogIndex, LogPosition};

use super::judge::{
    Beyond, Content, Evidence, Header, LastBlock, NamedByNext, Verdict, Vouched, ZeroSectors, judge,
};
use super::salvage::{Expected, Order, push_record, salvage};
use super::scanned::{
    AtUnknown, BatchDamage, Before, Copies, Extent, Finish, ScannedBatch, SegmentScan, Wholeness,
    named_fixed, unknown_damage,
};
use crate::damage::{DamageKind, SuspectIdentity, UnknownEnd};
use crate::format::batch::{End, FIXED_BYTES, Fixed, Identity, PreviousFixed, fixed_at};
use crate::format::checksum::Checksum;
use crate::format::metadata::Metadata;
use crate::format::preamble::Preamble;
use crate::format::record::{self, RECORD_ALIGN, record_bytes};
use crate::format::{SECTOR_BYTES, is_zero, zero_sectors};
use crate::state::newer_hard_state;
use crate::vfs::BLOCK_BYTES;

/// Bytes of a segment and what is needed to read them.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    /// The segment up to where it counts.
    bytes: &'a [u8],
    checksum: &'a Checksum,
    extent: Extent,
    /// Everything before this offset was synced before the segment had its name.
    copied_end: u64,
    at_unknown: AtUnknown,
}

impl<'a> Scanner<'a> {
    /// A scanner of a segment without its seal; what lies beyond `extent` is never looked at.
    pub(crate) fn new(
        unsealed: &'a [u8],
        preamble: &Preamble,
        checksum: &'a Checksum,
        extent: Extent,
        at_unknown: AtUnknown,
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
            at_unknown,
        }
    }

    /// Up to where later writes in the segment itself say that it was synced.
    pub(crate) fn vouched_end(&self, start: u64) -> u64 {
        self.later_identities(start.saturating_sub(1))
            .vouched
            .max(self.copied_end)
    }

    /// Reads batches from `start` on.
    pub(crate) fn scan(&self, start: u64, mut before: Before) -> SegmentScan {
        let mut scan = SegmentScan {
            batches: Vec::new(),
            end: start,
            finish: Finish::Clean,
            damage: Vec::new(),
            hard_state: before.hard_state,
        };
        while scan.end < self.bytes.len() as u64 {
            match self.examine(scan.end, &before) {
                Examined::Batch(batch, damage) => {
                    let fixed = batch.identity.fixed;
                    scan.end = fixed.end();
                    scan.hard_state = newer_hard_state(scan.hard_state, fixed.hard_state);
                    before = Before::after(&fixed);
                    scan.batches.push(batch);
                    scan.damage.extend(damage);
                }
                Examined::Nothing(finish) => {
                    scan.finish = finish;
                    return scan;
                }
                Examined::Unknown(reason, later) => {
                    scan.damage
                        .push(unknown_damage(reason, scan.end, before.last));
                    scan.hard_state = newer_hard_state(scan.hard_state, later.hard_state);
                    match (self.at_unknown, later.next) {
                        (AtUnknown::Skip, next) => {
                            let end = next.map_or(self.bytes.len() as u64, |next| next.fixed.start);
                            scan.batches
                                .push(self.unknown_records(scan.end, end, &before));
                            scan.end = end;
                        }
                        (AtUnknown::Stop, _) => {
                            scan.finish = Finish::Unknown(reason);
                            return scan;
                        }
                    }
                }
            }
        }
        // The bytes are used up; they must have reached as far as the segment counts.
        if matches!(self.extent, Extent::Until(end) if end != scan.end) {
            let reason = UnknownEnd::BatchIdentity;
            scan.damage
                .push(unknown_damage(reason, scan.end, before.last));
            scan.finish = Finish::Unknown(reason);
        }
        scan
    }

    fn examine(&self, at: u64, before: &Before) -> Examined {
        let head = fixed_at(self.bytes, End::Head, self.checksum, at);
        if let Some(batch) = head.and_then(|fixed| self.whole_batch(&fixed)) {
            return Examined::Batch(batch, None);
        }
        let (evidence, mut known) = self.gather(at, head);
        match judge(&evidence) {
            Verdict::Whole => match known.readable.take() {
                Some(batch) => Examined::Batch(batch, None),
                None => unreachable!("a batch is whole only if it could be read"),
            },
            Verdict::Clean => Examined::Nothing(Finish::Clean),
            Verdict::Torn => Examined::Nothing(Finish::Torn(known.own)),
            Verdict::Suspect => match self.suspect(at, before, &known) {
                Some((batch, damage)) => Examined::Batch(batch, Some(damage)),
                // Its terms and memberships are lost, and with them what the log holds.
                None => Examined::Unknown(UnknownEnd::BatchIdentity, known.later),
            },
            Verdict::Unknown(reason) => Examined::Unknown(reason, known.later),
        }
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
        let mut runs = Vec::new();
        let mut members = Vec::new();
        let mut at = fixed.records_start();
        let mut before = match fixed.refill_count {
            0 => fixed.keep.index,
            _ => LogIndex::ZERO,
        };
        // The records of a batch are as many as fit, whatever its count claims.
        for _ in 0..fixed.entry_count + fixed.refill_count {
            let record = self.slice(at, fixed.records_limit())?;
            let (header, kind, payload) = record::check(record, self.checksum, at)?;
            if kind == EntryKind::Membership {
                members.push((header.index, Bytes::copy_from_slice(payload)));
            }
            let follows = match fixed.refill_count {
                0 => header.index == before.next(),
                _ => header.index > before && header.index <= fixed.keep.index,
            };
            if !follows {
                return None;
            }
            let position = LogPosition {
                index: header.index,
                term: header.term,
            };
            let offset = u32::try_from(at / RECORD_ALIGN as u64).ok()?;
            push_record(&mut runs, position, offset, header.payload_bytes);
            before = header.index;
            at += record_bytes(payload.len()) as u64;
        }
        // Records and identity are of one mind about terms and memberships.
        let terms = runs.iter().map(|run| (run.first, run.term));
        let named = identity.metadata.runs.iter();
        let agrees = terms.eq(named.map(|run| (run.first, run.term)))
            && members == identity.metadata.memberships;
        if fixed.refill_count == 0 && !agrees {
            return None;
        }
        Some(ScannedBatch {
            identity,
            runs,
            copies,
            wholeness: Wholeness::Whole,
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
        let next = later.next.as_ref();
        let named = next.is_some_and(|next| next.fixed.previous.start == at);
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
        let named = if named {
            NamedByNext::Yes
        } else {
            NamedByNext::No
        };
        let known = Known {
            own,
            later,
            named,
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
            hard_state: HardState::default(),
        };
        let first = at - at % BLOCK_BYTES as u64;
        let blocks = (first..self.bytes.len() as u64)
            .step_by(BLOCK_BYTES)
            .skip(1);
        for block in blocks {
            let tail_offset = block + (BLOCK_BYTES - FIXED_BYTES) as u64;
            for (end, offset) in [(End::Head, block), (End::Tail, tail_offset)] {
                let found = fixed_at(self.bytes, end, self.checksum, offset);
                let Some(fixed) = found.filter(|fixed| fixed.start > at) else {
                    continue;
                };
                later.vouched = later.vouched.max(fixed.vouched);
                later.hard_state = newer_hard_state(later.hard_state, fixed.hard_state);
                if later.next.is_none() {
                    later.next = fixed.identity(self.bytes, end, self.checksum);
                }
            }
        }
        later
    }

    /// The damaged batch: what it was, and the records that are readable. `None` if nobody knows
    /// which terms and memberships it held, and that matters.
    fn suspect(
        &self,
        at: u64,
        before: &Before,
        known: &Known,
    ) -> Option<(ScannedBatch, BatchDamage)> {
        let named = known.named_identity();
        let fixed = known.own.or_else(|| named_fixed(named?, before))?;
        let expected = match fixed.refill_count {
            0 if known.own.is_some() => Expected {
                after: fixed.keep.index,
                up_to: fixed.last,
                order: Order::Rising,
            },
            _ => Expected {
                after: LogIndex::ZERO,
                up_to: fixed.last,
                order: Order::Rising,
            },
        };
        let (from, to) = match known.own {
            Some(_) => (fixed.records_start(), fixed.records_limit()),
            None => (fixed.start, fixed.end()),
        };
        let bytes = self.slice(from, to).unwrap_or_default();
        let found = salvage(bytes, from, self.checksum, expected);
        let of = |end| fixed.identity(self.bytes, end, self.checksum);
        let own = known
            .own
            .and_then(|_| of(End::Head).or_else(|| of(End::Tail)));
        let own = own.map(|identity| identity.metadata);
        let by_next = named.and_then(|next| next.previous.as_ref());
        let metadata = own
            .or_else(|| by_next.map(|previous| previous.metadata.clone()))
            .or_else(|| {
                let appended = u64::from(fixed.entry_count);
                let is_rebuilt = fixed.refill_count == 0 && found.count == appended;
                is_rebuilt.then(|| found.metadata.clone())
            })
            .or_else(|| (fixed.entry_count == 0).then(Metadata::default))
            .or_else(|| (self.at_unknown == AtUnknown::Skip).then(Metadata::default))?;
        let first = match fixed.refill_count {
            0 => fixed.keep.index.next(),
            // Any entry may be what it filled in.
            _ => fixed.mark.index.next(),
        };
        let damage = BatchDamage {
            offset: at,
            first,
            last: Some(fixed.last.index),
            kind: DamageKind::Suspect(SuspectIdentity {
                keep: fixed.keep,
                last: fixed.last,
                term_runs: metadata.runs.clone(),
                hard_state: known.own.map(|fixed| fixed.hard_state),
            }),
        };
        let batch = ScannedBatch {
            identity: Identity {
                fixed,
                metadata,
                previous: None,
            },
            runs: found.runs,
            copies: Copies::Both,
            wholeness: Wholeness::Partial,
        };
        Some((batch, damage))
    }

    /// The readable records of a stretch of which nobody knows which batches stood there.
    fn unknown_records(&self, start: u64, end: u64, before: &Before) -> ScannedBatch {
        let bytes = self.slice(start, end).unwrap_or_default();
        let found = salvage(bytes, start, self.checksum, Expected::ANYTHING);
        let fixed = Fixed {
            start,
            length: end.saturating_sub(start),
            zero_sectors: 0,
            variable_bytes: 0,
            variable_checksum: 0,
            entry_count: 0,
            refill_count: 0,
            log_end: before.log_end,
            group: GroupId(0),
            hard_state: before.hard_state,
            mark: before.last,
            keep: before.last,
            last: before.last,
            vouched: start,
            previous: PreviousFixed::default(),
        };
        ScannedBatch {
            identity: Identity {
                fixed,
                metadata: Metadata::default(),
                previous: None,
            },
            runs: found.runs,
            copies: Copies::Both,
            wholeness: Wholeness::Partial,
        }
    }

    fn slice(&self, start: u64, end: u64) -> Option<&'a [u8]> {
        let start = usize::try_from(start).ok()?;
        let end = usize::try_from(end).ok()?;
        self.bytes.get(start..end)
    }
}

enum Examined {
    /// A batch, and what is damaged of it.
    Batch(ScannedBatch, Option<BatchDamage>),
    Nothing(Finish),
    Unknown(UnknownEnd, Later),
}

/// What later batches say.
struct Later {
    /// The largest offset that one of them vouches for.
    vouched: u64,
    /// The first of them.
    next: Option<Identity>,
    /// The newest one.
    hard_state: HardState,
}

/// Where a damaged batch's identity is known from.
struct Known {
    own: Option<Fixed>,
    later: Later,
    named: NamedByNext,
    /// The batch, if one copy of its identity is enough to read it.
    readable: Option<ScannedBatch>,
}

impl Known {
    /// The batch that names it.
    fn named_identity(&self) -> Option<&Identity> {
        match self.named {
            NamedByNext::Yes => self.later.next.as_ref(),
            NamedByNext::No => None,
        }
    }
}
