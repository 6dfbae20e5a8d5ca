//! The `raft-kv` program; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    raft_kv::cli::main()
}
