//! What stands between two leaves: a short byte string, in place if it fits.

use std::borrow::Borrow;
use std::cmp::Ordering;

/// Most bytes in place. With it a separator takes as much room as a boxed slice and a word.
const SHORT_MAX: usize = 22;

/// A byte string that is compared often: most are so short that they need no memory of their own,
/// and comparing those of one node of a map fetches nothing else.
#[derive(Clone, Debug)]
pub(super) enum Separator {
    Short { length: u8, bytes: [u8; SHORT_MAX] },
    Long(Box<[u8]>),
}

const _: () = assert!(size_of::<Separator>() == 24);

impl Separator {
    pub(super) fn new(of: &[u8]) -> Self {
        if of.len() > SHORT_MAX {
            return Self::Long(of.into());
        }
        let mut bytes = [0; SHORT_MAX];
        bytes[..of.len()].copy_from_slice(of);
        Self::Short {
            length: of.len() as u8,
            bytes,
        }
    }

    /// The shortest one that is greater than `left` and not greater than `right`.
    pub(super) fn between(left: &[u8], right: &[u8]) -> Self {
        assert!(left < right, "keys are in order");
        let common = left.iter().zip(right).take_while(|(l, r)| l == r).count();
        Self::new(&right[..=common])
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Short { length, bytes } => &bytes[..usize::from(*length)],
            Self::Long(bytes) => bytes,
        }
    }
}

impl Borrow<[u8]> for Separator {
    fn borrow(&self) -> &[u8] {
        self.bytes()
    }
}

impl PartialEq for Separator {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Separator {}

impl PartialOrd for Separator {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Separator {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes().cmp(other.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_are_short() {
        let long = [7; 40];
        let longer = [7; 41];
        let cases: [(&[u8], &[u8], &[u8]); 5] = [
            (b"abc", b"abd", b"abd"),
            (b"abc", b"b1234", b"b"),
            (b"ab", b"abcdef", b"abc"),
            (b"a\xff", b"b", b"b"),
            (&long, &longer, &longer),
        ];
        for (left, right, expected) in cases {
            let separator = Separator::between(left, right);
            assert_eq!(separator.bytes(), expected);
            assert!(left < separator.bytes() && separator.bytes() <= right);
        }
    }

    #[test]
    fn separators_are_ordered_like_their_bytes() {
        let strings = [0, 1, 2, 21, 22, 23, 24, 60].map(|length| vec![7_u8; length]);
        for left in &strings {
            for right in &strings {
                let (l, r) = (Separator::new(left), Separator::new(right));
                assert_eq!(l.cmp(&r), left.cmp(right));
                assert_eq!(l == r, left == right);
            }
        }
    }
}
