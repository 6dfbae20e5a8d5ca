//! See `raft_fuzz::kv_protocol`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| raft_fuzz::kv_protocol::run(data));
