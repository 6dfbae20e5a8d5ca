//! What a driver and its core hold in memory, and the options that bound it: for checks.

use raft_core::{Config, ENTRY_OVERHEAD_BYTES, MAX_APPEND_ENTRIES};

use super::Driver;
use super::apply::STEP_BYTES;

/// What entries may count as that the core makes itself, in bytes: empty ones of new leaders,
/// memberships. No limit refuses them, and only elections without an outcome let them pile up.
const GENERATED_BYTES: u64 = 4 << 10;

/// One kind of thing that is held in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// What it is.
    pub what: &'static str,
    /// How much of it there is: bytes, or a number.
    pub amount: u64,
    /// How much there may be.
    pub bound: u64,
    /// The options that say so.
    pub options: &'static str,
}

impl Driver {
    /// Everything that could grow with the load or with trouble, after [`Driver::flush`]. Appends on
    /// their way to peers are told by [`raft_core::RaftCore::peers`].
    #[must_use]
    pub fn held(&self) -> [Held; 8] {
        let (core, limits) = (&self.core, &self.limits);
        let config = core.config();
        let backlog = self.backlog_bound();
        let largest = (limits.max_command_bytes as u64).max(u64::from(config.max_entry_bytes));
        let step = STEP_BYTES as u64 + largest;
        let held = |what, amount, bound, options| Held {
            what,
            amount,
            bound,
            options,
        };
        [
            held(
                "proposed entries not committed",
                // Another node may not know yet what of its log is committed.
                (core.backlog_bytes_max()).map_or(0, |_| core.uncommitted_bytes()),
                backlog,
                "max_uncommitted_bytes",
            ),
            held(
                "entries not durable",
                core.unsynced_bytes(),
                backlog,
                "max_uncommitted_bytes",
            ),
            held(
                "entries in memory",
                self.buffer.bytes(),
                // What is not committed and durable cannot leave it.
                limits.entry_buffer_bytes.max(2 * backlog),
                "entry_buffer_bytes, max_uncommitted_bytes",
            ),
            held(
                "proposals without an outcome",
                self.proposals.len() as u64,
                limits.max_waiting_proposals as u64,
                "max_waiting_proposals",
            ),
            held(
                "reads that wait",
                self.reads.len() as u64,
                limits.max_waiting_reads as u64,
                "max_waiting_reads",
            ),
            held(
                "reads to be confirmed",
                core.pending_reads() as u64,
                config.max_pending_reads as u64,
                "max_pending_reads",
            ),
            held(
                "work of the applier",
                self.apply.held_bytes() as u64,
                // One step more, and the reads that it makes ready, are handed over together.
                limits.max_apply_bytes as u64 + step * (1 + limits.max_waiting_reads as u64),
                "max_apply_bytes, max_waiting_reads",
            ),
            held(
                "entries read back",
                self.apply.supplied_bytes() as u64,
                limits.max_log_read_bytes + largest,
                "max_log_read_bytes",
            ),
        ]
    }

    /// What entries that are not committed, or not durable, may count as. A follower gets them from
    /// its leader as far as the window reaches, and may have led before.
    fn backlog_bound(&self) -> u64 {
        let config = self.core.config();
        let by_proposals = match self.core.backlog_bytes_max() {
            Some(bytes) => bytes,
            None => (config.max_uncommitted_bytes).saturating_add(2 * window_bytes(config)),
        };
        by_proposals.saturating_add(GENERATED_BYTES)
    }
}

/// What entries in a full window may count as.
fn window_bytes(config: &Config) -> u64 {
    let payload = config
        .max_append_bytes
        .max(u64::from(config.max_entry_bytes));
    let entries = config.max_append_bytes.clamp(1, MAX_APPEND_ENTRIES);
    config.max_inflight_messages as u64 * (payload + entries * ENTRY_OVERHEAD_BYTES)
}
