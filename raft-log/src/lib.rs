//! A segmented, fsync'd, CRC-checked write-ahead log with crash recovery that tells torn from corrupt.
#![deny(unsafe_code)]

mod append;
mod dir;
mod error;
mod format;
mod index;
mod log;
mod options;
mod prepare;
mod reader;
mod recovery;
mod segment;
mod staged;
mod state;
pub mod vfs;

pub use dir::{DataDir, DirError, MAX_RECORD_BYTES, MAX_RECORD_NAME_BYTES};
pub use error::{
    Damage, DamageKind, FileError, LogError, OpenError, Owner, ReadError, SuspectIdentity,
    UnknownEnd,
};
pub use log::{Log, SyncStats};
pub use options::{
    LogIdentity, LogOptions, MAX_SEGMENT_BYTES, MIN_SEGMENT_BYTES, OptionsError, Preparation,
};
pub use reader::LogReader;
pub use recovery::judge::{
    Beyond, Content, Evidence, Header, LastBlock, NamedByNext, Verdict, Vouched, ZeroSectors, judge,
};
pub use recovery::{Recovered, TornTail};
pub use staged::LogWrite;
