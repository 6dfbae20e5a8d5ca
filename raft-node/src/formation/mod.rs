//! Forming a cluster: from nodes that know each other's addresses to one first log entry.
//!
//! A Raft log must start the same everywhere. If two nodes wrote different first entries under
//! the same ids, two clusters would answer clients, and the writes of one would be lost. So one
//! node decides, the initial voter of lowest id, and what it decides names not ids but
//! **members**: (id, incarnation), where an incarnation is one life of a data directory.
//!
//! # The protocol
//!
//! * **Gather.** The voter of lowest id, the gatherer, asks every other initial voter with its own
//!   incarnation and the list of voters. Who was started with another list says so, and both stop.
//! * **Promise.** A voter that belongs to no cluster makes durable that it has promised to this
//!   incarnation of the gatherer, then answers with its own. A later incarnation of the gatherer
//!   replaces the earlier one; the earlier one is never answered again.
//! * **Form.** With an answer of *every* voter the gatherer makes the first entry durable. From
//!   here on the cluster exists; its id is the hash of the entry.
//! * **Hand out.** Every node that belongs to a cluster hands the first entry to nodes that its
//!   membership names and that belong to none. A voter adopts an entry that names it, if it has
//!   answered that entry's gatherer and no promise to another one stands against it.
//! * **Abandon.** A gatherer that hears of a cluster (a voter belongs to one, or a member refuses
//!   it) makes durable that it will never form one, releases the voters from their promises, and
//!   stops with an error. It does not repeat the question when it is started again.
//!
//! A node started with [`Start::Join`] asks nobody and adopts the first entry it is handed; only
//! members of a cluster that names it hand one out.
//!
//! # At most one cluster
//!
//! Let `B` be a later incarnation of the gatherer than `A` (its directory was wiped), and suppose
//! that `B` has formed a cluster. Then every voter that `B`'s entry names answered `B`.
//!
//! 1. It did not belong to `A`'s cluster when it answered, or that had been the answer.
//! 2. It does not adopt `A`'s entry later: its promise to `B` stands against it. The promise ends
//!    only if `B` abandons, and then `B` never forms, or for a third incarnation `C`.
//! 3. So, until there is a `C`, whoever belongs to `A`'s cluster is *not* the member that `B`'s
//!    entry names under its id: its directory was wiped before `B` was answered. No member of
//!    `A`'s cluster is left, and a majority of it had acknowledged something only if a majority
//!    was wiped.
//! 4. `C` asks everybody, hears of `B`'s cluster from any voter that adopted it, abandons, and
//!    releases the others. By then `B` is gone and no member of `A`'s cluster is left to hand
//!    `A`'s entry out. Should a copy of it arrive that was sent before all this, its receiver
//!    adopts it and is lost to `B`'s cluster as if it were down. It has acknowledged nothing
//!    there, so two majorities would still have to share a member that adopted both.
//!
//! So an acknowledged write is lost only with the directories of a majority, however late and
//! often a message comes, for a promise is only ever replaced by one to an incarnation that was
//! never answered before. `docs/DECISIONS.md` has the traces that break simpler rules.
//!
//! # Crashes
//!
//! Each step is one atomic record, and a message leaves only when the record that makes it true is
//! durable. Everything else is kept in memory and asked again.
//!
//! | crash | after restart |
//! | --- | --- |
//! | gatherer, before the first entry is durable | it has forgotten the answers and asks again; the entry may come out different (somebody was wiped), which nobody can tell, for it was not handed out |
//! | gatherer, entry durable, log not created | [`Event::WriteFirstEntry`] again: the log is created from the record |
//! | gatherer, log created, that not recorded | the same event; the log exists and is kept |
//! | gatherer, all recorded, nobody told | it is formed, and hands out on every connection |
//! | voter, before its promise is durable | it has not answered, and is asked again |
//! | voter, promise durable, answer lost | it answers the same again |
//! | voter, entry durable, answer lost | it belongs to the cluster, which its hello says |
//! | gatherer, between hearing of a cluster and abandoning | it asks again and hears it again |
//! | gatherer, abandoned, voters not released | at each start it releases whom it reaches, before it stops |
//! | voter, released, answer lost | it is told again, and answers again |
//!
//! The record keeps whether the log was ever created ([`LogState`]): a log that is missing although
//! it was created is a lost one, and must not come back empty.
//!
//! # Late, doubled and reordered messages
//!
//! A late question of a replaced gatherer is answered `Superseded`. A late answer is
//! ignored if it is meant for another incarnation of the gatherer or comes from another life of
//! the voter than the connection's. A late first entry is adopted only under the rule above. A late
//! release names the incarnation that has ended, so it cannot end a later promise. While a
//! record is being written all messages are dropped, and repeated every [`RETRY_MS`].
//!
//! # Wiped nodes
//!
//! A voter that is wiped before the cluster forms is simply asked again. Wiped later, it is a
//! stranger: members refuse its hello ([`crate::admission`]), and the error names the two commands
//! that re-admit it. A directory that was put back from a copy made before it adopted the entry
//! would adopt it again and have lost its log: members refuse a hello without a cluster from a
//! life that already belonged to theirs, and a gatherer that is handed its own entry stops.
//!
//! # Driving it
//!
//! ```
//! use raft_core::Time;
//! use raft_node::formation::{Event, Formation, InitialVoters, Local, Start};
//! use raft_proto::{Incarnation, NodeId};
//!
//! let local = Local { node: NodeId(1), incarnation: Incarnation(0xa1) };
//! let voters = InitialVoters::new(NodeId(1), [(NodeId(1), "127.0.0.1:7001".to_string())])?;
//! let now = Time::ZERO;
//! let mut formation = Formation::new(local, Start::Form(voters), None, now)?;
//!
//! // A lone voter needs nobody's answer: the record with the first entry is to be stored.
//! let persist = formation.poll_persist().expect("a record");
//! formation.handle_persisted(now, persist.id);
//!
//! // Only now may the log be created.
//! let Some(Event::WriteFirstEntry { first_entry, cluster }) = formation.poll_event() else {
//!     unreachable!("the record is durable");
//! };
//! formation.handle_log_created();
//! let persist = formation.poll_persist().expect("the record that the log exists");
//! formation.handle_persisted(now, persist.id);
//! assert_eq!(formation.poll_event(), Some(Event::Formed { first_entry, cluster }));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

/// Name of the record in the data directory that holds a [`Persist::record`].
pub const FORMATION_RECORD: &str = "formation";

mod error;
mod machine;
mod record;
mod responder;
mod rules;
mod status;
mod voters;

pub use error::FormationError;
pub use machine::{Event, Formation, Local, Persist, RELEASE_MS, RETRY_MS, Start};
pub use record::{Evidence, FirstEntry, FirstEntryError, LogState, RecordError};
pub use responder::FormedResponder;
pub use rules::{FLUSH_MS, MAX_GATHERERS};
pub use voters::{InitialVoters, VotersError};
