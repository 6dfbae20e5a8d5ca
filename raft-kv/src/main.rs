//! The `raft-kv` binary.

fn main() {}
