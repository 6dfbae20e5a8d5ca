//! Log lines name their node, so that logs of several nodes can be told apart.

use std::path::Path;

use super::source::{Source, closing, line_of, word_starts};
use super::{Problem, Tree};

/// Where code runs on behalf of a node.
const SOURCES: [&str; 4] = [
    "raft-log/src",
    "raft-net/src",
    "raft-node/src",
    "raft-kv/src",
];
const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// Checks every log line.
pub(super) fn check(tree: &Tree, problems: &mut Vec<Problem>) {
    for folder in SOURCES {
        for (path, text) in tree.under(folder) {
            if path.extension().is_some_and(|extension| extension == "rs") {
                problems.extend(check_file(path, text));
            }
        }
    }
}

fn check_file(path: &Path, text: &str) -> Vec<Problem> {
    let source = Source::parse(text);
    let mut problems = Vec::new();
    for level in LEVELS {
        let call = format!("tracing::{level}!(");
        for (start, _) in source.code.match_indices(&call) {
            let open = start + call.len() - 1;
            let end = closing(&source.code, open).unwrap_or(source.code.len());
            if word_starts(&source.code[open..end], "node").is_empty() {
                let what = "logs without the field `node`";
                problems.push(Problem::new(path, line_of(&source.code, start), what));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_without_its_node_is_found() {
        let code = "fn f() {\n    tracing::info!(node, term = 1, \"a\");\n    \
                    tracing::warn!(\n        node = id.0,\n        \"b\"\n    );\n    \
                    tracing::error!(%error, \"of a node\");\n}\n";
        let found = check_file(Path::new("a.rs"), code);
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["a.rs:7: logs without the field `node`"]);
    }
}
