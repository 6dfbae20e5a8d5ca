//! A state machine that remembers nothing.

use bytes::Bytes;
use raft_node::{Applied, SmallState};

/// Answers a command with itself. What was applied, and in which order, the world knows.
pub(crate) struct Echo;

impl SmallState for Echo {
    fn apply(&mut self, applied: Applied<'_>) -> Bytes {
        applied.command.clone()
    }

    fn query(&mut self, query: &Bytes) -> Bytes {
        query.clone()
    }

    fn save(&self) -> Bytes {
        Bytes::new()
    }

    fn load(&mut self, _saved: &[u8]) -> std::io::Result<()> {
        Ok(())
    }
}
