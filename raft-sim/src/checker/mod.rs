//! What must hold: Raft's safety properties after every event, what clients were told at the end.
//!
//! Each invariant has a file of its own, which says it and where it comes from (sections are those of
//! the paper, *In Search of an Understandable Consensus Algorithm (Extended Version)*, or of Ongaro's
//! thesis), and which has a test that a bad trace is refused.
//!
//! | invariant | file |
//! | --- | --- |
//! | one leader a term | `election_safety` |
//! | a leader only appends | `leader_append_only` |
//! | equal index and term, equal logs up to there | `log_matching` |
//! | a leader has what is committed | `leader_completeness` |
//! | all apply the same, in order | `state_machine_safety` |
//! | one chain of committed entries | `commit_chain` |
//! | committed on a quorum of durable images | `commit_quorum` |
//! | durable term and vote do not regress | `hard_state` |
//! | term, commit and applied index do not fall within a boot | `monotonic` |
//! | purged ≤ snapshot ≤ applied ≤ committed ≤ last | `order` |
//! | no vote or acknowledgement before its fsync | `promises` |
//! | what was durable, or is committed, stays | `durability` |
//! | what a damaged disk may cost | `damage` |
//! | one change of membership at a time | `one_change` |
//! | the configuration in force is the log's latest | `configuration` |
//! | equal states and replies after equal entries | `state_hash` |
//! | windows, queues and entries in memory are bounded | `memory` |
//! | every write counts as its client was told | [`exactly_once`] |
//! | there is an order that explains all answers | [`linearizability`] |

mod commit_chain;
mod commit_quorum;
mod configuration;
mod damage;
mod durability;
mod election_safety;
pub mod exactly_once;
mod facts;
mod hard_state;
mod image;
mod leader_append_only;
mod leader_completeness;
pub mod linearizability;
mod log_matching;
mod memory;
mod monotonic;
mod one_change;
mod order;
mod promises;
mod safety;
mod state_hash;
mod state_machine_safety;
#[cfg(test)]
mod testing;
mod view;
mod violation;

pub use self::image::{LogChange, Standing, StartView};
pub use self::safety::SafetyChecker;
pub use self::view::{NodeView, Window};
pub use self::violation::Violation;
