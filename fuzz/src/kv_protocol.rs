//! Decodes what a client or a server of the key/value store may send: bodies of requests and
//! responses, commands, queries, replies. What decodes is encoded again and decodes to the same.
//!
//! Commands are applied, too, several in a row, on two replicas: whatever was logged, both answer the
//! same and have the same state, and neither stops.

use std::fmt::Debug;

use raft_kv::command::{Command, Query};
use raft_kv::machine::KvMachine;
use raft_kv::protocol::{
    KeepAliveRequest, MemberChange, MemberList, NodeStatus, ReadSnapshotRequest, Redirect,
    RegisterRequest, ReplicasCompared, RequestKind, ResponseKind, ServerRefusal, SnapshotOffer,
    SnapshotPart, TransferRequest, from_body, to_body,
};
use raft_kv::reply::Reply;
use raft_proto::{LogIndex, Term};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::input::Input;

/// How many commands one input may apply.
const MOST_COMMANDS: usize = 16;

/// Runs one input: a kind of message and its body, or commands, each with its length.
pub fn run(data: &[u8]) {
    let Some((&kind, body)) = data.split_first() else {
        return;
    };
    match (
        RequestKind::from_number(kind),
        ResponseKind::from_number(kind),
    ) {
        (Some(request), _) => take_request(request, body),
        (None, Some(response)) => take_response(response, body),
        (None, None) => apply(&mut Input(body)),
    }
}

fn take_request(kind: RequestKind, body: &[u8]) {
    match kind {
        RequestKind::Write => {
            if let Ok(command) = Command::decode(body) {
                let bytes = command.encode().to_bytes();
                let again = Command::decode(&bytes).expect("what we encode is a command");
                assert_eq!(format!("{again:?}"), format!("{command:?}"));
            }
        }
        RequestKind::Read | RequestKind::ReadLocal => {
            if let Ok(query) = Query::decode(body) {
                let bytes = query.to_bytes();
                let again = Query::decode(&bytes).expect("what we encode is a query");
                assert_eq!(format!("{again:?}"), format!("{query:?}"));
                let reply = KvMachine::default().query(body);
                Reply::from_bytes(&reply).expect("a machine answers with replies");
            }
        }
        RequestKind::Register => round_trip::<RegisterRequest>(body),
        RequestKind::KeepAlive => round_trip::<KeepAliveRequest>(body),
        RequestKind::Transfer => round_trip::<TransferRequest>(body),
        RequestKind::ChangeMembers => round_trip::<MemberChange>(body),
        RequestKind::ReadSnapshot => round_trip::<ReadSnapshotRequest>(body),
        RequestKind::Status
        | RequestKind::Members
        | RequestKind::TakeSnapshot
        | RequestKind::CompareReplicas => {}
    }
}

fn take_response(kind: ResponseKind, body: &[u8]) {
    match kind {
        ResponseKind::Answer => {
            // It may be refused, and nothing else.
            let _ = Reply::from_bytes(&body.to_vec().into());
        }
        ResponseKind::Status => round_trip::<NodeStatus>(body),
        ResponseKind::Redirect => round_trip::<Redirect>(body),
        ResponseKind::Refused => round_trip::<ServerRefusal>(body),
        ResponseKind::Members => round_trip::<MemberList>(body),
        ResponseKind::Snapshot => round_trip::<SnapshotOffer>(body),
        ResponseKind::SnapshotPart => {
            let _ = SnapshotPart::from_body(&body.to_vec().into());
        }
        ResponseKind::Compared => round_trip::<ReplicasCompared>(body),
        ResponseKind::Done | ResponseKind::Unknown => {}
    }
}

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(body: &[u8]) {
    if let Ok(value) = from_body::<T>(body) {
        let bytes = to_body(&value);
        assert_eq!(from_body::<T>(&bytes).as_ref(), Ok(&value));
    }
}

/// Applies commands to two replicas.
fn apply(input: &mut Input<'_>) {
    let mut replicas = [KvMachine::default(), KvMachine::default()];
    for number in 1..=MOST_COMMANDS as u64 {
        if input.is_empty() {
            break;
        }
        let length = usize::from(input.short());
        let bytes = input.bytes(length);
        // A replica stops at a command of another version, before it is applied.
        if Command::decode(bytes).is_err() && bytes.first() != Some(&1) {
            continue;
        }
        let replies = replicas
            .each_mut()
            .map(|replica| replica.apply(LogIndex(number), Term(number / 5 + 1), bytes));
        assert_eq!(replies[0], replies[1]);
        Reply::from_bytes(&replies[0]).expect("a machine answers with replies");
    }
    assert_eq!(replicas[0].status(), replicas[1].status());
}
