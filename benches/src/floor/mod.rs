//! The floor under a replicated store: a leader, two followers and a load, over the same QUIC, TLS
//! and disks as the service, with group commit, and nothing else. No terms, no elections, no
//! checks of what arrives, no store: every put is a few hundred bytes that two of three processes
//! have synced before it is answered, every get one round trip to a follower and a constant.
//!
//! What a real server takes more than this is what consensus, sessions and a store cost.

pub mod disk;
pub mod follower;
pub mod frame;
pub mod leader;
pub mod load;
