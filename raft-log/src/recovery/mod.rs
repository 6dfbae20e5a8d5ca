//! Opens a log: loads what is there, judges it, and copies what is not vouched for.

use std::path::Path;
use std::sync::{Arc, RwLock};

use raft_proto::{HardState, LogIndex, LogPosition, Membership, TermRun};

use self::chain::{Chain, LoadedSegment};
use self::replay::{Contradiction, Replay};
use self::rewrite::{NewHead, Plan};
use self::scan::{Copies, Finish};
use crate::dir::{DataDir, TEMPORARY_SUFFIX};
use crate::error::{Damage, DamageKind, FileError, OpenError, UnknownEnd};
use crate::log::{Health, LiveSegment, Log};
use crate::options::{LogIdentity, LogOptions};
use crate::prepare::{SegmentPreparer, ZeroedFiles};
use crate::segment::path_of;
use crate::staged::Staged;
use crate::vfs::{AlignedBuffer, Vfs};

pub(crate) mod chain;
pub(crate) mod judge;
pub(crate) mod replay;
mod rewrite;
pub(crate) mod scan;

/// What an opened log holds; all of it is durable, and vouched for by more than the page cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Term and vote.
    pub hard_state: HardState,
    /// The log's own mark: everything up to it is covered by a snapshot; `None` if the log was
    /// never compacted. The newest snapshot may lie beyond it, also beyond `last`: see
    /// [`crate::snapshot`] for what a start then does. A mark without a stored snapshot at or
    /// behind it is a loss.
    pub snapshot: Option<LogPosition>,
    /// The first entry; one after `last` if there is none.
    pub first_index: LogIndex,
    /// The last entry, or the snapshot's if there is none.
    pub last: LogPosition,
    /// Terms of the entries from `first_index` on.
    pub term_runs: Vec<TermRun>,
    /// Payload bytes of each entry from `first_index` to `last`.
    pub entry_sizes: Vec<u32>,
    /// Memberships among these entries, and no others: the log does not read snapshots. The caller
    /// puts the newest snapshot's membership before those that lie behind its position.
    pub memberships: Vec<(LogIndex, Membership)>,
    /// The batch that was being written at a crash, if there was one.
    pub dropped_torn: Option<TornTail>,
    /// Batches of which one of the two identities is damaged on the disk, and the other one served:
    /// the disk rots, and one more flip there may lose them.
    pub lost_copies: u64,
    /// Entries that were copied into a new segment because nothing vouched for them, or to save
    /// space.
    pub copied_entries: u64,
}

/// A batch that a crash tore; nothing of it was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// Its segment.
    pub segment: u64,
    /// Its offset there, in bytes.
    pub offset: u64,
    /// Its first and last entry, if it had any and its head or tail was written.
    pub entries: Option<(LogIndex, LogIndex)>,
}

/// Name of a group's directory in the data directory.
pub(crate) fn directory_name(identity: LogIdentity) -> String {
    format!("log-{}", identity.group.0)
}

/// Name of the record that says that a group's log was created.
fn marker_name(identity: LogIdentity) -> String {
    format!("LOG-{}", identity.group.0)
}

/// [`Log::open`].
pub(crate) fn open(
    dir: &DataDir,
    identity: LogIdentity,
    options: LogOptions,
) -> Result<(Log, Recovered), OpenError> {
    options.validate()?;
    check_directory(dir, identity)?;
    let vfs = dir.vfs();
    let directory = dir.path().join(directory_name(identity));
    vfs.create_dir_all(&directory)
        .map_err(|source| FileError::new("create directory", &directory, source))?;
    let mut chain = chain::load(vfs.as_ref(), &directory, identity)?;
    let created = dir.has_marker(&marker_name(identity))?;
    if chain.segments.is_empty() && created {
        return Err(no_segment(&directory).into());
    }
    let replay = replay(&chain).map_err(OpenError::Damaged)?;
    let dropped_torn = chain.segments.last().and_then(torn_tail);
    let recovered = report(&replay, dropped_torn, lost_copies(&chain, identity.node.0));
    remove_temporaries(vfs.as_ref(), &directory)?;
    let mut files = ZeroedFiles::new(Arc::clone(vfs), &directory);
    let plan = Plan::new(&chain, &replay, identity, &options);
    let copied_entries = plan.copied_entries();
    let head = plan.write(vfs.as_ref(), &directory, &mut files, &mut chain)?;
    if !created {
        dir.write_marker(&marker_name(identity))?;
    }
    dir.bind_cluster(identity.cluster)?;
    let preparer = SegmentPreparer::start(files, options.segment_bytes, options.preparation)?;
    let log = assemble(dir, &directory, identity, options, replay, head, preparer);
    log.remove_strangers(&chain.sequences)?;
    Ok((
        log,
        Recovered {
            copied_entries,
            ..recovered
        },
    ))
}

fn check_directory(dir: &DataDir, identity: LogIdentity) -> Result<(), OpenError> {
    if (dir.node(), dir.incarnation()) != (identity.node, identity.incarnation) {
        return Err(OpenError::ForeignDirectory {
            asked: format!("{} incarnation {}", identity.node, identity.incarnation),
            found: format!("{} incarnation {}", dir.node(), dir.incarnation()),
        });
    }
    dir.check_cluster(identity.cluster)?;
    Ok(())
}

fn no_segment(directory: &Path) -> Damage {
    Damage {
        segment: 1,
        path: path_of(directory, 1),
        offset: 0,
        first: LogIndex::FIRST,
        last: None,
        kind: DamageKind::UnknownEnd(UnknownEnd::NoSegment),
    }
}

/// Removes what an earlier process prepared or had not finished.
fn remove_temporaries(vfs: &dyn Vfs, directory: &Path) -> Result<(), FileError> {
    let names = vfs
        .list(directory)
        .map_err(|source| FileError::new("list", directory, source))?;
    for name in names.iter().filter(|name| name.ends_with(TEMPORARY_SUFFIX)) {
        let path = directory.join(name);
        vfs.remove(&path)
            .map_err(|source| FileError::new("remove", &path, source))?;
    }
    Ok(())
}

/// Applies all segments in order.
fn replay(chain: &Chain) -> Result<Replay, Box<Damage>> {
    let mut replay = match chain.segments.first() {
        Some(oldest) => Replay::start(&oldest.preamble),
        None => return Ok(Replay::of_nothing()),
    };
    for (number, segment) in chain.segments.iter().enumerate() {
        if number > 0 {
            let entered = replay.enter(&segment.preamble);
            entered.map_err(|Contradiction| contradiction(segment, 0, &replay))?;
        }
        for batch in &segment.scan.batches {
            let offset = batch.identity.fixed.start;
            let applied = replay.batch(batch, &segment.file);
            applied.map_err(|Contradiction| contradiction(segment, offset, &replay))?;
        }
    }
    Ok(replay)
}

fn contradiction(segment: &LoadedSegment, offset: u64, replay: &Replay) -> Box<Damage> {
    Box::new(Damage {
        segment: segment.preamble.sequence,
        path: segment.file.path.clone(),
        offset,
        first: replay.state.last.index.next(),
        last: None,
        kind: DamageKind::UnknownEnd(UnknownEnd::Inconsistent),
    })
}

/// Counts the batches that were read by one copy of their identity, and names them in the log.
fn lost_copies(chain: &Chain, node: u64) -> u64 {
    let mut lost = 0;
    for segment in &chain.segments {
        let batches = segment.scan.batches.iter();
        for batch in batches.filter(|batch| batch.copies == Copies::One) {
            let offset = batch.identity.fixed.start;
            tracing::warn!(
                node,
                path = %segment.file.path.display(),
                offset,
                "a batch has lost one copy of its identity; check the disk"
            );
            lost += 1;
        }
    }
    lost
}

fn torn_tail(head: &LoadedSegment) -> Option<TornTail> {
    match &head.scan.finish {
        Finish::Clean | Finish::Damaged(_) => None,
        Finish::Torn(fixed) => Some(TornTail {
            segment: head.preamble.sequence,
            offset: head.scan.end,
            entries: fixed.as_ref().and_then(|fixed| fixed.entries()),
        }),
    }
}

fn report(replay: &Replay, dropped_torn: Option<TornTail>, lost_copies: u64) -> Recovered {
    let state = &replay.state;
    let live = state.last.index.since(state.mark.index);
    assert_eq!(
        replay.sizes().len() as u64,
        live,
        "every live entry has a size"
    );
    let mut memberships = Vec::new();
    for (index, payload) in &state.metadata.memberships {
        // It was checked when it was staged, and its checksum holds.
        if let Ok(membership) = Membership::from_bytes(payload) {
            memberships.push((*index, membership));
        }
    }
    Recovered {
        hard_state: state.hard_state,
        snapshot: (state.mark != LogPosition::ZERO).then_some(state.mark),
        first_index: state.mark.index.next(),
        last: state.last,
        term_runs: state.metadata.runs.clone(),
        entry_sizes: replay.sizes().to_vec(),
        memberships,
        dropped_torn,
        lost_copies,
        copied_entries: 0,
    }
}

fn assemble(
    dir: &DataDir,
    directory: &Path,
    identity: LogIdentity,
    options: LogOptions,
    replay: Replay,
    head: NewHead,
    preparer: SegmentPreparer,
) -> Log {
    let mut index = replay.index;
    index.truncate_after(head.base.index);
    index.append(&head.file, &head.offsets);
    assert_eq!(index.last, replay.state.last.index, "the copy is complete");
    let mut segments = head.older;
    segments.push_back(LiveSegment {
        file: head.file,
        base: head.base,
    });
    Log {
        vfs: Arc::clone(dir.vfs()),
        directory: directory.to_path_buf(),
        identity,
        options,
        staged: Staged::nothing(&replay.state),
        state: replay.state,
        segments,
        tail: head.tail,
        index: Arc::new(RwLock::new(index)),
        preparer,
        buffer: AlignedBuffer::new(),
        offsets: Vec::new(),
        health: Health::Sound,
        _lock: dir.lock(),
    }
}
