//! Links between documents lead to files and headings that exist.

use std::path::{Component, Path, PathBuf};

use super::{Problem, Tree};

/// Checks the links of every Markdown file, and every mention of a page in `docs/` anywhere.
pub(super) fn check(tree: &Tree, problems: &mut Vec<Problem>) {
    for (path, text) in tree.with_extension("md") {
        for (line, target) in links(text) {
            if let Some(what) = broken(tree, path, &target) {
                problems.push(Problem::new(path, line, what));
            }
        }
    }
    // The checks themselves speak of pages that need not exist.
    for (path, text) in tree.all().filter(|(path, _)| !path.starts_with("xtask")) {
        for (line, page) in mentioned_pages(text) {
            if tree.text(page).is_none() {
                problems.push(Problem::new(path, line, format!("{page} does not exist")));
            }
        }
    }
}

/// Line and target of every `[text](target)` outside code.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (line, prose) in prose_lines(text) {
        for (start, _) in prose.match_indices("](") {
            let target = &prose[start + 2..];
            if let Some(end) = target.find([')', ' ']) {
                found.push((line, target[..end].to_string()));
            }
        }
    }
    found
}

/// The lines outside code blocks, without inline code, with their numbers.
fn prose_lines(text: &str) -> Vec<(usize, String)> {
    let mut in_block = false;
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            let outside = line.split('`').step_by(2).collect::<Vec<_>>();
            found.push((number + 1, outside.join("")));
        }
    }
    found
}

/// Why a link leads nowhere, if it does.
fn broken(tree: &Tree, from: &Path, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, heading) = match target.split_once('#') {
        Some((file, heading)) => (file, Some(heading)),
        None => (target, None),
    };
    let path = if file.is_empty() {
        from.to_path_buf()
    } else {
        resolve(from, file)
    };
    let Some((_, text)) = tree.all().find(|(found, _)| *found == path) else {
        let is_folder = tree.all().any(|(found, _)| found.starts_with(&path));
        return (!is_folder).then(|| format!("links to {target}, which does not exist"));
    };
    let heading = heading?;
    let exists = headings(text).iter().any(|found| found == heading);
    (!exists).then(|| format!("links to {target}, but there is no such heading"))
}

/// A relative link, from the folder of the file it stands in.
fn resolve(from: &Path, link: &str) -> PathBuf {
    let mut path = from.parent().map(Path::to_path_buf).unwrap_or_default();
    for part in Path::new(link).components() {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            Component::Normal(name) => path.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    path
}

/// The anchors of a page's headings, made as code hosts make them.
fn headings(text: &str) -> Vec<String> {
    let mut in_block = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        }
        let title = line.trim_start_matches('#');
        if !in_block && title.len() < line.len() && title.starts_with(' ') {
            let kept = title
                .trim()
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            let anchor = kept.map(|c| if c == ' ' { '-' } else { c });
            found.push(anchor.flat_map(char::to_lowercase).collect());
        }
    }
    found
}

/// Line and path of every page of `docs/` that is named, in a link or not.
fn mentioned_pages(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for (start, _) in line.match_indices("docs/") {
            let before = line[..start].chars().next_back();
            let rest = &line[start..];
            let is_path = |c: char| c.is_alphanumeric() || "/_-.".contains(c);
            let end = rest.find(|c| !is_path(c)).unwrap_or(rest.len());
            let page = rest[..end].trim_end_matches('.');
            if page.ends_with(".md") && !before.is_some_and(|c| is_path(c) && c != '/') {
                found.push((number + 1, page));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(files: &[(&str, &str)]) -> Vec<String> {
        let mut problems = Vec::new();
        check(&Tree::of(files), &mut problems);
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn links_that_lead_somewhere_are_fine() {
        let readme = "[a](docs/A.md) [b](docs/A.md#two-words-10) [c](#top) [d](https://x.org/y)\n\
                      [e](docs) `[not](a-link)`\n\n# Top\n";
        let page = "# One\n## Two words: §10!\n[up](../README.md)\n```\n[no](link)\n```\n";
        assert_eq!(
            problems(&[("README.md", readme), ("docs/A.md", page)]),
            Vec::<String>::new()
        );
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        let readme = "\n[a](docs/B.md)\n[b](docs/A.md#three)\n[c](#none)\n";
        let found = problems(&[("README.md", readme), ("docs/A.md", "# One\n")]);
        // The first is also a mention of a page.
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found[0].starts_with("README.md:2: links to docs/B.md"));
        assert!(found[1].starts_with("README.md:3: links to docs/A.md#three, but"));
    }

    #[test]
    fn pages_named_in_code_exist() {
        let code = "//! See `docs/A.md`, and docs/GONE.md.\n// mydocs/X.md, docs/notes.txt\n";
        let found = problems(&[("src/x.rs", code), ("docs/A.md", "")]);
        assert_eq!(found, ["src/x.rs:1: docs/GONE.md does not exist"]);
    }
}
