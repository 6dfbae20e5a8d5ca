//! The ways in which a cluster can break Raft's promises.

use raft_proto::{LogIndex, NodeId, Term};
use thiserror::Error;

/// A broken promise. None of these may ever be seen, whatever network, disks and clocks do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Violation {
    /// Two leaders in one term (Election Safety, §5.2).
    #[error("election safety: {first} and {second} both lead term {}", .term.0)]
    TwoLeaders {
        /// The term.
        term: Term,
        /// The leader seen first.
        first: NodeId,
        /// Another one.
        second: NodeId,
    },
    /// A leader removed or replaced its own entries (Leader Append-Only, §5.3).
    #[error("leader append-only: the log of {leader} shrank from {from} to {to} in its term")]
    LeaderLogShrank {
        /// The leader.
        leader: NodeId,
        /// The end of its log before.
        from: LogIndex,
        /// The end of its log after.
        to: LogIndex,
    },
    /// A leader replaced an entry of its own log (Leader Append-Only, §5.3).
    #[error("leader append-only: {leader} has another entry at {index} than before in its term")]
    LeaderOverwrote {
        /// The leader.
        leader: NodeId,
        /// Index of the entry.
        index: LogIndex,
    },
    /// Equal index and term, and another entry, or another one before it (Log Matching, §5.3).
    #[error("log matching: {node} holds another entry at {index} in term {} than others", .term.0)]
    LogMismatch {
        /// The node.
        node: NodeId,
        /// Index of the entry.
        index: LogIndex,
        /// Term of the entry.
        term: Term,
    },
    /// A leader lacks a committed entry (Leader Completeness, §5.4).
    #[error(
        "leader completeness: {leader} leads term {} without the entry committed at {index}", .term.0
    )]
    LeaderIncomplete {
        /// The leader.
        leader: NodeId,
        /// Its term.
        term: Term,
        /// Index of the entry that it lacks.
        index: LogIndex,
    },
    /// Two nodes took different entries for committed at one index (State Machine Safety, §5.4.3).
    #[error(
        "state machine safety: {node} takes another entry for committed at {index} than others"
    )]
    CommitMismatch {
        /// The node.
        node: NodeId,
        /// Index of the entry.
        index: LogIndex,
    },
    /// An entry was taken for committed that no quorum holds durably.
    #[error(
        "commit: {index} is taken for committed by {node}, but only {holders:?} hold it durably"
    )]
    CommitWithoutQuorum {
        /// The node.
        node: NodeId,
        /// Index of the entry.
        index: LogIndex,
        /// Who holds it durably.
        holders: Vec<NodeId>,
    },
    /// A second change of membership began before the first one was committed (§6).
    #[error("membership: the log of {node} holds two memberships that are not committed")]
    TwoOpenMemberships {
        /// The node.
        node: NodeId,
    },
    /// A node does not use the latest configuration in its log (§6).
    #[error("membership: {node} does not use the configuration that its log holds at {index}")]
    OldConfiguration {
        /// The node.
        node: NodeId,
        /// Index of the configuration that is ignored.
        index: LogIndex,
    },
    /// A node uses a configuration that is not in its log any more (§6).
    #[error("membership: {node} uses a configuration that was truncated from {index}")]
    TruncatedConfiguration {
        /// The node.
        node: NodeId,
        /// Where the configuration stood.
        index: LogIndex,
    },
    /// A leader goes on although its committed configuration leaves it out (§6).
    #[error("membership: {leader} leads term {} although it is no voter any more", .term.0)]
    LeaderOutside {
        /// The leader.
        leader: NodeId,
        /// Its term.
        term: Term,
    },
    /// More is on the way to a peer than its window takes.
    #[error("memory: {leader} has {messages} appends of {bytes} bytes on the way, over its window")]
    WindowOverrun {
        /// The leader.
        leader: NodeId,
        /// Appends on the way to one peer.
        messages: usize,
        /// Their payload, in bytes.
        bytes: u64,
    },
    /// A node holds more in memory than its options say.
    #[error("memory: {node} holds {amount} of '{what}', and {bound} are the most by {options}")]
    MemoryOverrun {
        /// The node.
        node: NodeId,
        /// What it is.
        what: &'static str,
        /// How much of it there is, in bytes or as a number.
        amount: u64,
        /// How much there may be.
        bound: u64,
        /// The options that say so.
        options: &'static str,
    },
    /// A leader counted copies of an earlier term's entry (§5.4.2, Figure 8).
    #[error("commit: {leader} leads term {} and committed up to {index}, of an earlier term", .term.0)]
    CommittedEarlierTerm {
        /// The leader.
        leader: NodeId,
        /// Its term.
        term: Term,
        /// What it took for committed.
        index: LogIndex,
    },
    /// A vote or an acknowledgement was sent before what it promises was durable (Figure 2).
    #[error("promise: {node} sent {message} to {to} before what it says was durable")]
    PromisedTooEarly {
        /// The node.
        node: NodeId,
        /// The receiver.
        to: NodeId,
        /// Which message.
        message: &'static str,
    },
    /// A node applied something else, or in another order, than what is committed.
    #[error("apply: {node} applied {index} out of order, or not as it was committed")]
    AppliedWrongly {
        /// The node.
        node: NodeId,
        /// Index that it applied.
        index: LogIndex,
    },
    /// Term or commit index fell within a boot.
    #[error("{node}: its {what} fell from {from} to {to}")]
    WentBack {
        /// The node.
        node: NodeId,
        /// What fell.
        what: &'static str,
        /// Before.
        from: u64,
        /// After.
        to: u64,
    },
    /// The commit index lies beyond the log.
    #[error("{node} takes {commit_index} for committed, beyond the end of its log at {last_index}")]
    CommitBeyondLog {
        /// The node.
        node: NodeId,
        /// Its commit index.
        commit_index: LogIndex,
        /// The end of its log.
        last_index: LogIndex,
    },
    /// A write removed a durable copy of a committed entry.
    #[error("{node} removed its log from {first} on, although it held what is committed there")]
    TruncatedCommitted {
        /// The node.
        node: NodeId,
        /// The first entry removed.
        first: LogIndex,
    },
    /// A durable vote was changed within its term.
    #[error("{node} changed its vote in term {}", .term.0)]
    VotedTwice {
        /// The node.
        node: NodeId,
        /// The term.
        term: Term,
    },
    /// What was durable before a crash is not there after it.
    #[error(
        "durability: {node} came back with another log or vote than it had made durable: {detail}"
    )]
    LostDurable {
        /// The node.
        node: NodeId,
        /// What it has and what it had.
        detail: String,
    },
    /// A node compacted its log, or starts it, before a durable snapshot covers what is gone.
    #[error("compaction: {node} gave up its log up to {index}, which no snapshot of it covers")]
    Uncovered {
        /// The node.
        node: NodeId,
        /// The last entry that is gone.
        index: LogIndex,
    },
    /// A snapshot, a compaction or an installation ends at something that was not committed there.
    #[error("snapshot: {node} rests on {index}, of a term that is not the committed one there")]
    NotCommitted {
        /// The node.
        node: NodeId,
        /// Where it ends.
        index: LogIndex,
    },
    /// Two state machines replied differently to the same command.
    #[error("state: {node} replied something else to the command at {index} than others")]
    RepliesDiverged {
        /// The node.
        node: NodeId,
        /// Index of the command.
        index: LogIndex,
    },
    /// Two state machines that applied the same entries have different states.
    #[error("state: {node} has another state after {index} than was seen there before")]
    StateDiverged {
        /// The node.
        node: NodeId,
        /// The last entry applied.
        index: LogIndex,
    },
}
