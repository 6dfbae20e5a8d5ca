//! A deterministic Raft consensus core: no I/O, no clock, no threads.
//!
//! [`RaftCore`] is one node of a Raft group as a state machine. It is told what happens (messages,
//! time, completed writes, connections, proposals) and tells what to do (write, send, apply). The
//! same inputs always give the same outputs, so that a simulator can run thousands of years of
//! faults through the very code that runs in production. References are to *In Search of an
//! Understandable Consensus Algorithm (Extended Version)* by section, and to Ongaro's dissertation
//! as "thesis".
//!
//! # The protocol in short
//!
//! Time is cut into **terms**; each has at most one **leader** (§5.2). A follower that hears from
//! no leader for a randomly drawn election timeout first asks whether it could win (pre-vote,
//! thesis §9.6), and only then starts a term and asks for votes. A vote goes to the first candidate
//! of a term whose log is at least as up to date as the voter's (§5.4.1).
//!
//! The leader appends proposals to its **log** and sends them on. A follower accepts entries that
//! follow one it has in common with the leader, and replaces those that conflict (§5.3). An entry
//! of the leader's term that a majority holds durably is **committed**, and with it all before it
//! (§5.4.2); what is committed is applied, in order, everywhere.
//!
//! A read asks the leader for an index: its commit index, once a majority has confirmed that it
//! still led after the read was asked (thesis §6.4). A leader hands over by asking an up-to-date
//! voter to campaign at once (thesis §3.10), and steps down when it loses contact with a majority, or
//! has committed nothing for a while although others might.
//!
//! Memberships are entries, in force from the moment they are in the log; a change of voters goes
//! through a joint configuration in which majorities of both the old and the new voters must agree
//! (§6). New members are learners until they have caught up. A node that needs entries which its
//! leader has compacted is offered a snapshot instead (§7).
//!
//! # Invariants
//!
//! * **Election safety**: at most one leader per term.
//! * **Leader append-only**: a leader never removes or replaces entries of its log.
//! * **Log matching**: logs that share an entry (index and term) are equal up to it.
//! * **Leader completeness**: what is committed is in the logs of all later leaders.
//! * **State machine safety**: no two nodes apply different entries at an index.
//! * **Durable promises**: no vote, vote request or acknowledgement leaves, and nothing is applied
//!   or counted for a commit, before what it relies on is durable where it relies on it.
//! * **One change at a time**: at most one membership of a log is not committed.
//! * **Linearizable reads**: the index of a read is not below any commit that anybody knew of when
//!   the read was asked.
//! * **Nothing missing is promised**: entries whose content this node has lost are known by index and
//!   term and count as such in elections; they are not acknowledged, applied or sent, and a node
//!   that misses any does not campaign.
//! * **Definite outcomes**: a proposal is reported committed or superseded only if that is final.
//!
//! The tests check all of them after every step of scripted and random histories.
//!
//! # It cannot be misused
//!
//! * Whatever [`RaftCore::poll_transmit`] yields may be sent at once: promises wait inside the core
//!   for [`RaftCore::handle_persisted`].
//! * Whatever [`RaftCore::poll_commit`] yields may be applied at once: it is committed and durable
//!   on this node.
//! * The order of the polls does not matter; persists must be written in the order polled.
//! * The core never sees payloads. It orders entries by index and term ([`AppendOrder`]); the driver
//!   fills in the bytes, from an [`EntryBuffer`] or from disk, and cannot fill in the wrong ones.
//!
//! # The driver loop
//!
//! A cluster of one, with a log that is durable at once:
//!
//! ```
//! use raft_core::{Commit, Config, Event, RaftCore, Recovered, Time, Transmit};
//! use raft_proto::{Boot, Member, Membership, NodeId};
//!
//! let member = Member { incarnation: None, address: "127.0.0.1:7001".into() };
//! let membership = Membership::of_voters([(NodeId(1), member)]);
//! let recovered = Recovered::bootstrap(membership, Boot { counter: 1, nonce: 7 })?;
//! let mut now = Time::ZERO;
//! let mut core = RaftCore::new(Config::new(NodeId(1)), recovered, now)?;
//!
//! let mut proposed = None;
//! let mut applied = None;
//! while applied.is_none() || applied < proposed {
//!     // Inputs: here only time and one proposal; messages come by `handle_message`.
//!     if core.poll_timeout().is_some_and(|deadline| deadline <= now) {
//!         core.handle_timeout(now);
//!     }
//!     if proposed.is_none() {
//!         // Keep the payload under the position returned.
//!         proposed = core.propose(now, 5).ok().map(|position| position.index);
//!     }
//!     // Outputs, until there are none.
//!     while let Some(persist) = core.poll_persist() {
//!         // Write and sync `persist`, possibly on another thread; when that is done:
//!         core.handle_persisted(now, persist.id);
//!     }
//!     while let Some(transmit) = core.poll_transmit() {
//!         match transmit {
//!             Transmit::Message { to, message } => println!("send {} to {to}", message.name()),
//!             Transmit::Append(order) => println!("fill and send {:?}", order.entries()),
//!             Transmit::Fetched(order) => println!("fill and send {:?}", order.entries),
//!         }
//!     }
//!     while let Some(Commit::Entries(range)) = core.poll_commit() {
//!         // Apply them; when that is done:
//!         core.handle_applied(now, range.last);
//!         applied = Some(range.last);
//!     }
//!     while let Some(event) = core.poll_event() {
//!         if let Event::ProposalsDecided { range, outcome, .. } = event {
//!             println!("proposals {range:?}: {outcome:?}");
//!         }
//!     }
//!     now = now.plus_ms(1);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Code map
//!
//! `step` applies the rules about terms and dispatches; `election`, `follower`, `leader`, `read`,
//! `transfer`, `reconfiguration` and `snapshot` hold the protocol; `replication` decides which append
//! to send next; `recount` lets nodes count again that have lost what they promised; `repair` brings lost content back from peers, `repair_answers` helps
//! peers with theirs, `never_had` drops what nobody has, and `holes` knows what is missing;
//! `persist_queue` knows what is durable; `progress` has every transition of a peer's
//! replication state; `log_view`, `membership_log`, `membership_change`, `catch_up`, `proposals`,
//! [`quorum`] and `timers` are plain data structures.
//! Architecture invariant: nothing here does I/O, reads a clock, or depends on the order of a hash
//! map; `clippy.toml` refuses it.
#![forbid(unsafe_code)]

mod buffer;
mod catch_up;
mod config;
mod core;
mod driver_inputs;
mod election;
mod error;
mod follower;
mod holes;
mod leader;
mod log_view;
mod membership_change;
mod membership_log;
mod never_had;
mod output;
mod persist_queue;
mod progress;
mod proposals;
pub mod quorum;
mod random;
mod read;
mod reconfiguration;
mod recount;
mod recovered;
mod repair;
mod repair_answers;
mod replication;
mod roles;
mod snapshot;
mod step;
mod time;
mod timers;
mod transfer;

pub use self::core::{PeerStatus, RaftCore};
pub use buffer::{EntryBuffer, Fill};
pub use config::{Config, ConfigError, ENTRY_OVERHEAD_BYTES, MAX_APPEND_ENTRIES};
pub use error::{CoreError, ProposeError, ReadIndexError, TransferError};
pub use membership_change::{ChangeError, MembershipChange};
pub use output::{
    AppendOrder, Commit, Event, FetchedOrder, IndexRange, Install, MembershipStage, Persist,
    ProposalOutcome, ReadFailure, RepairNews, Role, TransferOutcome, Transmit, UnsentReason,
    Violation,
};
pub use progress::{Counting, Replication};
pub use recovered::{Recovered, SnapshotContent};
pub use time::{Epoch, MessageId, PersistId, ReadId, Time};
