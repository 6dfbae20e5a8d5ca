//! What a trace and a checker are told of messages and leaders.

use raft_core::RaftCore;
use raft_proto::Message;

use crate::checker::Window;

/// The window of appends on the way that holds most, if this node leads.
pub(super) fn fullest_window(core: &RaftCore) -> Option<Window> {
    let config = core.config();
    let limit_messages = config.max_inflight_messages;
    // One more may leave as long as there is room, and a long entry leaves alone.
    let last = (config.max_append_bytes).max(u64::from(config.max_entry_bytes));
    let limit_bytes = config.max_inflight_bytes + last;
    let windows = core.peers().map(|peer| Window {
        messages: peer.inflight_messages,
        limit_messages,
        bytes: peer.inflight_bytes,
        limit_bytes,
    });
    windows.max_by_key(|window| (window.messages, window.bytes))
}

/// The numbers that tell a reader of the trace what a message is about.
pub(super) fn numbers_of(message: &Message) -> [(&'static str, u64); 3] {
    const NOTHING: (&str, u64) = ("", 0);
    let term = message.term().map_or(NOTHING, |term| ("term", term.0));
    let (second, third) = match message {
        Message::AppendRequest(append) => {
            let last = append
                .entries
                .last()
                .map_or(append.previous, raft_proto::Entry::position);
            (
                ("previous", append.previous.index.0),
                ("last", last.index.0),
            )
        }
        Message::AppendResponse(response) => (("sequence", response.sequence), NOTHING),
        Message::Heartbeat(beat) => (("round", beat.round), ("commit", beat.commit_index.0)),
        Message::HeartbeatResponse(beat) => (("round", beat.round), NOTHING),
        Message::VoteRequest(vote) => {
            let last = vote.last_log;
            (("last_term", last.term.0), ("last_index", last.index.0))
        }
        Message::PreVoteRequest(vote) => {
            let last = vote.last_log;
            (("last_term", last.term.0), ("last_index", last.index.0))
        }
        Message::VoteResponse(vote) => (("granted", u64::from(vote.granted)), NOTHING),
        Message::PreVoteResponse(vote) => (("granted", u64::from(vote.granted)), NOTHING),
        Message::ReadIndexRequest(read) => (("id", read.id), NOTHING),
        Message::ReadIndexResponse(read) => {
            let index = read.read_index.map_or(0, |index| index.0);
            (("id", read.id), ("index", index))
        }
        Message::InstallSnapshotRequest(offer) => {
            let index = offer.snapshot.last_included.index.0;
            (("sequence", offer.sequence), ("index", index))
        }
        Message::InstallSnapshotResponse(answer) => (("sequence", answer.sequence), NOTHING),
        Message::FetchSnapshotRequest(part) => {
            let index = part.last_included.index.0;
            (("index", index), ("offset", part.offset))
        }
        Message::FetchSnapshotResponse(part) => {
            (("offset", part.offset), ("bytes", part.data.len() as u64))
        }
        Message::Hello(_)
        | Message::HelloResponse(_)
        | Message::GatherRequest(_)
        | Message::GatherResponse(_)
        | Message::AdoptRequest(_)
        | Message::AdoptResponse(_)
        | Message::GatherAbandoned(_)
        | Message::TimeoutNow(_)
        | Message::DescribeSnapshotRequest(_)
        | Message::DescribeSnapshotResponse(_)
        | Message::RecountRequest(_) => (NOTHING, NOTHING),
        Message::FetchEntriesRequest(fetch) => {
            let first = fetch.wanted.first().map_or(0, |wanted| wanted.index.0);
            (("first", first), ("entries", fetch.wanted.len() as u64))
        }
        Message::FetchEntriesResponse(fetched) => {
            let denied = (fetched.never_had.len() + fetched.unavailable.len()) as u64;
            let entries = fetched.entries.len() as u64;
            (("entries", entries), ("denied", denied))
        }
        Message::RecountOffer(offer) => (("index", offer.entry.index.0), NOTHING),
        Message::ComparisonReport(report) => (("index", report.entry.index.0), NOTHING),
        Message::RecountResponse(answer) => (("index", answer.entry.index.0), NOTHING),
    };
    [term, second, third]
}
