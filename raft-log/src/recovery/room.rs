//! Finds room for the segment that an open starts: anew, or on a full disk in the log's reserve.

use std::path::Path;

use super::chain::Chain;
use super::replay::Replay;
use super::rewrite::Plan;
use crate::error::{FileError, OpenError};
use crate::log::SegmentRoom;
use crate::options::{LogIdentity, LogOptions};
use crate::prepare::{PreparedSegment, ZeroedFiles};
use crate::reserve::{Taker, remove_if_there};
use crate::segment::path_of;
use crate::vfs::Vfs;

/// A file of zeros for the new segment.
#[derive(Debug)]
pub(super) struct FoundRoom {
    pub(super) prepared: PreparedSegment,
    pub(super) room: SegmentRoom,
}

fn is_full(made: &Result<PreparedSegment, FileError>) -> bool {
    made.as_ref().is_err_and(FileError::is_disk_full)
}

/// Makes a plan for which there is room. On a full disk that is the log's reserve: a newest segment
/// whose content fits into that is copied whole, whatever its size, because its room is then free to
/// fill the reserve up again; so a node may start as often as it likes. A larger one stays.
pub(super) fn find(
    (chain, replay): (&Chain, &Replay),
    identity: LogIdentity,
    options: &LogOptions,
    (vfs, directory): (&dyn Vfs, &Path),
    files: &mut ZeroedFiles,
) -> Result<(Plan, FoundRoom), OpenError> {
    let plan = |copy_whole_bytes| Plan::new(chain, replay, identity, options, copy_whole_bytes);
    let usual = plan(options.copy_whole_bytes());
    let segment_bytes = usual.size();
    let mut made = files.make(segment_bytes);
    if is_full(&made) && remove_unreached(vfs, directory, chain)? > 0 {
        made = files.make(segment_bytes);
    }
    if !is_full(&made) {
        let room = SegmentRoom::Any;
        return Ok((
            usual,
            FoundRoom {
                prepared: made?,
                room,
            },
        ));
    }
    for plan in [plan(options.reserve_bytes()), plan(0)] {
        if let Some(prepared) = files.take_reserve(plan.needed(), Taker::Desperate)? {
            let (node, path) = (identity.node.0, directory.display());
            tracing::warn!(node, %path, "the disk is full: the log starts in its reserve");
            let room = SegmentRoom::Urgent;
            return Ok((plan, FoundRoom { prepared, room }));
        }
    }
    Err(OpenError::DiskFull {
        segment_bytes,
        directory: directory.to_path_buf(),
    })
}

/// Deletes segments that the log does not reach any more, and that a crash has left behind: says how
/// many. Not if anything is damaged: then nothing goes before all is copied.
fn remove_unreached(vfs: &dyn Vfs, directory: &Path, chain: &Chain) -> Result<usize, FileError> {
    if !chain.damage.is_empty() || chain.unknown.is_some() {
        return Ok(0);
    }
    // What makes them superfluous may have its name only in the cache.
    let synced = vfs.sync_dir(directory);
    synced.map_err(|source| FileError::new("sync directory", directory, source))?;
    let reached = chain.segments.iter().map(|segment| segment.file.sequence);
    let reached: Vec<u64> = reached.collect();
    remove_strangers(vfs, directory, &chain.sequences, &reached)
}

/// Deletes the segments of `files` that are not in `live`: says how many.
pub(super) fn remove_strangers(
    vfs: &dyn Vfs,
    directory: &Path,
    files: &[u64],
    live: &[u64],
) -> Result<usize, FileError> {
    let mut removed = 0;
    for sequence in files.iter().filter(|sequence| !live.contains(sequence)) {
        let path = path_of(directory, *sequence);
        remove_if_there(vfs, &path).map_err(|source| FileError::new("remove", &path, source))?;
        removed += 1;
    }
    if removed > 0 {
        let synced = vfs.sync_dir(directory);
        synced.map_err(|source| FileError::new("sync directory", directory, source))?;
    }
    Ok(removed)
}
