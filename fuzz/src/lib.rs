//! What the fuzz targets do with their input. The tests of the crates replay the stored inputs with
//! the same code (`fuzz_replay.rs` in their `tests`), so that it keeps compiling and passing.
#![forbid(unsafe_code)]

pub mod core_inputs;
pub mod flat;
pub mod input;
pub mod kv_protocol;
pub mod log_open;
pub mod snapshot_file;
pub mod wire_frame;
