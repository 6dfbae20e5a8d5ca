//! Commands of the program under test.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::problem::Problem;

/// The program under test, without settings of whoever runs us.
pub(crate) fn program(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RAFT_KV_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs a command that must succeed.
pub(crate) fn succeed(mut command: Command) -> Result<(), Problem> {
    let output = command.output().map_err(Problem::io("run raft-kv"))?;
    if output.status.success() {
        return Ok(());
    }
    let arguments: Vec<_> = command
        .get_args()
        .map(|one| one.to_string_lossy())
        .collect();
    let error = String::from_utf8_lossy(&output.stderr);
    let printed = String::from_utf8_lossy(&output.stdout);
    Err(Problem::Command {
        command: arguments.join(" "),
        said: format!("{}\n{printed}{error}", output.status),
    })
}
