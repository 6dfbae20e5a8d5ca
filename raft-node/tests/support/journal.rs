//! A state machine that shows what was applied to it.

use bytes::Bytes;
use raft_node::{Applied, SmallState};

/// Remembers every command, in order, separated by a space, and answers each with itself.
#[derive(Default)]
pub(crate) struct Journal(Vec<u8>);

impl SmallState for Journal {
    fn apply(&mut self, applied: Applied<'_>) -> Bytes {
        self.0.extend_from_slice(applied.command);
        self.0.push(b' ');
        applied.command.clone()
    }

    fn query(&mut self, _query: &Bytes) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }

    fn save(&self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }

    fn load(&mut self, saved: &[u8]) -> std::io::Result<()> {
        self.0 = saved.to_vec();
        Ok(())
    }
}
