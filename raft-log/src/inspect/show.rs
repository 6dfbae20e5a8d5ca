//! How a survey is printed.

use std::fmt;

use raft_proto::HardState;

use crate::damage::LogEnd;

use super::{
    BatchReport, Finding, RecordReport, SealReport, SegmentHead, SegmentReport, Standing, Start,
    Survey,
};

impl fmt::Display for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            write!(f, "{segment}")?;
        }
        let batches: usize = self
            .segments
            .iter()
            .map(|segment| segment.batches.len())
            .sum();
        let verdict = if self.is_sound() { "sound" } else { "DAMAGED" };
        writeln!(
            f,
            "{} segments, {batches} batches: {verdict}",
            self.segments.len()
        )
    }
}

impl fmt::Display for SegmentReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {} ", self.sequence)?;
        match self.standing {
            Standing::Used => {}
            Standing::Stray => write!(f, "(no longer used) ")?,
        }
        match &self.start {
            Start::Valid(head) => write!(f, "{head}")?,
            Start::UnsupportedVersion(version) => write!(f, "of unknown format version {version}")?,
            Start::Damaged => write!(f, "DAMAGED at its start")?,
        }
        match self.seal {
            SealReport::Open => writeln!(f, ", open")?,
            SealReport::Sealed { successor, end } => {
                writeln!(f, ", sealed at {end}, segment {successor} follows")?;
            }
            SealReport::Damaged => writeln!(f, ", seal DAMAGED")?,
        }
        for batch in &self.batches {
            write!(f, "{batch}")?;
        }
        self.findings
            .iter()
            .try_for_each(|finding| writeln!(f, "  {finding}"))
    }
}

impl fmt::Display for SegmentHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "of {}: {} bytes, after {}, snapshot {}, {}{}",
            self.owner,
            self.segment_bytes,
            self.base,
            self.mark,
            Vote(self.hard_state),
            End(self.log_end),
        )?;
        match self.predecessor {
            Some((sequence, end)) => write!(f, ", continues segment {sequence} from {end}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for BatchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  {}batch at {}: {} bytes, {} entries after {} up to {}, snapshot {}, {}{}{}",
            if self.is_whole { "" } else { "DAMAGED " },
            self.offset,
            self.bytes,
            self.entries,
            self.keep,
            self.last,
            self.mark,
            Vote(self.hard_state),
            Refills(self.refills),
            End(self.log_end),
        )?;
        self.records
            .iter()
            .try_for_each(|record| writeln!(f, "    {record}"))
    }
}

impl fmt::Display for RecordReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}@{} {:?} {} bytes at {}",
            self.index, self.term.0, self.kind, self.payload_bytes, self.offset
        )
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Torn { offset } => write!(f, "torn batch at {offset}, dropped by the next open"),
            Self::Damaged {
                offset,
                first,
                last,
                kind,
            } => {
                let last = last.map_or_else(|| "?".to_owned(), |last| last.to_string());
                write!(f, "DAMAGED at {offset}, entries {first} to {last}: {kind}")
            }
            Self::Healed {
                offset,
                first,
                last,
            } => write!(
                f,
                "healed: what was lost of entries {first} to {last} at {offset} stands elsewhere"
            ),
            Self::LostCopy { offset } => write!(
                f,
                "ROT: the batch at {offset} has lost one copy of its identity, the other one serves"
            ),
            Self::WrongSize { expected } => {
                write!(f, "WRONG SIZE: it was made with {expected} bytes")
            }
            Self::SuccessorMissing { successor } => {
                write!(f, "MISSING: segment {successor} follows")
            }
            Self::PredecessorMissing { predecessor } => {
                write!(f, "MISSING: it continues segment {predecessor}")
            }
        }
    }
}

/// Term and vote, to be shown.
struct Vote(HardState);

impl fmt::Display for Vote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "term {}", self.0.term.0)?;
        match self.0.vote {
            Some(node) => write!(f, " voted {node}"),
            None => write!(f, " no vote"),
        }
    }
}

/// How many lost entries a batch fills in, if any.
struct Refills(u32);

impl fmt::Display for Refills {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(f, ", fills in {count} lost entries"),
        }
    }
}

/// Whether the log knew its end, if it did not.
struct End(LogEnd);

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            LogEnd::Known => Ok(()),
            LogEnd::Unknown(_) => f.write_str(", end of the log not known"),
        }
    }
}
