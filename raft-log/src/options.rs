//! How large segments and batches are, how segments are prepared, and whose log it is.

use raft_proto::{ClusterId, GroupId, Incarnation, NodeId};
use thiserror::Error;

use crate::format::MAX_METADATA_BYTES;
use crate::vfs::BLOCK_BYTES;

/// Smallest segment, in bytes.
pub const MIN_SEGMENT_BYTES: u64 = 64 << 10;
/// Largest segment, in bytes.
pub const MAX_SEGMENT_BYTES: u64 = 1 << 30;

/// Whose log it is. A segment of another node, cluster, incarnation or group is never read as ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogIdentity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// The life of the node's data directory.
    pub incarnation: Incarnation,
    /// The Raft group; reserved, always 0 today.
    pub group: GroupId,
}

/// When the next segment is written with zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preparation {
    /// By a thread, ahead of use.
    Background,
    /// By the caller of [`crate::Log::sync`] when it is needed: slower, and deterministic.
    Inline,
}

/// What an open does with a log that is damaged beyond a torn last batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDamage {
    /// It fails with [`crate::OpenError::Damaged`] and changes nothing, unless all that is lost was
    /// filled in again.
    #[default]
    Refuse,
    /// It opens what is left and says what is missing, for a program that fetches it from peers:
    /// [`crate::Recovered::missing`] and [`crate::Recovered::end`].
    Report,
}

/// Sizes and habits of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Size of each new segment file in bytes; a multiple of 4096. Segments written with another
    /// size stay readable.
    pub segment_bytes: u64,
    /// A batch gathers entries up to about this many bytes.
    pub max_batch_bytes: u64,
    /// Largest payload of an entry in bytes.
    pub max_entry_bytes: u32,
    /// When the next segment is written with zeros.
    pub preparation: Preparation,
    /// What an open does with damage.
    pub on_damage: OnDamage,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            max_batch_bytes: 4 << 20,
            max_entry_bytes: 16 << 20,
            preparation: Preparation::Background,
            on_damage: OnDamage::Refuse,
        }
    }
}

/// Why options cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OptionsError {
    /// Not a possible size of a segment.
    #[error(
        "segment_bytes = {0} must be a multiple of {BLOCK_BYTES} from {MIN_SEGMENT_BYTES} to {MAX_SEGMENT_BYTES}"
    )]
    SegmentBytes(u64),
    /// A batch must hold something.
    #[error("max_batch_bytes = {0} must be at least {BLOCK_BYTES}")]
    BatchBytes(u64),
    /// A batch would not fit into half of a segment.
    #[error(
        "max_batch_bytes = {batch} and max_entry_bytes = {entry} must each leave a batch within {limit} bytes, half of a segment less room for what identifies a batch"
    )]
    TooLargeForSegment {
        /// The batch limit given.
        batch: u64,
        /// The entry limit given.
        entry: u32,
        /// What either must not exceed, in bytes.
        limit: u64,
    },
}

impl LogOptions {
    /// Small segments for tests: 64 KiB, prepared inline.
    #[must_use]
    pub const fn small() -> Self {
        Self {
            segment_bytes: MIN_SEGMENT_BYTES,
            max_batch_bytes: 8 << 10,
            max_entry_bytes: 8 << 10,
            preparation: Preparation::Inline,
            on_damage: OnDamage::Refuse,
        }
    }

    /// Checks that the sizes fit each other.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), OptionsError> {
        let size = self.segment_bytes;
        if !(MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&size)
            || !size.is_multiple_of(BLOCK_BYTES as u64)
        {
            return Err(OptionsError::SegmentBytes(size));
        }
        if self.max_batch_bytes < BLOCK_BYTES as u64 {
            return Err(OptionsError::BatchBytes(self.max_batch_bytes));
        }
        let limit = Self::batch_limit(size);
        if self.max_batch_bytes > limit || u64::from(self.max_entry_bytes) > limit {
            return Err(OptionsError::TooLargeForSegment {
                batch: self.max_batch_bytes,
                entry: self.max_entry_bytes,
                limit,
            });
        }
        Ok(())
    }

    /// The most record bytes of a batch that fits into half of a segment whatever it carries.
    pub(crate) fn batch_limit(segment_bytes: u64) -> u64 {
        // Twice (at the head and at the tail): a batch's own metadata and its predecessor's.
        let overhead = 2 * (2 * Self::metadata_limit(segment_bytes) as u64 + BLOCK_BYTES as u64);
        (segment_bytes / 2).saturating_sub(overhead)
    }

    /// The most bytes of term runs and memberships that one batch may carry.
    pub(crate) fn metadata_limit(segment_bytes: u64) -> usize {
        // The quotient is at most 32 MiB.
        MAX_METADATA_BYTES.min((segment_bytes / 32) as usize)
    }

    /// Room for a preamble in bytes: a quarter of a segment.
    pub(crate) const fn max_preamble_bytes(&self) -> u64 {
        self.segment_bytes / 4
    }

    /// Size of the segment that an open starts if it copies little, in bytes: an eighth, so that a
    /// start does not wait for the zeros of a whole one.
    pub(crate) fn opening_segment_bytes(&self) -> u64 {
        let eighth = (self.segment_bytes / 8).next_multiple_of(BLOCK_BYTES as u64);
        eighth.max(MIN_SEGMENT_BYTES)
    }

    /// Size of each of the two files of the reserve, in bytes: what an open may need on a full disk.
    pub(crate) fn reserve_bytes(&self) -> u64 {
        self.opening_segment_bytes()
    }

    /// Up to how many bytes of live batches the newest segment is copied whole at open, so that
    /// restarts do not pile up nearly empty segments.
    pub(crate) const fn copy_whole_bytes(&self) -> u64 {
        self.segment_bytes / 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::MIN_BATCH_BLOCKS;
    use crate::format::batch::batch_blocks;
    use crate::format::seal;

    #[test]
    fn the_largest_preamble_and_batch_fit_into_a_segment_of_any_size() {
        for shift in 0..15 {
            for size in [
                MIN_SEGMENT_BYTES << shift,
                (MIN_SEGMENT_BYTES << shift) + 4096,
            ] {
                let metadata = LogOptions::metadata_limit(size) + 64;
                let records = LogOptions::batch_limit(size) as usize;
                let batch = batch_blocks(2 * metadata, records + 64);
                let vouching = batch_blocks(metadata + 64, 0);
                let options = LogOptions {
                    segment_bytes: size,
                    ..LogOptions::default()
                };
                let blocks = batch + vouching + MIN_BATCH_BLOCKS;
                let used = options.max_preamble_bytes() + (blocks * BLOCK_BYTES) as u64;
                assert!(used <= seal::offset(size), "{size}");
            }
        }
    }

    #[test]
    fn sizes_that_cannot_work_are_refused() {
        assert_eq!(LogOptions::default().validate(), Ok(()));
        assert_eq!(LogOptions::small().validate(), Ok(()));
        let odd = LogOptions {
            segment_bytes: 100_000,
            ..LogOptions::default()
        };
        assert_eq!(odd.validate(), Err(OptionsError::SegmentBytes(100_000)));
        let tiny = LogOptions {
            max_batch_bytes: 1,
            ..LogOptions::default()
        };
        assert_eq!(tiny.validate(), Err(OptionsError::BatchBytes(1)));
        let huge = LogOptions {
            max_entry_bytes: 40 << 20,
            ..LogOptions::default()
        };
        assert!(matches!(
            huge.validate(),
            Err(OptionsError::TooLargeForSegment { .. })
        ));
    }
}
