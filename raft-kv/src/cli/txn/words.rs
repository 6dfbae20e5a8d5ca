//! Splits a line into words: bare ones, and quoted ones as etcdctl reads them.

use thiserror::Error;

/// Why a line has no words.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum WordError {
    /// A quote is not closed.
    #[error("the text after {0} has no closing quote")]
    Open(char),
    /// Something follows a closing quote without a blank.
    #[error("there is no blank after the closing quote of {0:?}")]
    NoBlank(String),
    /// An escape that does not exist, or is cut off.
    #[error(
        "{0:?} is no escape; there are \\a \\b \\f \\n \\r \\t \\v \\\\ \\' \\\" \\xHH \\OOO \\uHHHH \
         and \\UHHHHHHHH"
    )]
    Escape(String),
}

/// The words of a line. `"…"` is read with Go's escapes, `'…'` and `` `…` `` literally; anything
/// else ends at the next blank.
pub(super) fn split(line: &[u8]) -> Result<Vec<Vec<u8>>, WordError> {
    let mut words = Vec::new();
    let mut rest = line.trim_ascii_start();
    while let Some(&first) = rest.first() {
        let after = match first {
            b'"' | b'\'' | b'`' => {
                let (word, behind) = quoted(rest)?;
                if behind
                    .first()
                    .is_some_and(|byte| !byte.is_ascii_whitespace())
                {
                    let shown = String::from_utf8_lossy(&word).into_owned();
                    return Err(WordError::NoBlank(shown));
                }
                words.push(word);
                behind
            }
            _ => {
                let end = rest.iter().position(u8::is_ascii_whitespace);
                let (word, behind) = rest.split_at(end.unwrap_or(rest.len()));
                words.push(word.to_vec());
                behind
            }
        };
        rest = after.trim_ascii_start();
    }
    Ok(words)
}

/// Reads a text that begins with a quote; returns it without quotes, and what follows it.
pub(super) fn quoted(text: &[u8]) -> Result<(Vec<u8>, &[u8]), WordError> {
    let Some((&quote, mut rest)) = text.split_first() else {
        return Err(WordError::Open('"'));
    };
    let mut word = Vec::new();
    loop {
        match rest.split_first() {
            None => return Err(WordError::Open(char::from(quote))),
            Some((&byte, behind)) if byte == quote => return Ok((word, behind)),
            Some((b'\\', behind)) if quote == b'"' => rest = unescape(behind, &mut word)?,
            Some((&byte, behind)) => {
                word.push(byte);
                rest = behind;
            }
        }
    }
}

/// Reads what follows a backslash; returns the rest behind it.
fn unescape<'a>(text: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], WordError> {
    let bad = |length: usize| {
        let shown = &text[..length.min(text.len())];
        WordError::Escape(format!("\\{}", String::from_utf8_lossy(shown)))
    };
    let Some((&kind, rest)) = text.split_first() else {
        return Err(bad(0));
    };
    let plain = match kind {
        b'a' => 0x07,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 0x0b,
        b'\\' | b'\'' | b'"' => kind,
        b'x' => {
            let value = number(rest, 2, 16).ok_or_else(|| bad(3))?;
            // Two hexadecimal digits fit into a byte.
            word.push(value as u8);
            return Ok(&rest[2..]);
        }
        b'0'..=b'7' => {
            let value = number(text, 3, 8).ok_or_else(|| bad(3))?;
            word.push(u8::try_from(value).map_err(|_| bad(3))?);
            return Ok(&text[3..]);
        }
        b'u' | b'U' => {
            let digits = if kind == b'u' { 4 } else { 8 };
            let value = number(rest, digits, 16).ok_or_else(|| bad(1 + digits))?;
            let character = char::from_u32(value).ok_or_else(|| bad(1 + digits))?;
            word.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            return Ok(&rest[digits..]);
        }
        _ => return Err(bad(1)),
    };
    word.push(plain);
    Ok(rest)
}

/// The number that the first `digits` bytes are, in this base.
fn number(text: &[u8], digits: usize, base: u32) -> Option<u32> {
    let digits = text.get(..digits)?;
    digits.iter().try_fold(0u32, |number, digit| {
        let value = char::from(*digit).to_digit(base)?;
        number.checked_mul(base)?.checked_add(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<Vec<u8>> {
        split(line.as_bytes()).unwrap()
    }

    #[test]
    fn words_are_separated_by_blanks_and_may_be_quoted() {
        assert_eq!(words("  put k  v\t"), [&b"put"[..], b"k", b"v"]);
        assert_eq!(
            words(r#"put "a key" 'it is \n "so"' `\n'`"#),
            [&b"put"[..], b"a key", br#"it is \n "so""#, b"\\n'"]
        );
        assert_eq!(words(r#"put "" ''"#), [&b"put"[..], b"", b""]);
        // A quote inside a bare word is part of it.
        assert_eq!(words(r#"--limit="5""#), [br#"--limit="5""#]);
        assert_eq!(words("  "), [b""; 0]);
    }

    #[test]
    fn escapes_are_those_of_go() {
        assert_eq!(
            words(r#""\a\b\f\n\r\t\v\\\'\"\x00\xff\101\u00e9\U0001F600""#),
            [b"\x07\x08\x0c\n\r\t\x0b\\'\"\x00\xffA\xc3\xa9\xf0\x9f\x98\x80"]
        );
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let error = |line: &str| split(line.as_bytes()).unwrap_err();
        assert_eq!(error(r#"put "k"#), WordError::Open('"'));
        assert_eq!(error("put 'k"), WordError::Open('\''));
        assert_eq!(error(r#"put "k\"#), WordError::Escape("\\".to_owned()));
        assert_eq!(error(r#""k"v"#), WordError::NoBlank("k".to_owned()));
        for bad in [
            r#""\q""#,
            r#""\x1""#,
            r#""\8""#,
            r#""\777""#,
            r#""\ud800""#,
            r#""\u12""#,
        ] {
            assert!(matches!(error(bad), WordError::Escape(_)), "{bad}");
        }
    }
}
