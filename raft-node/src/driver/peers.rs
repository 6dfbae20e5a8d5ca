//! Who is connected, in which life of its data directory, and what a leader does about it: it binds
//! members whose incarnation is open, and tells those that are no members.
//!
//! A member is an id and an incarnation. `member add` names an id only, so its first membership
//! leaves the incarnation open; the leader binds it, by a committed entry, to the life that is
//! connected and has said something since. A connection alone is not enough: it may be the last trace
//! of a process that was killed before its directory was cleared. Until then the node counts for nothing (the core promotes nobody unbound). Should two
//! lives be there, one is bound and the other is refused from then on, at the door by
//! [`crate::admission`] and here: a connection that was admitted earlier stays open, so answers
//! from a life that the membership does not name are dropped, and what it says that it never had does
//! not count: the life that is named may have acknowledged it. Requests are not dropped. Whoever sends one
//! was elected, or asks to be, by a log that names it, and a node that is far behind must be able
//! to hear it.
//!
//! A member that was removed seldom learns that its removal is committed, because nobody sends it
//! anything after that. Its own log would have it ask for pre-votes for ever. They disturb nobody
//! (members hear from their leader), but the node should say what it is. So the leader, once it is
//! certain of its membership, tells every connected node that is not in it. The node stays quiet as
//! long as that leader is connected and none sends it anything: if the word is late or the leader
//! dies, nothing is lost.

use std::collections::BTreeMap;

use raft_core::{MembershipChange, RaftCore, Time};
use raft_proto::membership::MAX_MEMBERS;
use raft_proto::{Boot, HelloResponse, Incarnation, Message, NodeId, ProtocolVersion, Refusal};

use super::Driver;
use super::io::Output;

/// How many peers' lives are remembered after they are gone.
const MAX_REMEMBERED: usize = 4 * MAX_MEMBERS;
/// How often a leader repeats to a node that it is no member, in milliseconds: the node may not
/// answer, and the word may be lost.
const TELL_AGAIN_MS: u64 = 5_000;

/// What is known of peers beside the core's view.
#[derive(Default)]
pub(super) struct Peers {
    /// The life at the other end of each connection.
    connected: BTreeMap<NodeId, Incarnation>,
    /// The newest version of the protocol in common with each, as of its last connection.
    versions: BTreeMap<NodeId, ProtocolVersion>,
    /// The life that was connected last.
    last: BTreeMap<NodeId, Incarnation>,
    /// Members whose incarnation is open, by the membership in force, and whether the life that is
    /// connected was heard of since.
    open: BTreeMap<NodeId, Heard>,
    /// Connected nodes that were told, in this leadership, that they are no members, and when.
    told: BTreeMap<NodeId, Time>,
}

/// Whether there was a sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    No,
    Yes,
}

impl Peers {
    /// A peer is connected with which this version of the protocol is spoken.
    pub(super) fn speaks(&mut self, peer: NodeId, version: ProtocolVersion) {
        self.versions.insert(peer, version);
    }

    /// Whether a peer is connected.
    pub(super) fn is_connected(&self, peer: NodeId) -> bool {
        self.connected.contains_key(&peer)
    }

    /// The newest version of the protocol that may be spoken with a peer.
    pub(super) fn version_of(&self, peer: NodeId) -> ProtocolVersion {
        let known = self.versions.get(&peer).copied();
        known.unwrap_or(ProtocolVersion::OLDEST)
    }
}

/// Whom to stay connected with by the membership in force.
pub(super) fn peers_of(core: &RaftCore) -> Output {
    let membership = core.membership().clone();
    let is_open = core.membership_index() > core.commit_index();
    let before = core.previous_membership().filter(|_| is_open);
    let members = before.iter().flat_map(|before| &before.members);
    let leaving = members.filter(|(id, _)| !membership.contains(**id));
    Output::Peers {
        leaving: leaving.map(|(id, m)| (*id, m.address.clone())).collect(),
        membership,
    }
}

impl Driver {
    pub(super) fn peer_up(&mut self, now: Time, peer: NodeId, life: Incarnation, boot: Boot) {
        self.peers.told.remove(&peer);
        self.peers.connected.insert(peer, life);
        self.peers.open.remove(&peer);
        let former = self.peers.last.insert(peer, life);
        if former.is_some_and(|former| former != life) {
            self.core.handle_peer_replaced(now, peer);
        }
        if self.peers.last.len() > MAX_REMEMBERED {
            let connected = &self.peers.connected;
            self.peers.last.retain(|id, _| connected.contains_key(id));
            self.peers
                .versions
                .retain(|id, _| connected.contains_key(id));
        }
        self.core.handle_peer_up(now, peer, boot);
    }

    pub(super) fn peer_down(&mut self, now: Time, peer: NodeId) {
        self.peers.told.remove(&peer);
        self.peers.connected.remove(&peer);
        self.core.handle_peer_down(now, peer);
        self.abandon_lost_fetch(now);
    }

    /// Whether the core is to handle a message. The leader's word that this node is no member is
    /// handled here.
    pub(super) fn is_for_core(&mut self, now: Time, from: NodeId, message: &Message) -> bool {
        if let Message::HelloResponse(HelloResponse {
            refusal: Some(Refusal::NotAMember),
        }) = message
        {
            let was_removed = self.core.is_removed();
            self.core.handle_removed(now, from);
            if self.core.is_removed() && !was_removed {
                let (node, leader) = (self.core.id().0, from.0);
                tracing::warn!(
                    node,
                    leader,
                    "this node was removed from its cluster; it stays quiet: stop it, or add it \
                     again with `raft-kv member add {node}=ADDRESS`"
                );
            }
            return false;
        }
        if let Message::PreVoteRequest(_) | Message::VoteRequest(_) = message {
            // It has not taken note: it would not campaign.
            self.peers.told.remove(&from);
        }
        if let Some(heard) = self.peers.open.get_mut(&from) {
            *heard = Heard::Yes;
        }
        !is_counted(message) || self.is_named_life(from)
    }

    /// Whether the membership means the life of the peer that is connected, or was last: what it
    /// sent may come late. Of a peer that never was connected nobody knows which life it is.
    pub(super) fn is_named_life(&self, peer: NodeId) -> bool {
        let member = self.core.membership().members.get(&peer);
        let bound = member.and_then(|member| member.incarnation);
        let life = self.peers.last.get(&peer);
        bound.is_none_or(|bound| life == Some(&bound))
    }

    /// What a leader does about connected nodes. Called before each flush, so what is refused now
    /// (another change is in flight) is tried again.
    pub(super) fn tend_members(&mut self, now: Time) {
        if !self.is_leader() {
            self.peers.told.clear();
            self.peers.open.clear();
            return;
        }
        self.bind_members(now);
        self.tell_strangers(now);
    }

    fn bind_members(&mut self, now: Time) {
        let members = &self.core.membership().members;
        let is_open = |id: &NodeId| (members.get(id)).is_some_and(|m| m.incarnation.is_none());
        self.peers.open.retain(|id, _| is_open(id));
        for id in members.keys().filter(|id| is_open(id)) {
            self.peers.open.entry(*id).or_insert(Heard::No);
        }
        let heard = (self.peers.open.iter()).filter(|(_, heard)| **heard == Heard::Yes);
        let binds: Vec<_> = heard
            .filter_map(|(id, _)| {
                let incarnation = *self.peers.connected.get(id)?;
                Some(MembershipChange::Bind {
                    id: *id,
                    incarnation,
                })
            })
            .collect();
        if binds.is_empty() {
            return;
        }
        // Whoever waits for the change before hears of its end, not of the beginning of this one.
        self.take_events(now);
        if self.core.propose_membership(now, &binds).is_ok() {
            tracing::info!(node = self.core.id().0, ?binds, "members are bound");
        }
    }

    fn tell_strangers(&mut self, now: Time) {
        let membership = self.core.membership();
        let commit_index = self.core.commit_index();
        // Before its first commit in its term a leader may know an old membership only.
        let is_certain = self.core.membership_index() <= commit_index
            && self.core.term_at(commit_index) == Some(self.core.term())
            && !membership.is_joint();
        if !is_certain {
            return;
        }
        let told = &mut self.peers.told;
        told.retain(|id, at| !membership.contains(*id) && now < at.plus_ms(TELL_AGAIN_MS));
        let strangers: Vec<NodeId> = (self.peers.connected.keys())
            .filter(|id| !membership.contains(**id) && !self.peers.told.contains_key(id))
            .copied()
            .collect();
        for to in strangers {
            self.peers.told.insert(to, now);
            let refusal = Some(Refusal::NotAMember);
            self.send(to, HelloResponse { refusal }.into());
        }
    }
}

/// Whether a message is an answer that is counted under its sender's id.
fn is_counted(message: &Message) -> bool {
    matches!(
        message,
        Message::PreVoteResponse(_)
            | Message::VoteResponse(_)
            | Message::AppendResponse(_)
            | Message::HeartbeatResponse(_)
            | Message::InstallSnapshotResponse(_)
            | Message::ComparisonReport(_)
    )
}
