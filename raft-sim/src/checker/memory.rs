//! What a node holds is bounded, whatever clients, peers, network and disk do: appends on the way to a
//! peer by its window (thesis §10.2.1 on pipelining; `raft_core::Config::max_inflight_bytes`), and
//! entries, proposals, reads and the applier's work by the options that
//! [`raft_node::driver::Held`] names. The log itself is on disk.

use super::view::NodeView;
use super::violation::Violation;

/// Looks at the fullest window of a leader, and at everything else that a node holds.
pub(super) fn check(view: &NodeView<'_>) -> Result<(), Violation> {
    if let Some(window) = view.window
        && (window.messages > window.limit_messages || window.bytes > window.limit_bytes)
    {
        return Err(Violation::WindowOverrun {
            leader: view.id,
            messages: window.messages,
            bytes: window.bytes,
        });
    }
    match view.held.iter().find(|held| held.amount > held.bound) {
        None => Ok(()),
        Some(held) => Err(Violation::MemoryOverrun {
            node: view.id,
            what: held.what,
            amount: held.amount,
            bound: held.bound,
            options: held.options,
        }),
    }
}

#[cfg(test)]
mod tests {
    use raft_core::Role;
    use raft_node::driver::Held;

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

    #[test]
    fn whatever_exceeds_its_bound_is_refused() {
        for (amounts, is_fine) in [([0, 0], true), ([9, 9], true), ([9, 10], false)] {
            let mut world = World::new();
            let held = |amount| Held {
                what: "entries",
                amount,
                bound: 9,
                options: "an option",
            };
            world.held = amounts.map(held).to_vec();
            let seen = world.observe(1, Role::Follower, 2, 0, &[1]);
            assert_eq!(seen.is_ok(), is_fine, "{seen:?}");
        }
    }
}
