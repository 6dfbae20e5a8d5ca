//! Hellos that are welcome, hellos that are not, and what is remembered of them.

use raft_node::admission::{Admission, MAX_BOOTS, Standing, TableError, Vantage, Verdict, explain};
use raft_node::formation::InitialVoters;
use raft_proto::{
    Boot, ClusterId, Hello, Incarnation, Member, Membership, NodeId, Promotion, Refusal,
};

use crate::world::{n, voters};

const OURS: ClusterId = ClusterId([1; 16]);

fn member(incarnation: Option<u64>, id: u64) -> Member {
    Member {
        incarnation: incarnation.map(Incarnation),
        address: format!("h{id}:1"),
    }
}

/// n1 and n2 are bound to incarnations 1 and 2, the learner n4 is open.
fn membership() -> Membership {
    let mut membership =
        Membership::of_voters([(n(1), member(Some(1), 1)), (n(2), member(Some(2), 2))]);
    membership.members.insert(n(4), member(None, 4));
    membership.learners.insert(n(4), Promotion::Auto);
    membership
}

/// From n2's right directory, at its fifth start, to n1.
fn hello() -> Hello {
    Hello {
        cluster: Some(OURS),
        node: n(2),
        incarnation: Incarnation(2),
        boot: boot(5, 77),
        receiver: n(1),
        versions: raft_proto::Versions::CURRENT,
    }
}

fn boot(counter: u64, nonce: u64) -> Boot {
    Boot { counter, nonce }
}

fn admission() -> Admission {
    Admission::new(n(1), None).unwrap()
}

fn admit(admission: &mut Admission, hello: &Hello) -> Verdict {
    let membership = membership();
    let standing = Standing::Formed {
        cluster: OURS,
        membership: &membership,
        vantage: Vantage::Voter,
    };
    admission.admit(hello.node, hello, standing)
}

fn refusal(hello: &Hello) -> Refusal {
    match admit(&mut admission(), hello) {
        Verdict::Refuse(refusal) => refusal,
        Verdict::Admit { .. } => panic!("admitted {hello:?}"),
    }
}

fn is_admitted(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Admit { .. })
}

#[test]
fn the_certificate_decides_who_a_peer_is() {
    let membership = membership();
    let standing = Standing::Formed {
        cluster: OURS,
        membership: &membership,
        vantage: Vantage::Voter,
    };
    let verdict = admission().admit(n(4), &hello(), standing);
    let certified = n(4);
    assert_eq!(
        verdict,
        Verdict::Refuse(Refusal::WrongIdentity { certified })
    );
}

#[test]
fn who_meant_another_node_is_told_whom_it_reached() {
    let wrong = Refusal::WrongReceiver { receiver: n(1) };
    let receiver = n(3);
    assert_eq!(
        refusal(&Hello {
            receiver,
            ..hello()
        }),
        wrong
    );
    let node = n(1);
    assert_eq!(refusal(&Hello { node, ..hello() }), wrong, "our own id");
}

#[test]
fn another_cluster_is_refused_with_ours() {
    let cluster = Some(ClusterId([9; 16]));
    assert_eq!(
        refusal(&Hello { cluster, ..hello() }),
        Refusal::WrongCluster { cluster: OURS }
    );
}

#[test]
fn another_life_of_a_member_is_refused_with_the_right_one() {
    let incarnation = Incarnation(3);
    let member = Incarnation(2);
    for cluster in [None, Some(OURS)] {
        let wiped = Hello {
            incarnation,
            cluster,
            ..hello()
        };
        assert_eq!(refusal(&wiped), Refusal::WrongIncarnation { member });
    }
}

#[test]
fn a_voter_without_a_leader_admits_another_life_of_a_member_that_belongs_to_the_cluster() {
    let membership = membership();
    let vantage = |leader| Vantage::of(&membership, n(1), Incarnation(1), leader);
    assert_eq!(vantage(Some(n(2))), Vantage::Voter);
    // It may have missed that n2 was removed and added again, and n2 may lead by now.
    assert_eq!(vantage(None), Vantage::Onlooker);
    let another = |cluster| Hello {
        incarnation: Incarnation(3),
        cluster,
        ..hello()
    };
    let admit = |hello: &Hello| {
        let standing = Standing::Formed {
            cluster: OURS,
            membership: &membership,
            vantage: vantage(None),
        };
        admission().admit(n(2), hello, standing)
    };
    assert!(is_admitted(&admit(&another(Some(OURS)))));
    // One that says that it belongs to no cluster was wiped.
    let wiped = admit(&another(None));
    let member = Incarnation(2);
    assert_eq!(wiped, Verdict::Refuse(Refusal::WrongIncarnation { member }));
}

#[test]
fn a_stranger_without_a_cluster_is_no_member() {
    let stranger = Hello {
        node: n(7),
        cluster: None,
        ..hello()
    };
    assert_eq!(refusal(&stranger), Refusal::NotAMember);
}

#[test]
fn a_peer_of_our_cluster_that_we_do_not_know_yet_may_be_our_leader() {
    let node = n(7);
    let verdict = admit(&mut admission(), &Hello { node, ..hello() });
    assert!(is_admitted(&verdict));
}

#[test]
fn an_open_member_is_welcome_in_any_life() {
    for cluster in [None, Some(OURS)] {
        let joiner = Hello {
            node: n(4),
            incarnation: Incarnation(99),
            cluster,
            ..hello()
        };
        assert!(is_admitted(&admit(&mut admission(), &joiner)));
    }
}

#[test]
fn unformed_nodes_welcome_voters_and_whoever_may_hand_out_an_entry() {
    let voters = InitialVoters::new(n(1), voters(3)).unwrap();
    let standing = Standing::Forming(&voters);
    let cluster = None;
    let voter = Hello { cluster, ..hello() };
    assert!(is_admitted(&admission().admit(n(2), &voter, standing)));

    let node = n(7);
    let stranger = Hello {
        cluster,
        node,
        ..hello()
    };
    let verdict = admission().admit(node, &stranger, standing);
    let listed = voters.as_slice().to_vec();
    let expected = Refusal::OtherVoters { voters: listed };
    assert_eq!(verdict, Verdict::Refuse(expected));
    assert!(is_admitted(&admission().admit(
        node,
        &stranger,
        Standing::Joining
    )));

    let formed = Hello { node, ..hello() };
    assert!(is_admitted(&admission().admit(node, &formed, standing)));
}

#[test]
fn an_earlier_boot_is_an_old_copy() {
    let mut admission = admission();
    assert!(is_admitted(&admit(&mut admission, &hello())));
    let seen = boot(5, 77);
    let old = Verdict::Refuse(Refusal::OldBoot { seen });
    for boot in [boot(4, 77), boot(1, 5), boot(5, 78)] {
        assert_eq!(admit(&mut admission, &Hello { boot, ..hello() }), old);
    }
    // The same boot reconnects, the next one starts.
    assert!(is_admitted(&admit(&mut admission, &hello())));
    let boot = boot(6, 1);
    assert!(is_admitted(&admit(
        &mut admission,
        &Hello { boot, ..hello() }
    )));
    let verdict = admit(&mut admission, &hello());
    assert_eq!(verdict, Verdict::Refuse(Refusal::OldBoot { seen: boot }));
}

#[test]
fn a_refused_hello_is_not_remembered() {
    let mut admission = admission();
    let wiped = Hello {
        incarnation: Incarnation(3),
        ..hello()
    };
    admit(&mut admission, &wiped);
    assert_eq!(admission, self::admission());
}

#[test]
fn what_was_seen_survives_a_restart_and_costs_nothing_when_seen_again() {
    let mut before = admission();
    let Verdict::Admit {
        record: Some(record),
    } = admit(&mut before, &hello())
    else {
        panic!("a new boot is remembered");
    };
    assert_eq!(
        admit(&mut before, &hello()),
        Verdict::Admit { record: None }
    );

    let mut after = Admission::new(n(1), Some(&record)).unwrap();
    assert_eq!(after, before);
    let boot = boot(4, 1);
    let verdict = admit(&mut after, &Hello { boot, ..hello() });
    assert!(!is_admitted(&verdict));
}

#[test]
fn a_member_that_forgets_its_cluster_runs_on_an_old_copy() {
    let unformed = Hello {
        cluster: None,
        ..hello()
    };
    let later = Hello {
        boot: boot(6, 1),
        ..unformed.clone()
    };
    let old = Verdict::Refuse(Refusal::OldBoot { seen: boot(5, 77) });

    // It said so in a hello.
    let mut admission = admission();
    admit(&mut admission, &hello());
    assert_eq!(admit(&mut admission, &later), old);

    // Or it adopted the entry on a connection it had made before.
    let mut admission = self::admission();
    assert!(is_admitted(&admit(&mut admission, &unformed)));
    let record = admission.note_adopted(n(2), Incarnation(2)).unwrap();
    assert_eq!(admission.note_adopted(n(2), Incarnation(2)), None);
    let mut admission = Admission::new(n(1), Some(&record)).unwrap();
    assert_eq!(admit(&mut admission, &later), old);
    // A second connection of the same boot may have started before that.
    assert!(is_admitted(&admit(&mut admission, &unformed)));
}

#[test]
fn a_connection_from_before_the_cluster_formed_is_looked_at_again() {
    let membership = membership();
    let standing = Standing::Formed {
        cluster: OURS,
        membership: &membership,
        vantage: Vantage::Voter,
    };
    assert_eq!(Admission::recheck(&hello(), standing), None);
    let wiped = Hello {
        incarnation: Incarnation(3),
        cluster: None,
        ..hello()
    };
    assert!(Admission::recheck(&wiped, standing).is_some());
}

#[test]
fn the_table_is_bounded_and_members_stay_in_it() {
    let mut admission = admission();
    admit(&mut admission, &hello());
    let mut longest = 0;
    for id in 100..100 + 2 * MAX_BOOTS as u64 {
        let node = n(id);
        let verdict = admit(&mut admission, &Hello { node, ..hello() });
        let Verdict::Admit {
            record: Some(record),
        } = verdict
        else {
            panic!("{verdict:?}");
        };
        longest = longest.max(record.len());
    }
    assert!(longest < 20_000, "{longest} bytes");
    let boot = boot(4, 1);
    let verdict = admit(&mut admission, &Hello { boot, ..hello() });
    assert!(!is_admitted(&verdict), "n2 was forgotten");
}

#[test]
fn damaged_and_newer_tables_are_refused() {
    let Verdict::Admit {
        record: Some(record),
    } = admit(&mut admission(), &hello())
    else {
        panic!("a new boot is remembered");
    };
    assert_eq!(
        &record[..],
        b"RADM\x01\x01\x02\x02\x05\x4d\x01",
        "the bytes on disk stay what they are"
    );
    for length in 0..record.len() {
        assert!(Admission::new(n(1), Some(&record[..length])).is_err());
    }
    let mut newer = record.to_vec();
    newer[4] = 2;
    assert_eq!(
        Admission::new(n(1), Some(&newer)),
        Err(TableError::UnsupportedVersion(2))
    );
    let mut unknown = record.to_vec();
    *unknown.last_mut().unwrap() = 9;
    assert_eq!(
        Admission::new(n(1), Some(&unknown)),
        Err(TableError::Damaged)
    );
}

#[test]
fn every_refusal_is_explained_to_the_refused() {
    let (certified, receiver) = (NodeId(3), NodeId(4));
    let cluster = OURS;
    let member = Incarnation(0xabc);
    let cases = [
        (
            Refusal::WrongIdentity { certified },
            "its certificate says n3, but it runs as n2",
        ),
        (
            Refusal::WrongReceiver { receiver },
            "the address given for n1 belongs to n4",
        ),
        (
            Refusal::WrongCluster { cluster },
            "n1 belongs to cluster 0101",
        ),
        (Refusal::NotAMember, "run `raft-kv member add 2=ADDRESS`"),
        (
            Refusal::WrongIncarnation { member },
            "`raft-kv member remove 2`, `raft-kv member add 2=ADDRESS`",
        ),
        (
            Refusal::OldBoot { seen: boot(8, 1) },
            "n1 has seen a later start of n2 (number 8)",
        ),
        (
            Refusal::OtherVoters { voters: voters(1) },
            "n1 waits to form a cluster of [1=h1:1], and n2 is none of them",
        ),
    ];
    for (refusal, expected) in cases {
        let text = explain(&refusal, n(2), n(1));
        assert!(text.contains(expected), "{text}");
    }
}
