//! What a simulated disk holds: names and sparse files, each with the durable image, the page
//! cache above it, and which 512-byte sectors of the cache have not reached the medium.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use raft_log::vfs::BLOCK_BYTES;

use super::faults::DiskFaults;
use crate::random::Random;

/// The unit that a disk writes whole or not at all, in bytes.
pub(super) const SECTOR_BYTES: usize = 512;
/// Sectors of a block; one bit of a mask for each.
const SECTORS: usize = BLOCK_BYTES / SECTOR_BYTES;
const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// A path, as bytes that compare fast.
pub(super) type Name = Arc<str>;

/// The name of a path of this simulation; they are all readable.
pub(super) fn name_of(path: &Path) -> Name {
    path.to_str().unwrap_or_default().into()
}

/// The file's name, if it is right in this directory.
pub(super) fn name_within<'a>(name: &'a str, directory: &str) -> Option<&'a str> {
    let (parent, file) = name.rsplit_once('/')?;
    (parent == directory).then_some(file)
}

/// A block that is not all zeros; shared between cache and medium while they agree.
type Block = Arc<[u8]>;

/// Everything on a disk and in the page cache above it.
#[derive(Debug)]
pub(super) struct Medium {
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    pub(super) names: BTreeMap<Name, u64>,
    durable_names: BTreeMap<Name, u64>,
    pending_names: Vec<NameChange>,
    /// The file whose data was synced last.
    pub(super) last_synced: Option<u64>,
    /// Perhaps there are files now that nothing leads to.
    has_orphans: bool,
    pub(super) locks: BTreeSet<Name>,
    pub(super) random: Random,
    pub(super) faults: DiskFaults,
}

#[derive(Clone, Debug)]
pub(super) enum NameChange {
    Link(Name, u64),
    Unlink(Name),
    Rename(Name, Name, u64),
}

impl NameChange {
    fn name(&self) -> &str {
        match self {
            Self::Link(name, _) | Self::Unlink(name) | Self::Rename(_, name, _) => name,
        }
    }

    fn apply(&self, names: &mut BTreeMap<Name, u64>) {
        match self {
            Self::Link(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            Self::Unlink(name) => {
                names.remove(name);
            }
            Self::Rename(from, to, inode) => {
                if names.get(from) == Some(inode) {
                    names.remove(from);
                }
                names.insert(to.clone(), *inode);
            }
        }
    }
}

impl Medium {
    pub(super) fn new(random: Random) -> Self {
        Self {
            inodes: BTreeMap::new(),
            next_inode: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            last_synced: None,
            has_orphans: false,
            locks: BTreeSet::new(),
            random,
            faults: DiskFaults::default(),
        }
    }

    pub(super) fn inode_of(&self, name: &str) -> io::Result<u64> {
        let inode = self.names.get(name).copied();
        inode.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn inode(&mut self, inode: u64) -> &mut Inode {
        // An inode stays as long as a name, a crash or a handle can lead to it; handles that
        // outlive a power cut belong to the dead.
        self.inodes.entry(inode).or_default()
    }

    pub(super) fn check_read(&mut self) -> io::Result<()> {
        let (_, chance) = self.faults.fails_per_mille;
        let by_chance = chance > 0 && self.random.per_mille(chance);
        self.faults.check_read(by_chance)
    }

    /// Whether the write that begins fails after some of its blocks.
    pub(super) fn tears_write(&mut self) -> bool {
        let (chance, _) = self.faults.fails_per_mille;
        let by_chance = chance > 0 && self.random.per_mille(chance);
        std::mem::take(&mut self.faults.tear_write) || by_chance
    }

    pub(super) fn opened(&mut self, inode: u64) {
        self.inode(inode).handles += 1;
    }

    pub(super) fn closed(&mut self, inode: u64) {
        if let Some(inode) = self.inodes.get_mut(&inode) {
            inode.handles = inode.handles.saturating_sub(1);
            self.has_orphans |= inode.handles == 0;
        }
    }

    pub(super) fn create(&mut self, name: Name) -> io::Result<u64> {
        if self.names.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.next_inode += 1;
        let inode = self.next_inode;
        self.inodes.insert(inode, Inode::default());
        self.change_name(NameChange::Link(name, inode));
        Ok(inode)
    }

    pub(super) fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending_names.push(change);
    }

    /// Bytes of all files that have a name.
    pub(super) fn used_bytes(&self) -> u64 {
        let sizes = self.names.values().filter_map(|at| self.inodes.get(at));
        sizes.map(|inode| inode.size() as u64).sum()
    }

    /// Names and sizes of a directory reach the medium.
    pub(super) fn sync_dir(&mut self, directory: &str) {
        let inside = |change: &NameChange| name_within(change.name(), directory).is_some();
        let changes = std::mem::take(&mut self.pending_names);
        let (synced, rest): (Vec<_>, Vec<_>) = changes.into_iter().partition(inside);
        self.pending_names = rest;
        for change in synced {
            change.apply(&mut self.durable_names);
            self.has_orphans = true;
        }
        for (name, inode) in &self.names {
            if name_within(name, directory).is_some()
                && let Some(inode) = self.inodes.get_mut(inode)
            {
                inode.durable_size = inode.size();
            }
        }
    }

    /// The machine loses power: every pending sector, size and name is old or new.
    pub(super) fn lose_power(&mut self) {
        let mut names = self.durable_names.clone();
        for change in std::mem::take(&mut self.pending_names) {
            if self.random.per_mille(500) {
                change.apply(&mut names);
            }
        }
        self.names.clone_from(&names);
        self.durable_names = names;
        self.locks.clear();
        let linked: BTreeSet<u64> = self.names.values().copied().collect();
        self.inodes.retain(|inode, _| linked.contains(inode));
        for inode in self.inodes.values_mut() {
            inode.lose_power(&mut self.random);
        }
    }

    /// Forgets files that nothing leads to any more.
    pub(super) fn collect(&mut self) {
        if !std::mem::take(&mut self.has_orphans) {
            return;
        }
        let renamed = self.pending_names.iter().filter_map(|change| match change {
            NameChange::Link(_, inode) | NameChange::Rename(_, _, inode) => Some(*inode),
            NameChange::Unlink(_) => None,
        });
        let linked = self.names.values().chain(self.durable_names.values());
        // They are few.
        let kept: Vec<u64> = linked.copied().chain(renamed).collect();
        self.inodes
            .retain(|at, inode| kept.contains(at) || inode.handles > 0);
    }

    /// The medium loses what the last sync of a file's data has written.
    pub(super) fn lose_last_sync(&mut self) {
        if let Some(inode) = self
            .last_synced
            .and_then(|inode| self.inodes.get_mut(&inode))
        {
            inode.lose_last_sync();
        }
    }

    /// Another medium with the files as they can be read now.
    pub(super) fn copied(&self, random: Random) -> Self {
        let files = self.names.values();
        let files = files.filter_map(|at| Some((*at, self.inodes.get(at)?.copied())));
        Self {
            inodes: files.collect(),
            next_inode: self.next_inode,
            names: self.names.clone(),
            durable_names: self.names.clone(),
            ..Self::new(random)
        }
    }

    /// Turns bits of one written sector, in the cache and on the medium. Says where.
    pub(super) fn rot(&mut self) -> Option<(Name, u64)> {
        let (path, inode, block) = self.draw_written_block()?;
        let file = self.inodes.get_mut(&inode)?;
        let mut bytes = file.durable.get(block)?.as_ref()?.to_vec();
        let first = self.random.below(SECTORS as u64) as usize;
        let written = |sector: &usize| sector_of(&bytes, *sector) != sector_of(&ZEROS, *sector);
        let sector = (0..SECTORS).map(|n| (first + n) % SECTORS).find(written)?;
        for _ in 0..self.random.between(1, 8) {
            let at = sector * SECTOR_BYTES + self.random.below(SECTOR_BYTES as u64) as usize;
            bytes[at] ^= 1 << self.random.below(8);
        }
        // A synced sector does not come to read as zeros (assumption 4 of the log's format).
        if sector_of(&bytes, sector) == sector_of(&ZEROS, sector) {
            return None;
        }
        file.replace_sector(block, sector, &bytes);
        Some((path, (block * BLOCK_BYTES + sector * SECTOR_BYTES) as u64))
    }

    /// A copy of one written block lands on another written block. Says where.
    pub(super) fn misdirect(&mut self) -> Option<(Name, u64)> {
        let (_, source, from) = self.draw_written_block()?;
        let bytes = self.inodes.get(&source)?.durable.get(from)?.clone()?;
        let (path, inode, block) = self.draw_written_block()?;
        let file = self.inodes.get_mut(&inode)?;
        let was = file.durable.get(block)?.clone()?;
        let turns_zero = |sector: usize| {
            sector_of(&bytes[..], sector) == sector_of(&ZEROS, sector)
                && sector_of(&was[..], sector) != sector_of(&ZEROS, sector)
        };
        for sector in (0..SECTORS).filter(|sector| !turns_zero(*sector)) {
            file.replace_sector(block, sector, &bytes);
        }
        (was != bytes).then_some((path, (block * BLOCK_BYTES) as u64))
    }

    /// A file and one of its blocks that hold something on the medium.
    fn draw_written_block(&mut self) -> Option<(Name, u64, usize)> {
        let mut written = Vec::new();
        for (path, inode) in &self.durable_names {
            let Some(file) = self.inodes.get(inode) else {
                continue;
            };
            let blocks = file.durable.iter().enumerate();
            let blocks = blocks.filter(|(_, block)| block.is_some());
            written.extend(blocks.map(|(block, _)| (path, *inode, block)));
        }
        if written.is_empty() {
            return None;
        }
        let (path, inode, block) = written[self.random.below(written.len() as u64) as usize];
        Some((path.clone(), inode, block))
    }
}

/// A file.
#[derive(Debug, Default)]
pub(super) struct Inode {
    /// What readers see; `None` is a block of zeros.
    cache: Vec<Option<Block>>,
    durable: Vec<Option<Block>>,
    /// By block, the sectors that no sync has written.
    pending: BTreeMap<usize, u8>,
    /// Sectors that a failed sync has marked clean: no later sync writes them, and only a crash
    /// shows whether they were written.
    doubtful: BTreeMap<usize, u8>,
    durable_size: usize,
    handles: usize,
    /// What was on the medium where the last sync has written.
    before_sync: Vec<(usize, Option<Block>)>,
}

impl Inode {
    /// The medium has what it had before the last sync, which nobody notices while the cache lives.
    pub(super) fn lose_last_sync(&mut self) {
        for (block, before) in std::mem::take(&mut self.before_sync) {
            self.durable[block] = before;
        }
    }

    /// The same file on another disk, where all that the cache shows is durable.
    fn copied(&self) -> Self {
        Self {
            cache: self.cache.clone(),
            durable: self.cache.clone(),
            durable_size: self.size(),
            ..Self::default()
        }
    }

    pub(super) fn size(&self) -> usize {
        self.cache.len() * BLOCK_BYTES
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        let first = offset / BLOCK_BYTES;
        let blocks = bytes.len() / BLOCK_BYTES;
        if self.cache.len() < first + blocks {
            self.cache.resize(first + blocks, None);
            self.durable.resize(first + blocks, None);
        }
        for (block, chunk) in (first..).zip(bytes.chunks_exact(BLOCK_BYTES)) {
            self.write_block(block, chunk);
        }
    }

    fn write_block(&mut self, block: usize, chunk: &[u8]) {
        let is_zero = chunk == ZEROS;
        if is_zero && self.durable[block].is_none() && self.cache[block].is_none() {
            return;
        }
        self.cache[block] = (!is_zero).then(|| Arc::from(chunk));
        let durable = content(&self.durable[block]);
        let differs = |sector: &usize| sector_of(chunk, *sector) != sector_of(durable, *sector);
        let mask = (0..SECTORS)
            .filter(differs)
            .fold(0, |mask, s| mask | 1 << s);
        self.doubtful.remove(&block);
        if mask == 0 {
            self.pending.remove(&block);
        } else {
            self.pending.insert(block, mask);
        }
    }

    pub(super) fn read(&self, offset: usize, buffer: &mut [u8]) -> io::Result<()> {
        if offset.saturating_add(buffer.len()) > self.size() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done;
            let within = at % BLOCK_BYTES;
            let count = (BLOCK_BYTES - within).min(buffer.len() - done);
            let block = content(&self.cache[at / BLOCK_BYTES]);
            buffer[done..done + count].copy_from_slice(&block[within..within + count]);
            done += count;
        }
        Ok(())
    }

    /// All of it.
    pub(super) fn whole(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.size());
        for block in &self.cache {
            bytes.extend_from_slice(content(block));
        }
        bytes
    }

    /// What is pending reaches the medium.
    pub(super) fn sync(&mut self) {
        self.before_sync.clear();
        for (block, mask) in std::mem::take(&mut self.pending) {
            self.before_sync.push((block, self.durable[block].clone()));
            if self.doubtful.contains_key(&block) {
                self.merge(block, mask, Side::Durable);
            } else {
                self.durable[block].clone_from(&self.cache[block]);
            }
        }
    }

    /// A failed sync that leaves the pages in the cache, marked clean.
    pub(super) fn fail_sync_keeping(&mut self) {
        for (block, mask) in std::mem::take(&mut self.pending) {
            *self.doubtful.entry(block).or_default() |= mask;
        }
    }

    /// A failed sync after which each page is on the medium, or gone from the cache too.
    pub(super) fn fail_sync_losing(&mut self, random: &mut Random) {
        for (block, mask) in std::mem::take(&mut self.pending) {
            let written = mask & random.bits() as u8;
            self.merge(block, written, Side::Durable);
            self.merge(block, mask & !written, Side::Cache);
        }
    }

    fn lose_power(&mut self, random: &mut Random) {
        let mut unsynced = std::mem::take(&mut self.pending);
        for (block, mask) in std::mem::take(&mut self.doubtful) {
            *unsynced.entry(block).or_default() |= mask;
        }
        for (block, mask) in unsynced {
            // Sometimes all or nothing of a block, which separate coins would hardly ever give.
            let written = match random.below(4) {
                0 => 0,
                1 => u8::MAX,
                _ => random.bits() as u8,
            };
            self.merge(block, mask & written, Side::Durable);
        }
        if self.size() != self.durable_size && random.per_mille(500) {
            self.durable.truncate(self.durable_size / BLOCK_BYTES);
        }
        self.cache.clone_from(&self.durable);
        self.durable_size = self.size();
        self.handles = 0;
    }

    /// Copies the masked sectors of a block to the side from the other one.
    fn merge(&mut self, block: usize, mask: u8, to: Side) {
        let (from, to) = match to {
            Side::Durable => (&self.cache[block], &mut self.durable[block]),
            Side::Cache => (&self.durable[block], &mut self.cache[block]),
        };
        let mut merged = content(to).to_vec();
        for sector in (0..SECTORS).filter(|sector| mask & (1 << sector) != 0) {
            let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
            merged[range.clone()].copy_from_slice(&content(from)[range]);
        }
        *to = (merged != ZEROS).then(|| Arc::from(merged));
    }

    /// Puts a sector of `bytes` into the cache and on the medium.
    fn replace_sector(&mut self, block: usize, sector: usize, bytes: &[u8]) {
        for side in [&mut self.cache[block], &mut self.durable[block]] {
            let mut changed = content(side).to_vec();
            let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
            changed[range.clone()].copy_from_slice(&bytes[range]);
            *side = (changed != ZEROS).then(|| Arc::from(changed));
        }
    }
}

/// Which image of a file.
enum Side {
    Cache,
    Durable,
}

fn content(block: &Option<Block>) -> &[u8] {
    block.as_deref().unwrap_or(&ZEROS)
}

fn sector_of(block: &[u8], sector: usize) -> &[u8] {
    &block[sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES]
}
