//! Shared by the tests: a naive model of the log, steps that apply to both, and openers.
#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use raft_log::vfs::{MemVfs, PendingChange, Vfs};
use raft_log::{DataDir, Log, LogError, LogIdentity, LogOptions, LogWrite, OpenError, Recovered};
use raft_proto::{
    ClusterId, Entry, EntryKind, GroupId, HardState, LogIndex, LogPosition, Member, Membership,
    NodeId, Term,
};

pub(crate) const CLUSTER: ClusterId = ClusterId([7; 16]);
pub(crate) const NODE: NodeId = NodeId(1);
pub(crate) const DIRECTORY: &str = "data";

/// The file of a segment of the test log.
pub(crate) fn segment_path(sequence: u64) -> PathBuf {
    Path::new(DIRECTORY).join(format!("log-0/{sequence:016x}.wal"))
}

/// Opens the log of the test node.
pub(crate) fn open_with(
    vfs: &MemVfs,
    options: LogOptions,
) -> Result<(DataDir, Log, Recovered), OpenError> {
    let dir = DataDir::open(vfs.shared(), Path::new(DIRECTORY), NODE)?;
    let identity = LogIdentity {
        cluster: CLUSTER,
        node: NODE,
        incarnation: dir.incarnation(),
        group: GroupId(0),
    };
    let (log, recovered) = Log::open(&dir, identity, options)?;
    Ok((dir, log, recovered))
}

pub(crate) fn open(vfs: &MemVfs) -> Result<(DataDir, Log, Recovered), OpenError> {
    open_with(vfs, LogOptions::small())
}

/// Bytes of all files of the test node.
pub(crate) fn used_bytes(vfs: &MemVfs) -> usize {
    let log = Path::new(DIRECTORY).join("log-0");
    let sizes = [Path::new(DIRECTORY), &log].into_iter().flat_map(|at| {
        let names = vfs.list(at).unwrap_or_default().into_iter();
        names.map(|name| vfs.read_file(&at.join(name)).unwrap().len())
    });
    sizes.sum()
}

/// What a log holds, kept in the simplest way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) hard_state: HardState,
    pub(crate) mark: LogPosition,
    pub(crate) entries: Vec<Entry>,
}

impl Model {
    pub(crate) fn last(&self) -> LogPosition {
        self.entries.last().map_or(self.mark, Entry::position)
    }

    fn truncate_from(&mut self, from: LogIndex) {
        self.entries.retain(|entry| entry.index < from);
    }

    /// What a log says it holds, read back through its reader.
    pub(crate) fn of_log(log: &Log, recovered: &Recovered) -> Self {
        let entries = if recovered.first_index > recovered.last.index {
            Vec::new()
        } else {
            let (first, last) = (recovered.first_index, recovered.last.index);
            log.reader().read(first, last, u64::MAX).unwrap()
        };
        let sizes: Vec<u32> = entries
            .iter()
            .map(|entry| entry.payload.len() as u32)
            .collect();
        assert_eq!(sizes, recovered.entry_sizes);
        for entry in &entries {
            let after = recovered
                .term_runs
                .partition_point(|run| run.first <= entry.index);
            assert_eq!(recovered.term_runs[after - 1].term, entry.term);
        }
        let memberships: Vec<_> = entries
            .iter()
            .filter(|entry| entry.kind == EntryKind::Membership)
            .map(|entry| (entry.index, Membership::from_bytes(&entry.payload).unwrap()))
            .collect();
        assert_eq!(memberships, recovered.memberships);
        assert_eq!(log.last(), recovered.last);
        let model = Self {
            hard_state: recovered.hard_state,
            mark: recovered.snapshot.unwrap_or(LogPosition::ZERO),
            entries,
        };
        assert_eq!(model.last(), recovered.last);
        model
    }

    /// Whether a crash during the sync that leads from `before` to `self` may leave `found`: all
    /// of the change, none of it, or (if it takes several batches) entries up to some point.
    pub(crate) fn may_leave(&self, before: &Self, found: &Self) -> bool {
        if found == before || found == self {
            return true;
        }
        // What is refilled is as it was before, or as it is to be; each entry for itself.
        let is_as_before = |entry: &Entry| {
            let mut known = before.entries.iter();
            known.any(|known| known == entry)
        };
        let pairs = || self.entries.iter().zip(&found.entries);
        let is_prefix = found.entries.len() <= self.entries.len()
            && pairs().all(|(own, found)| {
                own == found || own.position() == found.position() && is_as_before(found)
            });
        found.hard_state == self.hard_state && found.mark == self.mark && is_prefix
    }
}

/// One step of a history: staged and synced, unless it says otherwise.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Appends so many entries of so many bytes in the current term.
    Append { count: u64, bytes: usize },
    /// Stages such entries without a sync.
    Stage { count: u64, bytes: usize },
    /// Appends a membership of so many voters.
    Members { voters: u64 },
    /// Raises the term and votes.
    Vote,
    /// Removes so many of the last entries and appends one of a higher term.
    Replace { removed: u64 },
    /// Removes so many of the last entries.
    Truncate { removed: u64 },
    /// Compacts, leaving so many entries.
    Compact { left: u64 },
    /// Installs a snapshot so many entries beyond the end.
    Install { beyond: u64 },
    /// Installs a snapshot that ends so many entries before the end, with another term there.
    InstallOver { covered: u64 },
    /// So many entries, up to the one that stands so many before the end, turn out to be wrong.
    Rot { back: u64, count: u64 },
    /// Refills so many of these, with other content than they had.
    Refill { most: usize },
    /// Vouches for the last batch if there is nothing else to do.
    Vouch,
    /// Closes and opens again.
    Reopen,
}

/// A log and its model.
pub(crate) struct Pair {
    pub(crate) vfs: MemVfs,
    pub(crate) options: LogOptions,
    pub(crate) dir: Option<DataDir>,
    pub(crate) log: Option<Log>,
    /// What is durable.
    pub(crate) synced: Model,
    /// What will be once the step under way is durable.
    pub(crate) wanted: Model,
    /// Entries that are reported to be wrong. Their bytes are sound, so a reopened log has them.
    pub(crate) holes: BTreeSet<LogIndex>,
    payloads: u64,
}

/// A step failed because the simulated machine has stopped.
#[derive(Debug)]
pub(crate) struct Stopped;

impl Pair {
    pub(crate) fn new(vfs: &MemVfs, options: LogOptions) -> Self {
        Self {
            vfs: vfs.clone(),
            options,
            dir: None,
            log: None,
            synced: Model::default(),
            wanted: Model::default(),
            holes: BTreeSet::new(),
            payloads: 0,
        }
    }

    pub(crate) fn reopen(&mut self) -> Result<(), Stopped> {
        self.log = None;
        self.dir = None;
        self.wanted = self.synced.clone();
        self.holes.clear();
        let (dir, log, recovered) = open_with(&self.vfs, self.options).map_err(|_| Stopped)?;
        assert_eq!(Model::of_log(&log, &recovered), self.synced);
        self.dir = Some(dir);
        self.log = Some(log);
        Ok(())
    }

    /// Opens what a crash has left on `disk`, checks that it may be left, and goes on from there.
    pub(crate) fn recover(&mut self, disk: &MemVfs) {
        self.log = None;
        self.dir = None;
        self.vfs = disk.clone();
        let (dir, log, recovered) = open_with(&self.vfs, self.options).unwrap();
        let found = Model::of_log(&log, &recovered);
        assert!(
            self.wanted.may_leave(&self.synced, &found),
            "found {found:?}, not {:?} or {:?}",
            self.synced,
            self.wanted
        );
        self.synced = found.clone();
        self.wanted = found;
        self.holes.clear();
        self.dir = Some(dir);
        self.log = Some(log);
    }

    pub(crate) fn run(&mut self, step: &Step) -> Result<(), Stopped> {
        let write = match *step {
            Step::Reopen => return self.reopen(),
            Step::Rot { back, count } => {
                self.rot(back, count);
                return Ok(());
            }
            Step::Refill { most } => self.refill(most),
            Step::Vouch => {
                self.log().vouch_if_idle().map_err(stopped)?;
                return Ok(());
            }
            Step::Compact { left } => {
                let last = self.wanted.last().index.0;
                return self.compact(last.saturating_sub(left));
            }
            Step::Install { beyond } => {
                let last = self.wanted.last();
                let through = LogPosition {
                    index: last.index.plus(beyond),
                    term: last.term.next(),
                };
                return self.install(through);
            }
            Step::InstallOver { covered } => {
                let last = self.wanted.last();
                let through = LogPosition {
                    index: LogIndex(last.index.0.saturating_sub(covered)),
                    term: last.term.next(),
                };
                return self.install(through);
            }
            Step::Append { count, bytes } | Step::Stage { count, bytes } => LogWrite {
                entries: self.entries(count, bytes),
                ..LogWrite::default()
            },
            Step::Members { voters } => self.members(voters),
            Step::Vote => LogWrite {
                hard_state: Some(HardState {
                    term: self.wanted.hard_state.term.next(),
                    vote: Some(NodeId(self.wanted.hard_state.term.0 % 3 + 1)),
                }),
                ..LogWrite::default()
            },
            Step::Truncate { removed } => self.truncation(removed),
            Step::Replace { removed } => {
                let truncate = self.truncation(removed);
                let mut model = self.wanted.clone();
                model.truncate_from(truncate.truncate_from.unwrap_or(LogIndex(u64::MAX)));
                // Index and term name one entry only: the term is one that no entry had.
                let term = self.wanted.last().term.next();
                let entry = self.entry(model.last().index.next(), term, 40);
                LogWrite {
                    entries: vec![entry],
                    ..truncate
                }
            }
        };
        self.stage(write)?;
        if matches!(step, Step::Stage { .. }) {
            return Ok(());
        }
        self.sync()
    }

    fn log(&mut self) -> &mut Log {
        self.log.as_mut().unwrap()
    }

    fn stage(&mut self, write: LogWrite) -> Result<(), Stopped> {
        if let Some(hard_state) = write.hard_state {
            self.wanted.hard_state = hard_state;
        }
        if let Some(from) = write.truncate_from {
            self.wanted.truncate_from(from);
            self.holes.retain(|hole| *hole < from);
        }
        for refill in &write.refill {
            let mut entries = self.wanted.entries.iter_mut();
            *entries.find(|entry| entry.index == refill.index).unwrap() = refill.clone();
            self.holes.remove(&refill.index);
        }
        self.wanted.entries.extend(write.entries.iter().cloned());
        self.log().stage(write).map_err(stopped)
    }

    /// Only what is durable, and is not about to be replaced, can be found wanting.
    fn rot(&mut self, back: u64, count: u64) {
        let synced = &self.synced.entries;
        let durable: Vec<_> = synced
            .iter()
            .filter(|entry| self.wanted.entries.contains(entry))
            .map(|entry| entry.index)
            .collect();
        let end = durable.len().saturating_sub(back as usize);
        let lost = &durable[end.saturating_sub(count as usize)..end];
        for &index in lost {
            self.holes.insert(index);
            self.log().report_rot(index, index);
        }
    }

    /// Content for the first of the holes: other than it was, as long as the entry is not known by
    /// its content.
    fn refill(&mut self, most: usize) -> LogWrite {
        let holes: Vec<LogIndex> = self.holes.iter().copied().take(most).collect();
        let mut refill = Vec::new();
        for index in holes {
            let entry = self.wanted.entries.iter().find(|e| e.index == index);
            let mut entry = entry.unwrap().clone();
            if entry.kind == EntryKind::Command {
                let bytes = (entry.payload.len() * 7 + 13) % 5_000;
                entry.payload = self.entry(index, entry.term, bytes).payload;
            }
            refill.push(entry);
        }
        LogWrite {
            refill,
            ..LogWrite::default()
        }
    }

    fn sync(&mut self) -> Result<(), Stopped> {
        self.log().sync().map_err(stopped)?;
        self.synced = self.wanted.clone();
        Ok(())
    }

    fn compact(&mut self, through: u64) -> Result<(), Stopped> {
        let entries = &self.wanted.entries;
        let Some(entry) = entries.iter().find(|entry| entry.index.0 == through) else {
            return Ok(());
        };
        let through = entry.position();
        self.wanted.mark = through;
        self.wanted
            .entries
            .retain(|entry| entry.index > through.index);
        self.holes.retain(|hole| *hole > through.index);
        self.log().compact_prefix(through).map_err(stopped)?;
        self.sync()
    }

    fn install(&mut self, through: LogPosition) -> Result<(), Stopped> {
        if through.index <= self.wanted.mark.index {
            return Ok(());
        }
        self.wanted.mark = through;
        self.wanted.entries.clear();
        self.holes.clear();
        self.log().compact_prefix(through).map_err(stopped)?;
        self.sync()
    }

    fn truncation(&self, removed: u64) -> LogWrite {
        let removed = removed.min(self.wanted.entries.len() as u64);
        let from = LogIndex(self.wanted.last().index.0 + 1 - removed);
        LogWrite {
            truncate_from: (removed > 0).then_some(from),
            ..LogWrite::default()
        }
    }

    fn members(&mut self, voters: u64) -> LogWrite {
        let member = |id: u64| Member {
            incarnation: None,
            address: format!("10.0.0.{id}:7000"),
        };
        let membership = Membership::of_voters((1..=voters).map(|id| (NodeId(id), member(id))));
        let mut entries = self.entries(1, 0);
        entries[0].kind = EntryKind::Membership;
        entries[0].payload = membership.to_bytes().unwrap();
        LogWrite {
            entries,
            ..LogWrite::default()
        }
    }

    fn entries(&mut self, count: u64, bytes: usize) -> Vec<Entry> {
        let last = self.wanted.last();
        let term = last.term.max(Term(1));
        (1..=count)
            .map(|number| self.entry(last.index.plus(number), term, bytes))
            .collect()
    }

    /// An entry whose payload is unlike every other's; some end in zeros.
    fn entry(&mut self, index: LogIndex, term: Term, bytes: usize) -> Entry {
        self.payloads += 1;
        let mut payload = vec![0; bytes];
        let number = self.payloads.to_le_bytes();
        for (to, from) in payload.iter_mut().zip(number.iter().cycle()) {
            *to = *from;
        }
        if self.payloads.is_multiple_of(3) {
            payload[bytes.min(8)..].fill(0);
        }
        Entry {
            index,
            term,
            kind: EntryKind::Command,
            payload: Bytes::from(payload),
        }
    }
}

fn stopped(error: LogError) -> Stopped {
    assert!(
        matches!(error, LogError::File(_) | LogError::Poisoned),
        "unexpected: {error}"
    );
    Stopped
}

/// A small generator of choices: xorshift64*.
pub(crate) struct Choices(pub u64);

impl Choices {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// Disks that a crash of `vfs` may leave: all of them if there are at most 2^`exhaustive`, else
/// the two extremes and `samples` more.
pub(crate) fn crashed_disks(
    vfs: &MemVfs,
    exhaustive: usize,
    samples: u64,
    seed: u64,
) -> Vec<MemVfs> {
    let pending = vfs.pending_changes();
    let by_bits = |bits: u64| {
        let mut next = 0;
        vfs.crash(&mut |_| {
            next += 1;
            bits >> (next - 1) & 1 == 1
        })
    };
    if pending <= exhaustive {
        return (0..1 << pending).map(by_bits).collect();
    }
    let mut disks = vec![vfs.crash(&mut |_| false), vfs.crash(&mut |_| true)];
    let mut choices = Choices(seed | 1);
    for sample in 0..samples {
        // From almost nothing to almost everything survives.
        let share = sample * 255 / samples.max(1);
        disks.push(vfs.crash(&mut |_: PendingChange<'_>| choices.next() >> 56 <= share));
    }
    disks
}

/// Offset and bytes of each 32 bytes that are not all zero.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (number, chunk) in bytes.chunks(32).enumerate() {
        if chunk.iter().any(|byte| *byte != 0) {
            let hex: String = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
            text.push_str(&format!("{:06x} {hex}\n", number * 32));
        }
    }
    text
}

/// What [`to_hex`] has shown of so many bytes.
pub(crate) fn of_hex(text: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    for line in text.lines() {
        let (offset, hex) = line.split_once(' ').unwrap();
        let offset = usize::from_str_radix(offset, 16).unwrap();
        for (number, pair) in hex.as_bytes().chunks(2).enumerate() {
            let digits = std::str::from_utf8(pair).unwrap();
            bytes[offset + number] = u8::from_str_radix(digits, 16).unwrap();
        }
    }
    bytes
}
