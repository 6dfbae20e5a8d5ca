//! Reads durable entries from any thread while the log is written: locate, read, check.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use raft_proto::{Entry, LogIndex};

use crate::damage::Hole;
use crate::error::{FileError, ReadError};
use crate::format::record::{self, RECORD_HEADER_BYTES, record_bytes};
use crate::format::seal;
use crate::index::{Index, Located, Place};
use crate::readable;

/// How many places of entries are copied at a time, so that the lock is held shortly.
const LOCATE_LIMIT: usize = 1024;
/// Most bytes of one positioned read, unless one entry is larger.
const READ_BYTES: u64 = 1 << 20;
/// Least bytes of one positioned read.
const READ_BYTES_MIN: u64 = 8 << 10;

/// Reads durable entries. Cheap to clone; every method may be called from any thread.
///
/// A reader never waits for a write or an fsync, only for the moment in which the writer publishes
/// a batch that is already durable. What it returns has passed its checksum after it was copied.
#[derive(Clone, Debug)]
pub struct LogReader {
    index: Arc<RwLock<Index>>,
}

impl LogReader {
    pub(crate) const fn new(index: Arc<RwLock<Index>>) -> Self {
        Self { index }
    }

    pub(crate) fn index(&self) -> Arc<RwLock<Index>> {
        Arc::clone(&self.index)
    }

    /// The first entry that is not compacted away; one after the last if there is none.
    #[must_use]
    pub fn first_index(&self) -> LogIndex {
        self.lock().first
    }

    /// The last durable entry.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        self.lock().last
    }

    /// Entries whose content is lost and not filled in yet, in order.
    #[must_use]
    pub fn missing(&self) -> Vec<Hole> {
        self.lock().missing()
    }

    /// Entries `first` to `last`, both included, as many as fit into `max_bytes` of payload; at
    /// least one if `first <= last`. A truncation while it reads ends the result early, and so does
    /// an entry that is missing or damaged, unless it is the first.
    ///
    /// # Errors
    /// [`ReadError::Compacted`] or [`ReadError::BeyondEnd`] for indexes the log does not hold,
    /// [`ReadError::Missing`] or [`ReadError::Corrupt`] if the first one is lost, or what the file
    /// system says.
    pub fn read(
        &self,
        first: LogIndex,
        last: LogIndex,
        max_bytes: u64,
    ) -> Result<Vec<Entry>, ReadError> {
        self.read_from(Source::Anywhere, first, last, max_bytes)
    }

    /// The same, from the medium and not from the page cache where the file system can.
    ///
    /// # Errors
    /// As [`LogReader::read`].
    pub fn read_medium(
        &self,
        first: LogIndex,
        last: LogIndex,
        max_bytes: u64,
    ) -> Result<Vec<Entry>, ReadError> {
        self.read_from(Source::Medium, first, last, max_bytes)
    }

    fn read_from(
        &self,
        source: Source,
        first: LogIndex,
        last: LogIndex,
        max_bytes: u64,
    ) -> Result<Vec<Entry>, ReadError> {
        let mut entries = Vec::new();
        if first > last {
            return Ok(entries);
        }
        let mut budget = max_bytes;
        let mut next = first;
        let mut truncations = None;
        while next <= last {
            let Some((place, now)) = self.locate(next, last, entries.is_empty())? else {
                break;
            };
            let located = match place {
                Place::Here(located) => located,
                Place::Missing(_) if !entries.is_empty() => break,
                Place::Missing(Hole { first, last }) => {
                    return Err(ReadError::Missing { first, last });
                }
            };
            // What follows now may not be what followed the entries read so far.
            if *truncations.get_or_insert(now) != now {
                break;
            }
            let before = entries.len();
            let progress = match read_run(source, &located, &mut budget, &mut entries) {
                Ok(progress) => progress,
                // Asked for again, it is the first one.
                Err(ReadError::Corrupt { .. }) if !entries.is_empty() => break,
                Err(error) => return Err(error),
            };
            next = next.plus((entries.len() - before) as u64);
            match progress {
                Progress::BudgetSpent => break,
                Progress::RunDone => {}
            }
        }
        Ok(entries)
    }

    fn locate(
        &self,
        first: LogIndex,
        last: LogIndex,
        nothing_read: bool,
    ) -> Result<Option<(Place, u64)>, ReadError> {
        let index = self.lock();
        if nothing_read && first < index.first {
            return Err(ReadError::Compacted {
                requested: first,
                first: index.first,
            });
        }
        if nothing_read && last > index.last {
            return Err(ReadError::BeyondEnd {
                requested: last,
                last: index.last,
            });
        }
        let located = index.locate(first, last, LOCATE_LIMIT);
        Ok(located.map(|place| (place, index.truncations)))
    }

    fn lock(&self) -> RwLockReadGuard<'_, Index> {
        // The writer leaves the index whole even if it panics between two entries.
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where bytes are read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The page cache, or the medium.
    Anywhere,
    /// The medium; what is cached of the bytes is dropped first.
    Medium,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    RunDone,
    BudgetSpent,
}

/// Reads a run of one segment, chunk by chunk.
fn read_run(
    source: Source,
    located: &Located,
    budget: &mut u64,
    entries: &mut Vec<Entry>,
) -> Result<Progress, ReadError> {
    let mut slot = 0;
    while slot < located.offsets.len() {
        let chunk = Chunk::read(source, located, slot, *budget)?;
        let taken = chunk.take_entries(located, slot, budget, entries)?;
        slot += taken.count;
        if taken.budget_spent {
            return Ok(Progress::BudgetSpent);
        }
    }
    Ok(Progress::RunDone)
}

/// Bytes of a segment that start with a record.
struct Chunk {
    start: u64,
    bytes: Bytes,
}

struct Taken {
    count: usize,
    budget_spent: bool,
}

impl Chunk {
    /// Reads from the record of `slot` on about as much as `budget` can use, at least one record.
    fn read(
        source: Source,
        located: &Located,
        slot: usize,
        budget: u64,
    ) -> Result<Self, ReadError> {
        let start = located.offsets[slot];
        let limit = seal::offset(located.file.segment_bytes);
        // Where the last record of the segment ends, its header tells. It is taken for a small one, so
        // that who follows the end of the log does not read what comes after it each time.
        let last = located.offsets.last().copied().unwrap_or(start);
        let run_end = located.next.unwrap_or(last + READ_BYTES_MIN);
        let wanted = budget.clamp(READ_BYTES_MIN, READ_BYTES);
        let end = run_end.min(limit).min(start + wanted);
        let bytes = read_bytes(source, located, start, end)?;
        let length = record::header(&bytes).map_or(0, |header| {
            record_bytes(header.payload_bytes as usize) as u64
        });
        // A record larger than the chunk is read again, whole. Its unchecked length is bounded by
        // the segment.
        let bytes = if length > end - start && length <= limit - start {
            read_bytes(source, located, start, start + length)?
        } else {
            bytes
        };
        Ok(Self {
            start,
            bytes: bytes.into(),
        })
    }

    /// Takes the records that lie whole in the chunk, at least the first.
    fn take_entries(
        &self,
        located: &Located,
        from: usize,
        budget: &mut u64,
        entries: &mut Vec<Entry>,
    ) -> Result<Taken, ReadError> {
        let mut count = 0;
        let end = self.start + self.bytes.len() as u64;
        for (slot, &offset) in located.offsets.iter().enumerate().skip(from) {
            let at = (offset - self.start) as usize;
            let header = self.bytes.get(at..).and_then(record::header);
            let whole = header.is_some_and(|header| {
                offset + RECORD_HEADER_BYTES as u64 + u64::from(header.payload_bytes) <= end
            });
            if !whole && count > 0 {
                break;
            }
            let index = located.first.plus(slot as u64);
            let corrupt = || ReadError::Corrupt {
                index,
                segment: located.file.sequence,
                offset,
            };
            let record = self.bytes.get(at..).unwrap_or_default();
            let checked = record::check(record, &located.file.checksum, offset);
            let (header, kind, payload) = checked.ok_or_else(corrupt)?;
            if header.index != index {
                return Err(corrupt());
            }
            let length = payload.len() as u64;
            if length > *budget && !entries.is_empty() {
                return Ok(Taken {
                    count,
                    budget_spent: true,
                });
            }
            *budget = budget.saturating_sub(length);
            entries.push(record::entry(&header, kind, self.payload(payload, at)));
            count += 1;
        }
        Ok(Taken {
            count,
            budget_spent: false,
        })
    }

    /// A large payload shares the chunk's memory. A small one is copied, so that it does not keep
    /// a whole chunk alive.
    fn payload(&self, payload: &[u8], at: usize) -> Bytes {
        if payload.len() * 4 >= self.bytes.len() {
            let start = at + RECORD_HEADER_BYTES;
            self.bytes.slice(start..start + payload.len())
        } else {
            Bytes::copy_from_slice(payload)
        }
    }
}

fn read_bytes(
    source: Source,
    located: &Located,
    start: u64,
    end: u64,
) -> Result<Vec<u8>, ReadError> {
    match source {
        Source::Anywhere => {}
        Source::Medium => located.file.file.drop_cached(start, end - start),
    }
    let read = readable::range(located.file.file.as_ref(), start, end);
    let bytes = read.map_err(|source| FileError::new("read", &located.file.path, source))?;
    Ok(bytes)
}
