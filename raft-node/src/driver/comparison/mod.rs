//! Comparison of replicas: copies of one log and one state that are no longer equal are found, and
//! the node that differs is named.
//!
//! A leader proposes, from time to time or when asked, an empty entry that names a range of committed
//! entries ([`Comparison`]). Whoever applies it hashes the state machine at just that moment, reads
//! the range back from its disk at a bounded speed, and reports hash and checksums to every other
//! member. Everybody judges by itself: a leader that is the odd one does not hide it, and one that
//! is lost is not missed.
//!
//! The argument, and what a node does about a difference, is in `docs/DECISIONS.md`.

mod reading;
mod rounds;
mod verdict;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use raft_core::Time;
use raft_proto::{Comparison, ComparisonReport, Entry, EntryKind, LogIndex, LogPosition, NodeId};

pub use self::rounds::ComparisonOutcome;
pub use self::verdict::{Blame, Compared, Difference};

use self::reading::{READ_BYTES, Reading, Step};
use self::rounds::{News, Rounds};
use super::io::{LogReadPurpose, LogReadRequest, Output};
use super::{Driver, after};
use crate::error::ProposeError;

/// Answers whoever asked for a comparison.
pub type ComparisonWaiter = Box<dyn FnOnce(Result<ComparisonOutcome, ProposeError>) + Send>;

/// When replicas are compared, and how fast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComparisonPolicy {
    /// How often the leader starts a comparison; `None` for only when asked.
    pub interval: Option<Duration>,
    /// How fast entries are read back from the disk for it, in bytes per second.
    pub bytes_per_second: u64,
    /// How long reports of other members are waited for.
    pub patience: Duration,
}

impl Default for ComparisonPolicy {
    fn default() -> Self {
        Self {
            interval: None,
            bytes_per_second: 8 << 20,
            patience: Duration::from_secs(30),
        }
    }
}

/// What a node knows about the comparison of replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ComparisonStatus {
    /// The comparison that ended last, as this node has seen it.
    pub last: Option<ComparisonOutcome>,
    /// Differences found by this process and not seen healed since.
    pub differences: Vec<Difference>,
}

/// A comparison whose entry was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReachedComparison {
    /// The entry.
    pub entry: LogPosition,
    /// Its payload.
    pub payload: Bytes,
    /// The state machine's hash right after it.
    pub state: Option<u64>,
}

/// See the module's page.
#[derive(Default)]
pub(super) struct Comparing {
    /// The next comparison goes on behind this entry, or at the start of the log if that is later.
    cursor: LogIndex,
    /// When this node, as leader, starts the next one.
    next: Option<Time>,
    reading: Option<Reading>,
    rounds: Rounds,
    waiting: Vec<Waiting>,
}

struct Waiting {
    entry: LogPosition,
    deadline: Time,
    waiter: ComparisonWaiter,
}

impl Comparing {
    pub(super) fn status(&self) -> ComparisonStatus {
        ComparisonStatus {
            last: self.rounds.last().cloned(),
            differences: self.rounds.standing().to_vec(),
        }
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        let reading = self.reading.as_ref().and_then(Reading::deadline);
        let waiting = self.waiting.iter().map(|waiting| waiting.deadline);
        let own = [self.next, reading, self.rounds.deadline()];
        own.into_iter().flatten().chain(waiting).min()
    }

    pub(super) fn fail_all(&mut self) {
        for waiting in self.waiting.drain(..) {
            (waiting.waiter)(Err(ProposeError::ShutDown));
        }
    }
}

impl Driver {
    /// Starts a comparison because somebody wants one, or joins the one that is under way.
    pub(super) fn compare_replicas(&mut self, now: Time, waiter: ComparisonWaiter) {
        let deadline = after(now, 2 * self.limits.comparison.patience);
        let started = match self.comparing.waiting.last() {
            Some(last) if self.is_leader() => Ok(last.entry),
            Some(_) | None => self.start_comparison(now),
        };
        match started {
            Ok(entry) => self.comparing.waiting.push(Waiting {
                entry,
                deadline,
                waiter,
            }),
            Err(error) => waiter(Err(self.propose_error(error, 0))),
        }
    }

    /// Proposes to compare what comes next in the log.
    fn start_comparison(&mut self, now: Time) -> Result<LogPosition, raft_core::ProposeError> {
        let base = self.core.base_position().index;
        // A leader commits what others hold durably; its own disk may lag behind.
        let end = self.core.commit_index().min(self.core.durable_index());
        let cursor = self.comparing.cursor;
        let cursor = if base <= cursor && cursor < end {
            cursor
        } else {
            base
        };
        let comparison = Comparison {
            first: cursor.next(),
            last: end.min(cursor.plus(Comparison::MAX_ENTRIES)).max(cursor),
        };
        // Two indexes always encode.
        let payload = comparison.to_bytes().expect("a comparison is small");
        self.place(now, EntryKind::Noop, payload)
    }

    /// Time has passed.
    pub(super) fn handle_comparison_timeout(&mut self, now: Time) {
        if self.comparing.next.is_some_and(|next| next <= now) {
            self.comparing.next = None;
            // Refused because of what passes: the next interval tries again.
            let _ = self.start_comparison(now);
        }
        for index in self.comparing.rounds.due(now) {
            self.judge_comparison(now, index);
        }
        let waiting = &mut self.comparing.waiting;
        for expired in waiting.extract_if(.., |waiting| waiting.deadline <= now) {
            (expired.waiter)(Err(ProposeError::Unknown));
        }
    }

    /// The state machine has applied the entries of comparisons.
    pub(super) fn reach_comparisons(&mut self, now: Time, reached: Vec<ReachedComparison>) {
        for ReachedComparison {
            entry,
            payload,
            state,
        } in reached
        {
            let Ok(comparison) = Comparison::from_bytes(&payload) else {
                let (node, index) = (self.core.id().0, entry.index.0);
                tracing::warn!(
                    node,
                    index,
                    "an empty entry has a payload of a later version"
                );
                continue;
            };
            self.comparing.cursor = if comparison.entries() < Comparison::MAX_ENTRIES {
                // It reaches to the end of the log: the next one begins at its start.
                LogIndex::ZERO
            } else {
                comparison.last
            };
            let until = after(now, self.limits.comparison.patience);
            self.comparing.rounds.open(entry, comparison, until);
            // Of the one before, what was read so far is told.
            let before = Reading::new(now, entry, comparison, state);
            if let Some(before) = self.comparing.reading.replace(before) {
                self.report_comparison(now, before);
            }
        }
    }

    /// Does what is due for the comparison under way.
    pub(super) fn pump_comparison(&mut self, now: Time) {
        let policy = &self.limits.comparison;
        self.comparing.next = match (policy.interval, self.comparing.next) {
            (Some(interval), None) if self.is_leader() => Some(after(now, interval)),
            (Some(_), next) if self.is_leader() => next,
            (Some(_) | None, _) => None,
        };
        let base = self.core.base_position().index;
        self.comparing.rounds.compacted(base);
        let Some(reading) = &mut self.comparing.reading else {
            return;
        };
        match reading.step(now, base) {
            Step::Wait(_) | Step::Reading => {}
            Step::Read { first, last } => {
                let purpose = LogReadPurpose::Compare(reading.entry());
                self.outputs.push_back(Output::ReadLog(LogReadRequest {
                    purpose,
                    first,
                    last,
                    max_bytes: READ_BYTES,
                    epoch: self.core.epoch(),
                }));
            }
            Step::Done => {
                if let Some(reading) = self.comparing.reading.take() {
                    self.report_comparison(now, reading);
                }
            }
        }
    }

    /// Entries that were read for the comparison of this entry; none if they are not there.
    pub(super) fn take_compared(&mut self, now: Time, entry: LogPosition, entries: &[Entry]) {
        let speed = self.limits.comparison.bytes_per_second;
        let reading = self.comparing.reading.as_mut();
        if let Some(reading) = reading.filter(|reading| reading.entry() == entry) {
            reading.take(now, entries, speed);
        }
    }

    /// Entries could not be read for it.
    pub(super) fn skip_compared(&mut self, entry: LogPosition) {
        let reading = self.comparing.reading.as_mut();
        if let Some(reading) = reading.filter(|reading| reading.entry() == entry) {
            reading.skip_section();
        }
    }

    /// Tells all other members, and itself.
    fn report_comparison(&mut self, now: Time, reading: Reading) {
        let (report, rest) = reading.finish();
        if self.comparing.rounds.is_newest(report.entry.index)
            && let Some(rest) = rest
        {
            self.comparing.cursor = rest;
        }
        let me = self.core.id();
        for to in self.member_ids() {
            if to != me {
                self.send(to, report.clone().into());
            }
        }
        self.take_comparison_report(now, me, report);
    }

    pub(super) fn take_comparison_report(
        &mut self,
        now: Time,
        from: NodeId,
        report: ComparisonReport,
    ) {
        let index = report.entry.index;
        if self.comparing.rounds.take(from, report) {
            self.judge_comparison(now, index);
        }
    }

    fn judge_comparison(&mut self, now: Time, index: LogIndex) {
        let members = self.member_ids();
        let News { found, ended } = self.comparing.rounds.judge(now, index, &members);
        for difference in &found {
            self.tell_difference(now, difference);
        }
        let Some(outcome) = ended else {
            return;
        };
        self.measure.recorder.comparisons.add(1);
        let waiting = &mut self.comparing.waiting;
        for waiting in waiting.extract_if(.., |waiting| waiting.entry == outcome.entry) {
            (waiting.waiter)(Ok(outcome.clone()));
        }
    }

    fn tell_difference(&mut self, now: Time, difference: &Difference) {
        let node = self.core.id();
        let is_own = difference.nodes.contains(&node);
        tracing::error!(node = node.0, is_own, %difference, "replicas differ");
        self.measure.recorder.replica_differences.add(1);
        if let (Compared::Log(range), Blame::Named, true) =
            (difference.compared, difference.blame, is_own)
        {
            // What most members hold is good, and this is not that: as damaged as if its checksum
            // said so.
            self.outputs.push_back(Output::ReportRot(range));
            self.core.handle_damaged(now, range);
        }
    }

    fn member_ids(&self) -> BTreeSet<NodeId> {
        self.core.membership().members.keys().copied().collect()
    }
}
