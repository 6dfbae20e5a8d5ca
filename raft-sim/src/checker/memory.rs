//! What a node holds is bounded: appends on the way to a peer fit into its window, whatever the peer
//! and the network do (thesis §10.2.1 on pipelining; `raft_core::Config::max_inflight_bytes`). The
//! log itself is on disk, queues of the shell are bounded where they are made.

use super::view::NodeView;
use super::violation::Violation;

/// Looks at the fullest window of a leader.
pub(super) fn check(view: &NodeView<'_>) -> Result<(), Violation> {
    let Some(window) = view.window else {
        return Ok(());
    };
    if window.messages <= window.limit_messages && window.bytes <= window.limit_bytes {
        return Ok(());
    }
    Err(Violation::WindowOverrun {
        leader: view.id,
        messages: window.messages,
        bytes: window.bytes,
    })
}

#[cfg(test)]
mod tests {
    use raft_core::Role;

    use super::super::testing::World;
    use super::super::view::Window;

    #[test]
    fn a_window_that_overflows_is_refused() {
        for (messages, bytes, is_fine) in
            [(0, 0, true), (2, 100, true), (3, 9, false), (1, 101, false)]
        {
            let mut world = World::new();
            world.window = Some(Window {
                messages,
                limit_messages: 2,
                bytes,
                limit_bytes: 100,
            });
            let seen = world.observe(1, Role::Leader, 2, 0, &[1]);
            assert_eq!(seen.is_ok(), is_fine, "{seen:?}");
        }
    }
}
