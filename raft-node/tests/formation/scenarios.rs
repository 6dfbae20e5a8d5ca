//! How clusters form: the plain case, lost and late messages, and the traces that break simpler
//! rules.

use raft_core::Time;
use raft_node::formation::{Event, Formation, FormationError, Local, RETRY_MS, Start};
use raft_proto::{GatherOutcome, GatherRequest, GatherResponse, Incarnation, Message};

use crate::world::{World, form, n, voters};

/// Three nodes of one cluster.
pub(crate) fn formed(count: u64) -> World {
    let mut world = World::new(count);
    world.start_all();
    world.connect_all();
    world.run();
    for id in world.ids() {
        assert!(world.cluster(id).is_some());
    }
    world.assert_one_cluster();
    world
}

#[test]
fn three_nodes_form_one_cluster_without_waiting_for_a_timer() {
    let world = formed(3);
    assert_eq!(world.now, Time::ZERO);
    assert_eq!(world.clusters.len(), 1);
}

#[test]
fn a_lone_voter_needs_nobody() {
    formed(1);
}

#[test]
fn a_missing_voter_is_waited_for_by_name() {
    let mut world = World::new(3);
    world.start(n(1));
    world.start(n(2));
    assert_eq!(
        world.formation(n(1)).waiting_for(),
        ["n2 at h2:1", "n3 at h3:1"]
    );
    assert_eq!(world.formation(n(2)).waiting_for(), ["n1 at h1:1"]);
    world.connect_all();
    world.run();
    assert_eq!(world.formation(n(1)).waiting_for(), ["n3 at h3:1"]);
    let waiting = world.formation(n(2)).waiting_for();
    assert_eq!(waiting, ["n1 at h1:1, which gathers the other voters"]);
    assert_eq!(world.cluster(n(1)), None);

    world.start(n(3));
    world.connect_all();
    world.run();
    assert!(world.cluster(n(3)).is_some());
}

#[test]
fn lost_messages_are_repeated() {
    let mut world = World::new(2);
    world.start_all();
    world.connect_all();
    world.network.clear();
    world.run();
    assert_eq!(world.cluster(n(2)), None);
    world.tick(RETRY_MS);
    world.run();
    assert!(world.cluster(n(1)).is_some());
    assert_eq!(world.cluster(n(1)), world.cluster(n(2)));
}

#[test]
fn a_first_entry_that_was_lost_is_asked_for_again() {
    let mut world = World::new(2);
    world.start_all();
    world.connect_all();
    while world.cluster(n(1)).is_none() {
        for packet in std::mem::take(&mut world.network) {
            world.deliver(packet);
        }
        world.complete_write(n(2), true);
        world.complete_write(n(1), true);
        world.create_log(n(1), true);
    }
    world.complete_write(n(1), true);
    world
        .network
        .retain(|p| !matches!(p.message, Message::AdoptRequest(_)));
    world.run();
    assert_eq!(world.cluster(n(2)), None);
    world.tick(RETRY_MS);
    world.run();
    assert!(world.cluster(n(2)).is_some());
}

#[test]
fn a_voter_wiped_before_the_cluster_forms_is_asked_again() {
    let mut world = World::new(3);
    world.start(n(1));
    world.start(n(2));
    world.connect_all();
    world.run();
    world.wipe(n(2));
    world.settle();
    for id in world.ids() {
        assert!(world.cluster(id).is_some());
    }
}

#[test]
fn a_gatherer_wiped_before_the_cluster_forms_gathers_again() {
    let mut world = World::new(3);
    world.start(n(1));
    world.start(n(2));
    world.connect_all();
    world.run();
    world.wipe(n(1));
    world.settle();
    for id in world.ids() {
        assert!(world.cluster(id).is_some());
    }
    assert_eq!(world.clusters.len(), 1);
}

/// n3 promised to the second life of n1 while n2 belonged to the cluster of the first. If the
/// promise could not end, n2 alone would be the cluster for ever.
#[test]
fn a_promise_to_a_gatherer_that_found_a_cluster_is_released() {
    let mut world = World::new(3);
    world.start_all();
    world.connect_all();
    // n3 answers n1, then sees nothing of the cluster that n1 and n2 form.
    while world.cluster(n(2)).is_none() {
        world.network.retain(|packet| {
            packet.to != n(3) || matches!(packet.message, Message::GatherRequest(_))
        });
        for packet in std::mem::take(&mut world.network) {
            world.deliver(packet);
        }
        for id in world.ids() {
            world.complete_write(id, true);
            world.create_log(id, true);
        }
    }
    let first = world.cluster(n(2));
    world.crash(n(2));
    world.crash(n(3));
    world.wipe(n(1));

    world.start(n(1));
    world.start(n(3));
    world.connect_all();
    world.run();
    assert_eq!(world.formation(n(1)).waiting_for(), ["n2 at h2:1"]);

    // n2 meets n3 alone: n3 cannot adopt yet, and says why.
    world.disconnect(n(1), n(3));
    world.disconnect(n(3), n(1));
    world.crash(n(1));
    world.start(n(2));
    world.connect_all();
    world.run();
    let waiting = world.formation(n(3)).waiting_for();
    assert!(waiting[0].contains("n1 at h1:1 to release"), "{waiting:?}");
    assert_eq!(world.cluster(n(3)), None);

    // n1 comes back, is refused by n2, releases n3 and stops.
    world.settle();
    assert_eq!(world.cluster(n(3)), first);
    assert!(world.failure(n(1)).contains("forms no second one"));
}

/// The other way round: if a voter adopted a cluster against its promise, two clusters could
/// work. n2 to n5 have promised to n1's second life when the first one's entry reaches n4.
#[test]
fn a_first_entry_is_not_adopted_against_a_promise() {
    let mut world = World::new(5);
    world.start_all();
    world.connect_all();
    // The first life forms; its entry reaches n3 only.
    while world.cluster(n(3)).is_none() {
        world.network.retain(|packet| {
            packet.to == n(3) || !matches!(packet.message, Message::AdoptRequest(_))
        });
        for packet in std::mem::take(&mut world.network) {
            world.deliver(packet);
        }
        for id in world.ids() {
            world.complete_write(id, true);
            world.create_log(id, true);
        }
    }
    world.network.clear();
    world.crash(n(3));
    world.wipe(n(1));
    world.start(n(1));
    world.connect_all();
    world.run();
    assert_eq!(world.formation(n(1)).waiting_for(), ["n3 at h3:1"]);

    // n3 meets n2 and n4 while n1 is away: with them it would be a majority.
    world.crash(n(1));
    world.start(n(3));
    world.connect_all();
    world.run();
    assert_eq!(world.cluster(n(2)), None);
    assert_eq!(world.cluster(n(4)), None);

    // So n3 may be wiped, and the second life forms the only cluster that works.
    world.wipe(n(3));
    world.settle();
    for id in world.ids() {
        assert_eq!(world.cluster(id), world.cluster(n(1)));
        assert!(world.cluster(id).is_some());
    }
}

#[test]
fn a_late_question_of_a_replaced_gatherer_changes_nothing() {
    let mut world = World::new(3);
    world.start(n(1));
    world.start(n(2));
    world.connect_all();
    let late = world.network.clone();
    world.run();
    world.wipe(n(1));
    world.start(n(1));
    world.connect_all();
    world.run();
    world.delivery = crate::world::Delivery::Anytime;
    for packet in late {
        world.deliver(packet);
    }
    assert!(
        world.network.iter().any(|packet| matches!(
            &packet.message,
            Message::GatherResponse(response)
                if response.outcome == GatherOutcome::Superseded
        )),
        "{:?}",
        world.network
    );
    world.settle();
    assert!(world.cluster(n(2)).is_some());
    assert_eq!(world.clusters.len(), 1);
}

#[test]
fn a_gatherer_that_is_handed_its_own_entry_has_lost_it() {
    let world = formed(2);
    let node = &world.nodes[&n(1)];
    let incarnation = node.disk.incarnation;
    let local = Local {
        node: n(1),
        incarnation,
    };
    let mut formation = Formation::new(local, node.start.clone(), None, Time::ZERO).unwrap();
    let (_, first) = world.clusters.first_key_value().unwrap();
    let first_entry = first.payload().clone();
    let adopt = raft_proto::AdoptRequest { first_entry }.into();
    formation.handle_message(Time::ZERO, n(2), &adopt);
    formation.handle_timeout(Time::from_ms(RETRY_MS));
    let Some(Event::Failed(error)) = formation.poll_event() else {
        panic!("it must stop");
    };
    assert!(error.to_string().contains("does not remember taking part"));
}

#[test]
fn a_node_that_joins_adopts_what_it_is_handed() {
    let mut world = World::new(1);
    world.start(n(1));
    world.run();
    let cluster = world.cluster(n(1)).unwrap();
    world.add(n(2), Start::Join);
    world.start(n(2));
    let waiting = world.formation(n(2)).waiting_for();
    assert!(waiting[0].contains("`raft-kv member add 2=ADDRESS`"));

    // Not added yet: told so, and waiting on.
    world.connect(n(2), n(1));
    world.tick(RETRY_MS);
    assert!(world.is_up(n(2)));
    let waiting = world.formation(n(2)).waiting_for();
    assert!(waiting[1].contains("n2 is no member"), "{waiting:?}");

    let first_entry = world.clusters[&cluster].payload().clone();
    let link = 0;
    let (from, to) = (n(1), n(2));
    let message = raft_proto::AdoptRequest { first_entry }.into();
    world.delivery = crate::world::Delivery::Anytime;
    world.deliver(crate::world::Packet {
        link,
        from,
        to,
        message,
    });
    world.complete_write(n(2), true);
    world.create_log(n(2), true);
    assert_eq!(world.cluster(n(2)), Some(cluster));
}

/// A gatherer and a voter of the list of two, each fed by hand.
fn by_hand(id: u64, incarnation: u64) -> Formation {
    let local = Local {
        node: n(id),
        incarnation: Incarnation(incarnation),
    };
    let mut formation = Formation::new(local, form(n(id), voters(2)), None, Time::ZERO).unwrap();
    formation.handle_peer_up(n(3 - id), Incarnation(50));
    formation
}

fn gather_response(gatherer: u64, outcome: GatherOutcome) -> Message {
    let gatherer = Incarnation(gatherer);
    GatherResponse { gatherer, outcome }.into()
}

#[test]
fn a_voter_that_belongs_to_a_cluster_ends_the_gathering() {
    let mut gatherer = by_hand(1, 7);
    let cluster = raft_proto::ClusterId([3; 16]);
    let formed = gather_response(7, GatherOutcome::Formed { cluster });
    gatherer.handle_message(Time::ZERO, n(2), &formed);
    let persist = gatherer.poll_persist().expect("the end is durable");
    gatherer.handle_persisted(Time::ZERO, persist.id);
    let Some(Event::Failed(error)) = gatherer.poll_event() else {
        panic!("nobody is left to be released");
    };
    let message = error.to_string();
    assert!(
        message.starts_with(&format!("n2 already belongs to cluster {cluster}")),
        "{message}"
    );
    assert!(message.contains("clear the directories of n2 and n1"));
}

#[test]
fn a_late_answer_of_a_wiped_voter_is_not_taken_for_its_new_life() {
    let mut gatherer = by_hand(1, 7);
    let old = GatherOutcome::Joining {
        incarnation: Incarnation(49),
    };
    gatherer.handle_message(Time::ZERO, n(2), &gather_response(7, old));
    assert_eq!(gatherer.poll_persist(), None);
    let current = GatherOutcome::Joining {
        incarnation: Incarnation(50),
    };
    gatherer.handle_message(Time::ZERO, n(2), &gather_response(6, current.clone()));
    assert_eq!(gatherer.poll_persist(), None, "meant for another gatherer");
    gatherer.handle_message(Time::ZERO, n(2), &gather_response(7, current));
    assert!(gatherer.poll_persist().is_some());
}

#[test]
fn a_voter_named_by_an_entry_it_never_answered_for_has_lost_its_promise() {
    let world = formed(2);
    let incarnation = world.nodes[&n(2)].disk.incarnation;
    let mut voter = by_hand(2, incarnation.0);
    let (_, first) = world.clusters.first_key_value().unwrap();
    let first_entry = first.payload().clone();
    let adopt = raft_proto::AdoptRequest { first_entry }.into();
    voter.handle_message(Time::ZERO, n(1), &adopt);
    voter.handle_timeout(Time::from_ms(RETRY_MS));
    let event = voter.poll_event();
    assert!(
        matches!(
            event,
            Some(Event::Failed(FormationError::LostFormation { .. }))
        ),
        "{event:?}"
    );
}

#[test]
fn nobody_but_the_gatherer_is_promised_to_or_releases() {
    let local = Local {
        node: n(2),
        incarnation: Incarnation(5),
    };
    let now = Time::ZERO;
    let mut voter = Formation::new(local, form(n(2), voters(3)), None, now).unwrap();
    let request: Message = GatherRequest {
        incarnation: Incarnation(9),
        voters: voters(3),
    }
    .into();
    voter.handle_message(now, n(3), &request);
    assert_eq!(voter.poll_persist(), None);
    voter.handle_message(now, n(1), &request);
    let persist = voter.poll_persist().expect("the promise");
    assert_eq!(voter.poll_transmit(), None, "the promise is not durable");
    voter.handle_persisted(now, persist.id);
    assert!(voter.poll_transmit().is_some());
    let abandoned = raft_proto::GatherAbandoned {
        incarnation: Incarnation(9),
    };
    voter.handle_message(now, n(3), &abandoned.into());
    assert_eq!(voter.poll_persist(), None);
}

#[test]
fn an_idle_node_keeps_its_timer_and_a_formed_one_has_none() {
    let mut voter = by_hand(2, 5);
    assert_eq!(voter.poll_timeout(), Some(Time::from_ms(RETRY_MS)));
    voter.handle_timeout(Time::from_ms(RETRY_MS));
    assert_eq!(voter.poll_timeout(), Some(Time::from_ms(2 * RETRY_MS)));

    let local = Local {
        node: n(1),
        incarnation: Incarnation(5),
    };
    let mut lone = Formation::new(local, form(n(1), voters(1)), None, Time::ZERO).unwrap();
    let persist = lone.poll_persist().unwrap();
    lone.handle_persisted(Time::ZERO, persist.id);
    assert_eq!(lone.poll_timeout(), None);
    assert_eq!(lone.waiting_for(), Vec::<String>::new());
}
