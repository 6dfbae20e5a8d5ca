//! Opens a log of arbitrary files: a valid log is changed byte by byte, field by field, sector by
//! sector and file by file, with checksums made right again where the input says so.
//!
//! Apart from not panicking: what an open reports is what the next open reports, a log that is
//! refused does not open to more than what is reported, and what is read is what was written.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use raft_log::inspect::{Detail, survey};
use raft_log::vfs::Vfs;
use raft_log::{
    DamageKind, DataDir, Hole, Log, LogEnd, LogIdentity, LogOptions, LogWrite, OnDamage, OpenError,
    Recovered, UnknownEnd,
};
use raft_proto::{
    ClusterId, Entry, EntryKind, GroupId, HardState, LogIndex, LogPosition, Member, Membership,
    NodeId, Term,
};

use super::flat::FlatVfs;
use super::input::Input;

const DIRECTORY: &str = "data";
const NODE: NodeId = NodeId(1);
const BLOCK: usize = 4096;
const SECTOR: usize = 512;
/// How many changes one input may make.
const MOST_CHANGES: usize = 24;
/// Length of the fixed part of a batch's identity, in bytes.
const FIXED: usize = 176;

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let disk = BASES.with(|bases| {
        let bases = bases.get_or_init(bases_of_all_kinds);
        bases[usize::from(input.byte()) % bases.len()].copy()
    });
    // What is looked at besides the report.
    let also = input.byte();
    for _ in 0..MOST_CHANGES {
        if input.is_empty() {
            break;
        }
        change(&disk, &mut input);
    }
    if also % 8 == 1 {
        let seen = survey(&disk, Path::new(DIRECTORY), Detail::Records).expect("no fault");
        assert!(!seen.to_string().is_empty());
    }
    if also % 8 == 2 {
        refuse(&disk);
    }
    report(&disk, also % 8 == 3 || also % 8 == 4);
}

thread_local! {
    static BASES: OnceCell<Vec<FlatVfs>> = const { OnceCell::new() };
}

// ---- the logs that are changed

fn bases_of_all_kinds() -> Vec<FlatVfs> {
    (0..12).map(base).collect()
}

/// A valid log, closed, all of it durable.
fn base(kind: u64) -> FlatVfs {
    let vfs = FlatVfs::default();
    let (dir, mut log, _) = open(&vfs, OnDamage::Refuse).expect("a new log opens");
    let mut term = 1;
    let count = [3, 9, 14, 2][kind as usize % 4];
    for number in 0..count {
        let bytes = [40, 700, 5000][(kind / 4) as usize % 3];
        let last = log.last().index;
        let mut write = LogWrite::default();
        if number % 4 == 3 {
            term += 1;
            let vote = Some(NodeId(number % 3 + 1));
            write.hard_state = Some(HardState {
                term: Term(term),
                vote,
            });
            write.truncate_from = Some(last);
        }
        let first = write.truncate_from.unwrap_or(last.next());
        write.entries = (0..number % 3 + 1)
            .map(|step| entry(first.plus(step), term, bytes))
            .collect();
        if number % 7 == 5 {
            write.entries[0] = membership(first, term);
        }
        log.stage(write).expect("a valid write");
        log.sync().expect("no fault");
        if number % 5 == 4 {
            log.vouch_if_idle().expect("no fault");
        }
    }
    if kind % 3 == 1 {
        let through = log.first_index().plus(1).min(log.last().index);
        let read = log.reader().read(through, through, 1).expect("it is there");
        log.compact_prefix(read[0].position()).expect("sound");
        log.sync().expect("no fault");
    }
    drop((dir, log));
    if kind % 2 == 1 {
        drop(open(&vfs, OnDamage::Refuse).expect("a valid log opens"));
    }
    vfs
}

fn entry(index: LogIndex, term: u64, bytes: usize) -> Entry {
    Entry {
        index,
        term: Term(term),
        kind: EntryKind::Command,
        payload: payload(index, term, bytes).into(),
    }
}

/// What index and term name, and its length.
fn payload(index: LogIndex, term: u64, bytes: usize) -> Vec<u8> {
    let mut payload = vec![(index.0 * 31 + term) as u8; bytes];
    if index.0.is_multiple_of(3) {
        payload[bytes / 2..].fill(0);
    }
    payload
}

fn membership(index: LogIndex, term: u64) -> Entry {
    let member = |id: u64| Member {
        incarnation: None,
        address: format!("10.0.0.{id}:7000"),
    };
    let membership = Membership::of_voters((1..=3).map(|id| (NodeId(id), member(id))));
    Entry {
        kind: EntryKind::Membership,
        payload: membership.to_bytes().expect("a valid membership"),
        ..entry(index, term, 0)
    }
}

// ---- what is changed

fn change(disk: &FlatVfs, input: &mut Input<'_>) {
    let files = files(disk);
    if files.is_empty() {
        return;
    }
    let kind = input.byte();
    let path = &files[usize::from(input.byte()) % files.len()];
    let Some(mut content) = disk.content(path) else {
        return;
    };
    match kind % 12 {
        0 => drop(disk.remove(path)),
        1 => {
            content.truncate(input.number() as usize % (content.len() + 1));
            disk.set_content(path, content);
        }
        2 => {
            let other = &files[usize::from(input.byte()) % files.len()];
            let aside = path.with_extension("aside");
            for (from, to) in [(path, &aside), (other, path), (&aside, other)] {
                // Exchanged with itself, it is put aside and comes back.
                let _ = disk.rename(from, to);
            }
        }
        3 => {
            let path = path.with_file_name(format!("{:016x}.wal", input.number()));
            let _ = disk.rename(&files[0], &path);
        }
        _ => {
            change_content(&mut content, kind % 12, input);
            disk.set_content(path, content);
        }
    }
}

fn change_content(content: &mut [u8], kind: u8, input: &mut Input<'_>) {
    let sectors = content.len() / SECTOR;
    if sectors == 0 {
        return;
    }
    match kind {
        4 => {
            let at = input.below(sectors) * SECTOR + input.below(SECTOR);
            let length = usize::from(input.byte());
            let bytes = input.bytes(length);
            let end = (at + bytes.len()).min(content.len());
            content[at..end].copy_from_slice(&bytes[..end - at]);
        }
        5 => {
            let at = input.below(sectors) * SECTOR;
            content[at..at + SECTOR].fill(input.byte());
        }
        6 => {
            // A write that went astray.
            let (from, to) = (input.below(sectors), input.below(sectors));
            content.copy_within(from * SECTOR..(from + 1) * SECTOR, to * SECTOR);
        }
        7 => change_preamble(content, input),
        8 => change_seal(content, input),
        9 => change_record(content, input),
        _ => change_batch(content, input),
    }
}

/// The checksum of bytes of this segment.
fn checksum(content: &[u8], offset: usize, parts: [&[u8]; 2]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&content[52..60]);
    sum.update(&content[44..52]);
    sum.update(&(offset as u64).to_le_bytes());
    sum.update(parts[0]);
    sum.update(parts[1]);
    sum.finalize()
}

fn put(content: &mut [u8], at: usize, input: &mut Input<'_>) {
    let bytes = input.number().to_le_bytes();
    let end = (at + 8).min(content.len());
    content[at..end].copy_from_slice(&bytes[..end - at]);
}

/// Changes a field behind the preamble's start and makes its checksums right.
fn change_preamble(content: &mut [u8], input: &mut Input<'_>) {
    if content.len() < BLOCK {
        return;
    }
    let at = 20 + input.below(FIXED + 48 - 20);
    put(content, at, input);
    let length = u32::from_le_bytes([content[24], content[25], content[26], content[27]]) as usize;
    let body = content.get(FIXED..FIXED.saturating_add(length));
    let sum = body.map_or(0, crc32fast::hash);
    content[20..24].copy_from_slice(&sum.to_le_bytes());
    let sum = crc32fast::hash(&content[20..FIXED]);
    content[16..20].copy_from_slice(&sum.to_le_bytes());
}

fn change_seal(content: &mut [u8], input: &mut Input<'_>) {
    let Some(at) = content.len().checked_sub(BLOCK).filter(|at| *at >= BLOCK) else {
        return;
    };
    content[at..at + 8].copy_from_slice(b"RAFTSEAL");
    let field = at + 12 + input.below(52);
    put(content, field, input);
    let sum = checksum(
        content,
        at,
        [&content[at..at + 8], &content[at + 12..at + 64]],
    );
    content[at + 8..at + 12].copy_from_slice(&sum.to_le_bytes());
}

/// Where records stand: 8-byte aligned, with a plausible length.
fn records(content: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut at = BLOCK;
    while at + 32 <= content.len() && found.len() < 64 {
        let bytes = &content[at..];
        let length = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) as usize;
        let may_start = bytes[8..16] != [0; 8] && bytes[24] < 3 && bytes[25..32] == [0; 7];
        let is_whole = may_start
            && bytes.get(..32 + length).is_some_and(|record| {
                let sum = checksum(content, at, [&record[4..32], &record[32..]]);
                record[..4] == sum.to_le_bytes()
            });
        at += if is_whole {
            (32 + length).next_multiple_of(8)
        } else {
            8
        };
        if is_whole {
            found.push(at - (32 + length).next_multiple_of(8));
        }
    }
    found
}

fn change_record(content: &mut [u8], input: &mut Input<'_>) {
    let records = records(content);
    if records.is_empty() {
        return;
    }
    let at = records[input.below(records.len())];
    let field = at + 4 + input.below(32);
    put(content, field, input);
    let length = u32::from_le_bytes([
        content[at + 4],
        content[at + 5],
        content[at + 6],
        content[at + 7],
    ]);
    let end = (at + 32).saturating_add(length as usize);
    if let Some(payload) = content.get(at + 32..end) {
        let sum = checksum(content, at, [&content[at + 4..at + 32], payload]);
        content[at..at + 4].copy_from_slice(&sum.to_le_bytes());
    }
}

/// Changes a field of a batch's identity, in one copy or in both, and makes the checksums right.
fn change_batch(content: &mut [u8], input: &mut Input<'_>) {
    let heads: Vec<usize> = (BLOCK..content.len())
        .step_by(BLOCK)
        .filter(|at| at + FIXED <= content.len() && content[*at..].starts_with(b"RAFTHEAD"))
        .collect();
    if heads.is_empty() || content.len() < 2 * BLOCK {
        return;
    }
    let head = heads[input.below(heads.len())];
    let at = |field: usize| -> usize {
        let bytes: [u8; 8] = content[head + field..head + field + 8]
            .try_into()
            .expect("eight");
        u64::from_le_bytes(bytes) as usize
    };
    let (length, variable) = (at(24), at(36) & 0xffff);
    let tail = head.saturating_add(length).saturating_sub(FIXED);
    let places = match input.byte() % 4 {
        0 => vec![head],
        1 => vec![tail],
        _ => vec![head, tail],
    };
    let field = 12 + input.below(FIXED - 12 + variable.min(512));
    let value = *input;
    for place in places {
        if place + FIXED > content.len() || place < BLOCK {
            continue;
        }
        // The variable part stands behind the head and before the tail.
        let target = match (field < FIXED, place == head) {
            (true, _) | (false, true) => place + field,
            (false, false) => (place + field - FIXED).saturating_sub(variable),
        };
        if target + 8 > content.len() {
            continue;
        }
        let mut value = value;
        put(content, target, &mut value);
        let start = if place == head {
            place + FIXED
        } else {
            place.saturating_sub(variable)
        };
        if let Some(bytes) = content.get(start..start + variable) {
            let sum = checksum(content, head, [&[], bytes]);
            content[place + 12..place + 16].copy_from_slice(&sum.to_le_bytes());
        }
        let fixed = &content[place..place + FIXED];
        let sum = checksum(content, place, [&fixed[..8], &fixed[12..]]);
        content[place + 8..place + 12].copy_from_slice(&sum.to_le_bytes());
    }
    input.number();
}

fn files(disk: &FlatVfs) -> Vec<PathBuf> {
    let directory = Path::new(DIRECTORY).join("log-0");
    let names = disk.list(&directory).unwrap_or_default();
    // An open reads the reserve on a full disk only, which this one never is.
    let read = names.iter().filter(|name| !name.ends_with(".zeros"));
    read.map(|name| directory.join(name)).collect()
}

// ---- what must hold whatever was changed

/// What is refused is what would be reported as damaged.
fn refuse(disk: &FlatVfs) {
    let refused = open(&disk.copy(), OnDamage::Refuse);
    let reported = open(&disk.copy(), OnDamage::Report);
    let is_whole = |found: &(DataDir, Log, Recovered)| {
        found.2.missing.is_empty() && found.2.end == LogEnd::Known
    };
    assert_eq!(reported.as_ref().is_some_and(is_whole), refused.is_some());
    if let Some((_dir, log, recovered)) = refused {
        assert_eq!((recovered.missing.len(), recovered.end), (0, LogEnd::Known));
        read_all(&log, &recovered);
    }
}

/// What is reported is there, and stays.
fn report(disk: &FlatVfs, twice: bool) {
    let Some((dir, mut log, first)) = open(disk, OnDamage::Report) else {
        return;
    };
    read_all(&log, &first);
    if !twice {
        return;
    }
    go_on(&mut log, &first);
    let expected = (log.snapshot(), log.last(), log.end());
    let hard_state = log.hard_state();
    let missing = log.missing();
    drop((dir, log));
    let disk = disk.copy();
    // Only what the first open had no reason to look at can refuse the second one.
    let Some((_dir, log, second)) = open(&disk, OnDamage::Report) else {
        return;
    };
    let found = (log.snapshot(), log.last(), log.end());
    // A forged seal that only the second open looks at may name a newer one.
    let is_kept = log.hard_state() == hard_state;
    assert!(is_kept || log.end() != LogEnd::Known && log.hard_state().term > hard_state.term);
    assert_eq!(found, expected);
    // Once the first open has put files in order another copy may be found, but nothing is lost.
    for hole in log.missing() {
        let was_missing = |before: &Hole| before.first <= hole.first && hole.last <= before.last;
        assert!(missing.iter().any(was_missing), "{hole:?} was there");
    }
    read_all(&log, &second);
}

/// Reads every entry, and compares what is known of it.
fn read_all(log: &Log, recovered: &Recovered) {
    let reader = log.reader();
    let (first, last) = (recovered.first_index, recovered.last.index);
    assert_eq!(recovered.entry_sizes.len() as u64, last.next().since(first));
    let mut next = first;
    let mut holes = recovered.missing.iter().peekable();
    while next <= last {
        if let Some(hole) = holes.next_if(|hole| hole.first == next) {
            assert!(reader.read(next, last, 1 << 20).is_err());
            next = hole.last.next();
            continue;
        }
        let end = holes.peek().map_or(last, |hole| hole.first.previous());
        let entries = reader
            .read(next, end, 1 << 20)
            .expect("what is not missing is there");
        for entry in &entries {
            assert_eq!(entry.index, next);
            let slot = next.since(first) as usize;
            assert_eq!(recovered.entry_sizes[slot] as usize, entry.payload.len());
            next = next.next();
        }
    }
    assert!(holes.next().is_none());
}

/// Refills what can be, and appends.
fn go_on(log: &mut Log, found: &Recovered) {
    let Some(run) = found.term_runs.last() else {
        return;
    };
    if let Some(hole) = found.missing.last()
        && hole.last >= run.first
        && found
            .memberships
            .iter()
            .all(|(index, _)| *index != hole.last)
    {
        let refill = vec![entry(hole.last, run.term.0, 600)];
        let write = LogWrite {
            refill,
            ..LogWrite::default()
        };
        log.stage(write).expect("it is missing");
        assert_eq!(log.sync().expect("no fault").refilled, 1);
    }
    let last: LogPosition = log.last();
    let write = LogWrite {
        entries: vec![entry(last.index.next(), last.term.0, 30)],
        ..LogWrite::default()
    };
    // A log may end at the highest index there can be.
    if last.index.0 + 8 < raft_proto::MAX_COUNT && log.stage(write).is_ok() {
        log.sync().expect("no fault");
        log.vouch_if_idle().expect("no fault");
    }
}

fn open(vfs: &FlatVfs, on_damage: OnDamage) -> Option<(DataDir, Log, Recovered)> {
    let dir = DataDir::open(vfs.shared(), Path::new(DIRECTORY), NODE).expect("a whole directory");
    let identity = LogIdentity {
        cluster: ClusterId([7; 16]),
        node: NODE,
        incarnation: dir.incarnation(),
        group: GroupId(0),
    };
    let options = LogOptions {
        on_damage,
        ..LogOptions::small()
    };
    match Log::open(&dir, identity, options) {
        Ok((log, recovered)) => Some((dir, log, recovered)),
        // These are refused whatever is to be done with damage.
        Err(OpenError::ForeignSegment { .. } | OpenError::UnsupportedVersion { .. }) => None,
        Err(OpenError::Damaged(damage)) => {
            let reason = DamageKind::UnknownEnd(UnknownEnd::Inconsistent);
            assert!(on_damage == OnDamage::Refuse || damage.kind == reason);
            None
        }
        Err(other) => panic!("no reason to refuse it: {other}"),
    }
}
