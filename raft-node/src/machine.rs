//! The state machine that a group replicates: what a user of this crate writes.

use std::io::{self, Read};

use bytes::Bytes;
use raft_proto::{LogIndex, Term};

/// A committed command, in the one order that all nodes see.
#[derive(Clone, Copy, Debug)]
pub struct Applied<'a> {
    /// Where the command stands in the log; grows, with gaps where Raft's own entries stand.
    pub index: LogIndex,
    /// The term of the leader that proposed it.
    pub term: Term,
    /// The command as it was proposed.
    pub command: &'a Bytes,
}

/// Something that a state machine is about to be asked to do.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// A command to apply.
    Command(&'a Bytes),
    /// A query to answer.
    Query(&'a Bytes),
}

/// Replicated state. Raft calls it from one thread at a time, in log order, on every node.
///
/// `apply` must be deterministic: the same commands give the same state and replies everywhere,
/// so it may not use clocks, randomness, or the iteration order of a hash map.
///
/// A snapshot (§7) is a *cut*: the state as of one moment, handed out in parts while commands go on
/// being applied. If the whole state is encoded in a millisecond or so, implement [`SmallState`]
/// instead, which has no cuts.
pub trait StateMachine: Send + 'static {
    /// Applies a committed command, exactly once and in order, and returns the reply for its
    /// proposer. The reply is dropped on nodes that nobody waits at.
    ///
    /// A payload is a slice of a larger network or disk buffer: copy what is kept for long.
    fn apply(&mut self, applied: Applied<'_>) -> Bytes;

    /// Answers a query from the current state, without changing it.
    fn query(&mut self, query: &Bytes) -> Bytes;

    /// Whether a step may take longer than about a millisecond, as a scan of many keys does. It only
    /// matters with [`crate::ApplyOn::NodeThread`]: a batch with such a step is then carried out on
    /// another thread, so that heartbeats and elections go on meanwhile. Must be quick itself.
    fn takes_long(&self, step: Step<'_>) -> bool {
        let _ = step;
        false
    }

    /// A hash of the whole state: equal on replicas that have applied the same commands, also where
    /// the state came from a snapshot, so it may not depend on the iteration order of a hash map.
    /// Called now and then to compare replicas; must be quick. `None`, the default, if there is none:
    /// then only logs are compared.
    fn state_hash(&self) -> Option<u64> {
        None
    }

    /// Freezes one cut: the state as of now. Must be cheap, because it runs between two commands.
    /// There is at most one cut at a time.
    fn begin_snapshot(&mut self);

    /// The next part of the cut, about `max_bytes` long, so that the time of a call is bounded;
    /// `None` once all was handed out. Called between batches of commands; what they change must
    /// not show in the cut.
    fn snapshot_part(&mut self, max_bytes: usize) -> Option<Bytes>;

    /// The cut is complete or given up: frees whatever it pinned.
    fn end_snapshot(&mut self);

    /// Replaces the whole state by that of a snapshot: the parts of one cut, one after the other.
    /// There is no cut at this time.
    ///
    /// # Errors
    /// What the source says, or that its bytes are no state of this machine. The state is
    /// unspecified then, and the node stops.
    fn restore(&mut self, source: &mut dyn Read) -> io::Result<()>;
}

/// Replicated state that is encoded and decoded as a whole. [`Small`] makes a [`StateMachine`] of
/// it; the rules of `apply` and `query` are the same.
///
/// ```
/// use bytes::Bytes;
/// use raft_node::{Applied, Small, SmallState};
///
/// /// Remembers the last command.
/// struct Register(Bytes);
///
/// impl SmallState for Register {
///     fn apply(&mut self, applied: Applied<'_>) -> Bytes {
///         std::mem::replace(&mut self.0, Bytes::copy_from_slice(applied.command))
///     }
///     fn query(&mut self, _query: &Bytes) -> Bytes {
///         self.0.clone()
///     }
///     fn save(&self) -> Bytes {
///         self.0.clone()
///     }
///     fn load(&mut self, saved: &[u8]) -> std::io::Result<()> {
///         self.0 = Bytes::copy_from_slice(saved);
///         Ok(())
///     }
/// }
///
/// let machine = Small::boxed(Register(Bytes::new()));
/// # drop(machine);
/// ```
pub trait SmallState: Send + 'static {
    /// As [`StateMachine::apply`].
    fn apply(&mut self, applied: Applied<'_>) -> Bytes;

    /// As [`StateMachine::query`].
    fn query(&mut self, query: &Bytes) -> Bytes;

    /// As [`StateMachine::state_hash`].
    fn state_hash(&self) -> Option<u64> {
        None
    }

    /// The whole state as bytes. Runs between two commands, so all of them wait for it.
    fn save(&self) -> Bytes;

    /// Replaces the whole state by one that [`SmallState::save`] gave.
    ///
    /// # Errors
    /// That the bytes are no state of this machine; the node stops then.
    fn load(&mut self, saved: &[u8]) -> io::Result<()>;
}

/// A [`StateMachine`] whose cut is the whole encoded state.
#[derive(Debug)]
pub struct Small<S> {
    state: S,
    /// What is left of the cut.
    cut: Bytes,
}

impl<S: SmallState> Small<S> {
    /// Around a state.
    pub const fn new(state: S) -> Self {
        Self {
            state,
            cut: Bytes::new(),
        }
    }

    /// Around a state, as [`crate::Parts::machine`] wants it.
    #[must_use]
    pub fn boxed(state: S) -> Box<dyn StateMachine> {
        Box::new(Self::new(state))
    }
}

impl<S: SmallState> StateMachine for Small<S> {
    fn apply(&mut self, applied: Applied<'_>) -> Bytes {
        self.state.apply(applied)
    }

    fn query(&mut self, query: &Bytes) -> Bytes {
        self.state.query(query)
    }

    fn state_hash(&self) -> Option<u64> {
        self.state.state_hash()
    }

    fn begin_snapshot(&mut self) {
        self.cut = self.state.save();
    }

    fn snapshot_part(&mut self, max_bytes: usize) -> Option<Bytes> {
        let bytes = self.cut.len().min(max_bytes);
        (bytes > 0).then(|| self.cut.split_to(bytes))
    }

    fn end_snapshot(&mut self) {
        self.cut = Bytes::new();
    }

    fn restore(&mut self, source: &mut dyn Read) -> io::Result<()> {
        let mut saved = Vec::new();
        source.read_to_end(&mut saved)?;
        self.state.load(&saved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Tape(Vec<u8>);

    impl SmallState for Tape {
        fn apply(&mut self, applied: Applied<'_>) -> Bytes {
            self.0.extend_from_slice(applied.command);
            Bytes::new()
        }

        fn query(&mut self, _query: &Bytes) -> Bytes {
            self.save()
        }

        fn save(&self) -> Bytes {
            self.0.clone().into()
        }

        fn load(&mut self, saved: &[u8]) -> io::Result<()> {
            self.0 = saved.to_vec();
            Ok(())
        }
    }

    fn apply(machine: &mut Small<Tape>, command: &'static str) {
        machine.apply(Applied {
            index: LogIndex(1),
            term: Term(1),
            command: &command.into(),
        });
    }

    #[test]
    fn a_cut_does_not_show_what_is_applied_after_it() {
        let mut machine = Small::new(Tape::default());
        apply(&mut machine, "before");
        machine.begin_snapshot();
        let mut parts = vec![machine.snapshot_part(4).expect("there is more")];
        apply(&mut machine, "after");
        parts.extend(std::iter::from_fn(|| machine.snapshot_part(4)));
        machine.end_snapshot();
        assert_eq!(parts, ["befo", "re"]);
        let mut other = Small::new(Tape::default());
        apply(&mut other, "replaced");
        other
            .restore(&mut &parts.concat()[..])
            .expect("it is whole");
        assert_eq!(other.query(&Bytes::new()), "before");
        assert_eq!(machine.query(&Bytes::new()), "beforeafter");
    }
}
