//! Where the workspace is, which files belong to it, and how cargo is called in it.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Directories that never belong to the project, for trees without git.
const NOT_OURS: [&str; 2] = [".git", "target"];

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    // Set by `cargo run` and `cargo test`; the value at compile time serves a bare binary.
    let manifest = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest
        .parent()
        .map_or(manifest.clone(), Path::to_path_buf)
}

/// The cargo that runs us, in the root of the workspace.
///
/// It does not inherit what our own cargo has set for this package: build scripts that watch these
/// variables would run again, and all that depends on them would be built again, whenever the same
/// thing is built with and without us.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        let of_package = ["CARGO_MANIFEST_", "CARGO_PKG_"];
        let text = name.to_string_lossy();
        if of_package.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command.args(arguments).current_dir(root());
    command
}

/// All files of the project, relative to `root`, in order: what git tracks or would track, or
/// without git every file outside of build output.
///
/// # Errors
/// The tree cannot be read.
pub(crate) fn files(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = match files_by_git(root) {
        Some(files) => files,
        None => files_by_walking(root)?,
    };
    // Git also lists what was deleted but not yet committed.
    files.retain(|file| root.join(file).is_file());
    files.sort();
    files.dedup();
    Ok(files)
}

fn files_by_git(root: &Path) -> Option<Vec<PathBuf>> {
    let listing = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let text = String::from_utf8(listing.stdout).ok()?;
    let files: Vec<_> = text.split_terminator('\0').map(PathBuf::from).collect();
    (!files.is_empty()).then_some(files)
}

fn files_by_walking(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(directory) = open.pop() {
        for item in fs::read_dir(directory)? {
            let item = item?;
            let path = item.path();
            if NOT_OURS
                .iter()
                .any(|name| item.file_name() == OsStr::new(name))
            {
                continue;
            }
            if item.file_type()?.is_dir() {
                open.push(path);
            } else if let Ok(relative) = path.strip_prefix(root) {
                found.push(relative.to_path_buf());
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_holds_this_crate() {
        assert!(root().join("xtask/src/workspace.rs").is_file());
    }

    #[test]
    fn a_tree_without_git_is_walked() {
        let tree = tempfile::tempdir().unwrap();
        for file in ["a.rs", "b/c.rs", "target/x", ".git/config"] {
            let path = tree.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let mut found = files_by_walking(tree.path()).unwrap();
        found.sort();
        assert_eq!(found, [PathBuf::from("a.rs"), PathBuf::from("b/c.rs")]);
    }
}
