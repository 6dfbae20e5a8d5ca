//! Tells what nodes do in short lines: `n1@2 → n2 Append base=1@1 [2@2]`.

use raft_core::{
    Event, IndexRange, Install, MembershipStage, Persist, ProposalOutcome, RepairNews, Role,
    TransferOutcome,
};
use raft_proto::{AppendOutcome, Entry, EntryKind, InstallOutcome, LogPosition, Message};

use super::Node;

/// A node with its term: `n1@2`.
pub fn name(node: &Node) -> String {
    format!("{}@{}", node.core.id(), node.core.term().0)
}

pub fn range(range: IndexRange) -> String {
    match range.count() {
        1 => format!("{}", range.first),
        _ => format!("{}..{}", range.first, range.last),
    }
}

pub fn entry(entry: &Entry) -> String {
    let content = match entry.kind {
        EntryKind::Noop => String::new(),
        EntryKind::Command => format!(" {}", String::from_utf8_lossy(&entry.payload)),
        EntryKind::Membership => " members".to_owned(),
    };
    format!("{}@{}{content}", entry.index, entry.term.0)
}

pub fn entries(entries: &[Entry]) -> String {
    let each: Vec<String> = entries.iter().map(entry).collect();
    format!("[{}]", each.join(", "))
}

pub fn persist(persist: &Persist, written: &[Entry]) -> String {
    let mut line = format!("#{} term {}", persist.id, persist.hard_state.term.0);
    if let Some(vote) = persist.hard_state.vote {
        line += &format!(" vote {vote}");
    }
    if persist.end_is_known {
        line += " counts again";
    }
    match persist.install {
        Some(Install::Replace(position)) => line += &format!(" install snapshot {position}"),
        Some(Install::Keep(position)) => line += &format!(" keep log behind snapshot {position}"),
        None => {}
    }
    if let Some(from) = persist.truncate_from {
        line += &format!(" truncate from {from}");
    }
    if let Some(refill) = persist.refill {
        line += &format!(" refill {}", range(refill));
    }
    if !written.is_empty() {
        line += &format!(" append {}", entries(written));
    }
    line
}

pub fn event(event: &Event) -> Option<String> {
    let line = match event {
        Event::ProposalsDecided {
            range: positions,
            term,
            outcome,
        } => {
            let outcome = match outcome {
                ProposalOutcome::Committed => "committed".to_owned(),
                ProposalOutcome::Superseded { by } => format!("superseded by term {}", by.0),
                ProposalOutcome::Unknown => "unknown".to_owned(),
            };
            format!("proposals {}@{} {outcome}", range(*positions), term.0)
        }
        Event::ReadReady { id, index } => format!("read {id} ready at {index}"),
        Event::ReadFailed { id, reason } => format!("read {id} failed: {reason:?}"),
        Event::RoleChanged { role, .. } => match role {
            Role::Follower => "is follower".to_owned(),
            Role::PreCandidate => "is pre-candidate".to_owned(),
            Role::Candidate => "is candidate".to_owned(),
            Role::Leader => "is leader".to_owned(),
        },
        Event::LeaderChanged { leader, .. } => match leader {
            Some(leader) => format!("follows {leader}"),
            None => "knows no leader".to_owned(),
        },
        Event::MembershipChanged { index, stage } => match stage {
            MembershipStage::Appended => format!("membership {index} in force"),
            MembershipStage::RolledBack => format!("membership {index} rolled back"),
            MembershipStage::Committed => format!("membership {index} committed"),
        },
        Event::TransferEnded { to, outcome } => match outcome {
            TransferOutcome::Transferred => format!("transfer to {to} done"),
            TransferOutcome::OtherLeader(leader) => format!("transfer to {to}: {leader} leads"),
            TransferOutcome::TimedOut => format!("transfer to {to} timed out"),
            TransferOutcome::Aborted => format!("transfer to {to} aborted"),
        },
        Event::SnapshotOffered { from, snapshot } => {
            format!("is offered snapshot {} by {from}", snapshot.last_included)
        }
        Event::SnapshotWanted { peer } => format!("wants a snapshot for {peer}"),
        Event::Repair(news) => match news {
            RepairNews::Missing(missing) => format!("misses {}", range(*missing)),
            RepairNews::SnapshotLost(position) => format!("has lost its snapshot {position}"),
            RepairNews::Refilled(filled) => format!("has {} again", range(*filled)),
            RepairNews::Covered(position) => format!("is covered by snapshot {position}"),
            RepairNews::Dropped(dropped) => format!("drops {}: never committed", range(*dropped)),
            RepairNews::Lost(lost) => format!("gives up: {} is lost for good", range(*lost)),
        },
        Event::CountsAgain => "counts again".to_owned(),
        Event::PeerViolated { peer, violation } => format!("accuses {peer}: {violation:?}"),
        Event::Halted => "halted".to_owned(),
    };
    Some(line)
}

pub fn message(message: &Message) -> String {
    match message {
        Message::PreVoteRequest(m) => format!("PreVote term={} last={}", m.term.0, m.last_log),
        Message::PreVoteResponse(m) => {
            format!("PreVoteAnswer term={} {}", m.term.0, granted(m.granted))
        }
        Message::VoteRequest(m) => {
            let transfer = match m.leadership_transfer {
                true => " transfer",
                false => "",
            };
            format!("Vote term={} last={}{transfer}", m.term.0, m.last_log)
        }
        Message::VoteResponse(m) => format!("VoteAnswer term={} {}", m.term.0, granted(m.granted)),
        Message::AppendRequest(m) => format!(
            "Append #{} base={} {} commit={}",
            m.sequence,
            m.previous,
            entries(&m.entries),
            m.commit_index
        ),
        Message::AppendResponse(m) => {
            let outcome = match &m.outcome {
                AppendOutcome::Accepted => "accepted".to_owned(),
                AppendOutcome::Rejected {
                    conflict_term,
                    conflict_index,
                    last_index,
                } => {
                    let term = conflict_term.map_or("none".to_owned(), |term| term.0.to_string());
                    format!(
                        "rejected conflict_term={term} conflict_index={conflict_index} \
                         last={last_index}"
                    )
                }
                AppendOutcome::StaleTerm => format!("stale, term is {}", m.term.0),
            };
            format!("AppendAnswer #{} {outcome}", m.sequence)
        }
        Message::Heartbeat(m) => format!("Heartbeat round={} commit={}", m.round, m.commit_index),
        Message::HeartbeatResponse(m) => format!("HeartbeatAnswer round={}", m.round),
        Message::InstallSnapshotRequest(m) => {
            format!(
                "Offer #{} snapshot {}",
                m.sequence, m.snapshot.last_included
            )
        }
        Message::InstallSnapshotResponse(m) => {
            let outcome = match m.outcome {
                InstallOutcome::Fetching { received_bytes } => {
                    format!("fetching, {received_bytes} bytes there")
                }
                InstallOutcome::Installed => "installed".to_owned(),
                InstallOutcome::Refused => "refused".to_owned(),
            };
            format!("OfferAnswer #{} {outcome}", m.sequence)
        }
        Message::TimeoutNow(_) => "TimeoutNow".to_owned(),
        Message::ReadIndexRequest(m) => format!("ReadIndex #{}", request(m.id)),
        Message::ReadIndexResponse(m) => {
            let index = m
                .read_index
                .map_or("none".to_owned(), |index| index.to_string());
            format!("ReadIndexAnswer #{} {index}", request(m.id))
        }
        Message::FetchEntriesRequest(m) => {
            format!("Fetch term={} {}", m.term.0, positions(&m.wanted))
        }
        Message::FetchEntriesResponse(m) => {
            let mut line = format!("FetchAnswer term={}", m.term.0);
            if !m.entries.is_empty() {
                line += &format!(" {}", entries(&m.entries));
            }
            if !m.never_had.is_empty() {
                line += &format!(" never_had={}", positions(&m.never_had));
            }
            if !m.unavailable.is_empty() {
                line += &format!(" unavailable={}", positions(&m.unavailable));
            }
            line
        }
        Message::DescribeSnapshotRequest(m) => format!("Describe at_least={}", m.at_least),
        Message::DescribeSnapshotResponse(m) => match &m.snapshot {
            Some(snapshot) => format!("Description {}", snapshot.last_included),
            None => "Description none".to_owned(),
        },
        Message::RecountRequest(m) => format!("RecountRequest boot={}", m.boot.counter),
        Message::RecountOffer(m) => format!("RecountOffer boot={} {}", m.boot.counter, m.entry),
        Message::RecountResponse(m) => format!("Recounted boot={} {}", m.boot.counter, m.entry),
        other => format!("{other:?}"),
    }
}

fn positions(positions: &[LogPosition]) -> String {
    let list: Vec<String> = positions.iter().map(LogPosition::to_string).collect();
    format!("[{}]", list.join(" "))
}

/// Boot and number of a read request.
fn request(id: u64) -> String {
    // The nonce of a first life is the boot's number; see `boot_of_life`.
    let boot = id >> 40;
    let count = id - (boot << 40) - boot;
    format!("{boot}.{count}")
}

fn granted(granted: bool) -> &'static str {
    match granted {
        true => "granted",
        false => "refused",
    }
}
