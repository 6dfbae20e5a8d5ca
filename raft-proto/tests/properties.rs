//! Properties of the format: any message survives its bytes, any bytes are read without a panic,
//! and what was read is written back as something that reads the same.
#![allow(
    clippy::unwrap_used,
    reason = "in test helpers too, a panic is the failure"
)]

use bytes::{Bytes, BytesMut};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use raft_proto::ids::MAX_COUNT;
use raft_proto::*;

const MAX_BODY_BYTES: u32 = 1 << 20;

/// A number, small ones and the borders between encodings more often than others.
fn number(max: u64) -> impl Strategy<Value = u64> {
    let borders = [0, 1, 250, 251, 0xffff, 0x1_0000, 0xffff_ffff, 1 << 32, max];
    prop_oneof![
        0..300u64,
        proptest::sample::select(borders.to_vec()),
        0..=max
    ]
}

prop_compose! {
    fn term()(term in number(MAX_COUNT)) -> Term { Term(term) }
}
prop_compose! {
    fn index()(index in number(MAX_COUNT)) -> LogIndex { LogIndex(index) }
}
prop_compose! {
    fn node()(id in number(u64::MAX)) -> NodeId { NodeId(id) }
}
prop_compose! {
    fn incarnation()(number in any::<u64>()) -> Incarnation { Incarnation(number) }
}
prop_compose! {
    fn position()(index in index(), term in term()) -> LogPosition { LogPosition { index, term } }
}
prop_compose! {
    fn boot()(counter in number(u64::MAX), nonce in any::<u64>()) -> Boot { Boot { counter, nonce } }
}
prop_compose! {
    fn cluster()(id in any::<[u8; 16]>()) -> ClusterId { ClusterId(id) }
}

fn maybe<S: Strategy>(of: S) -> impl Strategy<Value = Option<S::Value>>
where
    S::Value: Clone,
{
    proptest::option::of(of)
}

fn sequence() -> impl Strategy<Value = u64> {
    number(u64::MAX)
}

fn kind() -> impl Strategy<Value = EntryKind> {
    prop_oneof![
        Just(EntryKind::Noop),
        Just(EntryKind::Command),
        Just(EntryKind::Membership)
    ]
}

fn payload() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn voters() -> impl Strategy<Value = Vec<(NodeId, String)>> {
    vec((node(), ".{0,12}"), 0..5)
}

fn membership() -> BoxedStrategy<Membership> {
    let member =
        (maybe(incarnation()), "[a-z0-9.:]{0,20}").prop_map(|(incarnation, address)| Member {
            incarnation,
            address,
        });
    let promotion = prop_oneof![Just(Promotion::Auto), Just(Promotion::Manual)];
    (
        btree_map(node(), member, 0..6),
        btree_set(node(), 0..6),
        btree_set(node(), 0..6),
        btree_map(node(), promotion, 0..6),
    )
        .prop_map(|(members, voters, outgoing, learners)| Membership {
            members,
            voters,
            outgoing,
            learners,
        })
        .boxed()
}

prop_compose! {
    fn versions()(oldest in any::<u8>(), newest in any::<u8>()) -> Versions {
        Versions { oldest: ProtocolVersion(oldest), newest: ProtocolVersion(newest) }
    }
}

fn snapshot() -> BoxedStrategy<SnapshotDescription> {
    (position(), membership(), sequence(), any::<u32>())
        .prop_map(
            |(last_included, membership, total_bytes, checksum)| SnapshotDescription {
                last_included,
                membership,
                total_bytes,
                checksum,
            },
        )
        .boxed()
}

fn repairing() -> BoxedStrategy<Message> {
    prop_oneof![
        (term(), index(), position()).prop_map(|(term, at_least, committed)| {
            DescribeSnapshotRequest {
                term,
                at_least,
                committed,
            }
            .into()
        }),
        (term(), maybe(snapshot())).prop_map(|(term, snapshot)| DescribeSnapshotResponse {
            term,
            snapshot
        }
        .into()),
        (term(), boot()).prop_map(|(term, boot)| RecountRequest { term, boot }.into()),
        (term(), boot(), position()).prop_map(|(term, boot, entry)| RecountOffer {
            term,
            boot,
            entry
        }
        .into()),
        (term(), boot(), position()).prop_map(|(term, boot, entry)| RecountResponse {
            term,
            boot,
            entry
        }
        .into()),
        comparison_report(),
    ]
    .boxed()
}

fn comparison_report() -> BoxedStrategy<Message> {
    let sum = || maybe(number(u64::MAX));
    (position(), sum(), vec(sum(), 0..70))
        .prop_map(|(entry, state, sections)| {
            ComparisonReport {
                entry,
                state,
                sections,
            }
            .into()
        })
        .boxed()
}

fn forming() -> BoxedStrategy<Message> {
    let identity = (node(), incarnation(), boot());
    let hello = (maybe(cluster()), identity, node(), versions()).prop_map(
        |(cluster, (node, incarnation, boot), receiver, versions)| {
            Hello {
                cluster,
                node,
                incarnation,
                boot,
                receiver,
                versions,
            }
            .into()
        },
    );
    let refusal = prop_oneof![
        node().prop_map(|certified| Refusal::WrongIdentity { certified }),
        node().prop_map(|receiver| Refusal::WrongReceiver { receiver }),
        cluster().prop_map(|cluster| Refusal::WrongCluster { cluster }),
        Just(Refusal::NotAMember),
        Just(Refusal::Unavailable),
        versions().prop_map(|versions| Refusal::NoCommonVersion { versions }),
        incarnation().prop_map(|member| Refusal::WrongIncarnation { member }),
        boot().prop_map(|seen| Refusal::OldBoot { seen }),
        voters().prop_map(|voters| Refusal::OtherVoters { voters }),
    ];
    let outcome = prop_oneof![
        incarnation().prop_map(|incarnation| GatherOutcome::Joining { incarnation }),
        voters().prop_map(|voters| GatherOutcome::OtherVoters { voters }),
        cluster().prop_map(|cluster| GatherOutcome::Formed { cluster }),
        Just(GatherOutcome::StartedToJoin),
        Just(GatherOutcome::Superseded),
        Just(GatherOutcome::Released),
    ];
    prop_oneof![
        hello,
        maybe(refusal).prop_map(|refusal| HelloResponse { refusal }.into()),
        (incarnation(), voters()).prop_map(|(incarnation, voters)| {
            GatherRequest {
                incarnation,
                voters,
            }
            .into()
        }),
        (incarnation(), outcome).prop_map(|(gatherer, outcome)| GatherResponse {
            gatherer,
            outcome
        }
        .into()),
        payload().prop_map(|first_entry| AdoptRequest { first_entry }.into()),
        maybe(cluster()).prop_map(|cluster| AdoptResponse { cluster }.into()),
        incarnation().prop_map(|incarnation| GatherAbandoned { incarnation }.into()),
    ]
    .boxed()
}

fn leading() -> BoxedStrategy<Message> {
    prop_oneof![
        (term(), position()).prop_map(|(term, last_log)| PreVoteRequest { term, last_log }.into()),
        (term(), any::<bool>())
            .prop_map(|(term, granted)| PreVoteResponse { term, granted }.into()),
        (term(), position(), any::<bool>()).prop_map(|(term, last_log, leadership_transfer)| {
            VoteRequest {
                term,
                last_log,
                leadership_transfer,
            }
            .into()
        }),
        (term(), any::<bool>()).prop_map(|(term, granted)| VoteResponse { term, granted }.into()),
        (term(), sequence(), index()).prop_map(|(term, round, commit_index)| {
            Heartbeat {
                term,
                round,
                commit_index,
            }
            .into()
        }),
        (term(), sequence()).prop_map(|(term, round)| HeartbeatResponse { term, round }.into()),
        term().prop_map(|term| TimeoutNow { term }.into()),
        (term(), sequence()).prop_map(|(term, id)| ReadIndexRequest { term, id }.into()),
        (term(), sequence(), maybe(index())).prop_map(|(term, id, read_index)| {
            ReadIndexResponse {
                term,
                id,
                read_index,
            }
            .into()
        }),
    ]
    .boxed()
}

prop_compose! {
    /// Entries that follow `previous`, with terms that stay or rise.
    fn append()(
        term in term(),
        sequence in sequence(),
        previous_index in number(MAX_COUNT - 100),
        previous_term in number(MAX_COUNT - 1000),
        commit_index in index(),
        shapes in vec((0..3u64, kind(), payload()), 0..20),
    ) -> Message {
        let previous = LogPosition { index: LogIndex(previous_index), term: Term(previous_term) };
        let mut last = previous;
        let entries = shapes.into_iter().map(|(rise, kind, payload)| {
            last = LogPosition { index: last.index.next(), term: Term(last.term.0 + rise) };
            Entry { index: last.index, term: last.term, kind, payload }
        });
        let entries = entries.collect();
        AppendRequest { term, sequence, previous, commit_index, entries }.into()
    }
}

fn replicating() -> BoxedStrategy<Message> {
    let append_outcome = prop_oneof![
        Just(AppendOutcome::Accepted),
        Just(AppendOutcome::StaleTerm),
        (maybe(term()), index(), index()).prop_map(
            |(conflict_term, conflict_index, last_index)| AppendOutcome::Rejected {
                conflict_term,
                conflict_index,
                last_index,
            }
        ),
    ];
    let install_outcome = prop_oneof![
        sequence().prop_map(|received_bytes| InstallOutcome::Fetching { received_bytes }),
        Just(InstallOutcome::Installed),
        Just(InstallOutcome::Refused),
    ];
    prop_oneof![
        append(),
        (term(), sequence(), append_outcome).prop_map(|(term, sequence, outcome)| {
            AppendResponse {
                term,
                sequence,
                outcome,
            }
            .into()
        }),
        (term(), sequence(), snapshot()).prop_map(|(term, sequence, snapshot)| {
            InstallSnapshotRequest {
                term,
                sequence,
                snapshot,
            }
            .into()
        }),
        (term(), sequence(), install_outcome).prop_map(|(term, sequence, outcome)| {
            InstallSnapshotResponse {
                term,
                sequence,
                outcome,
            }
            .into()
        }),
    ]
    .boxed()
}

fn fetching() -> BoxedStrategy<Message> {
    let positions = || vec(position(), 0..10);
    let entry = (position(), kind(), payload()).prop_map(|(position, kind, payload)| Entry {
        index: position.index,
        term: position.term,
        kind,
        payload,
    });
    prop_oneof![
        (term(), position(), sequence(), any::<u32>()).prop_map(
            |(term, last_included, offset, max_bytes)| {
                FetchSnapshotRequest {
                    term,
                    last_included,
                    offset,
                    max_bytes,
                }
                .into()
            }
        ),
        (
            term(),
            position(),
            sequence(),
            sequence(),
            any::<u32>(),
            payload()
        )
            .prop_map(
                |(term, last_included, offset, total_bytes, checksum, data)| {
                    FetchSnapshotResponse {
                        term,
                        last_included,
                        offset,
                        total_bytes,
                        checksum,
                        data,
                    }
                    .into()
                }
            ),
        (term(), positions(), any::<u32>()).prop_map(|(term, wanted, max_bytes)| {
            FetchEntriesRequest {
                term,
                wanted,
                max_bytes,
            }
            .into()
        }),
        (term(), vec(entry, 0..10), positions(), positions()).prop_map(
            |(term, entries, never_had, unavailable)| {
                FetchEntriesResponse {
                    term,
                    entries,
                    never_had,
                    unavailable,
                }
                .into()
            }
        ),
    ]
    .boxed()
}

fn message() -> BoxedStrategy<Message> {
    prop_oneof![forming(), leading(), replicating(), fetching(), repairing()].boxed()
}

fn frame_of(group: GroupId, uncounted: bool, message: &Message) -> Vec<u8> {
    wire::encode(group, uncounted, message).unwrap().to_vec()
}

fn read_one(bytes: &[u8]) -> (FrameHeader, Message) {
    let bytes = Bytes::copy_from_slice(bytes);
    let (header, body) = frame::split(&bytes, MAX_BODY_BYTES).unwrap();
    (header, wire::decode(&header, &body).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_message_survives_its_bytes(
        message in message(),
        uncounted in any::<bool>(),
        group in any::<u32>(),
    ) {
        let (header, read) = read_one(&frame_of(GroupId(group), uncounted, &message));
        prop_assert_eq!(read, message);
        prop_assert_eq!(header.group, GroupId(group));
        prop_assert_eq!(header.is_uncounted(), uncounted);
    }

    #[test]
    fn messages_survive_any_cut_of_the_stream(
        messages in vec(message(), 1..5),
        cuts in vec(any::<proptest::sample::Index>(), 0..6),
    ) {
        let frames = messages.iter().map(|message| frame_of(GroupId(0), false, message));
        let stream: Vec<u8> = frames.flatten().collect();
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        ends.push(stream.len());
        ends.sort_unstable();
        let (mut buffer, mut read, mut start) = (BytesMut::new(), Vec::new(), 0);
        for end in ends {
            buffer.extend_from_slice(&stream[start..end]);
            start = end;
            while let Some((header, body)) = frame::take(&mut buffer, MAX_BODY_BYTES).unwrap() {
                read.push(wire::decode(&header, &body).unwrap());
            }
        }
        prop_assert_eq!(read, messages);
        prop_assert!(buffer.is_empty());
    }

    #[test]
    fn arbitrary_bytes_are_read_without_a_panic(bytes in vec(any::<u8>(), 0..200)) {
        let whole = Bytes::from(bytes.clone());
        let _outcome = frame::split(&whole, MAX_BODY_BYTES);
        let mut buffer = BytesMut::from(&bytes[..]);
        // Each frame takes at least a header, so this ends.
        while let Ok(Some((header, body))) = frame::take(&mut buffer, MAX_BODY_BYTES) {
            let _outcome = wire::decode(&header, &body);
        }
        let _outcome = Membership::from_bytes(&bytes);
    }

    #[test]
    fn arbitrary_bodies_of_every_kind_read_the_same_again(
        (kind, ..) in proptest::sample::select(Message::KINDS.to_vec()),
        body in vec(prop_oneof![3 => 0..4u8, 1 => any::<u8>()], 0..60),
        head in any::<proptest::sample::Index>(),
    ) {
        let head_bytes = head.index(body.len() + 1) as u32;
        let body_bytes = body.len() as u32;
        let header = FrameHeader { body_bytes, kind, flags: 0, group: GroupId(0), head_bytes };
        if let Ok(message) = wire::decode(&header, &body.into()) {
            prop_assert_eq!(message.kind(), kind);
            let (_, again) = read_one(&frame_of(GroupId(0), false, &message));
            prop_assert_eq!(again, message);
        }
    }

    #[test]
    fn one_flipped_byte_never_panics(
        message in message(),
        at in any::<proptest::sample::Index>(),
        flip in 1..=u8::MAX,
    ) {
        let mut bytes = frame_of(GroupId(0), false, &message);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok((header, body)) = frame::split(&bytes.into(), MAX_BODY_BYTES) {
            let _outcome = wire::decode(&header, &body);
        }
    }

    #[test]
    fn a_membership_survives_its_bytes(membership in membership()) {
        let bytes = membership.to_bytes().unwrap();
        prop_assert_eq!(Membership::from_bytes(&bytes).unwrap(), membership);
    }
}
