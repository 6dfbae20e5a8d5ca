//! Configuration of a core, and the check that it can work.

use raft_proto::{Incarnation, NodeId};
use thiserror::Error;

use crate::time::Time;

/// Most entries in one append; with [`raft_proto::codec::MAX_HEAD_BYTES`] for their terms, kinds
/// and lengths an append of this many entries always encodes.
pub const MAX_APPEND_ENTRIES: u64 = 16_384;

/// What an entry counts as besides its payload, in bytes, wherever memory is bounded: many small
/// entries take memory, too.
pub const ENTRY_OVERHEAD_BYTES: u64 = 64;

/// What an entry with so many payload bytes counts as, in bytes.
pub(crate) const fn entry_cost(payload_bytes: u32) -> u64 {
    payload_bytes as u64 + ENTRY_OVERHEAD_BYTES
}

/// What a core is started with besides its recovered state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This node.
    pub id: NodeId,
    /// The life of its data directory. If it is given, a membership that names another life under
    /// this node's id means somebody else, and this node does not campaign by it.
    pub incarnation: Option<Incarnation>,
    /// Shortest election timeout, in milliseconds. Also how long a node that heard from a leader
    /// refuses to vote for another candidate (thesis §4.2.3).
    pub election_timeout_ms_min: u64,
    /// Longest election timeout, in milliseconds (exclusive). Also how long a leader goes on
    /// without hearing from a quorum (CheckQuorum, thesis §6.2).
    pub election_timeout_ms_max: u64,
    /// How often a leader sends heartbeats, in milliseconds.
    pub heartbeat_interval_ms: u64,
    /// How long a read waits for its confirmation before it fails, in milliseconds.
    pub read_timeout_ms: u64,
    /// Most reads that wait for confirmation at a time.
    pub max_pending_reads: usize,
    /// Payload bytes after which an append is not made longer; it has at least one entry.
    pub max_append_bytes: u64,
    /// Most appends to one peer that are not yet answered.
    pub max_inflight_messages: usize,
    /// Payload bytes on the way to one peer after which no further append is sent.
    pub max_inflight_bytes: u64,
    /// Bytes that a leader holds uncommitted, or not durable, before it refuses proposals: payloads, and
    /// [`ENTRY_OVERHEAD_BYTES`] for each entry.
    pub max_uncommitted_bytes: u64,
    /// Largest payload of one proposal, in bytes.
    pub max_entry_bytes: u32,
    /// Seed of the election timeouts. Two nodes may share it: the id and the boot are mixed in.
    pub seed: u64,
}

/// Why a configuration cannot work.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// Id 0 is reserved.
    #[error("node id 0 is reserved; choose an id from 1 on")]
    ZeroId,
    /// A heartbeat interval of zero.
    #[error("the heartbeat interval must be at least 1 ms")]
    ZeroHeartbeat,
    /// Followers would time out although the leader lives.
    #[error(
        "an election timeout of {election_timeout_ms_min} ms is too short for a heartbeat every \
         {heartbeat_interval_ms} ms: it must be at least twice as long, or one late heartbeat \
         starts an election"
    )]
    ElectionTimeoutTooShort {
        /// The shortest election timeout configured.
        election_timeout_ms_min: u64,
        /// The heartbeat interval configured.
        heartbeat_interval_ms: u64,
    },
    /// Timeouts that are (nearly) equal make elections split again and again (§5.2).
    #[error(
        "election timeouts between {election_timeout_ms_min} and {election_timeout_ms_max} ms are \
         too close together: they must differ by at least one heartbeat interval, or elections split"
    )]
    NoSpread {
        /// The shortest election timeout configured.
        election_timeout_ms_min: u64,
        /// The longest election timeout configured.
        election_timeout_ms_max: u64,
    },
    /// A limit that lets nothing through.
    #[error("{0} must not be zero")]
    ZeroLimit(&'static str),
    /// An entry that could never be proposed.
    #[error(
        "entries of up to {max_entry_bytes} bytes do not fit the limit of {max_uncommitted_bytes} \
         uncommitted bytes"
    )]
    EntryBeyondUncommitted {
        /// The largest entry configured.
        max_entry_bytes: u32,
        /// The uncommitted limit configured.
        max_uncommitted_bytes: u64,
    },
}

impl Config {
    /// The default configuration of a node: heartbeats every 100 ms, election timeouts of
    /// 210 ms + random(0..500) ms.
    #[must_use]
    pub const fn new(id: NodeId) -> Self {
        Self {
            id,
            incarnation: None,
            election_timeout_ms_min: 210,
            election_timeout_ms_max: 710,
            heartbeat_interval_ms: 100,
            read_timeout_ms: 1_500,
            max_pending_reads: 65_536,
            max_append_bytes: 256 * 1024,
            max_inflight_messages: 256,
            max_inflight_bytes: 8 * 1024 * 1024,
            max_uncommitted_bytes: 64 * 1024 * 1024,
            max_entry_bytes: 16 * 1024 * 1024,
            seed: 0,
        }
    }

    /// Checks that a cluster with this configuration can elect a leader and make progress.
    ///
    /// # Errors
    /// The first rule that is broken, in the order of [`ConfigError`]'s variants.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.id == NodeId(0) {
            return Err(ConfigError::ZeroId);
        }
        if self.heartbeat_interval_ms == 0 {
            return Err(ConfigError::ZeroHeartbeat);
        }
        if self.election_timeout_ms_min < self.heartbeat_interval_ms.saturating_mul(2) {
            return Err(ConfigError::ElectionTimeoutTooShort {
                election_timeout_ms_min: self.election_timeout_ms_min,
                heartbeat_interval_ms: self.heartbeat_interval_ms,
            });
        }
        let least_max = self
            .election_timeout_ms_min
            .saturating_add(self.heartbeat_interval_ms);
        if self.election_timeout_ms_max < least_max {
            return Err(ConfigError::NoSpread {
                election_timeout_ms_min: self.election_timeout_ms_min,
                election_timeout_ms_max: self.election_timeout_ms_max,
            });
        }
        let limits = [
            ("read_timeout_ms", self.read_timeout_ms),
            ("max_pending_reads", self.max_pending_reads as u64),
            ("max_append_bytes", self.max_append_bytes),
            ("max_inflight_messages", self.max_inflight_messages as u64),
            ("max_inflight_bytes", self.max_inflight_bytes),
            ("max_uncommitted_bytes", self.max_uncommitted_bytes),
            ("max_entry_bytes", u64::from(self.max_entry_bytes)),
        ];
        if let Some((name, _)) = limits.iter().find(|(_, limit)| *limit == 0) {
            return Err(ConfigError::ZeroLimit(name));
        }
        if entry_cost(self.max_entry_bytes) > self.max_uncommitted_bytes {
            return Err(ConfigError::EntryBeyondUncommitted {
                max_entry_bytes: self.max_entry_bytes,
                max_uncommitted_bytes: self.max_uncommitted_bytes,
            });
        }
        Ok(())
    }

    /// The last point in time at which a leader heard of at `contact` still counts as alive.
    pub(crate) const fn lease_end(&self, contact: Time) -> Time {
        contact.plus_ms(self.election_timeout_ms_min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_follow_the_source() {
        let config = Config::new(NodeId(1));
        assert_eq!(config.validate(), Ok(()));
        assert_eq!(config.heartbeat_interval_ms, 100);
        assert_eq!(config.election_timeout_ms_min, 210);
        assert_eq!(config.election_timeout_ms_max, 710);
    }

    #[test]
    fn impossible_timeouts_are_refused() {
        let mut config = Config::new(NodeId(1));
        config.heartbeat_interval_ms = 210;
        assert!(matches!(
            config.validate(),
            Err(ConfigError::ElectionTimeoutTooShort { .. })
        ));
        let mut config = Config::new(NodeId(1));
        config.election_timeout_ms_max = config.election_timeout_ms_min;
        assert!(matches!(
            config.validate(),
            Err(ConfigError::NoSpread { .. })
        ));
        let mut config = Config::new(NodeId(1));
        config.max_inflight_messages = 0;
        assert_eq!(
            config.validate(),
            Err(ConfigError::ZeroLimit("max_inflight_messages"))
        );
        assert_eq!(Config::new(NodeId(0)).validate(), Err(ConfigError::ZeroId));
    }
}
