//! Virtual time and the core's own ids, all plain numbers.

use std::fmt;

/// Nanoseconds in a millisecond.
const NS_PER_MS: u64 = 1_000_000;

/// A point in time: nanoseconds since an origin that the driver chooses once and keeps.
///
/// The core never looks at a clock. Time only moves its timers; nothing that must be safe depends
/// on it, and a `now` that is earlier than one seen before is taken for the latest one seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The origin.
    pub const ZERO: Self = Self(0);

    /// The point this many milliseconds after the origin.
    #[must_use]
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms.saturating_mul(NS_PER_MS))
    }

    /// Whole milliseconds since the origin.
    #[must_use]
    pub const fn as_ms(self) -> u64 {
        self.0 / NS_PER_MS
    }

    /// The point this many milliseconds later.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(NS_PER_MS)))
    }

    /// The point this many nanoseconds later.
    #[must_use]
    pub const fn plus_ns(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }

    /// Whole milliseconds that have passed since `earlier` (0 if it is later).
    #[must_use]
    pub const fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0) / NS_PER_MS
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.as_ms())
    }
}

macro_rules! id_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// The id after this one.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id_newtype!(
    /// Names a [`crate::Persist`]; grows by one with each of them, from 1.
    PersistId
);
id_newtype!(
    /// Names a message that the driver hands to the core, so that a [`crate::Persist`] can say
    /// whose payloads it writes. Chosen by the driver; unique while the message is kept.
    MessageId
);
id_newtype!(
    /// Names a read that the driver asked for. Chosen by the driver; unique while it is pending.
    ReadId
);
id_newtype!(
    /// Counts the truncations of this node's log since it started. What was ordered before a
    /// truncation must not be filled from the log after it.
    Epoch
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_and_nanoseconds_agree() {
        assert_eq!(Time::from_ms(3), Time(3_000_000));
        assert_eq!(Time(3_999_999).as_ms(), 3);
        assert_eq!(Time::ZERO.plus_ms(2).plus_ns(5), Time(2_000_005));
        assert_eq!(Time::from_ms(5).ms_since(Time::from_ms(2)), 3);
        assert_eq!(Time::from_ms(2).ms_since(Time::from_ms(5)), 0);
    }
}
