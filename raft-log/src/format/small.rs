//! The small record files of a data directory: magic, version, name, length, checksum, bytes.

use super::bytes::{Reader, Writer};
use super::version::{self, VersionError};

/// First bytes of every record file.
const MAGIC: [u8; 8] = *b"RAFTRECD";
/// The only version there is so far.
const RECORD_FILE_VERSION: u32 = 1;

/// Why a record file cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SmallFileError {
    Damaged,
    UnsupportedVersion(u32),
}

/// The bytes of the record file `name` with this content.
pub(crate) fn encode(name: &str, content: &[u8]) -> Vec<u8> {
    let mut out = Writer::new();
    out.bytes(&version::encode(MAGIC, RECORD_FILE_VERSION));
    // Records are at most 16 MiB long.
    out.u32(content.len() as u32);
    out.u32(checksum(name, content));
    out.bytes(content);
    out.into_vec()
}

/// The content of the record file `name`.
pub(crate) fn decode<'a>(name: &str, bytes: &'a [u8]) -> Result<&'a [u8], SmallFileError> {
    let mut input = Reader::new(bytes);
    let start = input.array().ok_or(SmallFileError::Damaged)?;
    match version::check(start, MAGIC, RECORD_FILE_VERSION) {
        Ok(()) => {}
        Err(VersionError::Damaged) => return Err(SmallFileError::Damaged),
        Err(VersionError::Unsupported(found)) => {
            return Err(SmallFileError::UnsupportedVersion(found));
        }
    }
    let length = input.u32().ok_or(SmallFileError::Damaged)?;
    let expected = input.u32().ok_or(SmallFileError::Damaged)?;
    let content = input
        .bytes(length as usize)
        .ok_or(SmallFileError::Damaged)?;
    if checksum(name, content) == expected {
        Ok(content)
    } else {
        Err(SmallFileError::Damaged)
    }
}

/// Covers the name, so that a record under another's name is not taken for it.
fn checksum(name: &str, content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(name.as_bytes());
    hasher.update(&(content.len() as u64).to_le_bytes());
    hasher.update(content);
    hasher.finalize()
}
