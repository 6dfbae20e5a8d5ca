//! What operators read says what the program does: every metric is explained, and every metric and
//! flag that a page names exists.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Problem, Tree};

const PAGE: &str = "docs/OPERATIONS.md";
const METRICS: &str = "raft-kv/src/server/metrics";
/// Where the command line is defined: one file, and a folder beside it.
const ARGUMENTS: [&str; 2] = ["raft-kv/src/cli/args.rs", "raft-kv/src/cli/args"];
const PROGRAM: &str = "raft-kv ";
/// How the names of metrics begin.
const PREFIXES: [&str; 2] = ["raft_", "process_"];
/// What a histogram's samples add to its name.
const SAMPLE_SUFFIXES: [&str; 3] = ["_bucket", "_sum", "_count"];

/// Checks the pages against the sources.
pub(super) fn check(tree: &Tree, problems: &mut Vec<Problem>) {
    if let Some(page) = tree.text(PAGE) {
        problems.extend(check_metrics(tree, page));
    } else if tree.under(METRICS).next().is_some() {
        problems.push(Problem::new(Path::new(PAGE), 1, "does not exist"));
    }
    let known = flags_in_code(tree);
    if known.is_empty() {
        return;
    }
    for (path, text) in tree.with_extension("md") {
        for (line, flag) in flags_on_page(text) {
            if !known.contains(&flag) {
                let what = format!("names --{flag}, which raft-kv does not have");
                problems.push(Problem::new(path, line, what));
            }
        }
    }
}

fn check_metrics(tree: &Tree, page: &str) -> Vec<Problem> {
    let path = Path::new(PAGE);
    let in_code = metrics_in_code(tree);
    let mut problems = Vec::new();
    for name in &in_code {
        if !page.contains(&format!("\n| `{name}` |")) {
            let what = format!("does not explain the metric `{name}` in a row of its own");
            problems.push(Problem::new(path, 1, what));
        }
    }
    for (number, line) in page.lines().enumerate() {
        for name in words(line).filter(|word| is_metric(word)) {
            let whole = SAMPLE_SUFFIXES
                .iter()
                .find_map(|end| name.strip_suffix(end));
            let exists = in_code.contains(name)
                || whole.is_some_and(|whole| in_code.contains(whole))
                || is_crate(tree, name);
            if !exists {
                let what = format!("names the metric `{name}`, which does not exist");
                problems.push(Problem::new(path, number + 1, what));
            }
        }
    }
    problems
}

/// Filters of logs name crates as Rust does.
fn is_crate(tree: &Tree, name: &str) -> bool {
    let folder = name.replace('_', "-");
    tree.under(&folder).next().is_some()
}

fn is_metric(word: &str) -> bool {
    PREFIXES.iter().any(|prefix| word.starts_with(prefix))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '_')
}

/// Every literal that is the name of a metric.
fn metrics_in_code(tree: &Tree) -> BTreeSet<String> {
    let sources = tree.under(METRICS);
    let literals = sources.flat_map(|(_, text)| text.split('"').skip(1));
    let is_name = |literal: &&str| is_metric(literal) && words(literal).eq([*literal]);
    literals
        .filter(is_name)
        .map(ToString::to_string)
        .collect::<BTreeSet<_>>()
}

/// The names that fields of argument lists have as flags, and those given explicitly.
fn flags_in_code(tree: &Tree) -> BTreeSet<String> {
    let files = ARGUMENTS.iter().flat_map(|folder| tree.under(folder));
    let mut flags = BTreeSet::from(["help".to_string(), "version".to_string()]);
    for line in files.flat_map(|(_, text)| text.lines()) {
        if let Some((_, rest)) = line.split_once("long = \"") {
            flags.extend(rest.split('"').next().map(ToString::to_string));
        }
        let field = line.trim().strip_prefix("pub(super) ");
        let field = field.or_else(|| line.trim().strip_prefix("pub(in crate::cli) "));
        if let Some((name, _)) = field.and_then(|field| field.split_once(':')) {
            flags.insert(name.replace('_', "-"));
        }
    }
    // Without any field there is no command line here.
    if flags.len() == 2 {
        flags.clear();
    }
    flags
}

/// The flags of the program that a page names: in its commands, and alone in quotes.
fn flags_on_page(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_block = false;
    let mut continues = false;
    for (number, line) in text.lines().enumerate() {
        let mut take = |code: &str| {
            found.extend(flags(code).map(|flag| (number + 1, flag)));
        };
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
            continues = false;
        } else if in_block {
            let command = line.trim_start().trim_start_matches("$ ");
            if continues || command.starts_with(PROGRAM) {
                take(command.split(" #").next().unwrap_or(command));
                continues = command.ends_with('\\');
            }
        } else {
            for code in line.split('`').skip(1).step_by(2) {
                if code.starts_with(PROGRAM) || code.starts_with("--") {
                    take(code);
                }
            }
        }
    }
    found
}

fn flags(code: &str) -> impl Iterator<Item = String> {
    let words = code.split([' ', '[', ']', '|', '(', ')']);
    let flags = words.filter_map(|word| word.strip_prefix("--"));
    let is_name = |c: char| c.is_ascii_lowercase() || c == '-';
    let name = move |flag: &str| flag.chars().take_while(|c| is_name(*c)).collect();
    flags.map(name).filter(|name: &String| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARGS: (&str, &str) = (
        "raft-kv/src/cli/args.rs",
        "#[arg(long)]\npub(super) data_dir: PathBuf,\n#[arg(long = \"peer\")]\n",
    );

    fn problems(files: &[(&str, &str)]) -> Vec<String> {
        let mut problems = Vec::new();
        check(&Tree::of(files), &mut problems);
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn metrics_and_their_page_agree() {
        let code = (
            "raft-kv/src/server/metrics/mod.rs",
            "page.gauge(\"raft_a\", \"help of raft_x\"); page.histogram(\n\"raft_b_seconds\",\n",
        );
        let crates = ("raft-net/src/lib.rs", "");
        let page = "x\n| `raft_a` | is a |\n| `raft_b_seconds` | takes b |\n\
                    `rate(raft_b_seconds_bucket[1m])`, `raft_net=debug`\n";
        assert_eq!(problems(&[code, crates, (PAGE, page)]), [""; 0]);
        let page = "x\n| `raft_a` | is a |\n`raft_a_bucket > raft_old`\n";
        assert_eq!(
            problems(&[code, crates, (PAGE, page)]),
            [
                "docs/OPERATIONS.md:1: does not explain the metric `raft_b_seconds` in a row of its own",
                "docs/OPERATIONS.md:3: names the metric `raft_old`, which does not exist",
            ]
        );
        assert_eq!(problems(&[code]), ["docs/OPERATIONS.md:1: does not exist"]);
    }

    #[test]
    fn flags_in_commands_exist() {
        let page = "`raft-kv server --data-dir=x [--peers P]` and `--peer`, `--old`, `cargo --x`\n\
                    ```text\nuseradd --system\nraft-kv server --peer 1 \\\n    --gone\n\
                    $ raft-kv x --help # --no\n```\n";
        assert_eq!(
            problems(&[ARGS, ("README.md", page)]),
            [
                "README.md:1: names --peers, which raft-kv does not have",
                "README.md:1: names --old, which raft-kv does not have",
                "README.md:5: names --gone, which raft-kv does not have",
            ]
        );
    }
}
