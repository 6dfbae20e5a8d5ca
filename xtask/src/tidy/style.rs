//! Rules for Rust sources: headers, sizes, reasons for exceptions, nothing left for later.

use std::path::Path;

use super::source::{Source, line_of, word_starts};
use super::{Problem, Tree};

/// Most lines of a production file, without its test parts.
const MAX_FILE_LINES: usize = 500;
/// Most lines of a production function.
const MAX_FUNCTION_LINES: usize = 70;

/// Words in comments that promise work for later.
const PROMISES: [&str; 3] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
];
/// Macros that stand for code that is not there.
const STUBS: [&str; 3] = ["todo", "unimplemented", "dbg"];

/// Checks every Rust file.
pub(super) fn check(tree: &Tree, problems: &mut Vec<Problem>) {
    for (path, text) in tree.with_extension("rs") {
        problems.extend(check_file(path, text));
    }
}

fn check_file(path: &Path, text: &str) -> Vec<Problem> {
    let source = Source::parse(text);
    let mut found = Vec::new();
    if !text.starts_with("//! ") {
        found.push((
            1,
            "begins without a `//!` line that says the file's one job".to_string(),
        ));
    }
    if !is_test_file(path) {
        found.extend(sizes(text, &source));
    }
    found.extend(exceptions_without_reason(&source));
    found.extend(left_for_later(&source));
    let problem = |(line, what)| Problem::new(path, line, what);
    found.into_iter().map(problem).collect()
}

/// Whether a file only holds tests or benchmarks.
fn is_test_file(path: &Path) -> bool {
    let in_tests = path.components().any(|part| {
        matches!(
            part.as_os_str().to_str(),
            Some("tests" | "benches" | "test")
        )
    });
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    in_tests
        || stem.is_some_and(|stem| {
            stem == "tests" || stem.ends_with("_test") || stem.ends_with("_tests")
        })
}

fn sizes(text: &str, source: &Source) -> Vec<(usize, String)> {
    let tests = source.test_parts();
    let is_test = |line: usize| tests.iter().any(|part| part.contains(&line));
    let mut found = Vec::new();
    let lines = (1..=text.lines().count())
        .filter(|line| !is_test(*line))
        .count();
    if lines > MAX_FILE_LINES {
        found.push((1, format!("has {lines} lines, more than {MAX_FILE_LINES}")));
    }
    for function in source.functions() {
        let (length, start) = (function.length(), *function.lines.start());
        if length > MAX_FUNCTION_LINES && !is_test(start) {
            let name = function.name;
            found.push((
                start,
                format!("function `{name}` has {length} lines, more than {MAX_FUNCTION_LINES}"),
            ));
        }
    }
    found
}

fn exceptions_without_reason(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (line, attribute) in source.attributes() {
        for exception in ["allow", "expect"] {
            let is_exception = word_starts(attribute, exception)
                .iter()
                .any(|start| attribute[start + exception.len()..].starts_with('('));
            if is_exception && word_starts(attribute, "reason").is_empty() {
                found.push((line, format!("`{exception}` without a reason")));
            }
        }
        if !word_starts(attribute, "ignore").is_empty() && attribute.starts_with("ignore") {
            found.push((line, "an ignored test".to_string()));
        }
    }
    found
}

fn left_for_later(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for word in PROMISES {
        for start in word_starts(&source.comments, word) {
            found.push((
                line_of(&source.comments, start),
                format!("`{word}` in a comment"),
            ));
        }
    }
    for stub in STUBS {
        for start in word_starts(&source.code, stub) {
            if source.code[start + stub.len()..].starts_with('!') {
                found.push((line_of(&source.code, start), format!("`{stub}!`")));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, text: &str) -> Vec<String> {
        let found = check_file(Path::new(path), text);
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_clean_file_is_clean() {
        let text = "//! One job.\n\n#[allow(dead_code, reason = \"shown\")]\nfn f() {}\n";
        assert_eq!(problems("a/src/x.rs", text), Vec::<String>::new());
    }

    #[test]
    fn a_file_says_its_job() {
        for text in ["fn f() {}\n", "// job\n", "\n//! job\n"] {
            assert_eq!(problems("a/tests/x.rs", text).len(), 1, "{text:?}");
        }
    }

    #[test]
    fn long_files_are_found_without_their_tests() {
        let lines = "struct S;\n".repeat(MAX_FILE_LINES - 1);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "use x;\n".repeat(300));
        let fits = format!("//! Job.\n{lines}{tests}");
        assert_eq!(problems("a/src/x.rs", &fits), Vec::<String>::new());
        let long = format!("{fits}struct More;\n");
        let found = problems("a/src/x.rs", &long);
        assert_eq!(found, ["a/src/x.rs:1: has 501 lines, more than 500"]);
        assert_eq!(problems("a/tests/x.rs", &long), Vec::<String>::new());
        assert_eq!(problems("a/src/x/tests.rs", &long), Vec::<String>::new());
    }

    #[test]
    fn long_functions_are_found_outside_tests() {
        let long = format!("fn long() {{\n{}}}\n", "    step();\n".repeat(69));
        let found = problems("a/src/x.rs", &format!("//! Job.\n{long}"));
        assert_eq!(
            found,
            ["a/src/x.rs:2: function `long` has 71 lines, more than 70"]
        );
        let in_tests = format!("//! Job.\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
        assert_eq!(problems("a/src/x.rs", &in_tests), Vec::<String>::new());
    }

    #[test]
    fn exceptions_need_a_reason() {
        for attribute in [
            "#[allow(dead_code)]",
            "#![expect(dead_code)]",
            "#[cfg_attr(unix, allow(dead_code))]",
            "#[allow(\n    dead_code\n)]",
        ] {
            let found = problems(
                "a/src/x.rs",
                &format!("//! Job.\n{attribute}\nfn f() {{}}\n"),
            );
            assert_eq!(found.len(), 1, "{attribute}: {found:?}");
        }
    }

    #[test]
    fn nothing_is_left_for_later() {
        let later = PROMISES[0];
        for line in [
            format!("// {later}: more"),
            format!("/// A {later}."),
            "fn f() { unimplemented!() }".to_string(),
            "#[test]\n#[ignore]\nfn f() {}".to_string(),
            "#[ignore = \"slow\"]\nfn f() {}".to_string(),
        ] {
            let found = problems("a/src/x.rs", &format!("//! Job.\n{line}\n"));
            assert_eq!(found.len(), 1, "{line}: {found:?}");
        }
        let text = "//! Job.\nconst A: &str = \"todo!\";\n// It must ignore( that, MASTODON too.\n";
        assert_eq!(problems("a/src/x.rs", text), Vec::<String>::new());
    }
}
