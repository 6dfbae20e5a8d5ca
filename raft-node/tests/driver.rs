//! The driver alone, without threads and without a disk: what becomes of those who wait.
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use bytes::Bytes;
use raft_core::{Config, IndexRange, PersistId, RaftCore, Recovered, Role, Time};
use raft_node::driver::{
    ApplyBatch, Driver, DriverLimits, Input, LogReadRequest, Output, ProposalWaiter,
    ReadConsistency, Rot,
};
use raft_node::{
    Applied, Blame, ComparisonOutcome, ProposeError, ReadError, Small, SmallState, apply_batch,
};
use raft_proto::{
    AppendOutcome, AppendRequest, AppendResponse, Boot, ComparisonReport, Entry, EntryKind,
    Incarnation, LogIndex, LogPosition, Member, Membership, Message, NodeId, PreVoteResponse,
    ProtocolVersion, Term, VoteRequest, VoteResponse,
};

const ME: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);

/// Answers each command with itself.
struct Echo;

impl SmallState for Echo {
    fn apply(&mut self, applied: Applied<'_>) -> Bytes {
        applied.command.clone()
    }

    fn query(&mut self, query: &Bytes) -> Bytes {
        query.clone()
    }

    fn save(&self) -> Bytes {
        Bytes::new()
    }

    fn load(&mut self, _saved: &[u8]) -> std::io::Result<()> {
        Ok(())
    }
}

/// One driver with its clock; the test is its disk, its applier and its peers.
struct Node {
    driver: Driver,
    now: Time,
    sent: Vec<(NodeId, Message)>,
    /// Written, and not durable before the test says so.
    writing: Option<PersistId>,
    /// Handed to the applier.
    batches: Vec<ApplyBatch>,
    /// Asked of the disk.
    reads: Vec<LogReadRequest>,
    /// Reported to the log as damaged.
    rot: Vec<IndexRange>,
    /// What is written.
    log: Vec<Entry>,
}

impl Node {
    /// Node 1 of three, right after the cluster was formed.
    fn of_three(limits: DriverLimits) -> Self {
        let member = |id: u64| {
            let address = format!("n{id}:1");
            let incarnation = None;
            (
                NodeId(id),
                Member {
                    incarnation,
                    address,
                },
            )
        };
        let membership = Membership::of_voters((1..=3).map(member));
        let first = Entry {
            index: LogIndex::FIRST,
            term: Term(1),
            kind: EntryKind::Membership,
            payload: membership.to_bytes().unwrap(),
        };
        let recovered = Recovered::bootstrap(membership, Boot::default()).unwrap();
        let now = Time::ZERO;
        let core = RaftCore::new(Config::new(ME), recovered, now).unwrap();
        Self {
            driver: Driver::new(core, limits, None),
            now,
            sent: Vec::new(),
            writing: None,
            batches: Vec::new(),
            reads: Vec::new(),
            rot: Vec::new(),
            log: vec![first],
        }
    }

    /// The same as leader of term 2, with the first entry of its term at index 2 not yet
    /// acknowledged by anybody.
    fn leader_of_three(limits: DriverLimits) -> Self {
        let mut node = Self::of_three(limits);
        while node.driver.core().role() != Role::PreCandidate {
            node.pass_time();
        }
        let granted = true;
        let (term, from) = (Term(2), OTHER);
        node.hear(from, PreVoteResponse { term, granted });
        node.sync();
        node.hear(from, VoteResponse { term, granted });
        node.sync();
        assert_eq!(node.driver.core().role(), Role::Leader);
        assert_eq!(node.driver.core().last_position(), at(2, 2));
        node
    }

    fn give(&mut self, input: Input) {
        self.driver.handle(self.now, input);
        self.flush();
    }

    fn hear(&mut self, from: NodeId, message: impl Into<Message>) {
        self.give(Input::Message {
            from,
            uncounted: false,
            message: message.into(),
        });
    }

    fn flush(&mut self) {
        self.driver.flush(self.now);
        while let Some(output) = self.driver.poll_output() {
            match output {
                Output::Write { id, write, .. } => {
                    self.writing = Some(id);
                    let first = write.entries.first().map(|entry| entry.index);
                    if let Some(from) = write.truncate_from.or(first) {
                        self.log.retain(|entry| entry.index < from);
                    }
                    self.log.extend(write.entries);
                }
                Output::Send { to, message, .. } => self.sent.push((to, message)),
                Output::Apply(batch) => self.batches.push(batch),
                Output::ReadLog(request) => self.reads.push(request),
                Output::Peers { .. } => {}
                Output::Cut(_) | Output::Restore(_) | Output::Snapshot(_) | Output::Compact(_) => {
                    panic!("no snapshot is due")
                }
                Output::ReportRot(range) => self.rot.push(range),
                Output::Halt(error) => panic!("{error}"),
            }
        }
    }

    /// Everything written so far is durable.
    fn sync(&mut self) {
        if let Some(id) = self.writing.take() {
            self.give(Input::Persisted(id));
        }
    }

    /// The disk answers, one entry at a time, and the applier does all it is given.
    fn apply(&mut self) {
        while !self.reads.is_empty() || !self.batches.is_empty() {
            for request in std::mem::take(&mut self.reads) {
                let wanted = |entry: &&Entry| entry.index == request.first;
                let entries = self.log.iter().find(wanted).cloned().into_iter().collect();
                self.give(Input::LogRead { request, entries });
            }
            for batch in std::mem::take(&mut self.batches) {
                let applied = apply_batch(&mut Small::new(Echo), batch);
                self.give(applied);
            }
        }
    }

    /// Everybody holds what they were sent.
    fn acknowledge_all(&mut self) {
        for (from, message) in std::mem::take(&mut self.sent) {
            if let Message::AppendRequest(AppendRequest { term, sequence, .. }) = message {
                let outcome = AppendOutcome::Accepted;
                let response = AppendResponse {
                    term,
                    sequence,
                    outcome,
                };
                self.hear(from, response);
            }
        }
    }

    /// Node 2 follows until nothing is sent to it any more.
    fn replicate(&mut self) {
        self.sent.retain(|(to, _)| *to == OTHER);
        while self
            .sent
            .iter()
            .any(|(_, m)| matches!(m, Message::AppendRequest(_)))
        {
            self.acknowledge_all();
            self.sent.retain(|(to, _)| *to == OTHER);
        }
    }

    /// Goes to the next deadline.
    fn pass_time(&mut self) {
        self.now = self.driver.poll_timeout().unwrap();
        self.driver.handle_timeout(self.now);
        self.flush();
    }

    fn propose(&mut self, command: &'static str) -> Receiver<Result<Bytes, ProposeError>> {
        let (send, outcome) = channel();
        let waiter = ProposalWaiter::new(move |outcome| drop(send.send(outcome)));
        let command = Bytes::from_static(command.as_bytes());
        self.give(Input::Propose { command, waiter });
        outcome
    }

    /// The leader of term 3 puts this one entry after `previous`, and commits it.
    fn hear_later_leader(&mut self, previous: LogPosition) {
        let entry = Entry {
            index: previous.index.next(),
            term: Term(3),
            kind: EntryKind::Noop,
            payload: Bytes::new(),
        };
        let request = AppendRequest {
            term: Term(3),
            sequence: 1,
            previous,
            commit_index: entry.index,
            entries: vec![entry],
        };
        self.hear(OTHER, request);
    }
}

fn at(index: u64, term: u64) -> LogPosition {
    LogPosition {
        index: LogIndex(index),
        term: Term(term),
    }
}

/// The own vote is the last to become durable, and a proposal comes right behind it: nothing is
/// flushed between the entry that the core makes at the start of its term and the proposal.
#[test]
fn a_proposal_right_behind_the_election_follows_the_first_entry_of_the_term() {
    let mut node = Node::of_three(DriverLimits::default());
    while node.driver.core().role() != Role::PreCandidate {
        node.pass_time();
    }
    let (term, granted) = (Term(2), true);
    node.hear(OTHER, PreVoteResponse { term, granted });
    node.hear(OTHER, VoteResponse { term, granted });
    let own_vote = node.writing.take().unwrap();
    node.driver.handle(node.now, Input::Persisted(own_vote));
    assert_eq!(node.driver.core().role(), Role::Leader);
    let outcome = node.propose("first");
    node.sync();
    node.replicate();
    node.apply();
    assert_eq!(outcome.try_recv(), Ok(Ok("first".into())));
    let written = node.log.iter().map(Entry::position);
    assert!(written.eq([at(1, 1), at(2, 2), at(3, 2)]));
}

/// A leader is deposed; of its three proposals the next leader has the first one only.
#[test]
fn a_superseded_proposal_is_answered_while_an_earlier_one_waits_to_be_applied() {
    let mut node = Node::leader_of_three(DriverLimits::default());
    let kept = node.propose("kept");
    let lost = [node.propose("lost"), node.propose("too")];
    node.sync();
    node.hear_later_leader(at(3, 2));
    for outcome in &lost {
        let superseded = ProposeError::Superseded { by: Term(3) };
        assert_eq!(outcome.try_recv(), Ok(Err(superseded)));
    }
    assert!(kept.try_recv().is_err(), "not applied yet");
    node.sync();
    node.apply();
    assert_eq!(kept.try_recv(), Ok(Ok("kept".into())));
}

/// The applier does nothing for a while. What it has not done can be read back from the log, so
/// it is not all kept in memory, and nothing is lost or reordered by that.
#[test]
fn a_slow_applier_does_not_keep_the_log_in_memory() {
    let limits = DriverLimits {
        entry_buffer_bytes: 4,
        max_apply_bytes: 1,
        ..DriverLimits::default()
    };
    let mut node = Node::leader_of_three(limits);
    let outcomes = ["one", "two", "three"].map(|command| node.propose(command));
    node.sync();
    node.replicate();
    assert_eq!(node.driver.core().commit_index(), LogIndex(5));
    assert_eq!(node.driver.buffered_bytes(), 0);
    node.apply();
    for (outcome, command) in outcomes.iter().zip(["one", "two", "three"]) {
        assert_eq!(outcome.try_recv(), Ok(Ok(command.into())));
    }
}

#[test]
fn reads_that_the_applier_has_no_room_for_are_refused_or_time_out() {
    let limits = DriverLimits {
        max_apply_bytes: 1,
        ..DriverLimits::default()
    };
    let mut node = Node::leader_of_three(limits);
    let read = |node: &mut Node, consistency| {
        let (send, answer) = channel();
        node.give(Input::Read {
            query: Bytes::from_static(b"q"),
            consistency,
            waiter: Box::new(move |result| drop(send.send(result))),
        });
        answer
    };
    let first = read(&mut node, ReadConsistency::Local);
    let refused = read(&mut node, ReadConsistency::Local);
    assert_eq!(refused.try_recv(), Ok(Err(ReadError::Overloaded)));
    node.apply();
    assert_eq!(first.try_recv(), Ok(Ok("q".into())));
    let again = read(&mut node, ReadConsistency::Local);
    node.apply();
    assert_eq!(again.try_recv(), Ok(Ok("q".into())));
}

#[test]
fn a_stalled_disk_refuses_proposals_until_it_makes_progress() {
    let limits = DriverLimits {
        disk_stall_timeout: Some(Duration::from_millis(50)),
        ..DriverLimits::default()
    };
    let mut node = Node::leader_of_three(limits);
    let stuck = node.propose("stuck");
    node.pass_time();
    let refused = node.propose("refused");
    assert_eq!(refused.try_recv(), Ok(Err(ProposeError::DiskUnavailable)));
    node.sync();
    let taken = node.propose("taken");
    node.sync();
    node.replicate();
    node.apply();
    assert_eq!(stuck.try_recv(), Ok(Ok("stuck".into())));
    assert_eq!(taken.try_recv(), Ok(Ok("taken".into())));
}

/// A quorum without the leader is durable beyond its disk: it must not lead on (D11).
#[test]
fn a_leader_whose_disk_stalls_hands_over() {
    let limits = DriverLimits {
        disk_stall_timeout: Some(Duration::from_millis(50)),
        ..DriverLimits::default()
    };
    let mut node = Node::leader_of_three(limits);
    let _stuck = node.propose("stuck");
    // Both others have it, the leader's disk does not: first the probes, then the entries.
    for _ in 0..2 {
        node.acknowledge_all();
    }
    node.pass_time();
    let asked = |(_, message): &(NodeId, Message)| matches!(message, Message::TimeoutNow(_));
    assert!(node.sent.iter().any(asked));
}

#[test]
fn a_leader_whose_disk_is_full_hands_over_and_loses_nothing() {
    let mut node = Node::leader_of_three(DriverLimits::default());
    let waiting = node.propose("waiting");
    node.give(Input::DiskFull);
    let refused = node.propose("refused").try_recv().unwrap();
    assert!(
        matches!(&refused, Err(ProposeError::NotLeader { leader: Some(hint) }) if hint.id != ME),
        "{refused:?}"
    );
    node.sync();
    node.replicate();
    node.apply();
    assert_eq!(waiting.try_recv(), Ok(Ok("waiting".into())));
}

/// A follower needs entries that left the buffer and, behind them, one that is not durable: a disk
/// that hangs must not keep it from getting them, or nobody could take over (simulator, seed 46).
#[test]
fn an_order_that_spans_evicted_and_unsynced_entries_is_sent() {
    let limits = DriverLimits {
        entry_buffer_bytes: 1,
        ..DriverLimits::default()
    };
    let lagging = NodeId(3);
    let mut node = Node::leader_of_three(limits);
    let is_probe = |(to, message): &(NodeId, Message)| {
        *to == lagging && matches!(message, Message::AppendRequest(_))
    };
    let (_, probe) = node.sent.iter().find(|sent| is_probe(sent)).unwrap();
    let Message::AppendRequest(AppendRequest { term, sequence, .. }) = *probe else {
        panic!("an append");
    };
    node.replicate();
    node.apply();
    let _stuck = node.propose("stuck");
    let outcome = AppendOutcome::Rejected {
        conflict_term: None,
        conflict_index: LogIndex(1),
        last_index: LogIndex::ZERO,
    };
    let response = AppendResponse {
        term,
        sequence,
        outcome,
    };
    node.sent.clear();
    node.hear(lagging, response);
    let request = node.reads.pop().unwrap();
    assert_eq!((request.first, request.last), (LogIndex(1), LogIndex(2)));
    let entries = node.log[..2].to_vec();
    node.give(Input::LogRead { request, entries });
    let (_, append) = node.sent.iter().find(|sent| is_probe(sent)).unwrap();
    let Message::AppendRequest(AppendRequest { entries, .. }) = append else {
        panic!("an append");
    };
    let indexes: Vec<_> = entries.iter().map(|entry| entry.index.0).collect();
    assert_eq!(indexes, [1, 2, 3]);
}

/// Entries of a leader wait for room, and so does their acknowledgement. A vote does not.
#[test]
fn a_vote_leaves_while_entries_wait_for_room() {
    let mut node = Node::of_three(DriverLimits::default());
    let entry = Entry {
        index: LogIndex(2),
        term: Term(2),
        kind: EntryKind::Command,
        payload: Bytes::from_static(b"waits"),
    };
    let append = AppendRequest {
        term: Term(2),
        sequence: 1,
        previous: at(1, 1),
        commit_index: LogIndex(1),
        entries: vec![entry],
    };
    node.hear(OTHER, append);
    node.give(Input::DiskFull);
    let candidate = NodeId(3);
    let request = VoteRequest {
        term: Term(3),
        last_log: at(2, 2),
        leadership_transfer: true,
    };
    node.hear(candidate, request);
    assert!(node.sent.is_empty(), "nothing is durable: {:?}", node.sent);
    let write = node.writing.unwrap();
    node.give(Input::HardStatePersisted(write));
    let (term, granted) = (Term(3), true);
    let vote = Message::from(VoteResponse { term, granted });
    assert_eq!(node.sent, [(candidate, vote)]);
    // A candidate with a shorter log gets none: the entry counts as this node's.
    node.sent.clear();
    let request = VoteRequest {
        term: Term(4),
        last_log: at(1, 1),
        leadership_transfer: true,
    };
    node.hear(OTHER, request);
    let write = node.writing.unwrap();
    node.give(Input::HardStatePersisted(write));
    let (term, granted) = (Term(4), false);
    let refusal = Message::from(VoteResponse { term, granted });
    assert_eq!(node.sent, [(OTHER, refusal)]);
    // Once there is room nothing is said twice, and nothing to the leader of a term that is over.
    node.sent.clear();
    node.sync();
    assert!(node.sent.is_empty(), "{:?}", node.sent);
}

#[test]
fn what_a_scrub_has_found_is_read_once_more_and_then_reported() {
    let mut node = Node::leader_of_three(DriverLimits::default());
    for command in ["a", "b", "c"] {
        node.propose(command);
        node.sync();
        node.replicate();
    }
    node.apply();
    let lost = IndexRange::new(LogIndex(2), LogIndex(9)).unwrap();
    node.give(Input::RotFound(Rot::Entries(lost)));
    let request = node.reads.pop().unwrap();
    assert_eq!((request.first, request.last), (LogIndex(2), LogIndex(5)));
    assert!(node.rot.is_empty(), "a scrub's word is not enough");
    // Entry 2 is as it was; 4 is not, and 5 is.
    let entries = vec![node.log[1].clone(), node.log[2].clone()];
    node.give(Input::LogRead { request, entries });
    let request = node.reads.pop().unwrap();
    assert_eq!(request.first, LogIndex(4));
    let index = LogIndex(4);
    node.give(Input::LogUnreadable { request, index });
    assert_eq!(node.rot, [IndexRange::new(index, index).unwrap()]);
    assert_ne!(node.driver.core().role(), Role::Leader);
    let request = node.reads.pop().unwrap();
    assert_eq!(request.first, LogIndex(5));
    let entries = vec![node.log[4].clone()];
    node.give(Input::LogRead { request, entries });
    assert!(node.reads.is_empty() && node.rot.len() == 1);
    let missing: Vec<IndexRange> = node.driver.core().missing().collect();
    assert_eq!(missing, node.rot);
}

type Compared = Receiver<Result<ComparisonOutcome, ProposeError>>;

/// A leader that was asked for a comparison, has read what it holds and told it to the others; its
/// report, and who waits for the outcome.
fn compared() -> (Node, ComparisonReport, Compared) {
    let mut node = Node::leader_of_three(DriverLimits::default());
    for peer in [OTHER, NodeId(3)] {
        node.give(Input::PeerUp {
            peer,
            incarnation: Incarnation(peer.0),
            boot: Boot::default(),
            version: ProtocolVersion::NEWEST,
        });
    }
    for command in ["one", "two", "three"] {
        node.propose(command);
    }
    node.sync();
    node.replicate();
    node.apply();
    let (send, outcome) = channel();
    let waiter = Box::new(move |result| drop(send.send(result)));
    node.give(Input::CompareReplicas { waiter });
    node.sync();
    node.replicate();
    node.apply();
    let report = |node: &Node| {
        node.sent.iter().find_map(|(to, message)| {
            let Message::ComparisonReport(report) = message else {
                return None;
            };
            (*to == OTHER).then(|| report.clone())
        })
    };
    // It reads no faster than it may.
    for _ in 0..20 {
        if report(&node).is_none() {
            node.pass_time();
            node.apply();
        }
    }
    let report = report(&node).expect("five entries are read at once");
    (node, report, outcome)
}

/// Entries 1 to 5 were compared, one a section; of the third nodes 2 and 3 have something else.
fn with_another_third(report: &ComparisonReport) -> ComparisonReport {
    let mut other = report.clone();
    other.sections[2] = other.sections[2].map(|sum| sum ^ 1);
    other
}

#[test]
fn a_leader_whose_log_is_not_what_most_have_takes_it_for_damaged_and_leads_no_more() {
    let (mut node, report, outcome) = compared();
    assert_eq!(report.sections.len(), 5);
    assert!(report.sections.iter().all(Option::is_some));
    let others = with_another_third(&report);
    node.hear(OTHER, others.clone());
    // One against one: it may be the other.
    assert!(node.rot.is_empty() && outcome.try_recv().is_err());
    node.hear(NodeId(3), others);
    let third = IndexRange {
        first: LogIndex(3),
        last: LogIndex(3),
    };
    assert_eq!(node.rot, [third]);
    assert!(node.driver.core().missing().eq([third]));
    let told = outcome.try_recv().unwrap().unwrap();
    assert_eq!(told.silent, []);
    let [difference] = &told.differences[..] else {
        panic!("{told:?}");
    };
    assert_eq!(
        (&difference.nodes[..], difference.blame),
        (&[ME][..], Blame::Named)
    );
    // Node 2 has all there is, so it is told to campaign.
    assert_ne!(node.driver.core().role(), Role::Leader);
}

#[test]
fn a_follower_that_differs_is_named_and_the_others_do_nothing() {
    let (mut node, report, outcome) = compared();
    node.hear(OTHER, with_another_third(&report));
    node.hear(NodeId(3), report);
    assert!(node.rot.is_empty());
    assert_eq!(node.driver.core().role(), Role::Leader);
    let told = outcome.try_recv().unwrap().unwrap();
    assert_eq!(told.differences.len(), 1);
    assert_eq!(told.differences[0].nodes, [OTHER]);
    assert_eq!(node.driver.comparison().differences, told.differences);
}
