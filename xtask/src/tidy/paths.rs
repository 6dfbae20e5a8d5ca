//! No file names a directory of the machine it was written on.

use super::{Problem, Tree};

/// Absolute directories that only exist on somebody's machine.
const MACHINE: [&str; 4] = [
    concat!("/wo", "rk"),
    concat!("/ro", "ot"),
    concat!("/ho", "me"),
    concat!("/Us", "ers"),
];

/// Checks every text file.
pub(super) fn check(tree: &Tree, problems: &mut Vec<Problem>) {
    for (path, text) in tree.all() {
        for (number, line) in text.lines().enumerate() {
            if let Some(found) = machine_path(line) {
                let what = format!("names a directory of a machine: {found}");
                problems.push(Problem::new(path, number + 1, what));
            }
        }
    }
}

/// The first directory of a machine that the line names as the start of a path.
fn machine_path(line: &str) -> Option<&'static str> {
    let starts_path = |directory: &&&str| {
        line.match_indices(**directory).any(|(start, _)| {
            let before = line[..start].chars().next_back();
            let after = line[start + directory.len()..].chars().next();
            !before.is_some_and(|c| c.is_alphanumeric() || "._-/}".contains(c))
                && after == Some('/')
        })
    };
    MACHINE.iter().find(starts_path).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_paths_of_a_machine_are_found() {
        let directory = MACHINE[0];
        for line in [
            format!("see {directory}/main"),
            format!("path = \"{directory}/x\""),
            format!("{}/.cargo/bin", MACHINE[1]),
        ] {
            assert!(machine_path(&line).is_some(), "{line}");
        }
        for line in [
            format!("frame{directory}/x, https://example.org{directory}/x"),
            format!("a wide {directory}"),
            "/var/lib/raft-kv".to_string(),
        ] {
            assert_eq!(machine_path(&line), None, "{line}");
        }
    }

    #[test]
    fn the_line_is_named() {
        let text = format!("one\ntwo {}/x\n", MACHINE[0]);
        let mut problems = Vec::new();
        check(&Tree::of(&[("a.md", &text)]), &mut problems);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].line, 2);
    }
}
