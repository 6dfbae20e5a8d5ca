//! Frames on a long-lived stream: length, kind, number, content.

/// Bytes before the content: length of the rest (4), kind (1), number (8).
const HEAD_BYTES: usize = 13;

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A client writes; the answer has the same number and no content.
    Put,
    /// A client reads; the answer has the same number and the content.
    Get,
    /// The leader replicates; the number is how many entries there are with these.
    Append,
    /// A follower has synced so many entries.
    Durable,
    /// A round that confirms reads, and its echo.
    Round,
}

impl Kind {
    const ALL: [Self; 5] = [
        Self::Put,
        Self::Get,
        Self::Append,
        Self::Durable,
        Self::Round,
    ];
}

/// Appends a frame.
pub fn push(out: &mut Vec<u8>, kind: Kind, number: u64, content: &[u8]) {
    let length = HEAD_BYTES - 4 + content.len();
    out.extend_from_slice(&(length as u32).to_le_bytes());
    out.push(kind as u8);
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(content);
}

/// Cuts a stream of bytes into frames.
#[derive(Debug, Default)]
pub struct Parser {
    waiting: Vec<u8>,
}

impl Parser {
    /// Takes what arrived, and hands over every whole frame.
    ///
    /// # Panics
    /// If the bytes are no frames: both ends are this program.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Kind, u64, &[u8])) {
        // Most of the time a chunk holds whole frames, and nothing is copied.
        let mut rest = bytes;
        if !self.waiting.is_empty() {
            self.waiting.extend_from_slice(bytes);
            rest = &self.waiting;
        }
        while let Some((kind, number, content, after)) = cut(rest) {
            each(kind, number, content);
            rest = after;
        }
        let rest = rest.to_vec();
        self.waiting = rest;
    }
}

fn cut(bytes: &[u8]) -> Option<(Kind, u64, &[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    if rest.len() < length {
        return None;
    }
    let (frame, after) = rest.split_at(length);
    let (kind, frame) = frame.split_first()?;
    let (number, content) = frame.split_first_chunk::<8>()?;
    let kind = Kind::ALL
        .get(usize::from(*kind))
        .expect("the kind is known");
    Some((*kind, u64::from_le_bytes(*number), content, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cut() {
        let mut bytes = Vec::new();
        push(&mut bytes, Kind::Put, 7, b"abc");
        push(&mut bytes, Kind::Round, u64::MAX, b"");
        push(&mut bytes, Kind::Append, 1, &[9; 300]);
        for step in 1..=bytes.len() {
            let mut parser = Parser::default();
            let mut seen = Vec::new();
            for piece in bytes.chunks(step) {
                parser.feed(piece, |kind, number, content| {
                    seen.push((kind, number, content.len()));
                });
            }
            let expected = [
                (Kind::Put, 7, 3),
                (Kind::Round, u64::MAX, 0),
                (Kind::Append, 1, 300),
            ];
            assert_eq!(seen, expected);
        }
    }
}
