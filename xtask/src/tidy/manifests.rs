//! Every crate that is published says what it is, carries its licence, and keeps unsafe code out.

use std::path::Path;

use super::{Problem, Tree};

/// What the manifest of every published crate holds.
const REQUIRED: [&str; 4] = [
    "description = ",
    "readme = \"README.md\"",
    "license.workspace = true",
    "[lints]\nworkspace = true",
];
/// What stands beside it.
const BESIDE: [&str; 3] = ["README.md", "LICENSE-MIT", "LICENSE-APACHE"];
/// The crate that allows unsafe code, in two modules.
const MAY_BE_UNSAFE: &str = "raft-log";

/// Checks every member of the workspace.
pub(super) fn check(tree: &Tree, problems: &mut Vec<Problem>) {
    let manifests = tree.all().filter(|(path, _)| {
        path.file_name().is_some_and(|name| name == "Cargo.toml") && path.components().count() == 2
    });
    for (path, text) in manifests {
        let folder = path.parent().unwrap_or(Path::new(""));
        if !text.contains("publish = false") {
            problems.extend(check_manifest(tree, path, text, folder));
        }
        let level = if folder == Path::new(MAY_BE_UNSAFE) {
            "#![deny(unsafe_code)]"
        } else {
            "#![forbid(unsafe_code)]"
        };
        for root in ["src/lib.rs", "src/main.rs"] {
            let root = folder.join(root);
            let text = tree.all().find(|(path, _)| *path == root);
            if text.is_some_and(|(_, text)| !text.contains(level)) {
                problems.push(Problem::new(&root, 1, format!("has no `{level}`")));
            }
        }
    }
}

fn check_manifest(tree: &Tree, path: &Path, text: &str, folder: &Path) -> Vec<Problem> {
    let missing = REQUIRED
        .iter()
        .filter(|required| !text.contains(**required));
    let mut problems: Vec<_> = missing
        .map(|required| Problem::new(path, 1, format!("has no `{}`", required.escape_debug())))
        .collect();
    for name in BESIDE {
        if !tree.all().any(|(found, _)| found == folder.join(name)) {
            problems.push(Problem::new(path, 1, format!("has no {name} beside it")));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPLETE: &str = "description = \"x\"\nreadme = \"README.md\"\nlicense.workspace = true\n\n[lints]\nworkspace = true\n";

    fn count(files: &[(&str, &str)]) -> usize {
        let mut problems = Vec::new();
        check(&Tree::of(files), &mut problems);
        problems.len()
    }

    #[test]
    fn a_complete_crate_is_fine() {
        let beside = [
            ("a/README.md", ""),
            ("a/LICENSE-MIT", ""),
            ("a/LICENSE-APACHE", ""),
        ];
        let mut files = vec![
            ("a/Cargo.toml", COMPLETE),
            ("a/src/lib.rs", "#![forbid(unsafe_code)]"),
        ];
        files.extend(beside);
        assert_eq!(count(&files), 0);
        files[1].1 = "//! Job.";
        assert_eq!(count(&files), 1);
        files[0].1 = "[lints]\nworkspace = true\n";
        assert_eq!(count(&files), 4);
    }

    #[test]
    fn what_is_not_published_needs_less() {
        assert_eq!(count(&[("x/Cargo.toml", "publish = false\n")]), 0);
        assert_eq!(count(&[("x/Cargo.toml", COMPLETE)]), 3);
    }
}
