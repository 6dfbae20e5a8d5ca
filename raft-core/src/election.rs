//! Elections: timeouts, pre-votes, votes (§5.2, §5.4.1, thesis §9.6), and changes of role.

use raft_proto::mutants::{Mutant, is_planted};
use raft_proto::{
    HardState, Membership, NodeId, PreVoteRequest, PreVoteResponse, Term, TimeoutNow, VoteRequest,
    VoteResponse,
};

use crate::core::{Disk, RaftCore};
use crate::output::Event;
use crate::progress::Counting;
use crate::quorum::VoteOutcome;
use crate::roles::{Campaign, Promise, RestsOn, RoleState, Withheld};
use crate::timers::Timer;

/// Nanoseconds in a millisecond.
const NS_PER_MS: u64 = 1_000_000;
/// How many of the longest election timeouts a node that led in vain waits in addition at most.
const DEFERENCE_TIMEOUTS_MAX: u32 = 3;

/// Whether an election was asked for by the leader (thesis §3.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Timeout,
    Transfer,
}

impl RaftCore {
    /// The election timer ran out (§5.2).
    pub(crate) fn election_timed_out(&mut self) {
        self.set_leader(None);
        if self.may_campaign() {
            self.start_pre_vote();
        } else {
            self.set_role(RoleState::Follower);
            self.reset_election_timer();
        }
    }

    /// Whether this node may be elected: a voter of its own latest membership that counts, can
    /// write, and misses nothing of its log: a leader sends what it has. A voter that its latest membership leaves out may still be needed until that is
    /// committed, because only those that are left out may have it (thesis §4.2.2); its own vote
    /// does not count then.
    pub(crate) fn may_campaign(&self) -> bool {
        let is_open = self.members.current_index() > self.commit_index;
        let is_voter = self.is_voter_in(self.members.current())
            || (is_open && self.members.previous().is_some_and(|m| self.is_voter_in(m)));
        let is_fit =
            self.counting == Counting::Counted && self.disk == Disk::Working && self.is_whole();
        is_voter && is_fit && self.removed_by.is_none()
    }

    /// Whether a membership means this node, in this life of its data directory, as a voter. One
    /// that names an earlier life means somebody whose promises this node does not know: a node
    /// that was wiped and joins again begins with the cluster's first membership, and if it took
    /// part in elections by that, it could elect a leader without what was committed since.
    pub(crate) fn is_voter_in(&self, membership: &Membership) -> bool {
        let me = self.config.id;
        let bound = membership.members.get(&me).and_then(|m| m.incarnation);
        let is_other_life = bound.is_some()
            && self
                .config
                .incarnation
                .is_some_and(|own| Some(own) != bound);
        membership.is_voter(me) && !is_other_life
    }

    /// Waits for a new, randomly drawn election timeout. Called for three reasons only: the
    /// current leader was heard of, an election starts, or a vote was granted (Students' Guide);
    /// and when a node begins to wait: at its start, or when it stops leading.
    pub(crate) fn reset_election_timer(&mut self) {
        let least = self.config.election_timeout_ms_min;
        let most = self.config.election_timeout_ms_max;
        let spread_ns = (most - least) * NS_PER_MS;
        let wait_ns = least * NS_PER_MS + self.random.below(spread_ns) + self.deference_ns();
        self.timers.set(Timer::Election, self.now.plus_ns(wait_ns));
    }

    /// How much longer than others a node waits before it campaigns, and before it does so again,
    /// because it made way for them: who repeats its pre-votes at the usual pace comes before those
    /// that heard the last leader and have just begun to wait.
    fn deference_ns(&self) -> u64 {
        let timeouts = self.stuck_leaderships.min(DEFERENCE_TIMEOUTS_MAX);
        u64::from(timeouts) * self.config.election_timeout_ms_max * NS_PER_MS
    }

    /// Campaigns soon rather than after a whole election timeout: nothing is known to be wrong
    /// with trying, because pre-votes disturb nobody.
    pub(crate) fn hasten_election(&mut self) {
        let interval_ns = self.config.heartbeat_interval_ms * NS_PER_MS;
        let soon = self.now.plus_ns(self.random.below(interval_ns));
        let deadline = self.timers.deadline(Timer::Election);
        if deadline.is_some_and(|deadline| soon < deadline) {
            self.timers.set(Timer::Election, soon);
        }
    }

    fn start_pre_vote(&mut self) {
        if is_planted(Mutant::DisruptiveServers) {
            return self.start_election(Cause::Timeout);
        }
        // Pre-votes bind nobody, so they are repeated sooner than elections: a refusal may only
        // mean that the other voter heard from the old leader a moment later than this node.
        let interval_ns = self.config.heartbeat_interval_ms * NS_PER_MS;
        let retry_ns = interval_ns + self.random.below(interval_ns) + self.deference_ns();
        self.timers.set(Timer::Election, self.now.plus_ns(retry_ns));
        let campaign = Campaign {
            answers: [(self.config.id, true)].into(),
        };
        self.set_role(RoleState::PreCandidate(campaign));
        let request = PreVoteRequest {
            term: self.term().next(),
            last_log: self.log.last(),
        };
        for voter in self.other_voters() {
            self.send(voter, request.clone().into());
        }
        self.count_pre_votes();
    }

    fn count_pre_votes(&mut self) {
        let RoleState::PreCandidate(campaign) = &self.role else {
            return;
        };
        match self.outcome_of(campaign) {
            VoteOutcome::Won => self.start_election(Cause::Timeout),
            VoteOutcome::Lost => self.set_role(RoleState::Follower),
            VoteOutcome::Pending => {}
        }
    }

    /// Starts an election in the next term. The vote requests leave, and the own vote counts,
    /// once term and vote are durable.
    fn start_election(&mut self, cause: Cause) {
        let term = self.term().next();
        self.set_hard_state(HardState {
            term,
            vote: Some(self.config.id),
        });
        self.reset_election_timer();
        self.set_leader(None);
        self.set_role(RoleState::Candidate(Campaign::default()));
        let request = VoteRequest {
            term,
            last_log: self.log.last(),
            leadership_transfer: cause == Cause::Transfer,
        };
        for voter in self.other_voters() {
            self.send_after_term(voter, request.clone().into());
        }
        match self.persists.hard_state_waits_for() {
            Some(after) => self.withheld.push(Withheld {
                after,
                rests_on: RestsOn::HardState,
                promise: Promise::OwnVote { term },
            }),
            None => self.own_vote_is_durable(term),
        }
    }

    /// The vote for itself counts from now on, if it is still for this election.
    pub(crate) fn own_vote_is_durable(&mut self, term: Term) {
        if term == self.term() {
            self.record_vote(self.config.id, true);
        }
    }

    fn record_vote(&mut self, from: NodeId, granted: bool) {
        let RoleState::Candidate(campaign) = &mut self.role else {
            return;
        };
        campaign.answers.insert(from, granted);
        let RoleState::Candidate(campaign) = &self.role else {
            return;
        };
        match self.outcome_of(campaign) {
            VoteOutcome::Won => self.become_leader(),
            VoteOutcome::Lost => self.set_role(RoleState::Follower),
            VoteOutcome::Pending => {}
        }
    }

    fn outcome_of(&self, campaign: &Campaign) -> VoteOutcome {
        let quorum = self.members.quorum();
        quorum.vote_outcome(|id| campaign.answers.get(&id).copied())
    }

    pub(crate) fn handle_pre_vote_request(&mut self, from: NodeId, request: &PreVoteRequest) {
        let would_vote = request.term > self.term()
            || (request.term == self.term() && self.vote_is_free_for(from));
        let granted = would_vote
            && self.counting == Counting::Counted
            && !self.hears_from_leader()
            && request.last_log.is_up_to_date_with(self.log.last());
        let term = if granted { request.term } else { self.term() };
        self.send_after_term(from, PreVoteResponse { term, granted }.into());
    }

    pub(crate) fn handle_pre_vote_response(
        &mut self,
        from: NodeId,
        uncounted: bool,
        response: &PreVoteResponse,
    ) {
        let is_for_this = response.term == self.term().next() || !response.granted;
        if let RoleState::PreCandidate(campaign) = &mut self.role
            && is_for_this
            && !uncounted
        {
            campaign.answers.insert(from, response.granted);
            self.count_pre_votes();
        }
    }

    /// A request of the current term (§5.2, §5.4.1). Asked by a candidate whose log counts it as
    /// a voter, any node votes, whatever its own log says of its role: it may be behind.
    pub(crate) fn handle_vote_request(&mut self, from: NodeId, request: &VoteRequest) {
        let granted = self.vote_is_free_for(from)
            && self.counting == Counting::Counted
            && !self.is_leader()
            && request.last_log.is_up_to_date_with(self.log.last());
        if granted {
            self.set_hard_state(HardState {
                term: self.term(),
                vote: Some(from),
            });
            self.set_role(RoleState::Follower);
            self.reset_election_timer();
        }
        let term = self.term();
        if is_planted(Mutant::VoteBeforeFsync) {
            return self.send(from, VoteResponse { term, granted }.into());
        }
        self.send_after_term(from, VoteResponse { term, granted }.into());
    }

    pub(crate) fn handle_vote_response(
        &mut self,
        from: NodeId,
        uncounted: bool,
        response: &VoteResponse,
    ) {
        if !uncounted {
            self.record_vote(from, response.granted);
        }
    }

    fn vote_is_free_for(&self, candidate: NodeId) -> bool {
        let is_free = self.hard_state().vote.is_none_or(|vote| vote == candidate);
        is_free || is_planted(Mutant::SecondVoteInTerm)
    }

    /// The leader asks this node to take over (thesis §3.10): no pre-vote, and no regard for the
    /// leader that is still heard of.
    pub(crate) fn handle_timeout_now(&mut self, from: NodeId) {
        let is_asked_by_leader = self.leader.is_none_or(|leader| leader == from);
        if is_asked_by_leader && !self.is_leader() && self.may_campaign() {
            self.start_election(Cause::Transfer);
        }
    }

    /// A later term began elsewhere; `leader` is given if the news came from its leader, which
    /// gets this node's vote: it has been elected (D4).
    pub(crate) fn become_follower(&mut self, term: Term, leader: Option<NodeId>) {
        assert!(term > self.term(), "a later term makes a follower");
        self.set_hard_state(HardState { term, vote: leader });
        self.set_leader(None);
        self.set_role(RoleState::Follower);
    }

    /// Stops leading in the current term without knowing of a later one.
    pub(crate) fn step_down(&mut self) {
        assert!(self.is_leader(), "only a leader steps down");
        self.set_leader(None);
        self.set_role(RoleState::Follower);
    }

    pub(crate) fn set_hard_state(&mut self, hard_state: HardState) {
        if hard_state.term > self.term() {
            // What was promised in an earlier term is void: an acknowledgement of it could count
            // for entries that this node is about to lose (the append ABA race).
            if !is_planted(Mutant::StaleAcknowledgement) {
                self.withheld.clear();
            }
            self.verified = raft_proto::LogIndex::ZERO;
            self.leader_contact = None;
        }
        self.persists.set_hard_state(hard_state, self.epoch);
    }

    pub(crate) fn set_leader(&mut self, leader: Option<NodeId>) {
        if self.leader == leader {
            return;
        }
        self.leader = leader;
        self.events.push_back(Event::LeaderChanged {
            leader,
            term: self.term(),
        });
        self.leader_has_changed();
    }

    /// Changes the role. What belonged to the old one ends here.
    pub(crate) fn set_role(&mut self, role: RoleState) {
        let was_leader = self.is_leader();
        self.role = role;
        if was_leader {
            self.timers.stop(Timer::Heartbeat);
            self.reset_election_timer();
        }
        let now = (self.role(), self.term());
        if self.reported_role != now {
            self.reported_role = now;
            let (role, term) = now;
            self.events.push_back(Event::RoleChanged { role, term });
        }
    }

    /// Every voter but this node, in order.
    pub(crate) fn other_voters(&self) -> Vec<NodeId> {
        let voters = self.members.quorum().voters();
        voters.filter(|id| *id != self.config.id).collect()
    }

    /// Asks a peer to campaign.
    pub(crate) fn send_timeout_now(&mut self, to: NodeId) {
        let term = self.term();
        self.send(to, TimeoutNow { term }.into());
    }

    /// A peer says that it counts for nothing: neither does what it said before (D6).
    pub(crate) fn discount(&mut self, peer: NodeId) {
        match &mut self.role {
            RoleState::Follower => {}
            RoleState::PreCandidate(campaign) | RoleState::Candidate(campaign) => {
                campaign.answers.remove(&peer);
            }
            RoleState::Leader(leader) => {
                if let Some(progress) = leader.peers.get_mut(&peer) {
                    progress.discount();
                }
                if let Some(recount) = leader.recounts.get_mut(&peer) {
                    recount.begin_again(self.log.last_index().next());
                }
            }
        }
    }
}
