//! Tells damage that was healed from damage that costs something.
//!
//! A damaged block is never written again: the content that it cost is fetched from a peer and filled
//! in elsewhere. So the question is whether the log as a whole, read as an open reads it, misses any of
//! the entries that stood there.

use std::path::Path;

use raft_proto::LogIndex;

use super::{Finding, SegmentReport, Start};
use crate::damage::{DamageKind, Hole, LogEnd};
use crate::error::{FileError, OpenError};
use crate::options::OnDamage;
use crate::recovery::chain;
use crate::recovery::replay::Replay;
use crate::vfs::Vfs;

/// Marks the damage of these segments that costs nothing.
pub(super) fn mark(
    vfs: &dyn Vfs,
    directory: &Path,
    segments: &mut [SegmentReport],
) -> Result<(), FileError> {
    let lost_content = |finding: &Finding| lost_by(finding).is_some();
    if !segments.iter().any(|s| s.findings.iter().any(lost_content)) {
        return Ok(());
    }
    let Some(missing) = missing(vfs, directory, segments)? else {
        return Ok(());
    };
    let is_missing = |first: LogIndex, last: LogIndex| {
        let mut holes = missing.iter();
        holes.any(|hole| hole.first <= last && first <= hole.last)
    };
    for finding in segments.iter_mut().flat_map(|s| &mut s.findings) {
        if let Some((offset, first, last)) = lost_by(finding)
            && !is_missing(first, last)
        {
            *finding = Finding::Healed {
                offset,
                first,
                last,
            };
        }
    }
    Ok(())
}

/// Damage that has cost the content of these entries, and nothing else.
fn lost_by(finding: &Finding) -> Option<(u64, LogIndex, LogIndex)> {
    match finding {
        Finding::Damaged {
            offset,
            first,
            last: Some(last),
            kind: DamageKind::Suspect(_),
        } => Some((*offset, *first, *last)),
        Finding::Damaged { .. }
        | Finding::Torn { .. }
        | Finding::Healed { .. }
        | Finding::LostCopy { .. }
        | Finding::WrongSize { .. }
        | Finding::SuccessorMissing { .. }
        | Finding::PredecessorMissing { .. } => None,
    }
}

/// The entries whose content no segment has; `None` if the log does not know its end, or cannot be
/// read as one.
fn missing(
    vfs: &dyn Vfs,
    directory: &Path,
    segments: &[SegmentReport],
) -> Result<Option<Vec<Hole>>, FileError> {
    let owner = segments
        .iter()
        .rev()
        .find_map(|segment| match &segment.start {
            Start::Valid(head) => Some(head.owner.0),
            Start::UnsupportedVersion(_) | Start::Damaged => None,
        });
    let Some(identity) = owner else {
        return Ok(None);
    };
    let chain = match chain::load(vfs, directory, identity, OnDamage::Report) {
        Ok(chain) => chain,
        Err(OpenError::File(error)) => return Err(error),
        Err(_) => return Ok(None),
    };
    let Some((head, older)) = chain.segments.split_last() else {
        return Ok(None);
    };
    let last = head.scan.batches.last();
    let mark = last.map_or(head.preamble.mark, |batch| batch.identity.fixed.mark);
    let Ok(mut replay) = Replay::start(head, older, mark) else {
        return Ok(None);
    };
    for batch in &head.scan.batches {
        if replay.batch(batch, &head.file).is_err() {
            return Ok(None);
        }
    }
    let is_known = replay.state.log_end == LogEnd::Known && chain.unknown.is_none();
    Ok(is_known.then(|| replay.index.missing()))
}
