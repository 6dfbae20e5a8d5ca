//! What is wrong with a simulated disk at the moment: chances, limits, one-shot failures.

use std::io;

/// What becomes of the pages whose sync fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PagesAfterFailure {
    /// They stay readable, marked clean: only a power cut shows whether they were written.
    Kept,
    /// Each is on the medium, or gone from the cache too.
    Lost,
}

/// How a file is damaged behind everybody's back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corruption {
    /// Bits of a sector turn.
    BitRot,
    /// A copy of one block overwrites another one.
    MisdirectedWrite,
}

impl Corruption {
    /// What reports call an injected one.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::BitRot => "sectors-rotted",
            Self::MisdirectedWrite => "blocks-overwritten-by-strays",
        }
    }
}

/// Failures that are switched on.
#[derive(Debug, Default)]
pub(super) struct DiskFaults {
    /// Operations that change something, since the beginning.
    pub(super) operations: u64,
    /// The machine stops at this operation.
    pub(super) stop_at: Option<u64>,
    /// The next sync fails.
    pub(super) fail_sync: Option<PagesAfterFailure>,
    /// The next write fails after some of its blocks.
    pub(super) tear_write: bool,
    /// So many reads fail from now on.
    pub(super) failing_reads: u32,
    /// Chances of a write and of a read to fail, in thousandths.
    pub(super) fails_per_mille: (u64, u64),
    /// Room for all files together, in bytes.
    pub(super) capacity_bytes: Option<u64>,
    /// How often an injected failure was met.
    pub(super) met: u64,
}

impl DiskFaults {
    /// Counts an operation, or fails it because the machine has stopped.
    pub(super) fn count(&mut self) -> io::Result<()> {
        let has_stopped = self.stop_at.is_some_and(|at| self.operations >= at);
        self.operations += 1;
        if has_stopped {
            self.met += 1;
            return Err(io::Error::other("the simulated machine has stopped"));
        }
        Ok(())
    }

    /// Whether a read fails; `by_chance` if this disk's chance says so.
    pub(super) fn check_read(&mut self, by_chance: bool) -> io::Result<()> {
        if self.failing_reads == 0 && !by_chance {
            return Ok(());
        }
        self.failing_reads = self.failing_reads.saturating_sub(1);
        self.met += 1;
        Err(io::Error::other("injected read error"))
    }
}
