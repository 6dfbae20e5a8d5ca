//! Nodes that count for nothing, and how they come to count again (D6).
//!
//! A node whose log has an unknown end, or that lost its newest term and vote, does not know what it
//! has promised. It says so in every message; it neither votes nor campaigns, and nobody counts
//! what it acknowledges or confirms. Every boot of it asks its leader for the way back:
//!
//! 1. The leader notes where its log ends when it learns of the loss, and stops counting the node.
//! 2. The first entry that it appends after that (an empty one if none comes) is committed without
//!    the node, in both halves of a joint configuration.
//! 3. Once the node has acknowledged that entry, the leader offers it to count again.
//! 4. The node makes durable that it does, with the leader's term and a vote for the leader, and
//!    tells the leader, which counts it from then on.
//!
//! Why this is enough: `docs/DECISIONS.md`, "Repair".

use bytes::Bytes;
use raft_proto::{
    Boot, EntryKind, HardState, LogIndex, LogPosition, NodeId, RecountOffer, RecountRequest,
    RecountResponse,
};

use crate::core::{Disk, RaftCore};
use crate::output::{Event, Violation};
use crate::progress::Counting;
use crate::roles::{Promise, RestsOn, RoleState, Withheld};

/// What a leader waits for before an uncounted peer may count again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recount {
    /// The start of the peer that asked.
    boot: Boot,
    /// The first entry that the leader appends after it learned of the loss.
    entry: LogIndex,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The peer does not count.
    Waiting,
    /// It counts again.
    Done,
}

impl Recount {
    /// A peer that counts again says that it does not: the message may be late, but who knows. It
    /// takes the way back once more, which is short if it counts.
    pub(crate) fn begin_again(&mut self, next: LogIndex) {
        if self.stage == Stage::Done {
            self.stage = Stage::Waiting;
            self.entry = next;
        }
    }
}

impl RaftCore {
    /// The leader was heard of: an uncounted node asks it what makes it count again.
    pub(crate) fn ask_to_count(&mut self, leader: NodeId) {
        if self.counting == Counting::Uncounted {
            let (term, boot) = (self.term(), self.boot);
            self.send_after_term(leader, RecountRequest { term, boot }.into());
        }
    }

    /// A peer counts for nothing, and asks for the way back. What an earlier start of it asked for is
    /// void: the loss may have come after it.
    pub(crate) fn handle_recount_request(&mut self, from: NodeId, request: &RecountRequest) {
        let entry = self.log.last_index().next();
        let RoleState::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(progress) = leader.peers.get_mut(&from) else {
            return;
        };
        let known = leader.recounts.get(&from);
        if known.is_some_and(|known| known.boot.counter >= request.boot.counter) {
            return;
        }
        let recount = Recount {
            boot: request.boot,
            entry,
            stage: Stage::Waiting,
        };
        leader.recounts.insert(from, recount);
        progress.discount();
        progress.forget_match(entry);
    }

    /// With each heartbeat: appends the empty entry that uncounted peers wait for, if nothing else
    /// was appended since, and offers those that have come so far to count again.
    pub(crate) fn tend_recounts(&mut self) {
        let next = self.log.last_index().next();
        let (term, commit_index) = (self.term(), self.commit_index);
        let RoleState::Leader(leader) = &mut self.role else {
            return;
        };
        let peers = &leader.peers;
        leader.recounts.retain(|id, _| peers.contains_key(id));
        let waiting = leader
            .recounts
            .iter()
            .filter(|(_, r)| r.stage == Stage::Waiting);
        let is_awaited = waiting.clone().any(|(_, r)| r.entry == next);
        let is_ready = |id: &NodeId, entry: LogIndex| {
            commit_index >= entry && peers[id].match_index() >= entry
        };
        let ready = waiting.filter(|(id, r)| is_ready(id, r.entry));
        let offer = |(id, r): (&NodeId, &Recount)| {
            let entry = LogPosition {
                index: r.entry,
                term,
            };
            let boot = r.boot;
            (*id, RecountOffer { term, boot, entry })
        };
        let offers: Vec<(NodeId, RecountOffer)> = ready.map(offer).collect();
        for (to, offer) in offers {
            self.send(to, offer.into());
        }
        if is_awaited && self.transfer.is_none() && self.disk == Disk::Working {
            self.append_generated(EntryKind::Noop, Bytes::new());
        }
    }

    /// The leader says that this node may count again. It looks for itself that it holds everything
    /// up to the entry; an offer to an earlier start of this node is void, because the loss may
    /// have come after it.
    pub(crate) fn handle_recount_offer(&mut self, from: NodeId, offer: &RecountOffer) {
        let entry = offer.entry;
        let is_for_this = offer.boot == self.boot && self.leader == Some(from);
        let base = self.log.base();
        // The entry is committed, so a snapshot that goes further has it in it.
        let is_covered = entry.index <= base.index && entry.term <= base.term;
        let is_held = entry.term == offer.term
            && entry.index <= self.verified
            && (is_covered || self.log.matches(entry))
            && entry.index <= self.persists.durable_index()
            && !self.misses_up_to(entry.index);
        if !is_for_this || !is_held {
            return;
        }
        let response = RecountResponse {
            term: offer.term,
            boot: offer.boot,
            entry,
        };
        let message = response.into();
        if self.counting == Counting::Counted {
            // The first answer was lost.
            return self.send_after_term(from, message);
        }
        let is_under_way =
            |withheld: &Withheld| matches!(withheld.promise, Promise::Recount { .. });
        if self.withheld.iter().any(is_under_way) {
            return;
        }
        let hard_state = HardState {
            term: offer.term,
            vote: Some(from),
        };
        let after = self.persists.end_is_known(hard_state, self.epoch);
        self.withheld.push(Withheld {
            after,
            rests_on: RestsOn::Everything,
            promise: Promise::Recount { to: from, message },
        });
    }

    /// It is durable that this node counts again.
    pub(crate) fn count_again(&mut self) {
        self.counting = Counting::Counted;
        self.events.push_back(Event::CountsAgain);
    }

    /// A peer has made durable that it counts again.
    pub(crate) fn handle_recount_response(
        &mut self,
        from: NodeId,
        uncounted: bool,
        response: &RecountResponse,
    ) {
        let RoleState::Leader(leader) = &mut self.role else {
            return;
        };
        let (Some(progress), Some(recount)) =
            (leader.peers.get_mut(&from), leader.recounts.get_mut(&from))
        else {
            return;
        };
        let is_awaited = recount.boot == response.boot && recount.entry == response.entry.index;
        if !is_awaited || uncounted || recount.stage == Stage::Done {
            return;
        }
        if progress.match_index() < response.entry.index {
            // It was never offered that.
            return self.report_violation(from, Violation::LostEntries);
        }
        progress.counting = Counting::Counted;
        recount.stage = Stage::Done;
        self.peer_has_advanced(from);
    }
}
