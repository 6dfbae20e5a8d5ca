//! A durable first-in, first-out queue on nothing but the log: push survives kill -9, pop too.
//!
//! ```text
//! cargo run --example durable_queue -- /tmp/queue push hello
//! cargo run --example durable_queue -- /tmp/queue pop
//! ```

use std::error::Error;
use std::path::Path;

use bytes::Bytes;
use raft_log::vfs::RealVfs;
use raft_log::{DataDir, Log, LogIdentity, LogOptions, LogWrite};
use raft_proto::{ClusterId, Entry, EntryKind, GroupId, LogIndex, NodeId, Term};

/// A queue in a directory of its own. The log's compacted prefix is what was popped.
struct Queue {
    _dir: DataDir,
    log: Log,
}

impl Queue {
    fn open(path: &Path) -> Result<Self, Box<dyn Error>> {
        let dir = DataDir::open(RealVfs::shared(), path, NodeId(1))?;
        let identity = LogIdentity {
            cluster: ClusterId(*b"a durable queue!"),
            node: dir.node(),
            incarnation: dir.incarnation(),
            group: GroupId(0),
        };
        let options = LogOptions {
            segment_bytes: 1 << 20,
            max_batch_bytes: 64 << 10,
            max_entry_bytes: 64 << 10,
            ..LogOptions::default()
        };
        let (log, recovered) = Log::open(&dir, identity, options)?;
        if let Some(torn) = recovered.dropped_torn {
            eprintln!("dropped a push that a crash cut short, at {}", torn.offset);
        }
        Ok(Self { _dir: dir, log })
    }

    /// Adds an item; when this returns, it is durable.
    fn push(&mut self, item: Bytes) -> Result<(), Box<dyn Error>> {
        let entry = Entry {
            index: self.log.last_staged().index.next(),
            term: Term(1),
            kind: EntryKind::Command,
            payload: item,
        };
        self.log.stage(LogWrite {
            entries: vec![entry],
            ..LogWrite::default()
        })?;
        self.log.sync()?;
        Ok(())
    }

    /// Takes the oldest item; when this returns, it will not come again.
    fn pop(&mut self) -> Result<Option<Bytes>, Box<dyn Error>> {
        let first = self.log.first_index();
        if first > self.log.last().index {
            return Ok(None);
        }
        let mut entries = self.log.reader().read(first, first, u64::MAX)?;
        let Some(oldest) = entries.pop() else {
            return Ok(None);
        };
        self.log.compact_prefix(oldest.position())?;
        self.log.sync()?;
        Ok(Some(oldest.payload))
    }

    fn len(&self) -> u64 {
        self.log
            .last()
            .index
            .since(LogIndex(self.log.first_index().0 - 1))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [path, "push", item] => {
            Queue::open(path.as_ref())?.push(Bytes::copy_from_slice(item.as_bytes()))?
        }
        [path, "pop"] => match Queue::open(path.as_ref())?.pop()? {
            Some(item) => println!("{}", String::from_utf8_lossy(&item)),
            None => println!("(empty)"),
        },
        [path, "len"] => println!("{}", Queue::open(path.as_ref())?.len()),
        _ => return Err("usage: durable_queue DIRECTORY push ITEM | pop | len".into()),
    }
    Ok(())
}
