//! A Rust source file cut into code and comments, with its functions and its test parts.

use std::ops::RangeInclusive;

/// A source file. `code` and `comments` have the lines of the file; what belongs to the other
/// one, and the inside of literals, is blank.
pub(super) struct Source {
    pub(super) code: String,
    pub(super) comments: String,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: String,
    /// From its `fn` to its closing brace, counted from 1.
    pub(super) lines: RangeInclusive<usize>,
}

impl Function {
    pub(super) fn length(&self) -> usize {
        self.lines.end() - self.lines.start() + 1
    }
}

impl Source {
    pub(super) fn parse(text: &str) -> Self {
        let mut scanner = Scanner::new(text);
        while scanner.step() {}
        Self {
            code: scanner.code,
            comments: scanner.comments,
        }
    }

    /// Its functions with a body, nested ones too.
    pub(super) fn functions(&self) -> Vec<Function> {
        let words = word_starts(&self.code, "fn");
        let function = |start: usize| {
            let name: String = self.code[start + 2..]
                .trim_start()
                .chars()
                .take_while(|c| is_word(*c))
                .collect();
            let end = item_end(&self.code, start)?;
            let has_body = self.code[..=end].ends_with('}');
            (!name.is_empty() && has_body).then(|| Function {
                name,
                lines: line_of(&self.code, start)..=line_of(&self.code, end),
            })
        };
        words.into_iter().filter_map(function).collect()
    }

    /// The line ranges of items that are only compiled for tests.
    pub(super) fn test_parts(&self) -> Vec<RangeInclusive<usize>> {
        let attributes = self.code.match_indices("#[cfg(");
        let part = |(start, _)| {
            let close = closing(&self.code, start + 1)?;
            let condition = &self.code[start..close];
            let for_tests = !word_starts(condition, "test").is_empty();
            if !for_tests || condition.contains("not(test)") {
                return None;
            }
            let end = item_end(&self.code, close + 1)?;
            Some(line_of(&self.code, start)..=line_of(&self.code, end))
        };
        attributes.filter_map(part).collect()
    }

    /// The attributes (`#[…]`, `#![…]`) with the line they start on.
    pub(super) fn attributes(&self) -> Vec<(usize, &str)> {
        let starts = self.code.match_indices('#');
        let attribute = |(start, _): (usize, &str)| {
            let rest = &self.code[start + 1..];
            let open = start + 1 + usize::from(rest.starts_with('!'));
            self.code[open..].starts_with('[').then_some(())?;
            let close = closing(&self.code, open)?;
            Some((line_of(&self.code, start), &self.code[open + 1..close]))
        };
        starts.filter_map(attribute).collect()
    }
}

/// Byte offsets at which `word` stands as a word of its own.
pub(super) fn word_starts(text: &str, word: &str) -> Vec<usize> {
    let alone = |start: usize| {
        let before = text[..start].chars().next_back();
        let after = text[start + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    };
    let found = text.match_indices(word).map(|(start, _)| start);
    found.filter(|start| alone(*start)).collect()
}

/// The line of a byte offset, counted from 1.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    1 + text[..offset].matches('\n').count()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Offset of the bracket that closes the one at `open`.
pub(super) fn closing(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (offset, c) in code[open..].char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some(open + offset);
        }
    }
    None
}

/// Offset of the `;` or `}` that ends the item which starts at or after `start`.
fn item_end(code: &str, start: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (offset, c) in code[start..].char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.checked_sub(1)?,
            '{' if depth == 0 => return closing(code, start + offset),
            ';' if depth == 0 => return Some(start + offset),
            _ => {}
        }
    }
    None
}

/// Walks over a file and tells code, comments and literals apart.
struct Scanner<'a> {
    rest: &'a str,
    /// The character before `rest`.
    previous: char,
    code: String,
    comments: String,
}

impl<'a> Scanner<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            rest: text,
            previous: '\n',
            code: String::with_capacity(text.len()),
            comments: String::with_capacity(text.len()),
        }
    }

    /// Takes the next token; false at the end.
    fn step(&mut self) -> bool {
        let Some(first) = self.rest.chars().next() else {
            return false;
        };
        if self.rest.starts_with("//") {
            let end = self.rest.find('\n').unwrap_or(self.rest.len());
            self.comment(end);
        } else if self.rest.starts_with("/*") {
            self.comment(block_comment_length(self.rest));
        } else if let Some(length) = raw_string_length(self.rest, self.previous) {
            self.literal(length);
        } else if first == '"' {
            self.literal(quoted_length(self.rest, '"'));
        } else if first == '\'' && is_character_literal(self.rest) {
            self.literal(quoted_length(self.rest, '\''));
        } else {
            self.take(first.len_utf8(), true, false);
        }
        true
    }

    fn comment(&mut self, length: usize) {
        self.take(length, false, true);
    }

    /// The quotes stay in the code, so that something stands there.
    fn literal(&mut self, length: usize) {
        self.take(length, false, false);
        self.code.pop();
        self.code.push('"');
    }

    fn take(&mut self, length: usize, to_code: bool, to_comments: bool) {
        let (token, rest) = self.rest.split_at(length);
        self.rest = rest;
        for c in token.chars() {
            let keep = |kept: bool| if kept || c == '\n' { c } else { ' ' };
            self.code.push(keep(to_code));
            self.comments.push(keep(to_comments));
            self.previous = c;
        }
    }
}

fn block_comment_length(text: &str) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Length of the raw string at the start of `text`, if there is one.
fn raw_string_length(text: &str, previous: char) -> Option<usize> {
    let hashes_and_on = text.strip_prefix('r')?;
    if is_word(previous) && !matches!(previous, 'b' | 'c') {
        return None;
    }
    let inside = hashes_and_on.trim_start_matches('#');
    let hashes = hashes_and_on.len() - inside.len();
    let inside = inside.strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = inside.find(&end).map_or(inside.len(), |at| at + end.len());
    Some(text.len() - inside.len() + length)
}

fn quoted_length(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// Whether the quote at the start of `text` begins a character, not a lifetime.
fn is_character_literal(text: &str) -> bool {
    let mut characters = text.chars().skip(1);
    match characters.next() {
        Some('\\') => true,
        Some(_) => characters.next() == Some('\''),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_comments_and_literals_are_told_apart() {
        let text = "let a = \"// no } {\"; // yes \"{\"\nlet b = '\"'; /* x /* y */ z */ fn_();\n";
        let source = Source::parse(text);
        assert!(!source.code.contains("no") && !source.code.contains("yes"));
        assert!(source.code.contains("fn_();"));
        assert!(source.comments.contains("// yes \"{\""));
        assert!(source.comments.contains("z */") && !source.comments.contains("let"));
        assert_eq!(source.code.lines().count(), 2);
    }

    #[test]
    fn raw_strings_and_lifetimes_do_not_confuse() {
        let text =
            "fn f<'a>(x: &'a str) -> R<'a> { r#\"} \" fn g() { \"#; br\"\\\"; 'x' }\nfn h() {}\n";
        let names: Vec<_> = Source::parse(text).functions();
        let names: Vec<_> = names.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["f", "h"]);
    }

    #[test]
    fn functions_have_their_lines() {
        let text = "trait T { fn declared(&self, x: [u8; 3]); }\n\nfn long(\n    f: fn(u8) -> u8,\n) {\n    let _ = || { 1 };\n}\n";
        let functions = Source::parse(text).functions();
        let expected = Function {
            name: "long".to_string(),
            lines: 3..=7,
        };
        assert_eq!(functions, [expected]);
        assert_eq!(functions[0].length(), 5);
    }

    #[test]
    fn test_parts_end_with_their_item() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n#[cfg(all(test, unix))]\nuse x::y;\n#[cfg(not(test))]\nfn d() {}\n";
        assert_eq!(Source::parse(text).test_parts(), [2..=5, 7..=8]);
    }

    #[test]
    fn attributes_are_found_whole() {
        let text = "#![allow(\n    dead_code\n)]\n#[derive(Debug)]\nstruct S; // #[not]\n";
        let source = Source::parse(text);
        let attributes = source.attributes();
        assert_eq!(attributes.len(), 2);
        assert_eq!(attributes[0].0, 1);
        assert!(attributes[0].1.contains("dead_code"));
        assert_eq!(attributes[1], (4, "derive(Debug)"));
    }
}
