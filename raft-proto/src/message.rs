//! One struct per RPC and reply.
//!
//! Who sends a message is known from the connection it arrives on, so no message repeats it.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::entry::{Entry, LogPosition};
use crate::ids::{Boot, ClusterId, Incarnation, LogIndex, NodeId, Term};
use crate::membership::Membership;
use crate::version::Versions;

/// Asks whether an election could be won, without disturbing anybody (thesis §9.6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreVoteRequest {
    /// The term the sender would campaign in: its own plus one.
    pub term: Term,
    /// The end of the sender's log.
    pub last_log: LogPosition,
}

/// Answers a [`PreVoteRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreVoteResponse {
    /// If granted, the request's term; if not, the sender's own term.
    pub term: Term,
    /// Whether the sender would vote for the candidate.
    pub granted: bool,
}

/// RequestVote (§5.2, §5.4.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoteRequest {
    /// The candidate's term.
    pub term: Term,
    /// The end of the candidate's log.
    pub last_log: LogPosition,
    /// The leader asked for this election, so it is answered even within an election timeout of
    /// a leader's last message (thesis §3.10, §4.2.3).
    pub leadership_transfer: bool,
}

/// Answers a [`VoteRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoteResponse {
    /// The sender's term.
    pub term: Term,
    /// Whether the candidate got the vote.
    pub granted: bool,
}

/// AppendEntries (§5.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendRequest {
    /// The leader's term.
    pub term: Term,
    /// Names this request in its answer; grows with every request to the same peer.
    pub sequence: u64,
    /// The entry before the first one sent.
    pub previous: LogPosition,
    /// The leader's commit index.
    pub commit_index: LogIndex,
    /// Entries that follow `previous` without a gap; empty for a probe.
    pub entries: Vec<Entry>,
}

/// Answers an [`AppendRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppendResponse {
    /// The sender's term.
    pub term: Term,
    /// The request's `sequence`. Requests count from 1; 0 answers none of them, and asks the leader
    /// for an append because a heartbeat commits more than the sender can verify.
    pub sequence: u64,
    /// What became of it.
    pub outcome: AppendOutcome,
}

/// What a follower did with an [`AppendRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppendOutcome {
    /// The request's entries, and all before them, are durable at the sender.
    Accepted,
    /// `previous` does not match the sender's log; fast backtracking (§5.3).
    Rejected {
        /// Term of the sender's entry at `previous.index`; `None` if its log is shorter.
        conflict_term: Option<Term>,
        /// First index of `conflict_term` in the sender's log, or the index after its last entry.
        conflict_index: LogIndex,
        /// Index of the sender's last entry.
        last_index: LogIndex,
    },
    /// The term is older than the sender's.
    StaleTerm,
}

/// A leader's sign of life, also a round of read confirmation (§5.2, thesis §6.4). Travels apart
/// from entries and may overtake them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The leader's term.
    pub term: Term,
    /// The confirmation round; grows with each round and is never reused in a term.
    pub round: u64,
    /// The smaller of the leader's commit index and what it knows the receiver to hold.
    pub commit_index: LogIndex,
}

/// Answers a [`Heartbeat`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatResponse {
    /// The sender's term.
    pub term: Term,
    /// The heartbeat's round; 0 if that was of an earlier term, whose rounds say nothing about this one's.
    pub round: u64,
}

/// Tells the receiver to campaign at once (thesis §3.10).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeoutNow {
    /// The leader's term.
    pub term: Term,
}

/// A follower asks the leader for an index that is safe to read at (thesis §6.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadIndexRequest {
    /// The sender's term.
    pub term: Term,
    /// Names the request in its answer; never reused by the sender.
    pub id: u64,
}

/// Answers a [`ReadIndexRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadIndexResponse {
    /// The sender's term.
    pub term: Term,
    /// The request's id.
    pub id: u64,
    /// The index to wait for before reading, or `None` if the receiver cannot tell.
    pub read_index: Option<LogIndex>,
}

/// A whole snapshot, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotDescription {
    /// The last entry it covers.
    pub last_included: LogPosition,
    /// The membership at that entry.
    pub membership: Membership,
    /// Its length in bytes.
    pub total_bytes: u64,
    /// CRC-32 over all its bytes.
    pub checksum: u32,
}

/// Offers a snapshot to a follower whose next entry is compacted (§7). The follower fetches the
/// content with [`FetchSnapshotRequest`], at its own pace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstallSnapshotRequest {
    /// The leader's term.
    pub term: Term,
    /// Names this request in its answer.
    pub sequence: u64,
    /// The snapshot offered.
    pub snapshot: SnapshotDescription,
}

/// Answers an [`InstallSnapshotRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstallSnapshotResponse {
    /// The sender's term.
    pub term: Term,
    /// The request's `sequence`.
    pub sequence: u64,
    /// What became of it.
    pub outcome: InstallOutcome,
}

/// What a follower did with an offered snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InstallOutcome {
    /// Its content is being fetched; bytes durable so far.
    Fetching {
        /// Bytes fetched.
        received_bytes: u64,
    },
    /// It is installed and durable, or the sender's log already covered it.
    Installed,
    /// The term is older than the sender's, or the transfer failed; offer again.
    Refused,
}

/// Asks for a part of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchSnapshotRequest {
    /// The sender's term.
    pub term: Term,
    /// The last entry the snapshot covers.
    pub last_included: LogPosition,
    /// Where to start, in bytes.
    pub offset: u64,
    /// Most bytes to send.
    pub max_bytes: u32,
}

/// Answers a [`FetchSnapshotRequest`].
#[derive(Clone, PartialEq, Eq)]
pub struct FetchSnapshotResponse {
    /// The sender's term.
    pub term: Term,
    /// The last entry the snapshot covers.
    pub last_included: LogPosition,
    /// Where `data` starts, in bytes.
    pub offset: u64,
    /// Length of the whole snapshot, in bytes; 0 if the sender does not have it (any more).
    pub total_bytes: u64,
    /// CRC-32 of `data`.
    pub checksum: u32,
    /// The bytes.
    pub data: Bytes,
}

impl fmt::Debug for FetchSnapshotResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchSnapshotResponse")
            .field("term", &self.term)
            .field("last_included", &self.last_included)
            .field("offset", &self.offset)
            .field("total_bytes", &self.total_bytes)
            .field("checksum", &self.checksum)
            .field("data_bytes", &self.data.len())
            .finish()
    }
}

/// Asks a peer for entries whose content was lost, by (index, term).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchEntriesRequest {
    /// The sender's term.
    pub term: Term,
    /// The entries wanted.
    pub wanted: Vec<LogPosition>,
    /// Most payload bytes to send.
    pub max_bytes: u32,
}

/// Answers a [`FetchEntriesRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchEntriesResponse {
    /// The sender's durable term.
    pub term: Term,
    /// Entries it holds.
    pub entries: Vec<Entry>,
    /// Entries that it provably never had.
    pub never_had: Vec<LogPosition>,
    /// Entries that it covers by a snapshot, or whose content it has lost itself.
    pub unavailable: Vec<LogPosition>,
}

/// Asks for the description of a snapshot: the sender's own is damaged, or entries that it has lost
/// are compacted everywhere. Since version 2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribeSnapshotRequest {
    /// The sender's term.
    pub term: Term,
    /// The snapshot must cover everything up to here; if there is none, one is taken.
    pub at_least: LogIndex,
    /// The last entry that the sender knows to be committed. The receiver may be the leader and wait
    /// for this sender to learn that.
    pub committed: LogPosition,
}

/// Answers a [`DescribeSnapshotRequest`]. The content is fetched like that of a snapshot that a
/// leader offers. Since version 2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribeSnapshotResponse {
    /// The sender's term.
    pub term: Term,
    /// The sender's newest snapshot, if it covers as much as was asked for.
    pub snapshot: Option<SnapshotDescription>,
}

/// A node that counts for nothing asks its leader what makes it count again. Since version 2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecountRequest {
    /// The sender's term.
    pub term: Term,
    /// This start of the sender: the loss is older.
    pub boot: Boot,
}

/// The leader tells an uncounted node, which durably holds the log up to an entry that was appended
/// after the leader learned of the loss and was committed without that node, that it may count
/// again. Since version 2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecountOffer {
    /// The leader's term.
    pub term: Term,
    /// The receiver's start, as it said in its request. An offer to another start is void.
    pub boot: Boot,
    /// The entry, of the leader's term.
    pub entry: LogPosition,
}

/// Answers a [`RecountOffer`]: the sender has made durable that it counts again. Since version 2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecountResponse {
    /// The sender's term.
    pub term: Term,
    /// This start of the sender, as in the offer.
    pub boot: Boot,
    /// The entry, as in the offer.
    pub entry: LogPosition,
}

/// What a member finds of itself at the entry that started a comparison ([`crate::Comparison`]). Every
/// member tells every other, so each of them comes to the verdict by itself. Since version 2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComparisonReport {
    /// The entry.
    pub entry: LogPosition,
    /// Hash of the state machine's state with everything applied up to the entry; `None` if the
    /// state machine has none.
    pub state: Option<u64>,
    /// Checksum of each section of the compared entries, as read back from the disk; `None` for a
    /// section that cannot be read or is compacted. Sections at the end may be left out.
    pub sections: Vec<Option<u64>>,
}

/// The first message on every peer connection, from both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The sender's cluster; `None` while it has not joined one.
    pub cluster: Option<ClusterId>,
    /// The sender.
    pub node: NodeId,
    /// The life of its data directory.
    pub incarnation: Incarnation,
    /// This start of it.
    pub boot: Boot,
    /// The node it believes to be talking to.
    pub receiver: NodeId,
    /// The versions of the protocol that it speaks.
    pub versions: Versions,
}

/// Answers a [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloResponse {
    /// `None` if the connection is welcome.
    pub refusal: Option<Refusal>,
}

/// Why a peer is not admitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The hello names another node than the certificate.
    WrongIdentity {
        /// The node in the certificate.
        certified: NodeId,
    },
    /// The hello is meant for another node.
    WrongReceiver {
        /// The node reached.
        receiver: NodeId,
    },
    /// The sender belongs to another cluster.
    WrongCluster {
        /// The receiver's cluster.
        cluster: ClusterId,
    },
    /// The sender is no member.
    NotAMember,
    /// The member of this id has another incarnation: the sender's data directory was wiped, or
    /// it is not the directory that joined.
    WrongIncarnation {
        /// The incarnation that is a member.
        member: Incarnation,
    },
    /// A later boot of this member was seen, or another one with the same counter: the sender
    /// runs on an old copy of a data directory.
    OldBoot {
        /// The latest boot seen.
        seen: Boot,
    },
    /// The receiver waits to form a cluster of these voters, and the sender is none of them.
    OtherVoters {
        /// The voters the receiver was started with.
        voters: Vec<(NodeId, String)>,
    },
    /// The receiver cannot tell at the moment, because its disk fails; nothing is wrong with the
    /// sender.
    Unavailable,
    /// The two have no version of the protocol in common.
    NoCommonVersion {
        /// What the receiver speaks.
        versions: Versions,
    },
}

/// The initial voter of lowest id asks another initial voter to form a cluster with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatherRequest {
    /// The gatherer's incarnation, to which the answer binds.
    pub incarnation: Incarnation,
    /// Ids and addresses of all initial voters, which must be the same everywhere.
    pub voters: Vec<(NodeId, String)>,
}

/// Answers a [`GatherRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatherResponse {
    /// The gatherer's incarnation, as asked.
    pub gatherer: Incarnation,
    /// What the sender says.
    pub outcome: GatherOutcome,
}

/// How a node answers a gathering.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GatherOutcome {
    /// It takes part, and has made that durable.
    Joining {
        /// Its incarnation.
        incarnation: Incarnation,
    },
    /// It was started with other initial voters.
    OtherVoters {
        /// The voters it was started with.
        voters: Vec<(NodeId, String)>,
    },
    /// It already belongs to a cluster.
    Formed {
        /// That cluster.
        cluster: ClusterId,
    },
    /// It was started to join a cluster that exists, not to form one.
    StartedToJoin,
    /// It has answered a later incarnation of the gatherer, and never goes back.
    Superseded,
    /// Its promise to the gatherer has ended, durably; answers a [`GatherAbandoned`].
    Released,
}

/// The gatherer has learned that a cluster exists already, and has made durable that it will
/// never form one: whatever was promised to it, or to an earlier incarnation of it, is void.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatherAbandoned {
    /// The gatherer's incarnation.
    pub incarnation: Incarnation,
}

/// Hands the first log entry of a formed cluster to a node that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptRequest {
    /// Payload of the entry with index 1 and term 1: the first [`Membership`]. The cluster id is
    /// its hash.
    pub first_entry: Bytes,
}

/// Answers an [`AdoptRequest`]. A node that belongs to no cluster also sends it unasked: a
/// formed node that gets `None` hands out the first entry (again).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptResponse {
    /// The cluster the sender belongs to now, durably; `None` while it belongs to none.
    pub cluster: Option<ClusterId>,
}
