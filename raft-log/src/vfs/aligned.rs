//! A growable byte buffer whose start is aligned to a block, reused from write to write.

use std::ops::Deref;

use super::BLOCK_BYTES;

/// Bytes in block-aligned memory, grown by whole blocks of zeros.
///
/// It needs no unsafe code: it allocates a block too much and starts at the first aligned byte.
#[derive(Debug, Default)]
pub struct AlignedBuffer {
    raw: Vec<u8>,
    start: usize,
    length: usize,
}

impl AlignedBuffer {
    /// An empty buffer that has not allocated.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            raw: Vec::new(),
            start: 0,
            length: 0,
        }
    }

    /// A buffer of `blocks` blocks of zeros.
    #[must_use]
    pub fn zeroed(blocks: usize) -> Self {
        let mut buffer = Self::new();
        buffer.reset(blocks);
        buffer
    }

    /// Makes it `blocks` blocks of zeros; allocates only to become larger than it ever was.
    pub fn reset(&mut self, blocks: usize) {
        let length = blocks * BLOCK_BYTES;
        let capacity = self.raw.len().saturating_sub(BLOCK_BYTES);
        if length > capacity {
            // The vector never grows in place: that could move its start.
            self.raw = vec![0; length.next_power_of_two() + BLOCK_BYTES];
            self.start = self.raw.as_ptr().addr().wrapping_neg() % BLOCK_BYTES;
        } else {
            self.raw[self.start..self.start + length].fill(0);
        }
        self.length = length;
        assert!(
            self.length == 0
                || self.raw[self.start..]
                    .as_ptr()
                    .addr()
                    .is_multiple_of(BLOCK_BYTES),
            "the buffer's start is aligned"
        );
    }

    /// Makes it at least `blocks` blocks, of which those that are new are zeros.
    pub fn grow(&mut self, blocks: usize) {
        if blocks * BLOCK_BYTES > self.length {
            let mut larger = Self::zeroed(blocks);
            larger.bytes_mut()[..self.length].copy_from_slice(self);
            *self = larger;
        }
    }

    /// The bytes, to be filled in.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.raw[self.start..self.start + self.length]
    }

    /// The bytes, as a write takes them.
    #[must_use]
    pub fn as_aligned(&self) -> AlignedBytes<'_> {
        AlignedBytes(&self.raw[self.start..self.start + self.length])
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.raw[self.start..self.start + self.length]
    }
}

/// A borrowed run of whole blocks in block-aligned memory.
#[derive(Clone, Copy, Debug)]
pub struct AlignedBytes<'a>(&'a [u8]);

impl<'a> AlignedBytes<'a> {
    /// The first `blocks` blocks.
    ///
    /// # Panics
    /// If there are fewer.
    #[must_use]
    pub fn first_blocks(self, blocks: usize) -> AlignedBytes<'a> {
        AlignedBytes(&self.0[..blocks * BLOCK_BYTES])
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }
}

impl Deref for AlignedBytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_buffer_stays_aligned_and_comes_back_zeroed() {
        let mut buffer = AlignedBuffer::new();
        for blocks in [1, 7, 2, 64, 3] {
            buffer.reset(blocks);
            assert_eq!(buffer.len(), blocks * BLOCK_BYTES);
            assert!(buffer.iter().all(|byte| *byte == 0));
            assert_eq!(buffer.as_aligned().as_ptr().addr() % BLOCK_BYTES, 0);
            buffer.bytes_mut().fill(0xff);
        }
    }

    #[test]
    fn a_buffer_that_grows_keeps_what_it_has() {
        let mut buffer = AlignedBuffer::zeroed(1);
        buffer.bytes_mut().fill(0xff);
        for (blocks, has) in [(1, 1), (5, 5), (3, 5)] {
            buffer.grow(blocks);
            assert_eq!(buffer.len(), has * BLOCK_BYTES);
            let (kept, new) = buffer.split_at(BLOCK_BYTES);
            assert!(kept.iter().all(|byte| *byte == 0xff));
            assert!(new.iter().all(|byte| *byte == 0));
            assert_eq!(buffer.as_aligned().as_ptr().addr() % BLOCK_BYTES, 0);
        }
    }
}
