//! The bytes of a snapshot of the state machine, and why a snapshot is refused.
//!
//! ```text
//! version (1 byte) · blocks, each: length (4 bytes, little endian) · serialised block
//! ```
//!
//! The blocks come in this order: a header; every session, each followed by its replies; history;
//! the live pairs in the order of keys; the end with the hash of it all. The page on the protocol
//! describes them byte by byte.

use std::io::{self, ErrorKind, Read};

use raft_proto::LogIndex;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::codec::{self, Slice};
use crate::limits::MAX_RESPONSE_BYTES;
use crate::operation::Revision;
use crate::reply::PairRef;
use crate::session::{LogClock, LogTime, SessionId};

/// The version of snapshots that this build writes and reads.
pub const SNAPSHOT_VERSION: u8 = 1;
/// Longest block, in bytes: it holds a reply of a session or a pair at least.
pub const MAX_BLOCK_BYTES: usize = MAX_RESPONSE_BYTES;

/// Why the bytes of a snapshot do not make a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RestoreError {
    /// Written by another version of the format.
    #[error(
        "the snapshot's state has format version {found}; this build reads version {expected}: \
         install the version that wrote it"
    )]
    UnsupportedVersion {
        /// The version found.
        found: u8,
        /// The version this build reads.
        expected: u8,
    },
    /// A block is longer than any can be.
    #[error("the snapshot has a block of {bytes} bytes; the limit is {MAX_BLOCK_BYTES} bytes")]
    BlockTooLong {
        /// Bytes that it claims to have.
        bytes: u64,
    },
    /// Bytes that are no block.
    #[error("the snapshot has a malformed block")]
    Malformed,
    /// A block where another one must be.
    #[error("the snapshot's blocks are not in their order: {found} where {expected} must be")]
    BlockOrder {
        /// What was found.
        found: &'static str,
        /// What must be there.
        expected: &'static str,
    },
    /// The content contradicts itself.
    #[error("the snapshot contradicts itself: {what}")]
    Contradiction {
        /// How.
        what: &'static str,
    },
    /// The state is not the one that was cut.
    #[error("the state has hash {found:016x}, but the snapshot was taken of {expected:016x}")]
    Hash {
        /// The hash in the snapshot.
        expected: u64,
        /// The hash of what was restored.
        found: u64,
    },
    /// There is more after the end.
    #[error("the snapshot goes on after its end")]
    Trailing,
}

impl From<RestoreError> for io::Error {
    fn from(error: RestoreError) -> Self {
        Self::new(ErrorKind::InvalidData, error)
    }
}

/// Refuses a snapshot unless something holds.
pub(crate) fn ensure(holds: bool, otherwise: &'static str) -> Result<(), RestoreError> {
    if holds {
        Ok(())
    } else {
        Err(RestoreError::Contradiction { what: otherwise })
    }
}

/// What comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) applied_index: LogIndex,
    pub(crate) clock: LogClock,
    pub(crate) next_sweep: LogTime,
    pub(crate) sessions: u64,
    pub(crate) revision: Revision,
    pub(crate) oldest: Revision,
    pub(crate) versions_max: u64,
    pub(crate) bytes_max: u64,
    pub(crate) superseded: u64,
    pub(crate) live: u64,
    /// The hash of the store alone.
    pub(crate) store_hash: u64,
}

/// A session without its replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionHead {
    pub(crate) id: SessionId,
    pub(crate) ttl_ms: u64,
    pub(crate) last_active: LogTime,
    pub(crate) acknowledged: u64,
    /// How many writes after the acknowledged ones follow, answered or not yet seen.
    pub(crate) replies: u64,
}

/// A version in history.
#[derive(Serialize, Deserialize)]
pub(crate) struct SupersededRef<'a> {
    pub(crate) until: Revision,
    #[serde(borrow)]
    pub(crate) pair: PairRef<'a>,
}

/// A part of a snapshot.
#[derive(Serialize, Deserialize)]
pub(crate) enum Block<'a> {
    Header(Header),
    Session(SessionHead),
    /// Replies of the session before it, in order.
    Replies(#[serde(borrow)] Vec<Option<Slice<'a>>>),
    Superseded(#[serde(borrow)] Vec<SupersededRef<'a>>),
    Live(#[serde(borrow)] Vec<PairRef<'a>>),
    End {
        /// The hash of the whole state.
        hash: u64,
    },
}

impl Block<'_> {
    pub(crate) fn append_to(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        codec::encode(self, out);
        let bytes = out.len() - start - 4;
        assert!(bytes <= MAX_BLOCK_BYTES, "blocks are cut before that");
        out[start..start + 4].copy_from_slice(&(bytes as u32).to_le_bytes());
    }

    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Header(_) => "a header",
            Self::Session(_) => "a session",
            Self::Replies(_) => "replies",
            Self::Superseded(_) => "history",
            Self::Live(_) => "live pairs",
            Self::End { .. } => "the end",
        }
    }
}

/// Reads the blocks of a snapshot.
pub(crate) struct BlockReader<'r> {
    source: &'r mut dyn Read,
    block: Vec<u8>,
}

impl<'r> BlockReader<'r> {
    /// Checks the version.
    pub(crate) fn new(source: &'r mut dyn Read) -> io::Result<Self> {
        let mut version = [0];
        source.read_exact(&mut version)?;
        if version[0] != SNAPSHOT_VERSION {
            return Err(RestoreError::UnsupportedVersion {
                found: version[0],
                expected: SNAPSHOT_VERSION,
            }
            .into());
        }
        let block = Vec::new();
        Ok(Self { source, block })
    }

    pub(crate) fn next_block(&mut self) -> io::Result<Block<'_>> {
        let mut length = [0; 4];
        self.source.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length);
        if length as usize > MAX_BLOCK_BYTES {
            let bytes = u64::from(length);
            return Err(RestoreError::BlockTooLong { bytes }.into());
        }
        self.block.resize(length as usize, 0);
        self.source.read_exact(&mut self.block)?;
        codec::decode_exact(&self.block).map_err(|_| RestoreError::Malformed.into())
    }

    /// Expects that nothing follows.
    pub(crate) fn finish(self) -> io::Result<()> {
        match self.source.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(RestoreError::Trailing.into()),
        }
    }
}
