//! The `raft-kv` program; everything is in the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    raft_kv::cli::main()
}
