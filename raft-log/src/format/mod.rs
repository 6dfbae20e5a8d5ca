//! The bytes on disk, described in `docs/WAL_FORMAT.md`: pure encoders and decoders.

pub(crate) mod batch;
pub(crate) mod bytes;
pub(crate) mod checksum;
pub(crate) mod metadata;
pub(crate) mod preamble;
pub(crate) mod record;
pub(crate) mod seal;
pub(crate) mod small;
pub(crate) mod version;

use crate::vfs::BLOCK_BYTES;

/// The unit in which a torn batch's zeros are counted, in bytes: what a disk writes whole or not.
pub(crate) const SECTOR_BYTES: usize = 512;
/// Fewest blocks of a batch: its first and its last are never the same.
pub(crate) const MIN_BATCH_BLOCKS: usize = 2;
/// The most bytes of term runs and memberships that one batch carries: any valid membership fits.
pub(crate) const MAX_METADATA_BYTES: usize = 24 << 10;

const _: () = assert!(BLOCK_BYTES.is_multiple_of(SECTOR_BYTES));

/// `bytes` rounded up to a whole number of blocks, in blocks.
pub(crate) const fn blocks(bytes: usize) -> usize {
    bytes.div_ceil(BLOCK_BYTES)
}

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // Compares word by word; most sectors differ in the first one.
    let (words, rest) = bytes.as_chunks::<8>();
    words.iter().all(|word| u64::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// How many sectors of `bytes` are all zero.
pub(crate) fn zero_sectors(bytes: &[u8]) -> u32 {
    let zero = bytes.chunks(SECTOR_BYTES).filter(|sector| is_zero(sector));
    // A segment has at most 2^21 sectors.
    zero.count() as u32
}
