//! Builds programs of the workspace, and tells where they are.

use std::path::PathBuf;
use std::process::Stdio;

use crate::workspace::cargo;

/// How a program is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quickly, with assertions.
    Debug,
    /// With optimisation.
    Release,
}

/// Builds the program that is named like its package; returns its path.
///
/// # Errors
/// It does not build.
pub(crate) fn build(package: &str, profile: Profile) -> Result<PathBuf, String> {
    let arguments = ["--package", package, "--bin", package];
    let built = build_all(&arguments, &[package], profile)?;
    let [path] = &built[..] else {
        return Err("one program was asked for".to_string());
    };
    Ok(path.clone())
}

/// Builds programs with these arguments for cargo; returns where they are, in the order of their
/// names.
///
/// # Errors
/// They do not build.
pub(crate) fn build_all(
    arguments: &[&str],
    names: &[&str],
    profile: Profile,
) -> Result<Vec<PathBuf>, String> {
    let shown = names.join(", ");
    let mut command = cargo(&["build"]);
    let mode = match profile {
        Profile::Debug => "debug",
        Profile::Release => {
            command.arg("--release");
            "release"
        }
    };
    println!("==> building {shown} in {mode} mode");
    command.args(arguments);
    command.arg("--message-format=json-render-diagnostics");
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot start cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!("{shown} does not build: {}", output.status));
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let executable = |line: &str, name: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"] == name;
        let path = message["executable"].as_str().filter(|_| is_it)?;
        Some(PathBuf::from(path))
    };
    let find = |name: &&str| {
        let found = messages.lines().find_map(|line| executable(line, name));
        found.ok_or_else(|| format!("cargo built no executable {name}"))
    };
    names.iter().map(find).collect()
}
