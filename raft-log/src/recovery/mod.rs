//! Opens a log: loads what is there, judges it, and copies what is not vouched for.

use std::path::Path;
use std::sync::{Arc, RwLock};

use raft_proto::{HardState, LogIndex, LogPosition, Membership, TermRun};

use self::chain::{Chain, LoadedSegment};
use self::replay::Replay;
use self::rewrite::NewHead;
use self::scanned::{Copies, Finish, ScannedBatch, Wholeness};
use crate::damage::{Damage, DamageKind, Hole, LogEnd, SuspectIdentity, UnknownEnd};
use crate::dir::{DataDir, TEMPORARY_SUFFIX};
use crate::error::{FileError, OpenError};
use crate::log::{Health, Log};
use crate::options::{LogIdentity, LogOptions, OnDamage};
use crate::prepare::{SegmentPreparer, ZeroedFiles};
use crate::segment::{LAST_SEQUENCE, path_of};
use crate::staged::Staged;
use crate::state::newer_hard_state;
use crate::vfs::{AlignedBuffer, Vfs};

pub(crate) mod chain;
pub(crate) mod judge;
pub(crate) mod replay;
mod rewrite;
mod room;
mod salvage;
pub(crate) mod scan;
pub(crate) mod scanned;

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
    /// Payload bytes of each entry from `first_index` to `last`; 0 for missing ones.
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
    /// Entries whose content is lost here, in order. Everything above is by identity: as if it were
    /// there. Empty unless [`OnDamage::Report`] allows it.
    pub missing: Vec<Hole>,
    /// Whether the log knows its end, and its newest term and vote.
    pub end: LogEnd,
    /// All damage that was found, also such that lost nothing which is still needed.
    pub damage: Vec<Damage>,
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
    let mut chain = chain::load(vfs.as_ref(), &directory, identity, options.on_damage)?;
    let created = dir.has_marker(&marker_name(identity))?;
    if chain.highest > LAST_SEQUENCE {
        // No log has written so many: the file, or what names it, is not ours.
        let reason = DamageKind::UnknownEnd(UnknownEnd::Inconsistent);
        return Err(known_before(&chain, &directory, LogIndex::FIRST, None, reason).into());
    }
    if chain.sequences.is_empty() && created {
        chain.unknown = Some(UnknownEnd::NoSegment);
        chain.damage.push(no_segment(&directory));
    }
    let mut replay = replay(&mut chain);
    note_unknown_end(&mut chain, &mut replay);
    let refused = refusal(&chain, &replay, &directory);
    if let (OnDamage::Refuse, Some(damage)) = (options.on_damage, refused) {
        return Err(damage.into());
    }
    let dropped_torn = chain.segments.last().and_then(torn_tail);
    let mut recovered = report(&replay, dropped_torn);
    recovered.lost_copies = lost_copies(&chain, identity.node.0);
    recovered.damage = std::mem::take(&mut chain.damage);
    remove_temporaries(vfs.as_ref(), &directory)?;
    let mut files = ZeroedFiles::new(Arc::clone(vfs), &directory, options.reserve_bytes());
    let (plan, room) = room::find(
        (&chain, &replay),
        identity,
        &options,
        (vfs.as_ref(), &directory),
        &mut files,
    )?;
    let copied_entries = plan.copied_entries();
    let head = plan.write(vfs.as_ref(), &directory, &room, &mut chain)?;
    if !created {
        dir.write_marker(&marker_name(identity))?;
    }
    dir.bind_cluster(identity.cluster)?;
    let live = head.older.iter().chain([&head.segment]);
    let live: Vec<u64> = live.map(|segment| segment.file.sequence).collect();
    room::remove_strangers(vfs.as_ref(), &directory, &chain.sequences, &live)?;
    // Behind that, because the reserve may need the room.
    let preparer = SegmentPreparer::start(files, options.segment_bytes, options.preparation)?;
    let log = assemble(dir, &directory, identity, options, replay, head, preparer);
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

/// Reads the log off its segments. A batch that contradicts what came before it, though its
/// checksums hold, leaves the end unknown.
fn replay(chain: &mut Chain) -> Replay {
    loop {
        let Some((head, older)) = chain.segments.split_last() else {
            return Replay::of_nothing();
        };
        let batches = &head.scan.batches;
        let last = batches.last();
        let mark = last.map_or(head.preamble.mark, |batch| batch.identity.fixed.mark);
        let Ok(mut replay) = Replay::start(head, older, mark) else {
            // The head names more than there can have been: nothing of it is believed.
            let damage = contradiction(head, 0, head.preamble.mark);
            chain.unknown = chain.unknown.or(Some(UnknownEnd::Inconsistent));
            chain.damage.push(damage);
            chain.segments.clear();
            continue;
        };
        let mut taken = 0;
        while let Some(batch) = batches.get(taken) {
            if replay.batch(batch, &head.file).is_err() {
                break;
            }
            taken += 1;
        }
        let Some(wrong) = batches.get(taken) else {
            return replay;
        };
        let offset = wrong.identity.fixed.start;
        let damage = contradiction(head, offset, replay.state.last);
        chain.unknown = chain.unknown.or(Some(UnknownEnd::Inconsistent));
        chain.damage.push(damage);
        // Each round has fewer batches, so this ends.
        if let Some(head) = chain.segments.last_mut() {
            head.scan.batches.truncate(taken);
            head.scan.end = offset;
            head.scan.finish = Finish::Unknown(UnknownEnd::Inconsistent);
        }
    }
}

fn contradiction(segment: &LoadedSegment, offset: u64, after: LogPosition) -> Damage {
    Damage {
        segment: segment.preamble.sequence,
        path: segment.file.path.clone(),
        offset,
        first: after.index.next(),
        last: None,
        kind: DamageKind::UnknownEnd(UnknownEnd::Inconsistent),
    }
}

/// Takes note of an end that is not known, in what the log says of itself.
fn note_unknown_end(chain: &mut Chain, replay: &mut Replay) {
    if let Some(head) = chain.segments.last()
        && let Finish::Unknown(reason) = head.scan.finish
    {
        chain.unknown = chain.unknown.or(Some(reason));
    }
    let state = &mut replay.state;
    if let Some(reason) = chain.unknown
        && state.log_end == LogEnd::Known
    {
        state.log_end = LogEnd::Unknown(reason);
    }
    // What lies behind the known prefix, or in a seal, may name a newer one. An open that has met
    // this before has written it down.
    if chain.unknown.is_some() {
        state.hard_state = newer_hard_state(state.hard_state, chain.hard_state);
    }
}

/// Why a log is refused that is not to be opened with damage: the first damage that lost something
/// which nobody has filled in.
fn refusal(chain: &Chain, replay: &Replay, directory: &Path) -> Option<Damage> {
    let missing = replay.index.missing();
    let loses = |damage: &&Damage| match damage.kind {
        DamageKind::UnknownEnd(_) => true,
        DamageKind::Suspect(_) => missing.iter().any(|hole| {
            hole.last >= damage.first && damage.last.is_none_or(|last| hole.first <= last)
        }),
    };
    if let LogEnd::Unknown(reason) = replay.state.log_end {
        let is_reason = |damage: &&Damage| matches!(damage.kind, DamageKind::UnknownEnd(_));
        let found = chain.damage.iter().find(is_reason).cloned();
        let after = replay.state.last.index.next();
        let kind = DamageKind::UnknownEnd(reason);
        return Some(found.unwrap_or_else(|| known_before(chain, directory, after, None, kind)));
    }
    let hole = missing.first()?;
    let found = chain.damage.iter().find(loses).cloned();
    let kind = DamageKind::Suspect(SuspectIdentity {
        keep: replay.state.mark,
        last: replay.state.last,
        term_runs: replay.state.metadata.runs.clone(),
        hard_state: None,
    });
    Some(found.unwrap_or_else(|| known_before(chain, directory, hole.first, Some(hole.last), kind)))
}

/// Damage that an earlier open has met and written down.
fn known_before(
    chain: &Chain,
    directory: &Path,
    first: LogIndex,
    last: Option<LogIndex>,
    kind: DamageKind,
) -> Damage {
    let segment = chain.sequences.last().copied().unwrap_or(1);
    Damage {
        segment,
        path: path_of(directory, segment),
        offset: 0,
        first,
        last,
        kind,
    }
}

/// Counts the batches that were read by one copy of their identity, and names them in the log.
fn lost_copies(chain: &Chain, node: u64) -> u64 {
    let mut lost = 0;
    for segment in &chain.segments {
        let batches = segment.scan.batches.iter();
        let served = |batch: &&ScannedBatch| {
            batch.copies == Copies::One && batch.wholeness == Wholeness::Whole
        };
        for batch in batches.filter(served) {
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
        Finish::Clean | Finish::Unknown(_) => None,
        Finish::Torn(fixed) => Some(TornTail {
            segment: head.preamble.sequence,
            offset: head.scan.end,
            entries: fixed.as_ref().and_then(|fixed| fixed.entries()),
        }),
    }
}

fn report(replay: &Replay, dropped_torn: Option<TornTail>) -> Recovered {
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
        lost_copies: 0,
        copied_entries: 0,
        missing: replay.index.missing(),
        end: state.log_end,
        damage: Vec::new(),
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
    head.place_copy(&mut index);
    assert_eq!(index.last, replay.state.last.index, "the copy is complete");
    let mut segments = head.older;
    segments.push_back(head.segment);
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
