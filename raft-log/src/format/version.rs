//! The first sixteen bytes of every file: magic, version, and a checksum of just these two.
//!
//! They keep this layout in all versions, so that a file of a newer program is told from damage.

/// Length of the start of a file, in bytes.
pub(crate) const START_BYTES: usize = 16;

/// Why a file's start is not one we can go on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VersionError {
    Damaged,
    Unsupported(u32),
}

/// The start of a file.
pub(crate) fn encode(magic: [u8; 8], version: u32) -> [u8; START_BYTES] {
    let mut start = [0; START_BYTES];
    start[..8].copy_from_slice(&magic);
    start[8..12].copy_from_slice(&version.to_le_bytes());
    let checksum = crc32fast::hash(&start[..12]);
    start[12..].copy_from_slice(&checksum.to_le_bytes());
    start
}

/// Whether a file that starts like this has the given kind and version.
pub(crate) fn check(
    start: [u8; START_BYTES],
    magic: [u8; 8],
    version: u32,
) -> Result<(), VersionError> {
    let found = u32::from_le_bytes([start[8], start[9], start[10], start[11]]);
    if start != encode(magic, found) {
        Err(VersionError::Damaged)
    } else if found != version {
        Err(VersionError::Unsupported(found))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_versions_are_told_from_damage() {
        let mut start = encode(*b"RAFTTEST", 9);
        assert_eq!(check(start, *b"RAFTTEST", 9), Ok(()));
        assert_eq!(
            check(start, *b"RAFTTEST", 1),
            Err(VersionError::Unsupported(9))
        );
        assert_eq!(check(start, *b"RAFTTESU", 9), Err(VersionError::Damaged));
        start[8] = 1;
        assert_eq!(check(start, *b"RAFTTEST", 1), Err(VersionError::Damaged));
    }
}
