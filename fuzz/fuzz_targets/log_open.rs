//! See `raft_fuzz::log_open`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| raft_fuzz::log_open::run(data));
