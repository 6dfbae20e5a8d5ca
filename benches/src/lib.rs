//! What the benchmarks share: contestants measured in turn, and the bare programs that they are
//! measured against.
#![forbid(unsafe_code)]

pub mod authority;
pub mod contest;
pub mod cores;
pub mod floor;
pub mod load;
pub mod processor;
pub mod quic;
pub mod tcp;
pub mod tls;

/// Whatever ends a benchmark: it has no use for telling errors apart.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
