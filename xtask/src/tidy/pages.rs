//! The format pages say what the code says: constants, message kinds, worked examples.

use std::path::Path;

use super::constants::{self, Constant};
use super::{Problem, Tree};

/// A format page and the code it describes.
struct Page {
    path: &'static str,
    sources: &'static str,
    /// What the page must name.
    required: Required,
}

enum Required {
    /// Every public integer constant below the folder.
    Public(&'static str),
    /// These constants and default fields.
    Names(&'static [&'static str]),
}

const PAGES: [Page; 3] = [
    Page {
        path: "docs/WIRE_FORMAT.md",
        sources: "raft-proto/src",
        required: Required::Public("raft-proto/src"),
    },
    Page {
        path: "docs/WAL_FORMAT.md",
        sources: "raft-log/src",
        required: Required::Names(&[
            "SEGMENT_VERSION",
            "RECORD_FILE_VERSION",
            "BLOCK_BYTES",
            "SECTOR_BYTES",
            "MIN_BATCH_BLOCKS",
            "RECORD_HEADER_BYTES",
            "segment_bytes",
        ]),
    },
    Page {
        path: "docs/SNAPSHOT_FORMAT.md",
        sources: "raft-log/src",
        required: Required::Public("raft-log/src/snapshot"),
    },
];

const WIRE_PAGE: &str = "docs/WIRE_FORMAT.md";
const KINDS: &str = "raft-proto/src/envelope.rs";
const GOLDEN: &str = "raft-proto/tests/golden";

/// Checks every format page.
pub(super) fn check(tree: &Tree, problems: &mut Vec<Problem>) {
    for page in &PAGES {
        if tree.under(page.sources).next().is_none() {
            continue;
        }
        match tree.text(page.path) {
            Some(text) => problems.extend(check_constants(tree, page, text)),
            None => problems.push(Problem::new(Path::new(page.path), 1, "does not exist")),
        }
    }
    if let (Some(page), Some(kinds)) = (tree.text(WIRE_PAGE), tree.text(KINDS)) {
        problems.extend(check_kinds(page, kinds));
        problems.extend(check_examples(tree, page));
    }
}

fn check_constants(tree: &Tree, page: &Page, text: &str) -> Vec<Problem> {
    let path = Path::new(page.path);
    let known = constants_under(tree, page.sources);
    let claims = claims(text);
    let mut problems = Vec::new();
    for claim in &claims {
        let values: Vec<_> = known
            .iter()
            .filter(|k| k.name == claim.name)
            .map(|k| k.value)
            .collect();
        if !values.is_empty() && !claim.value.is_some_and(|value| values.contains(&value)) {
            let what = format!(
                "says {} for `{}`, the code has {values:?}",
                claim.said, claim.name
            );
            problems.push(Problem::new(path, claim.line, what));
        }
    }
    let required: Vec<String> = match page.required {
        Required::Public(folder) => constants_under(tree, folder)
            .into_iter()
            .filter(|constant| constant.is_public)
            .map(|constant| constant.name)
            .collect(),
        Required::Names(names) => names.iter().map(ToString::to_string).collect(),
    };
    for name in required {
        if !known.iter().any(|constant| constant.name == name) {
            let what = format!("must name `{name}`, which the code does not have any more");
            problems.push(Problem::new(path, 1, what));
        } else if !claims.iter().any(|claim| claim.name == name) {
            let what = format!("does not say the value of `{name}`");
            problems.push(Problem::new(path, 1, what));
        }
    }
    problems
}

fn constants_under(tree: &Tree, folder: &str) -> Vec<Constant> {
    let sources = tree
        .under(folder)
        .filter(|(path, _)| path.extension().is_some_and(|e| e == "rs"));
    constants::of_sources(sources.map(|(_, text)| text))
}

/// A page says a value of something.
#[derive(Debug, PartialEq, Eq)]
struct Claim {
    line: usize,
    name: String,
    said: String,
    /// `None` if what it says is no number.
    value: Option<i128>,
}

/// What a page says in table rows (`` | `NAME` | value | ``) and in prose (`` `NAME = value` ``).
fn claims(text: &str) -> Vec<Claim> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut claim = |name: &str, said: &str| {
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if !name.is_empty() && name.chars().all(is_name) {
                found.push(Claim {
                    line: number + 1,
                    name: name.to_string(),
                    said: said.to_string(),
                    value: number_said(said),
                });
            }
        };
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        if let ["", name, said, ..] = cells[..] {
            let quoted = name
                .strip_prefix('`')
                .and_then(|name| name.strip_suffix('`'));
            claim(quoted.unwrap_or(""), said);
        }
        for code in line.split('`').skip(1).step_by(2) {
            if let Some((name, said)) = code.split_once(" = ") {
                claim(name, said);
            }
        }
    }
    found
}

/// The number at the start of a text: `4096`, `4_096`, `64 MiB`.
fn number_said(text: &str) -> Option<i128> {
    let text = text.trim().trim_matches('`');
    let end = text.find(|c: char| !c.is_ascii_digit() && !"_,".contains(c));
    let (digits, rest) = text.split_at(end.unwrap_or(text.len()));
    let digits: String = digits.chars().filter(char::is_ascii_digit).collect();
    let unit = match rest.split_whitespace().next() {
        Some("KiB") => 1 << 10,
        Some("MiB") => 1 << 20,
        Some("GiB") => 1 << 30,
        Some(_) | None => 1,
    };
    digits.parse::<i128>().ok().map(|number| number * unit)
}

/// Every kind in the code has its heading, and every heading its kind.
fn check_kinds(page: &str, code: &str) -> Vec<Problem> {
    let in_code = kinds_in_code(code);
    let on_page = kinds_on_page(page);
    let mut problems = Vec::new();
    for (_, kind) in &in_code {
        if !on_page.iter().any(|(_, found)| found == kind) {
            let what = format!("has no heading '### {kind}'");
            problems.push(Problem::new(Path::new(WIRE_PAGE), 1, what));
        }
    }
    for (line, kind) in &on_page {
        if !in_code.iter().any(|(_, found)| found == kind) {
            let what = format!("describes '{kind}', which the code does not have");
            problems.push(Problem::new(Path::new(WIRE_PAGE), *line, what));
        }
    }
    if in_code.is_empty() {
        problems.push(Problem::new(Path::new(KINDS), 1, "no message kinds found"));
    }
    problems
}

/// ``Kind 1: `Hello` (control`` for every line `Hello = 1, Control;` of the `messages!` list.
fn kinds_in_code(code: &str) -> Vec<(usize, String)> {
    let lines = code
        .lines()
        .enumerate()
        .skip_while(|(_, line)| *line != "messages! {");
    let list = lines.skip(1).take_while(|(_, line)| *line != "}");
    let kind = |(number, line): (usize, &str)| {
        let (name, rest) = line.trim().strip_suffix(';')?.split_once(" = ")?;
        let (kind, class) = rest.split_once(", ")?;
        let class = class.to_lowercase();
        Some((number + 1, format!("Kind {kind}: `{name}` ({class}")))
    };
    list.filter_map(kind).collect()
}

fn kinds_on_page(page: &str) -> Vec<(usize, String)> {
    let kind = |(number, line): (usize, &str)| {
        let heading = line.strip_prefix("### ")?;
        let end = heading.find([',', ')'])?;
        let is_kind = heading.starts_with("Kind ");
        is_kind.then(|| (number + 1, heading[..end].to_string()))
    };
    page.lines().enumerate().filter_map(kind).collect()
}

/// Every golden file is a worked example, byte for byte.
fn check_examples(tree: &Tree, page: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (path, text) in tree.under(GOLDEN) {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let example = format!("```text\n{}\n```", lines.collect::<Vec<_>>().join("\n"));
        if !page.contains(&example) {
            let what = format!("these bytes are not a worked example in {WIRE_PAGE}");
            problems.push(Problem::new(path, 1, what));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "messages! {\n    Hello = 1, Control;\n    Entry = 20, Append;\n}\n";

    #[test]
    fn numbers_are_read_with_their_unit() {
        assert_eq!(number_said("4096"), Some(4096));
        assert_eq!(number_said("4_096 bytes"), Some(4096));
        assert_eq!(number_said("64 MiB by default"), Some(64 << 20));
        assert_eq!(number_said("`16`"), Some(16));
        assert_eq!(number_said("many"), None);
    }

    #[test]
    fn pages_claim_values_in_tables_and_prose() {
        let text = "| name | value |\n| `A_B` | 4 KiB | x |\nnow `VERSION = 1`, see `f(a)`\n";
        let claims = claims(text);
        let found: Vec<_> = claims
            .iter()
            .map(|c| (c.line, c.name.as_str(), c.value))
            .collect();
        assert_eq!(found, [(2, "A_B", Some(4096)), (3, "VERSION", Some(1))]);
    }

    fn wire_problems(page: &str, code: &str) -> Vec<String> {
        let tree = Tree::of(&[(WIRE_PAGE, page), ("raft-proto/src/a.rs", code)]);
        let mut problems = Vec::new();
        check(&tree, &mut problems);
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn constants_must_be_named_with_their_value() {
        let code = "pub const LIMIT: usize = 2 << 10;\nconst INNER: u8 = 3;\n";
        assert_eq!(
            wire_problems("| `LIMIT` | 2 KiB |\n", code),
            Vec::<String>::new()
        );
        let wrong = wire_problems("| `LIMIT` | 2 KB |\n`INNER = 4`\n", code);
        assert_eq!(
            wrong,
            [
                "docs/WIRE_FORMAT.md:1: says 2 KB for `LIMIT`, the code has [2048]",
                "docs/WIRE_FORMAT.md:2: says 4 for `INNER`, the code has [3]",
            ]
        );
        let missing = wire_problems("`INNER = 3`\n", code);
        assert_eq!(
            missing,
            ["docs/WIRE_FORMAT.md:1: does not say the value of `LIMIT`"]
        );
    }

    #[test]
    fn a_page_must_exist_and_keep_what_it_must_name() {
        let tree = Tree::of(&[("raft-log/src/a.rs", "const SEGMENT_VERSION: u32 = 1;")]);
        let mut problems = Vec::new();
        check(&tree, &mut problems);
        assert_eq!(
            problems[0].to_string(),
            "docs/WAL_FORMAT.md:1: does not exist"
        );
        let tree = Tree::of(&[
            ("raft-log/src/a.rs", "const SEGMENT_VERSION: u32 = 1;"),
            ("docs/WAL_FORMAT.md", "`SEGMENT_VERSION = 1`"),
            ("docs/SNAPSHOT_FORMAT.md", ""),
        ]);
        problems.clear();
        check(&tree, &mut problems);
        // All but that version are gone from the code.
        assert_eq!(problems.len(), 6);
    }

    #[test]
    fn kinds_stand_on_the_page_with_number_name_and_class() {
        let page = "### Kind 1: `Hello` (control)\n### Kind 20: `Entry` (append, payload)\n";
        assert_eq!(check_kinds(page, CODE), []);
        let page = "### Kind 2: `Hello` (control)\n### Kind 20: `Entry` (bulk)\n";
        assert_eq!(check_kinds(page, CODE).len(), 4);
        assert_eq!(check_kinds("", "").len(), 1);
    }

    #[test]
    fn golden_bytes_are_examples_on_the_page() {
        let golden = "# comment\nheader  01 02\nhead    03\n";
        let tree = Tree::of(&[("raft-proto/tests/golden/a.hex", golden)]);
        let page = "x\n```text\nheader  01 02\nhead    03\n```\n";
        assert_eq!(check_examples(&tree, page), []);
        assert_eq!(check_examples(&tree, &page.replace("03", "04")).len(), 1);
    }
}
