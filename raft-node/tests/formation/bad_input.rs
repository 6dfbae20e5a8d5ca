//! Bad input: other voters, wiped, old and mixed directories, and what a hostile peer may send.

use raft_core::Time;
use raft_node::formation::{
    Event, Evidence, Formation, FormationError, FormedResponder, InitialVoters, Local, RETRY_MS,
    Start,
};
use raft_proto::{GatherRequest, Incarnation, NodeId, Refusal};

use crate::scenarios::formed;
use crate::world::{World, form, n, voters};

#[test]
fn other_voters_stop_both_and_show_both_lists() {
    let mut world = World::new(3);
    let mut other = voters(3);
    other[2].1 = "h3:9".to_string();
    world.node(n(3)).start = form(n(3), other);
    world.start_all();
    world.connect_all();
    world.run();
    world.tick(RETRY_MS);
    assert_eq!(
        world.failure(n(1)),
        "this node was started with the initial voters [1=h1:1, 2=h2:1, 3=h3:1], but n3 with \
         [1=h1:1, 2=h2:1, 3=h3:9]; both lists must be the same, addresses included: correct the \
         wrong one and start again"
    );
    let message = world.failure(n(3));
    assert!(message.contains("3=h3:9], but n1 with [1=h1:1, 2=h2:1, 3=h3:1]"));
    assert!(world.is_up(n(2)), "n2 did nothing wrong");

    // Corrected, they form.
    world.node(n(3)).start = form(n(3), voters(3));
    world.settle();
    assert_eq!(world.clusters.len(), 1);
    assert!(world.cluster(n(3)).is_some());
}

#[test]
fn an_unformed_stranger_is_told_whom_the_others_wait_for() {
    let mut world = World::new(3);
    world.add(n(4), form(n(4), voters(4)));
    world.start(n(2));
    world.start(n(4));
    world.connect_all();
    world.tick(RETRY_MS);
    assert!(
        world
            .failure(n(4))
            .contains("but n2 with [1=h1:1, 2=h2:1, 3=h3:1]")
    );
    assert!(world.is_up(n(2)));
}

#[test]
fn a_second_bootstrap_with_other_members_is_refused() {
    let world = formed(3);
    let record = world.nodes[&n(1)].disk.record.clone().unwrap();
    let responder = FormedResponder::from_record(&record).unwrap().unwrap();
    let membership = responder.first_entry().membership().clone();
    let same = InitialVoters::new(n(1), voters(3)).unwrap();
    assert_eq!(responder.check_restart(&same, &membership), Ok(()));

    let other = InitialVoters::new(n(1), voters(4)).unwrap();
    let error = responder.check_restart(&other, &membership).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("formed by [1=h1:1, 2=h2:1, 3=h3:1], but"));
    assert!(message.contains("voters [1=h1:1, 2=h2:1, 3=h3:1, 4=h4:1]"));

    // After n4 was added, the list of today's members is as good as the first one.
    let mut grown = membership.clone();
    let fourth = raft_proto::Member {
        incarnation: None,
        address: "h4:1".to_string(),
    };
    grown.members.insert(n(4), fourth);
    assert_eq!(responder.check_restart(&other, &grown), Ok(()));
}

#[test]
fn a_node_without_itself_in_the_list_names_the_list() {
    let error = FormationError::from(InitialVoters::new(n(9), voters(2)).unwrap_err());
    assert!(
        error.to_string().starts_with(
            "node n9 is not among the initial voters [1=h1:1, 2=h2:1]; add its own id"
        )
    );
}

#[test]
fn a_wiped_voter_is_refused_with_the_commands_that_put_it_back() {
    let mut world = formed(3);
    world.wipe(n(2));
    world.start(n(2));
    world.connect_all();
    world.run();
    world.tick(RETRY_MS);
    let message = world.failure(n(2));
    assert!(message.contains("was wiped"), "{message}");
    assert!(message.contains("`raft-kv member remove 2`, `raft-kv member add 2="));
    assert_eq!(world.cluster(n(2)), None);
}

#[test]
fn a_wiped_gatherer_is_refused_at_every_start_and_forms_nothing() {
    let mut world = formed(3);
    world.wipe(n(1));
    world.settle();
    let message = world.failure(n(1));
    assert!(message.contains("forms no second one"), "{message}");
    assert!(message.contains("`raft-kv member remove 1`, `raft-kv member add 1=h1:1`"));
    assert_eq!(world.cluster(n(1)), None);
    assert_eq!(world.clusters.len(), 1);
}

#[test]
fn a_wiped_gatherer_fails_within_a_second_of_the_first_answer() {
    let mut world = formed(3);
    world.wipe(n(1));
    world.crash(n(3));
    world.start(n(1));
    world.connect_all();
    world.run();
    world.tick(500);
    let message = world.failure(n(1));
    assert!(message.contains("n3 could not be told"), "{message}");
}

#[test]
fn if_only_the_gatherer_formed_the_wiped_rest_learn_which_directories_to_clear() {
    let mut world = formed(3);
    world.wipe(n(2));
    world.wipe(n(3));
    world.settle();
    for id in [n(2), n(3)] {
        let message = world.failure(id);
        assert!(
            message.contains("clear the data directory of n1 and of every other member"),
            "{message}"
        );
    }
    // Doing so works.
    for id in world.ids() {
        world.wipe(id);
    }
    world.settle();
    assert!(world.cluster(n(3)).is_some());
}

#[test]
fn an_old_directory_of_the_gatherer_is_told_that_it_is_old() {
    let mut world = World::new(3);
    world.start(n(1));
    world.start(n(2));
    world.connect_all();
    world.run();
    let old = world.nodes[&n(1)].disk.clone();
    world.wipe(n(1));
    world.start(n(1));
    world.connect_all();
    world.run();
    world.crash(n(1));
    world.node(n(1)).disk = old;
    world.start(n(1));
    world.connect_all();
    world.run();
    world.tick(RETRY_MS);
    let message = world.failure(n(1));
    assert!(
        message.contains("old directory of n1, or two processes"),
        "{message}"
    );
}

/// A copy of the directory made before the cluster formed has forgotten every vote since.
#[test]
fn a_copy_from_before_the_cluster_formed_is_refused() {
    let mut world = World::new(3);
    world.start(n(1));
    world.start(n(2));
    world.connect_all();
    world.run();
    let copies = [n(1), n(2)].map(|id| (id, world.nodes[&id].disk.clone()));
    world.settle();
    for (id, copy) in copies {
        world.crash(id);
        let current = world.nodes[&id].disk.clone();
        world.node(id).disk = copy;
        world.start(id);
        world.connect_all();
        world.run();
        world.tick(RETRY_MS);
        let message = world.failure(id);
        assert!(
            message.contains("old copy of its data directory"),
            "{message}"
        );
        assert_eq!(world.cluster(id), None);
        // The right directory is still welcome.
        world.node(id).disk = current;
        world.start(id);
        world.connect_all();
        world.run();
    }
}

#[test]
fn a_voter_started_to_join_by_mistake_is_pointed_out() {
    let mut world = World::new(2);
    world.node(n(2)).start = Start::Join;
    world.start_all();
    world.connect_all();
    world.run();
    let waiting = world.formation(n(1)).waiting_for();
    assert!(
        waiting
            .iter()
            .any(|line| line.contains("n2 at h2:1 was started with --join"))
    );
    world.crash(n(2));
    world.node(n(2)).start = form(n(2), voters(2));
    world.settle();
    assert!(world.cluster(n(2)).is_some());
}

#[test]
fn a_directory_that_promised_does_not_join_another_cluster() {
    let mut world = World::new(3);
    world.start(n(1));
    world.start(n(2));
    world.connect_all();
    world.run();
    world.crash(n(2));
    world.node(n(2)).start = Start::Join;
    world.start(n(2));
    assert!(
        world
            .failure(n(2))
            .contains("has promised to form a cluster")
    );
}

#[test]
fn a_damaged_or_newer_record_is_refused() {
    let local = Local {
        node: n(1),
        incarnation: Incarnation(1),
    };
    let start = |stored: &[u8]| {
        Formation::new(local, form(n(1), voters(1)), Some(stored), Time::ZERO)
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    assert!(start(b"").contains("damaged"));
    assert!(start(b"RFRM\x09\x01").contains("version 9"));
    assert!(start(b"RFRM\x01\x04junk").contains("no first entry"));
}

#[test]
fn a_record_of_another_node_is_refused() {
    let world = formed(2);
    let record = world.nodes[&n(2)].disk.record.clone().unwrap();
    // As long as the log may be missing, the record decides who the node is.
    let mut pending = record.to_vec();
    pending[5] = 4;
    let local = Local {
        node: n(2),
        incarnation: Incarnation(999),
    };
    let error = Formation::new(local, form(n(2), voters(2)), Some(&pending), Time::ZERO);
    assert!(matches!(error, Err(FormationError::ForeignRecord { .. })));
}

#[test]
fn a_gatherer_that_never_stops_changing_is_given_up() {
    let local = Local {
        node: n(2),
        incarnation: Incarnation(1),
    };
    let now = Time::ZERO;
    let mut formation = Formation::new(local, form(n(2), voters(2)), None, now).unwrap();
    let mut answered = 0;
    for life in 100..200 {
        let request = GatherRequest {
            incarnation: Incarnation(life),
            voters: voters(2),
        };
        formation.handle_message(now, n(1), &request.into());
        if let Some(persist) = formation.poll_persist() {
            answered += 1;
            assert!(persist.record.len() < 1024, "the record is bounded");
            formation.handle_persisted(now, persist.id);
        }
    }
    assert_eq!(answered, raft_node::formation::MAX_GATHERERS + 1);
    formation.handle_timeout(Time::from_ms(RETRY_MS));
    let Some(Event::Failed(error)) = formation.poll_event() else {
        panic!("it must stop");
    };
    assert!(error.to_string().contains("something clears its directory"));
}

#[test]
fn what_a_peer_sends_never_panics_and_never_grows() {
    let local = Local {
        node: n(2),
        incarnation: Incarnation(1),
    };
    let now = Time::ZERO;
    let mut formation = Formation::new(local, form(n(2), voters(3)), None, now).unwrap();
    for id in 0..10_000 {
        formation.handle_peer_up(NodeId(id), Incarnation(id));
        let first_entry = bytes::Bytes::from(vec![0xff; 9]);
        let junk = raft_proto::AdoptRequest { first_entry }.into();
        formation.handle_message(now, NodeId(id), &junk);
    }
    let sent = std::iter::from_fn(|| formation.poll_transmit()).count();
    assert!(sent <= 1024);
    assert!(formation.waiting_for().len() <= 300);
}

#[test]
fn abandoning_survives_restarts_with_its_reason() {
    let mut world = formed(3);
    world.wipe(n(1));
    world.start(n(1));
    world.connect(n(1), n(2));
    world.run();
    world.crash(n(1));
    // Alone, it still knows.
    world.start(n(1));
    world.tick(500);
    let failure = world.nodes[&n(1)].failure.clone();
    let Some(FormationError::FormedElsewhere {
        evidence, address, ..
    }) = failure
    else {
        panic!("{failure:?}");
    };
    assert_eq!(address, "h1:1");
    assert!(matches!(
        evidence,
        Evidence::Refused {
            peer: NodeId(2),
            refusal: Refusal::WrongIncarnation { .. }
        }
    ));
}

/// n2 is wiped after it answered and comes back before the cluster forms, so it is connected to n3
/// before n3 knows that the cluster names n2's former life.
#[test]
fn a_node_wiped_while_the_others_form_is_told_on_the_connection_it_has() {
    let mut world = World::new(3);
    world.start_all();
    world.connect_all();
    // All have answered; the gatherer is about to store the first entry.
    while world.node(n(1)).process.as_ref().unwrap().writing.is_none() {
        for packet in std::mem::take(&mut world.network) {
            world.deliver(packet);
        }
        world.complete_write(n(2), true);
        world.complete_write(n(3), true);
    }
    world.wipe(n(2));
    world.start(n(2));
    world.connect(n(2), n(3));
    world.run();
    assert!(world.cluster(n(3)).is_some());
    assert!(world.is_up(n(2)), "nobody has told it yet");
    world.tick(RETRY_MS);
    world.run();
    world.tick(RETRY_MS);
    assert!(world.failure(n(2)).contains("was wiped"));
}
