//! See `raft_fuzz::wire_frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| raft_fuzz::wire_frame::run(data));
