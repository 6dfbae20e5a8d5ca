//! Three and five real processes under kill -9, SIGSTOP and restarts: what all clients saw together
//! is linearizable, every session write counts once, and writes go through while a majority runs.

mod trouble;

use raft_chaos::{Fault, Network, Round};
use trouble::survive;

fn kill(places: &[usize]) -> Round {
    let places = places.to_vec();
    Round::of(vec![Fault::Kill { places }])
}

fn restart(places: &[usize]) -> Round {
    let places = places.to_vec();
    Round::of(vec![Fault::Restart { places }])
}

fn pause(place: usize) -> Round {
    Round::of(vec![Fault::Pause { place }])
}

#[test]
fn three_servers_are_killed_paused_and_restarted() {
    let transfer = Round::of(vec![Fault::Transfer { place: 1 }]);
    let snapshot = Round::of(vec![Fault::Snapshot { place: 0 }]);
    let rounds = vec![
        kill(&[0]),
        pause(0),
        transfer,
        snapshot,
        kill(&[1]),
        // No majority is left: nothing may be acknowledged, and nothing that was may be lost.
        kill(&[0, 1]),
        restart(&[0, 1, 2]),
    ];
    survive(3, Network::best(), rounds);
}

#[test]
fn five_servers_lose_two_at_a_time() {
    let rounds = vec![
        kill(&[0, 3]),
        Round::of(vec![
            Fault::Pause { place: 0 },
            Fault::Kill { places: vec![2] },
        ]),
        restart(&[1, 2]),
        kill(&[1, 2, 3]),
        restart(&[0, 1, 2, 3, 4]),
    ];
    survive(5, Network::best(), rounds);
}

#[test]
fn servers_on_loopback_lose_their_leader() {
    survive(3, Network::Loopback, vec![kill(&[0]), pause(0)]);
}

#[test]
fn a_lost_server_is_replaced_under_load() {
    let replace = |place| Round::of(vec![Fault::Replace { place }]);
    survive(3, Network::best(), vec![replace(0), kill(&[0]), replace(1)]);
}
