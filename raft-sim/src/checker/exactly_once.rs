//! What a client was told of a write agrees with how often it took effect (§8; thesis §6.3): an
//! acknowledged write did, a refused one never does, and none counts more often than it may.

use thiserror::Error;

/// What a client was told of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is done.
    Acknowledged,
    /// It certainly has no effect, now or later.
    Refused,
    /// It may have an effect, now or later.
    Unknown,
}

/// How often a write may stand in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeats {
    /// Once at most: nothing recognises a second one.
    Never,
    /// As often as its client likes: its session lets it count once.
    CountOnce,
}

/// A promise about a write that was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Broken {
    /// It was acknowledged and is nowhere.
    #[error("acknowledged write: it is nowhere in the log")]
    Lost,
    /// It was refused and is there.
    #[error("refused write: it is in the log after all")]
    NotRefused,
    /// It is there more often than it may be.
    #[error("exactly once: it may be in the log once, and is there {times} times")]
    Repeated {
        /// How often.
        times: u64,
    },
}

/// Judges one write that stands in the log so many times.
///
/// # Errors
/// [`Broken`].
pub const fn check(told: Told, repeats: Repeats, times: u64) -> Result<(), Broken> {
    match (repeats, times) {
        (Repeats::Never, 2..) => return Err(Broken::Repeated { times }),
        (Repeats::Never | Repeats::CountOnce, _) => {}
    }
    match (told, times) {
        (Told::Acknowledged, 0) => Err(Broken::Lost),
        (Told::Refused, 1..) => Err(Broken::NotRefused),
        (Told::Acknowledged | Told::Unknown | Told::Refused, _) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_and_log_must_agree() {
        let never = |told, times| check(told, Repeats::Never, times);
        assert_eq!(never(Told::Acknowledged, 0), Err(Broken::Lost));
        assert_eq!(never(Told::Refused, 1), Err(Broken::NotRefused));
        for told in [Told::Acknowledged, Told::Refused, Told::Unknown] {
            assert_eq!(never(told, 2), Err(Broken::Repeated { times: 2 }));
        }
        let allowed = [
            (Told::Acknowledged, 1),
            (Told::Refused, 0),
            (Told::Unknown, 0),
            (Told::Unknown, 1),
        ];
        for (told, times) in allowed {
            assert_eq!(never(told, times), Ok(()));
        }
    }

    #[test]
    fn writes_of_a_session_may_be_repeated_but_not_lost() {
        let counts = |told, times| check(told, Repeats::CountOnce, times);
        assert_eq!(counts(Told::Acknowledged, 3), Ok(()));
        assert_eq!(counts(Told::Acknowledged, 0), Err(Broken::Lost));
        assert_eq!(counts(Told::Refused, 3), Err(Broken::NotRefused));
    }
}
