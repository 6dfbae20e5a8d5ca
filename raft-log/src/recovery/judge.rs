//! Recovery's verdicts: pure functions from what was found to what it means.

use raft_proto::mutants::{Mutant, is_planted};

use crate::damage::UnknownEnd;
use crate::format::seal::SealState;

/// The sector where a batch's head belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// All zero.
    Zero,
    /// A batch's head that belongs here.
    Valid,
    /// Something else.
    Corrupt,
}

/// The last block of a batch that starts here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastBlock {
    /// It was found and names this start.
    Valid,
    /// None was found.
    Missing,
}

/// Everything between the two fixed parts of a batch's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// All records and both copies of the identity pass their checksums.
    Whole,
    /// All records do, and of the identity one copy of each of its parts.
    OneCopy,
    /// Something else fails.
    Damaged,
}

/// All-zero sectors of a batch, against how many it was written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroSectors {
    /// No more than it was written with.
    AsWritten,
    /// More: some of its sectors never reached the disk.
    Surplus,
}

/// Whether a later write says that everything here was synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vouched {
    /// One does.
    Yes,
    /// None does.
    No,
}

/// Whether the batch after this one carries this one's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedByNext {
    /// It does.
    Yes,
    /// It does not, or there is none.
    No,
}

/// The rest of the segment: after the batch if its length is known, else after its first sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// Only zeros.
    Zero,
    /// Something.
    Written,
}

/// What was found at a position where a batch may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The sector where its head belongs.
    pub header: Header,
    /// Its last block.
    pub last_block: LastBlock,
    /// What is between.
    pub content: Content,
    /// Its all-zero sectors; meaningful only if its length is known.
    pub zero_sectors: ZeroSectors,
    /// Whether a later write vouches for it.
    pub vouched: Vouched,
    /// Whether the next batch names it.
    pub named_by_next: NamedByNext,
    /// What follows.
    pub beyond: Beyond,
}

/// What the evidence means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No batch starts here; the log ends.
    Clean,
    /// A whole batch.
    Whole,
    /// A batch that was being written at a crash and never acknowledged; it is dropped.
    Torn,
    /// A batch that was acknowledged and is not whole; what it held is known.
    Suspect,
    /// Nobody knows what was here, or what came after.
    Unknown(UnknownEnd),
}

/// The verdict on a position where a batch may start.
#[must_use]
pub fn judge(evidence: &Evidence) -> Verdict {
    let both_ends = (evidence.header, evidence.last_block) == (Header::Valid, LastBlock::Valid);
    if both_ends && evidence.content == Content::Whole {
        return Verdict::Whole;
    }
    if served_by_one_copy(evidence) {
        return Verdict::Whole;
    }
    match evidence.vouched {
        Vouched::Yes if is_planted(Mutant::DamageIsTorn) => Verdict::Torn,
        Vouched::Yes => judge_vouched(evidence),
        Vouched::No => judge_unvouched(evidence),
    }
}

/// Whether nothing is missing but one copy of the identity, and that was not lost by a crash: what a
/// crash tears has sectors that read as zeros.
fn served_by_one_copy(evidence: &Evidence) -> bool {
    let one_end = evidence.header == Header::Valid || evidence.last_block == LastBlock::Valid;
    let was_written =
        evidence.vouched == Vouched::Yes || evidence.zero_sectors == ZeroSectors::AsWritten;
    one_end && evidence.content == Content::OneCopy && was_written
}

/// What a later write vouches for and now fails is corrupt, whatever its zeros say.
fn judge_vouched(evidence: &Evidence) -> Verdict {
    match (evidence.header, evidence.last_block, evidence.named_by_next) {
        (Header::Valid, _, _) | (_, LastBlock::Valid, _) | (_, _, NamedByNext::Yes) => {
            Verdict::Suspect
        }
        (Header::Zero | Header::Corrupt, LastBlock::Missing, NamedByNext::No) => {
            Verdict::Unknown(UnknownEnd::BatchIdentity)
        }
    }
}

/// An unvouched batch is the last one: nothing is written before it is synced.
fn judge_unvouched(evidence: &Evidence) -> Verdict {
    match (evidence.header, evidence.last_block, evidence.beyond) {
        (Header::Zero, LastBlock::Missing, Beyond::Zero) => Verdict::Clean,
        (Header::Zero, LastBlock::Missing, Beyond::Written) => Verdict::Torn,
        (Header::Corrupt, LastBlock::Missing, _) => Verdict::Unknown(UnknownEnd::BatchIdentity),
        // Something after it means that it was synced, and yet it fails.
        (_, _, Beyond::Written) => Verdict::Unknown(UnknownEnd::WrittenBeyond),
        (_, _, Beyond::Zero) => match evidence.zero_sectors {
            ZeroSectors::Surplus => Verdict::Torn,
            ZeroSectors::AsWritten => Verdict::Suspect,
        },
    }
}

/// Whether a segment's file has the size its preamble states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileSize {
    Right,
    Wrong,
}

/// Whether a segment is the newest file there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The newest; `newest` is its own sequence.
    Head { newest: u64 },
    /// A later segment continues it; `newest` is the newest sequence there is.
    Continued { newest: u64 },
}

/// Why the end of the log is not known, as far as size and seal of a segment show it.
pub(crate) fn judge_segment(place: Place, size: FileSize, seal: SealState) -> Option<UnknownEnd> {
    match (place, size, seal) {
        (Place::Head { .. }, FileSize::Wrong, _) => Some(UnknownEnd::WrongSize),
        (Place::Head { .. }, FileSize::Right, SealState::Open) => None,
        (Place::Head { .. }, FileSize::Right, SealState::Damaged) => Some(UnknownEnd::Seal),
        (Place::Head { newest } | Place::Continued { newest }, _, SealState::Sealed(seal)) => {
            (seal.successor > newest).then_some(UnknownEnd::SuccessorMissing)
        }
        // The successor's preamble says where this segment ends; its batches say the rest.
        (Place::Continued { .. }, _, SealState::Open | SealState::Damaged) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::seal::Seal;
    use raft_proto::{HardState, LogPosition};

    /// The decision table of docs/WAL_FORMAT.md, spelled out again and in another form: the
    /// first row that fits decides. `*` fits everything.
    const TABLE: &[(&str, Verdict)] = &[
        // header last content zeros vouched named beyond
        ("valid   valid   whole   *       *   *   *", Verdict::Whole),
        ("valid   *       one     *       yes *   *", Verdict::Whole),
        ("*       valid   one     *       yes *   *", Verdict::Whole),
        ("valid   *       one     written no  *   *", Verdict::Whole),
        ("*       valid   one     written no  *   *", Verdict::Whole),
        (
            "valid   *       *       *       yes *   *",
            Verdict::Suspect,
        ),
        (
            "*       valid   *       *       yes *   *",
            Verdict::Suspect,
        ),
        (
            "*       *       *       *       yes yes *",
            Verdict::Suspect,
        ),
        (
            "*       *       *       *       yes no  *",
            Verdict::Unknown(UnknownEnd::BatchIdentity),
        ),
        (
            "zero    missing *       *       no  *   zero",
            Verdict::Clean,
        ),
        (
            "zero    missing *       *       no  *   written",
            Verdict::Torn,
        ),
        (
            "corrupt missing *       *       no  *   *",
            Verdict::Unknown(UnknownEnd::BatchIdentity),
        ),
        (
            "*       *       *       *       no  *   written",
            Verdict::Unknown(UnknownEnd::WrittenBeyond),
        ),
        (
            "*       *       *       surplus no  *   zero",
            Verdict::Torn,
        ),
        (
            "*       *       *       written no  *   zero",
            Verdict::Suspect,
        ),
    ];

    fn by_table(evidence: &Evidence) -> Verdict {
        let cells = [
            match evidence.header {
                Header::Zero => "zero",
                Header::Valid => "valid",
                Header::Corrupt => "corrupt",
            },
            match evidence.last_block {
                LastBlock::Valid => "valid",
                LastBlock::Missing => "missing",
            },
            match evidence.content {
                Content::Whole => "whole",
                Content::OneCopy => "one",
                Content::Damaged => "damaged",
            },
            match evidence.zero_sectors {
                ZeroSectors::AsWritten => "written",
                ZeroSectors::Surplus => "surplus",
            },
            match evidence.vouched {
                Vouched::Yes => "yes",
                Vouched::No => "no",
            },
            match evidence.named_by_next {
                NamedByNext::Yes => "yes",
                NamedByNext::No => "no",
            },
            match evidence.beyond {
                Beyond::Zero => "zero",
                Beyond::Written => "written",
            },
        ];
        let fits = |row: &&(&str, Verdict)| {
            let mut pairs = row.0.split_whitespace().zip(cells);
            pairs.all(|(expected, found)| expected == "*" || expected == found)
        };
        TABLE.iter().find(fits).expect("the table is complete").1
    }

    fn every_evidence() -> Vec<Evidence> {
        let mut all = Vec::new();
        let contents = [Content::Whole, Content::OneCopy, Content::Damaged];
        for header in [Header::Zero, Header::Valid, Header::Corrupt] {
            for (content, bits) in contents
                .into_iter()
                .flat_map(|content| (0..32).map(move |bits| (content, bits)))
            {
                let bit = |number: u32| bits >> number & 1 == 1;
                all.push(Evidence {
                    header,
                    last_block: if bit(0) {
                        LastBlock::Valid
                    } else {
                        LastBlock::Missing
                    },
                    content,
                    zero_sectors: if bit(1) {
                        ZeroSectors::Surplus
                    } else {
                        ZeroSectors::AsWritten
                    },
                    vouched: if bit(2) { Vouched::Yes } else { Vouched::No },
                    named_by_next: if bit(3) {
                        NamedByNext::Yes
                    } else {
                        NamedByNext::No
                    },
                    beyond: if bit(4) {
                        Beyond::Written
                    } else {
                        Beyond::Zero
                    },
                });
            }
        }
        all
    }

    #[test]
    fn every_evidence_gets_the_verdict_of_the_table() {
        assert_eq!(every_evidence().len(), 288);
        for evidence in every_evidence() {
            assert_eq!(judge(&evidence), by_table(&evidence), "{evidence:?}");
        }
    }

    #[test]
    fn what_is_vouched_for_is_never_dropped() {
        for evidence in every_evidence() {
            if evidence.vouched == Vouched::Yes {
                assert!(!matches!(judge(&evidence), Verdict::Torn | Verdict::Clean));
            }
        }
    }

    #[test]
    fn a_head_that_names_a_missing_successor_leaves_the_end_unknown() {
        let seal = SealState::Sealed(Seal {
            successor: 9,
            end: 8192,
            last: LogPosition::ZERO,
            hard_state: HardState::default(),
            log_end: crate::damage::LogEnd::Known,
        });
        let head = |size, seal| judge_segment(Place::Head { newest: 8 }, size, seal);
        let inner =
            |newest, seal| judge_segment(Place::Continued { newest }, FileSize::Wrong, seal);
        assert_eq!(head(FileSize::Right, SealState::Open), None);
        assert_eq!(
            head(FileSize::Right, seal),
            Some(UnknownEnd::SuccessorMissing)
        );
        assert_eq!(
            head(FileSize::Right, SealState::Damaged),
            Some(UnknownEnd::Seal)
        );
        for seal in [seal, SealState::Open, SealState::Damaged] {
            assert_eq!(head(FileSize::Wrong, seal), Some(UnknownEnd::WrongSize));
        }
        assert_eq!(inner(9, seal), None);
        assert_eq!(inner(8, seal), Some(UnknownEnd::SuccessorMissing));
        assert_eq!(inner(8, SealState::Damaged), None);
    }
}
