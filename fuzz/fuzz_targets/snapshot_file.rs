//! See `raft_fuzz::snapshot_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| raft_fuzz::snapshot_file::run(data));
