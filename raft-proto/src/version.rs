//! Versions of the protocol between peers: what each side can speak, and what two of them have in
//! common.
//!
//! A message of a later version is never sent to a peer that does not speak it. What it is for
//! then waits until all nodes are of that version.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A version of the protocol between peers. Each adds kinds of messages and changes none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProtocolVersion(pub u8);

impl ProtocolVersion {
    /// Elections, replication, snapshots, reads, membership, entries fetched by name.
    pub const ONE: Self = Self(1);
    /// Repair: nodes that count for nothing count again, and snapshots are asked for. Replicas are
    /// compared.
    pub const TWO: Self = Self(2);
    /// The oldest version that this build speaks.
    pub const OLDEST: Self = Self::ONE;
    /// The newest version that this build speaks.
    pub const NEWEST: Self = Self::TWO;
}

impl fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

/// The versions that a node speaks: all from the oldest to the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Versions {
    /// The oldest one.
    pub oldest: ProtocolVersion,
    /// The newest one.
    pub newest: ProtocolVersion,
}

impl Versions {
    /// Those of this build.
    pub const CURRENT: Self = Self::up_to(ProtocolVersion::NEWEST);

    /// Those of a build that is as old as `newest`, for nodes that are to behave like one.
    #[must_use]
    pub const fn up_to(newest: ProtocolVersion) -> Self {
        Self {
            oldest: ProtocolVersion::OLDEST,
            newest,
        }
    }

    /// The newest version that both sides speak, if there is one.
    ///
    /// ```
    /// use raft_proto::{ProtocolVersion, Versions};
    ///
    /// let old = Versions::up_to(ProtocolVersion::ONE);
    /// assert_eq!(old.in_common(Versions::CURRENT), Some(ProtocolVersion::ONE));
    /// ```
    #[must_use]
    pub fn in_common(self, other: Self) -> Option<ProtocolVersion> {
        let newest = self.newest.min(other.newest);
        let oldest = self.oldest.max(other.oldest);
        (oldest <= newest).then_some(newest)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.oldest, self.newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_spoken() {
        let range = |oldest, newest| Versions {
            oldest: ProtocolVersion(oldest),
            newest: ProtocolVersion(newest),
        };
        assert_eq!(range(1, 2).in_common(range(1, 2)), Some(ProtocolVersion(2)));
        assert_eq!(range(1, 3).in_common(range(2, 5)), Some(ProtocolVersion(3)));
        assert_eq!(range(1, 2).in_common(range(3, 4)), None);
        assert_eq!(range(3, 4).in_common(range(1, 2)), None);
    }
}
