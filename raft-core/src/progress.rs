//! What a leader knows of one peer, and every transition of its replication state.

use std::collections::VecDeque;

use raft_proto::mutants::{Mutant, is_planted};
use raft_proto::{Boot, InstallOutcome, LogIndex, LogPosition};

use crate::output::IndexRange;
use crate::time::Time;

/// Whether a peer's acknowledgements and confirmations count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counting {
    /// They do.
    Counted,
    /// The peer has lost parts of its log or its vote (D6, D10): they do not, while this leader
    /// leads.
    Uncounted,
}

/// How a leader replicates to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replication {
    /// It looks for the last entry that both have: one append at a time.
    Probe,
    /// It sends appends one after the other without waiting, within its window.
    Replicate,
    /// The entries that the peer needs are compacted: it was offered a snapshot (§7).
    Snapshot,
}

/// Limits of the window of appends on the way to one peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) messages: usize,
    pub(crate) bytes: u64,
}

/// How long an answer may take before a peer that gives other signs of life is asked again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retry {
    pub(crate) probe_ms: u64,
    pub(crate) append_ms: u64,
    pub(crate) snapshot_ms: u64,
}

/// What a probe waits for before the next one is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    /// Nothing: send it.
    Ready,
    /// The answer to the one sent then; or, should that be lost, a sign of life later on.
    Answer { since: Time },
    /// A sign of life from the peer, or its connection.
    Contact,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Probe {
        next: LogIndex,
        pause: Pause,
    },
    Replicate {
        next: LogIndex,
    },
    /// The snapshot that ends at `index` was offered by `sequence`, and the peer showed interest
    /// last at `since`.
    Snapshot {
        index: LogIndex,
        sequence: u64,
        since: Time,
    },
}

/// An append on the way: what its acknowledgement will mean.
#[derive(Clone, Copy, Debug)]
struct Sent {
    sequence: u64,
    previous: LogIndex,
    last: LogIndex,
    bytes: u64,
    at: Time,
    /// What the peer had acknowledged when this was sent; it must never have less.
    match_index: LogIndex,
    delivery: Delivery,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivery {
    /// On the way, in the window.
    Expected,
    /// Taken for lost; a late acknowledgement still counts, because in its term a leader never
    /// changes its log.
    Doubted,
}

/// What a refused append tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Nothing new: it is late, or answers something taken for lost.
    Stale,
    /// The peer's log does not match at this index; look further back.
    Mismatch { previous: LogIndex },
    /// The peer lost entries that it had acknowledged; look further back.
    LostEntries { previous: LogIndex },
}

/// A leader's view of one peer.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    /// The last entry that the peer is known to hold durably.
    match_index: LogIndex,
    state: State,
    sent: VecDeque<Sent>,
    /// Appends of `sent` that are in the window, and their bytes.
    inflight: (usize, u64),
    /// The latest boot of the peer that connected.
    boot: Boot,
    /// When the peer was last heard of in this term.
    pub(crate) contact: Time,
    /// Whether that is so: before its first answer it is only assumed to be alive.
    pub(crate) has_answered: bool,
    /// The latest confirmation round that the peer answered.
    pub(crate) acked_round: u64,
    pub(crate) counting: Counting,
}

impl Progress {
    /// A peer that is assumed to have the log up to `next - 1`, and to be alive.
    pub(crate) const fn new(next: LogIndex, now: Time) -> Self {
        Self {
            match_index: LogIndex::ZERO,
            state: State::Probe {
                next,
                pause: Pause::Ready,
            },
            sent: VecDeque::new(),
            inflight: (0, 0),
            boot: Boot {
                counter: 0,
                nonce: 0,
            },
            contact: now,
            has_answered: false,
            acked_round: 0,
            counting: Counting::Counted,
        }
    }

    pub(crate) const fn match_index(&self) -> LogIndex {
        self.match_index
    }

    /// The match index as far as it counts for commits.
    pub(crate) const fn counted_match(&self) -> LogIndex {
        match self.counting {
            Counting::Counted => self.match_index,
            Counting::Uncounted => LogIndex::ZERO,
        }
    }

    pub(crate) const fn next_index(&self) -> LogIndex {
        match self.state {
            State::Probe { next, .. } | State::Replicate { next } => next,
            State::Snapshot { index, .. } => index.next(),
        }
    }

    pub(crate) const fn replication(&self) -> Replication {
        match self.state {
            State::Probe { .. } => Replication::Probe,
            State::Replicate { .. } => Replication::Replicate,
            State::Snapshot { .. } => Replication::Snapshot,
        }
    }

    /// Appends in the window, and their bytes.
    pub(crate) const fn inflight(&self) -> (usize, u64) {
        self.inflight
    }

    /// Whether an append may be sent now, given the end of the log that can be sent.
    pub(crate) fn is_ready(&self, last: LogIndex, window: Window) -> bool {
        match self.state {
            State::Probe { pause, .. } => pause == Pause::Ready,
            State::Replicate { next } => {
                let (messages, bytes) = self.inflight;
                next <= last && messages < window.messages && bytes < window.bytes
            }
            State::Snapshot { .. } => false,
        }
    }

    /// An append of these entries after `previous` leaves.
    pub(crate) fn send(
        &mut self,
        sequence: u64,
        previous: LogPosition,
        entries: Option<IndexRange>,
        bytes: u64,
        window: Window,
        now: Time,
    ) {
        assert_eq!(
            previous.index.next(),
            self.next_index(),
            "appends leave no gap"
        );
        let last = entries.map_or(previous.index, |range| range.last);
        if self.sent.len() >= window.messages {
            // A full window sends nothing, so the oldest one is doubted: it makes room.
            if let Some(oldest) = self.sent.pop_front() {
                self.leave_window(oldest);
            }
        }
        self.inflight = (self.inflight.0 + 1, self.inflight.1 + bytes);
        self.sent.push_back(Sent {
            sequence,
            previous: previous.index,
            last,
            bytes,
            at: now,
            match_index: self.match_index,
            delivery: Delivery::Expected,
        });
        self.state = match self.state {
            State::Probe { next, .. } => State::Probe {
                next,
                pause: Pause::Answer { since: now },
            },
            State::Replicate { .. } => State::Replicate { next: last.next() },
            State::Snapshot { .. } => unreachable!("nothing is sent beside a snapshot"),
        };
    }

    /// A snapshot that ends at `index` is offered instead of entries.
    pub(crate) fn offer(&mut self, sequence: u64, index: LogIndex, now: Time) {
        self.restart(index.next(), Pause::Contact);
        self.state = State::Snapshot {
            index,
            sequence,
            since: now,
        };
    }

    /// No snapshot can be offered yet: tries again after the next sign of life.
    pub(crate) fn wait_for_contact(&mut self) {
        self.restart(self.next_index(), Pause::Contact);
    }

    /// The peer answered the offer of this sequence. Returns whether the match index grew.
    pub(crate) fn offer_answered(
        &mut self,
        sequence: u64,
        outcome: InstallOutcome,
        now: Time,
    ) -> bool {
        let State::Snapshot {
            index,
            sequence: offered,
            ..
        } = self.state
        else {
            return false;
        };
        if offered != sequence {
            return false;
        }
        match outcome {
            InstallOutcome::Fetching { .. } => {
                self.state = State::Snapshot {
                    index,
                    sequence,
                    since: now,
                };
                false
            }
            InstallOutcome::Installed => {
                let has_grown = index > self.match_index;
                self.match_index = self.match_index.max(index);
                self.restart(self.match_index.next(), Pause::Ready);
                has_grown
            }
            InstallOutcome::Refused => {
                self.restart(self.match_index.next(), Pause::Contact);
                false
            }
        }
    }

    /// The append of this sequence, and all before its end, is durable at the peer. Returns
    /// whether the match index grew. What it means comes from the append that was sent.
    pub(crate) fn accept(&mut self, sequence: u64) -> bool {
        let Some(sent) = self.take(sequence) else {
            return false;
        };
        let has_grown = sent.last > self.match_index;
        self.match_index = self.match_index.max(sent.last);
        let matched = self.match_index;
        // Appends mostly end in the order in which they were sent: look no further than needed.
        while let Some(covered) = self.sent.pop_front_if(|s| s.last <= matched) {
            self.leave_window(covered);
        }
        match self.state {
            State::Probe { next, .. } if matched.next() >= next => {
                self.state = State::Replicate {
                    next: matched.next(),
                };
            }
            State::Replicate { next } if matched >= next => {
                self.state = State::Replicate {
                    next: matched.next(),
                };
            }
            State::Snapshot { index, .. } if matched >= index => {
                self.state = State::Replicate {
                    next: matched.next(),
                };
            }
            State::Probe { .. } | State::Replicate { .. } | State::Snapshot { .. } => {}
        }
        has_grown
    }

    /// The append of this sequence does not follow the peer's log, which ends at `last_index`.
    pub(crate) fn refuse(&mut self, sequence: u64, last_index: LogIndex) -> Refusal {
        let Some(sent) = self.take(sequence) else {
            return Refusal::Stale;
        };
        // It had acknowledged all this before the append left.
        if last_index < sent.match_index || sent.previous <= sent.match_index {
            return Refusal::LostEntries {
                previous: sent.previous,
            };
        }
        if sent.delivery == Delivery::Doubted {
            return Refusal::Stale;
        }
        if sent.previous <= self.match_index {
            // It overtook the append before it, which has arrived since. So nobody looks further
            // back; but what it brought is not there, and would not be sent again.
            self.probe_from(self.match_index.next());
            return Refusal::Stale;
        }
        Refusal::Mismatch {
            previous: sent.previous,
        }
    }

    /// Looks for the last common entry from `next - 1` on, but never within what is known to
    /// match. What is on the way is taken for lost.
    pub(crate) fn probe_from(&mut self, next: LogIndex) {
        self.restart(next, Pause::Ready);
    }

    /// The peer asks for an append, because it cannot tell what it has in common with this
    /// leader: it has restarted, or installed another snapshot than the one offered last. Its
    /// log ends at `last_index`, and entries from `base` on can be sent.
    pub(crate) fn probe_on_request(&mut self, last_index: LogIndex, base: LogIndex) {
        match self.state {
            State::Replicate { .. } => self.probe_from(self.match_index.next()),
            State::Probe { .. } => self.resume(),
            State::Snapshot { index, .. } if last_index >= base => {
                self.probe_from(last_index.min(index).next());
            }
            State::Snapshot { .. } => {}
        }
    }

    /// The peer has lost entries: nothing it acknowledged counts.
    pub(crate) fn discount(&mut self) {
        self.counting = Counting::Uncounted;
    }

    /// Forgets what an uncounted peer is known to hold, and probes from its end.
    pub(crate) fn forget_match(&mut self, next: LogIndex) {
        assert_eq!(self.counting, Counting::Uncounted, "counted entries stay");
        self.match_index = LogIndex::ZERO;
        self.sent.clear();
        self.restart(next, Pause::Ready);
    }

    /// The peer gave a sign of life: what was sent long ago and is not answered is lost.
    pub(crate) fn touch(&mut self, now: Time, retry: &Retry) {
        self.contact = now;
        self.has_answered = true;
        match self.state {
            State::Probe { pause, .. } => match pause {
                Pause::Ready => {}
                Pause::Contact => self.resume(),
                Pause::Answer { since } => {
                    let is_due = now >= since.plus_ms(retry.probe_ms);
                    if is_due && !is_planted(Mutant::PausedForEver) {
                        self.resume();
                    }
                }
            },
            State::Replicate { .. } => {
                let oldest = self.sent.iter().find(|s| s.delivery == Delivery::Expected);
                if oldest.is_some_and(|s| now >= s.at.plus_ms(retry.append_ms)) {
                    self.probe_from(self.match_index.next());
                }
            }
            State::Snapshot { since, .. } => {
                if now >= since.plus_ms(retry.snapshot_ms) {
                    self.probe_from(self.match_index.next());
                }
            }
        }
    }

    /// The append of this sequence was never sent: it is sent again after the next sign of life.
    pub(crate) fn unsent(&mut self, sequence: u64) {
        if let Some(sent) = self.take(sequence) {
            self.restart(sent.previous.next().min(self.next_index()), Pause::Contact);
        }
    }

    /// The connection is lost, and what was on the way with it.
    pub(crate) fn disconnect(&mut self) {
        self.restart(self.match_index.next(), Pause::Contact);
    }

    /// There is a new connection to this boot of the peer.
    pub(crate) fn connect(&mut self, boot: Boot) {
        if boot.counter < self.boot.counter {
            return;
        }
        self.boot = boot;
        self.restart(self.match_index.next(), Pause::Ready);
    }

    fn restart(&mut self, next: LogIndex, pause: Pause) {
        let next = next.max(self.match_index.next());
        self.state = State::Probe { next, pause };
        self.inflight = (0, 0);
        for sent in &mut self.sent {
            sent.delivery = Delivery::Doubted;
        }
    }

    fn resume(&mut self) {
        self.restart(self.next_index(), Pause::Ready);
    }

    fn take(&mut self, sequence: u64) -> Option<Sent> {
        let position = self
            .sent
            .binary_search_by_key(&sequence, |s| s.sequence)
            .ok()?;
        let sent = self.sent.remove(position)?;
        self.leave_window(sent);
        Some(sent)
    }

    fn leave_window(&mut self, sent: Sent) {
        if sent.delivery == Delivery::Expected && !is_planted(Mutant::WindowLeak) {
            self.inflight = (self.inflight.0 - 1, self.inflight.1 - sent.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_proto::Term;

    const WINDOW: Window = Window {
        messages: 3,
        bytes: 25,
    };
    const RETRY: Retry = Retry {
        probe_ms: 100,
        append_ms: 200,
        snapshot_ms: 700,
    };

    fn send(progress: &mut Progress, sequence: u64, count: u64, now_ms: u64) {
        let next = progress.next_index();
        let previous = LogPosition {
            index: next.previous(),
            term: Term(1),
        };
        let entries = IndexRange::new(next, LogIndex(next.0 + count - 1));
        let now = Time::from_ms(now_ms);
        progress.send(sequence, previous, entries, count * 10, WINDOW, now);
    }

    /// A peer that matches up to entry 4.
    fn replicating() -> Progress {
        let mut progress = Progress::new(LogIndex(5), Time::ZERO);
        send(&mut progress, 1, 0, 0);
        assert!(progress.accept(1));
        assert_eq!(progress.replication(), Replication::Replicate);
        progress
    }

    #[test]
    fn the_window_is_bounded_in_messages_and_bytes() {
        let mut progress = replicating();
        let last = LogIndex(100);
        send(&mut progress, 2, 1, 0);
        send(&mut progress, 3, 1, 0);
        assert!(progress.is_ready(last, WINDOW), "20 bytes are below 25");
        send(&mut progress, 4, 1, 0);
        assert_eq!(progress.inflight(), (3, 30));
        assert!(!progress.is_ready(last, WINDOW));
        assert!(progress.accept(3), "it covers the one before");
        assert_eq!(progress.inflight(), (1, 10));
        assert_eq!(progress.match_index(), LogIndex(6));
        assert!(!progress.accept(2), "late news");
    }

    #[test]
    fn next_is_never_at_or_below_match() {
        let mut progress = replicating();
        progress.probe_from(LogIndex(1));
        assert_eq!(progress.next_index(), LogIndex(5));
    }

    #[test]
    fn no_state_waits_forever() {
        let last = LogIndex(100);
        // A probe without an answer.
        let mut progress = Progress::new(LogIndex(5), Time::ZERO);
        send(&mut progress, 1, 0, 0);
        progress.touch(Time::from_ms(99), &RETRY);
        assert!(!progress.is_ready(last, WINDOW));
        progress.touch(Time::from_ms(100), &RETRY);
        assert!(progress.is_ready(last, WINDOW));
        // Appends without an answer.
        let mut progress = replicating();
        for sequence in 2..=4 {
            send(&mut progress, sequence, 1, 0);
        }
        progress.touch(Time::from_ms(200), &RETRY);
        assert!(progress.is_ready(last, WINDOW));
        assert_eq!(progress.next_index(), LogIndex(5));
        // An append that was not sent.
        send(&mut progress, 5, 1, 200);
        progress.unsent(5);
        assert!(!progress.is_ready(last, WINDOW));
        progress.touch(Time::from_ms(201), &RETRY);
        assert!(progress.is_ready(last, WINDOW));
        // A snapshot without an answer.
        progress.offer(6, LogIndex(50), Time::from_ms(300));
        progress.touch(Time::from_ms(999), &RETRY);
        assert!(!progress.is_ready(last, WINDOW));
        progress.touch(Time::from_ms(1000), &RETRY);
        assert!(progress.is_ready(last, WINDOW));
    }

    #[test]
    fn late_acknowledgements_of_doubted_appends_still_count() {
        let mut progress = replicating();
        send(&mut progress, 2, 2, 0);
        progress.disconnect();
        assert_eq!(progress.inflight(), (0, 0));
        assert!(progress.accept(2));
        assert_eq!(progress.match_index(), LogIndex(6));
        assert_eq!(progress.inflight(), (0, 0));
        assert_eq!(progress.replication(), Replication::Replicate);
    }

    #[test]
    fn only_a_refusal_of_unknown_ground_leads_back() {
        let mut progress = Progress::new(LogIndex(9), Time::ZERO);
        send(&mut progress, 1, 1, 0);
        let mismatch = Refusal::Mismatch {
            previous: LogIndex(8),
        };
        assert_eq!(progress.refuse(1, LogIndex(3)), mismatch);
        assert_eq!(progress.refuse(1, LogIndex(3)), Refusal::Stale, "repeated");
        let mut progress = replicating();
        send(&mut progress, 2, 1, 0);
        let lost = Refusal::LostEntries {
            previous: LogIndex(4),
        };
        assert_eq!(progress.refuse(2, LogIndex(2)), lost);
    }

    #[test]
    fn an_append_that_overtook_the_one_before_is_sent_again() {
        let mut progress = replicating();
        send(&mut progress, 2, 1, 0);
        send(&mut progress, 3, 1, 0);
        assert_eq!(progress.next_index(), LogIndex(7));
        assert!(progress.accept(2));
        // Its answer was made before the other one arrived.
        assert_eq!(progress.refuse(3, LogIndex(4)), Refusal::Stale);
        assert_eq!(progress.next_index(), LogIndex(6));
        assert!(progress.is_ready(LogIndex(6), WINDOW));
    }

    #[test]
    fn a_snapshot_counts_by_its_own_offer_only() {
        let mut progress = replicating();
        progress.offer(7, LogIndex(50), Time::ZERO);
        let now = Time::from_ms(1);
        assert!(!progress.offer_answered(6, InstallOutcome::Installed, now));
        assert_eq!(progress.match_index(), LogIndex(4));
        assert!(progress.offer_answered(7, InstallOutcome::Installed, now));
        assert_eq!(progress.match_index(), LogIndex(50));
        assert_eq!(progress.next_index(), LogIndex(51));
    }
}
