//! Who reads the snapshots of this node: bounds what they ask for, and keeps what they read.

use std::collections::BTreeMap;
use std::time::Duration;

use raft_core::Time;
use raft_proto::{LogIndex, LogPosition, NodeId};

use super::super::after;

/// A reader that has not asked for this long is gone: it asks again several times within it.
pub(super) const READER_PATIENCE: Duration = Duration::from_secs(30);

/// Most parts that are being read for one peer at a time; what exceeds it is dropped, and asked for
/// again.
const MAX_PARTS_PER_PEER: usize = 64;

/// Longest part that is sent, in bytes: a fraction of what a peer has under way at a time.
pub(super) const MAX_PART_BYTES: u32 = 64 << 10;

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reader {
    Peer(NodeId),
    /// Users of this node, all of them.
    Local,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    last_included: LogPosition,
    asked_at: Time,
    /// Parts that the disk has not answered.
    parts: usize,
}

/// All readers, each with the snapshot that it reads.
#[derive(Default)]
pub(super) struct Readers(BTreeMap<Reader, Reading>);

impl Readers {
    /// A reader asks for a part. Returns whether it is read.
    pub(super) fn ask(&mut self, now: Time, reader: Reader, last_included: LogPosition) -> bool {
        let reading = self.0.entry(reader).or_insert(Reading {
            last_included,
            asked_at: now,
            parts: 0,
        });
        reading.last_included = last_included;
        reading.asked_at = now;
        match reader {
            Reader::Local => true,
            Reader::Peer(_) if reading.parts >= MAX_PARTS_PER_PEER => false,
            Reader::Peer(_) => {
                reading.parts += 1;
                true
            }
        }
    }

    /// A part was read for a peer.
    pub(super) fn answered(&mut self, peer: NodeId) {
        if let Some(reading) = self.0.get_mut(&Reader::Peer(peer)) {
            reading.parts = reading.parts.saturating_sub(1);
        }
    }

    /// Forgets those who have not asked for long.
    pub(super) fn expire(&mut self, now: Time) {
        self.0
            .retain(|_, reading| after(reading.asked_at, READER_PATIENCE) > now);
    }

    /// The oldest snapshot that somebody reads.
    pub(super) fn oldest(&self) -> Option<LogPosition> {
        let read = self.0.values().map(|reading| reading.last_included);
        read.min_by_key(|position| position.index)
    }

    /// The oldest one that a peer reads: it will need the entries after it.
    pub(super) fn oldest_of_peers(&self) -> Option<LogIndex> {
        let peers = self.0.iter().filter(|(reader, _)| match reader {
            Reader::Peer(_) => true,
            Reader::Local => false,
        });
        peers.map(|(_, reading)| reading.last_included.index).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_proto::Term;

    fn at(index: u64) -> LogPosition {
        LogPosition {
            index: LogIndex(index),
            term: Term(1),
        }
    }

    #[test]
    fn what_is_read_is_kept_until_its_reader_is_gone() {
        let mut readers = Readers::default();
        let peer = Reader::Peer(NodeId(2));
        assert!(readers.ask(Time::ZERO, peer, at(10)));
        assert!(readers.ask(Time::from_ms(20_000), Reader::Local, at(5)));
        assert_eq!(readers.oldest(), Some(at(5)));
        assert_eq!(readers.oldest_of_peers(), Some(LogIndex(10)));
        readers.expire(Time::from_ms(29_999));
        assert_eq!(readers.oldest_of_peers(), Some(LogIndex(10)));
        readers.expire(Time::from_ms(30_000));
        assert_eq!(readers.oldest_of_peers(), None);
        assert_eq!(readers.oldest(), Some(at(5)));
    }

    #[test]
    fn a_peer_cannot_queue_reads_without_end() {
        let mut readers = Readers::default();
        let peer = Reader::Peer(NodeId(2));
        let taken = (0..1_000).filter(|_| readers.ask(Time::ZERO, peer, at(1)));
        assert_eq!(taken.count(), MAX_PARTS_PER_PEER);
        readers.answered(NodeId(2));
        assert!(readers.ask(Time::ZERO, peer, at(1)));
    }
}
