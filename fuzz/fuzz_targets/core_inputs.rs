//! See `raft_fuzz::core_inputs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    raft_fuzz::core_inputs::run(data);
});
