//! Takes choices from the front of a fuzzer's input; all zero once it is used up.

/// What is left of an input.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// Whether nothing is left.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    /// Two bytes.
    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// Eight bytes, of which most inputs need few: the first says how many follow.
    pub fn number(&mut self) -> u64 {
        let mut bytes = [0; 8];
        let kind = self.byte();
        let length = usize::from(kind % 9);
        bytes[..length].fill_with(|| self.byte());
        match kind / 9 % 3 {
            0 => u64::from_le_bytes(bytes),
            1 => u64::MAX - u64::from_le_bytes(bytes),
            _ => (1 << 62) - 1 - (u64::from_le_bytes(bytes) >> 2),
        }
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::from(self.short()) % limit
    }

    /// So many bytes, or fewer if there are no more.
    pub fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
