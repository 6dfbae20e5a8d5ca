//! What the fuzz targets do with their input. The tests of the crates replay the stored inputs with
//! the same code (`tests/fuzz_replay.rs` in each of them), so that it keeps compiling and passing.
#![forbid(unsafe_code)]

pub mod flat;
pub mod input;
pub mod log_open;
pub mod snapshot_file;
