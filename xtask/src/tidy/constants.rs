//! Integer constants and default fields of Rust sources, with their values.

use super::source::{Source, word_starts};

/// How deep an expression may nest.
const MAX_DEPTH: usize = 32;

/// A constant, or a field of an `impl Default`, whose value is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Constant {
    pub(super) name: String,
    pub(super) value: i128,
    pub(super) is_public: bool,
}

/// The integer constants of some sources, tests left out. One may build on another of the same
/// sources.
pub(super) fn of_sources<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<Constant> {
    let declared: Vec<Declared> = texts.flat_map(declarations).collect();
    let mut known: Vec<Constant> = Vec::new();
    // Each pass resolves at least one more, or the rest are no integers.
    for _ in 0..=declared.len() {
        let before = known.len();
        known = declared.iter().filter_map(|d| d.resolve(&known)).collect();
        if known.len() == before {
            break;
        }
    }
    known
}

/// The value of an integer expression, as constants have them.
fn evaluate(expression: &str, known: &[Constant]) -> Option<i128> {
    let mut parser = Parser {
        tokens: tokens(expression)?,
        at: 0,
        known,
    };
    let value = parser.shifts(0)?;
    (parser.at == parser.tokens.len()).then_some(value)
}

struct Declared {
    name: String,
    expression: String,
    is_public: bool,
}

impl Declared {
    fn resolve(&self, known: &[Constant]) -> Option<Constant> {
        Some(Constant {
            name: self.name.clone(),
            value: evaluate(&self.expression, known)?,
            is_public: self.is_public,
        })
    }
}

fn declarations(text: &str) -> Vec<Declared> {
    let source = Source::parse(text);
    let tests = source.test_parts();
    let declared = |start: usize| {
        let line = super::source::line_of(&source.code, start);
        if tests.iter().any(|part| part.contains(&line)) {
            return None;
        }
        let rest = &source.code[start + "const".len()..];
        let (name, rest) = rest.split_once(':')?;
        let name = name.trim();
        let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        let (_, rest) = rest.split_once('=')?;
        let (expression, _) = rest.split_once(';')?;
        let before = source.code[..start].trim_end();
        (!name.is_empty() && name.chars().all(is_name)).then(|| Declared {
            name: name.to_string(),
            expression: expression.trim().to_string(),
            is_public: before.ends_with("pub"),
        })
    };
    let starts = word_starts(&source.code, "const");
    let constants = starts.into_iter().filter_map(declared);
    constants.chain(default_fields(&source.code)).collect()
}

/// The fields that an `impl Default` sets, as `name: expression,` on a line of their own.
fn default_fields(code: &str) -> Vec<Declared> {
    let mut found = Vec::new();
    for (start, _) in code.match_indices("impl Default for") {
        let body = &code[start..];
        let body = &body[..body.find("\n}").unwrap_or(body.len())];
        for line in body.lines() {
            let Some((name, expression)) = line.trim().split_once(": ") else {
                continue;
            };
            let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            if let Some(expression) = expression.strip_suffix(',')
                && name.chars().all(is_name)
            {
                found.push(Declared {
                    name: name.to_string(),
                    expression: expression.to_string(),
                    is_public: false,
                });
            }
        }
    }
    found
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Number(i128),
    Name(String),
    Symbol(char),
    ShiftLeft,
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_part = |c: char| c.is_alphanumeric() || "_:".contains(c);
        let length = if first.is_alphanumeric() || first == '_' {
            let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            found.push(word(&rest[..end])?);
            end
        } else if rest.starts_with("<<") {
            found.push(Token::ShiftLeft);
            2
        } else {
            found.push(Token::Symbol(first));
            first.len_utf8()
        };
        rest = rest[length..].trim_start();
    }
    Some(found)
}

fn word(text: &str) -> Option<Token> {
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return Some(match text {
            "u8::MAX" => Token::Number(u8::MAX.into()),
            "u16::MAX" => Token::Number(u16::MAX.into()),
            "u32::MAX" => Token::Number(u32::MAX.into()),
            "u64::MAX" => Token::Number(u64::MAX.into()),
            _ => Token::Name(text.rsplit("::").next().unwrap_or(text).to_string()),
        });
    }
    let digits: String = text.chars().filter(|c| *c != '_').collect();
    let (digits, radix) = match digits.strip_prefix("0x") {
        Some(hexadecimal) => (hexadecimal.to_string(), 16),
        None => (digits, 10),
    };
    let suffix = ["usize", "u8", "u16", "u32", "u64", "i64"];
    let plain = suffix.iter().find_map(|suffix| digits.strip_suffix(suffix));
    let plain = plain.unwrap_or(&digits);
    i128::from_str_radix(plain, radix).ok().map(Token::Number)
}

struct Parser<'a> {
    tokens: Vec<Token>,
    at: usize,
    known: &'a [Constant],
}

impl Parser<'_> {
    fn next_is(&mut self, token: &Token) -> bool {
        let is = self.tokens.get(self.at) == Some(token);
        self.at += usize::from(is);
        is
    }

    fn shifts(&mut self, depth: usize) -> Option<i128> {
        let mut value = self.sums(depth)?;
        while self.next_is(&Token::ShiftLeft) {
            let by = u32::try_from(self.sums(depth)?).ok()?;
            value = value.checked_mul(1i128.checked_shl(by)?)?;
        }
        Some(value)
    }

    fn sums(&mut self, depth: usize) -> Option<i128> {
        let mut value = self.products(depth)?;
        loop {
            if self.next_is(&Token::Symbol('+')) {
                value = value.checked_add(self.products(depth)?)?;
            } else if self.next_is(&Token::Symbol('-')) {
                value = value.checked_sub(self.products(depth)?)?;
            } else {
                return Some(value);
            }
        }
    }

    fn products(&mut self, depth: usize) -> Option<i128> {
        let mut value = self.operand(depth)?;
        loop {
            if self.next_is(&Token::Symbol('*')) {
                value = value.checked_mul(self.operand(depth)?)?;
            } else if self.next_is(&Token::Symbol('/')) {
                value = value.checked_div(self.operand(depth)?)?;
            } else {
                return Some(value);
            }
        }
    }

    fn operand(&mut self, depth: usize) -> Option<i128> {
        if depth > MAX_DEPTH {
            return None;
        }
        let token = self.tokens.get(self.at)?.clone();
        self.at += 1;
        let value = match token {
            Token::Number(value) => value,
            Token::Name(name) => self.known.iter().find(|known| known.name == name)?.value,
            Token::Symbol('(') => {
                let value = self.shifts(depth + 1)?;
                self.next_is(&Token::Symbol(')')).then_some(value)?
            }
            Token::Symbol(_) | Token::ShiftLeft => return None,
        };
        // A cast keeps the value, in constants that compile without a lint.
        while self.next_is(&Token::Name("as".to_string())) {
            self.at += 1;
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(expression: &str) -> Option<i128> {
        evaluate(expression, &[])
    }

    #[test]
    fn expressions_of_constants_have_their_value() {
        assert_eq!(value("64 << 10"), Some(65_536));
        assert_eq!(value("(1 << 62) - 1"), Some((1 << 62) - 1));
        assert_eq!(value("(u32::MAX as usize) - 0x10"), Some(4_294_967_279));
        assert_eq!(value("2 + 3 * 4 / 2"), Some(8));
        assert_eq!(value("1_000u64"), Some(1000));
        for no_integer in ["", "b", "Duration::from_secs(1)", "1 +", "[1, 2]", "f(1)"] {
            assert_eq!(value(no_integer), None, "{no_integer}");
        }
    }

    #[test]
    fn defaults_have_their_value() {
        let text = "impl Default for O {\n    fn default() -> Self {\n        Self {\n            \
                    segment_bytes: 64 << 20,\n            how: How::Fast,\n        }\n    }\n}\n";
        let found = of_sources(std::iter::once(text));
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].name.as_str(), found[0].value),
            ("segment_bytes", 64 << 20)
        );
    }

    #[test]
    fn constants_may_build_on_each_other() {
        let one =
            "pub const AB: u64 = 2 * b::C;\nconst D: &str = \"5\";\nconst fn f() -> u8 { 1 }\n";
        let two = "pub(crate) const C: u64 = 21;\n#[cfg(test)]\nmod t { const E: u8 = 1; }\n";
        let found = of_sources([one, two].into_iter());
        let expected = [("AB", 42, true), ("C", 21, false)];
        let expected = expected.map(|(name, value, is_public)| Constant {
            name: name.to_string(),
            value,
            is_public,
        });
        assert_eq!(found, expected);
    }
}
