//! Checksums that cover where something stands besides what it says.

/// Computes the checksums of one segment: all start from its salt and sequence, so that bytes of
/// another segment, or of another place in this one, never pass.
#[derive(Clone, Debug)]
pub(crate) struct Checksum(crc32fast::Hasher);

impl Checksum {
    pub(crate) fn new(salt: u64, sequence: u64) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&salt.to_le_bytes());
        hasher.update(&sequence.to_le_bytes());
        Self(hasher)
    }

    /// The checksum of two runs of bytes that belong to file offset `offset`.
    pub(crate) fn of(&self, offset: u64, header: &[u8], content: &[u8]) -> u32 {
        let mut hasher = self.0.clone();
        hasher.update(&offset.to_le_bytes());
        hasher.update(header);
        hasher.update(content);
        hasher.finalize()
    }
}
