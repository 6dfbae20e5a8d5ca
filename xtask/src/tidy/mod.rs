//! `cargo xtask tidy`: what a compiler does not check about this tree.

mod constants;
mod links;
mod logs;
mod manifests;
mod operations;
mod pages;
mod paths;
mod pure;
mod source;
mod style;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::workspace;

/// Something that has to be changed.
#[derive(Debug, PartialEq, Eq)]
struct Problem {
    path: PathBuf,
    /// Counted from 1.
    line: usize,
    what: String,
}

impl Problem {
    fn new(path: &Path, line: usize, what: impl Into<String>) -> Self {
        Self {
            path: path.to_path_buf(),
            line,
            what: what.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.what)
    }
}

/// The text files of the project, by path relative to its root.
struct Tree {
    files: Vec<(PathBuf, String)>,
}

impl Tree {
    fn read(root: &Path) -> Result<Self, String> {
        let paths = workspace::files(root)
            .map_err(|error| format!("cannot list {}: {error}", root.display()))?;
        let mut files = Vec::with_capacity(paths.len());
        for path in paths {
            let bytes = std::fs::read(root.join(&path))
                .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            // What is not UTF-8 is not text.
            if let Ok(text) = String::from_utf8(bytes) {
                files.push((path, text));
            }
        }
        Ok(Self { files })
    }

    fn with_extension<'a>(
        &'a self,
        extension: &'a str,
    ) -> impl Iterator<Item = (&'a Path, &'a str)> {
        let has = move |path: &Path| path.extension().is_some_and(|found| found == extension);
        self.all().filter(move |(path, _)| has(path))
    }

    fn under<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = (&'a Path, &'a str)> {
        self.all().filter(move |(path, _)| path.starts_with(folder))
    }

    fn all(&self) -> impl Iterator<Item = (&Path, &str)> {
        let files = self.files.iter();
        files.map(|(path, text)| (path.as_path(), text.as_str()))
    }

    fn text(&self, path: &str) -> Option<&str> {
        let mut all = self.all();
        all.find(|(found, _)| *found == Path::new(path))
            .map(|(_, text)| text)
    }

    #[cfg(test)]
    fn of(files: &[(&str, &str)]) -> Self {
        let file = |(path, text): &(&str, &str)| (PathBuf::from(path), (*text).to_string());
        let files = files.iter().map(file).collect();
        Self { files }
    }
}

/// Checks the tree.
///
/// # Errors
/// How many problems there are; each is printed.
pub(crate) fn run() -> Result<(), String> {
    let tree = Tree::read(&workspace::root())?;
    let problems = problems(&tree);
    for problem in &problems {
        println!("{problem}");
    }
    println!("    tidy: {} text files read", tree.files.len());
    match problems.len() {
        0 => Ok(()),
        1 => Err("tidy found 1 problem".to_string()),
        count => Err(format!("tidy found {count} problems")),
    }
}

fn problems(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    style::check(tree, &mut problems);
    paths::check(tree, &mut problems);
    links::check(tree, &mut problems);
    pages::check(tree, &mut problems);
    manifests::check(tree, &mut problems);
    operations::check(tree, &mut problems);
    logs::check(tree, &mut problems);
    pure::check(tree, &mut problems);
    // A line may name what does not exist more than once.
    problems.dedup();
    problems
}
