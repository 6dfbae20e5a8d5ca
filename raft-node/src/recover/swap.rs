//! New files take the place of old ones, decided by one record and repeated until it is done.

use std::io;
use std::path::{Path, PathBuf};

use raft_log::vfs::{Access, AlignedBuffer, BLOCK_BYTES, Vfs, Writers};
use raft_log::{DataDir, FileError};
use raft_proto::ClusterId;

use super::{RECOVER_RECORD, RecoverError, Survey};

/// Where the files of a node are, besides its records.
const SUBDIRECTORIES: [&str; 2] = ["log-0", "snapshots-0"];
/// The record that says whose the directory is: the last to be replaced, and never absent.
const IDENTITY: &str = "IDENTITY.rec";
const RECORD_SUFFIX: &str = ".rec";
/// First word of the record, with its version.
const FORMAT: &str = "recover-1";

/// How far the swap is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The old files leave.
    Out,
    /// The new ones come.
    In,
    /// All are in their places.
    Done,
}

/// Which files take whose place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Swap {
    build: String,
    replaced: String,
    phase: Phase,
}

/// The name of the directory in which the files of a new cluster are made.
pub(super) fn build_name(cluster: ClusterId) -> String {
    format!("recovered-{cluster}")
}

impl Swap {
    pub(super) fn new(old: &Survey, cluster: ClusterId) -> Self {
        Self {
            build: build_name(cluster),
            replaced: format!("replaced-{}", old.cluster),
            phase: Phase::Out,
        }
    }

    pub(super) fn build(&self) -> &str {
        &self.build
    }

    pub(super) fn replaced(&self) -> &str {
        &self.replaced
    }

    /// The swap that was decided for this directory and is not done.
    pub(super) fn pending(directory: &DataDir) -> Result<Option<Self>, RecoverError> {
        let Some(record) = directory.read_record(RECOVER_RECORD)? else {
            return Ok(None);
        };
        let unknown = || RecoverError::UnknownRecord(directory.path().to_path_buf());
        let swap = Self::parse(&record).ok_or_else(unknown)?;
        Ok((swap.phase != Phase::Done).then_some(swap))
    }

    /// From here on there is no way back.
    pub(super) fn decide(&self, directory: &DataDir) -> Result<(), RecoverError> {
        self.note(directory, self.phase)
    }

    /// Moves what is not in its place yet.
    pub(super) fn finish(&self, directory: &DataDir) -> Result<(), RecoverError> {
        if self.phase == Phase::Out {
            self.move_out(directory)?;
            self.note(directory, Phase::In)?;
        }
        self.move_in(directory)?;
        self.note(directory, Phase::Done)
    }

    fn note(&self, directory: &DataDir, phase: Phase) -> Result<(), RecoverError> {
        let swap = Self {
            phase,
            ..self.clone()
        };
        Ok(directory.write_record(RECOVER_RECORD, swap.to_text().as_bytes())?)
    }

    fn move_out(&self, directory: &DataDir) -> Result<(), RecoverError> {
        let (vfs, home) = (directory.vfs().as_ref(), directory.path());
        let away = home.join(&self.replaced);
        make_directories(vfs, home, &away)?;
        for name in SUBDIRECTORIES {
            move_files(vfs, &home.join(name), &away.join(name), |_| true)?;
        }
        let leaves = |name: &str| is_movable_record(name) && name != IDENTITY;
        move_files(vfs, home, &away, leaves)?;
        copy_file(vfs, &home.join(IDENTITY), &away.join(IDENTITY))?;
        sync(vfs, &away)
    }

    fn move_in(&self, directory: &DataDir) -> Result<(), RecoverError> {
        let (vfs, home) = (directory.vfs().as_ref(), directory.path());
        let from = home.join(&self.build);
        make_directories(vfs, home, home)?;
        for name in SUBDIRECTORIES {
            move_files(vfs, &from.join(name), &home.join(name), |_| true)?;
        }
        let comes = |name: &str| is_movable_record(name) && name != IDENTITY;
        move_files(vfs, &from, home, comes)?;
        move_files(vfs, &from, home, |name| name == IDENTITY)
    }

    fn to_text(&self) -> String {
        let phase = match self.phase {
            Phase::Out => "out",
            Phase::In => "in",
            Phase::Done => "done",
        };
        format!("{FORMAT} {phase} {} {}", self.build, self.replaced)
    }

    fn parse(record: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(record).ok()?;
        let mut words = text.split(' ');
        let format = words.next()?;
        let phase = match words.next()? {
            "out" => Phase::Out,
            "in" => Phase::In,
            "done" => Phase::Done,
            _ => return None,
        };
        let (build, replaced) = (words.next()?.to_owned(), words.next()?.to_owned());
        let is_whole = format == FORMAT && words.next().is_none();
        is_whole.then_some(Self {
            build,
            replaced,
            phase,
        })
    }
}

/// Whether a file is a record that belongs to a life of the node. The swap's own stays.
fn is_movable_record(name: &str) -> bool {
    name.strip_suffix(RECORD_SUFFIX)
        .is_some_and(|record| record != RECOVER_RECORD)
}

/// The directories that files are moved into, durably inside `home`.
fn make_directories(vfs: &dyn Vfs, home: &Path, inside: &Path) -> Result<(), RecoverError> {
    for name in SUBDIRECTORIES {
        let path = inside.join(name);
        let made = vfs.create_dir_all(&path);
        made.map_err(|source| failed("create directory", &path, source))?;
    }
    sync(vfs, inside)?;
    sync(vfs, home)
}

/// Moves the files of one directory that `moves` to another one. What a crash interrupts is in one
/// of the two, and the next call moves the rest.
fn move_files(
    vfs: &dyn Vfs,
    from: &Path,
    to: &Path,
    moves: impl Fn(&str) -> bool,
) -> Result<(), RecoverError> {
    let names = match vfs.list(from) {
        Ok(names) => names,
        // There is nothing to move if it was never made.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("list", from, error)),
    };
    for name in names.iter().filter(|name| moves(name)) {
        let (old, new) = (from.join(name), to.join(name));
        vfs.rename(&old, &new)
            .map_err(|source| failed("move", &old, source))?;
    }
    // A name is in the new place before it can be gone from the old one.
    sync(vfs, to)?;
    sync(vfs, from)
}

/// Copies a small file, unless that was done before.
fn copy_file(vfs: &dyn Vfs, from: &Path, to: &Path) -> Result<(), RecoverError> {
    let temporary: PathBuf = to.with_extension("rec.tmp");
    let copy = || {
        let content = vfs.open(from, Access::Read)?.content(Writers::Possible)?;
        let mut buffer = AlignedBuffer::zeroed(content.len().div_ceil(BLOCK_BYTES));
        buffer.bytes_mut()[..content.len()].copy_from_slice(&content);
        match vfs.remove(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let file = vfs.create(&temporary)?;
        file.write_at(0, buffer.as_aligned())?;
        file.sync_data()
    };
    match vfs.open(to, Access::Read) {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("open", to, error)),
    }
    copy().map_err(|source| failed("copy", from, source))?;
    let directory = to.parent().unwrap_or(to);
    sync(vfs, directory)?;
    vfs.rename(&temporary, to)
        .map_err(|source| failed("rename", &temporary, source))?;
    sync(vfs, directory)
}

fn sync(vfs: &dyn Vfs, directory: &Path) -> Result<(), RecoverError> {
    let synced = vfs.sync_dir(directory);
    synced.map_err(|source| failed("sync directory", directory, source))
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> RecoverError {
    let path = path.to_path_buf();
    RecoverError::Move(FileError {
        action,
        path,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_says_what_it_was_told() {
        for phase in [Phase::Out, Phase::In, Phase::Done] {
            let swap = Swap {
                build: "recovered-1".to_owned(),
                replaced: "replaced-2".to_owned(),
                phase,
            };
            assert_eq!(Swap::parse(swap.to_text().as_bytes()), Some(swap));
        }
        let newer = b"recover-2 out a b";
        for other in [
            &b""[..],
            b"recover-1 out a",
            b"recover-1 up a b",
            newer,
            b"\xff",
        ] {
            assert_eq!(Swap::parse(other), None);
        }
    }

    #[test]
    fn only_records_of_a_life_move() {
        for (name, moves) in [
            ("formation.rec", true),
            ("LOG-0.rec", true),
            ("recover.rec", false),
            ("LOCK", false),
            ("formation.rec.tmp", false),
        ] {
            assert_eq!(is_movable_record(name), moves, "{name}");
        }
    }
}
