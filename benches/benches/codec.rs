//! Encoding and decoding of the messages that a write takes, and, as a floor, of the same bytes by
//! copying and slicing alone.
//!
//! ```text
//! cargo bench -p benches --bench codec
//! ```

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use raft_kv::command::Command;
use raft_kv::operation::Operation;
use raft_proto::{
    AppendOutcome, AppendRequest, AppendResponse, Entry, EntryKind, GroupId, Heartbeat, LogIndex,
    LogPosition, Message, Term, frame, wire,
};

/// Payload bytes of each entry.
const PAYLOAD_BYTES: usize = 256;
/// Entries of an append.
const BATCHES: [u64; 3] = [1, 16, 256];
/// Largest frame that is decoded.
const MAX_BODY_BYTES: u32 = 1 << 24;

fn append(count: u64) -> Message {
    let payload = Bytes::from(vec![7; PAYLOAD_BYTES]);
    let entry = |index| Entry {
        index: LogIndex(1_000_000 + index),
        term: Term(3),
        kind: EntryKind::Command,
        payload: payload.clone(),
    };
    AppendRequest {
        term: Term(3),
        sequence: 77,
        previous: LogPosition {
            index: LogIndex(1_000_000),
            term: Term(3),
        },
        commit_index: LogIndex(999_000),
        entries: (1..=count).map(entry).collect(),
    }
    .into()
}

fn acknowledgement() -> Message {
    AppendResponse {
        term: Term(3),
        sequence: 77,
        outcome: AppendOutcome::Accepted,
    }
    .into()
}

fn heartbeat() -> Message {
    Heartbeat {
        term: Term(3),
        round: 9,
        commit_index: LogIndex(999_000),
    }
    .into()
}

fn messages(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    let mut cases = vec![
        ("acknowledgement".to_string(), acknowledgement(), 1),
        ("heartbeat".to_string(), heartbeat(), 1),
    ];
    cases.extend(BATCHES.map(|count| (format!("append of {count}"), append(count), count)));
    for (name, message, entries) in cases {
        group.throughput(Throughput::Elements(entries));
        group.bench_function(BenchmarkId::new("encode", &name), |bencher| {
            bencher.iter(|| wire::encode(GroupId(0), false, black_box(&message)));
        });
        let encoded = wire::encode(GroupId(0), false, &message);
        let bytes = Bytes::from(encoded.expect("it is small").to_vec());
        group.bench_function(BenchmarkId::new("decode", &name), |bencher| {
            bencher.iter(|| {
                let (header, body) =
                    frame::split(black_box(&bytes), MAX_BODY_BYTES).expect("it is a frame");
                wire::decode(&header, &body)
            });
        });
        // What a receiver does at least: a vector, and a slice of the frame for each entry.
        group.bench_function(BenchmarkId::new("slice only", &name), |bencher| {
            bencher.iter(|| {
                let bytes = black_box(&bytes);
                let payload = bytes.len() / entries as usize;
                (0..entries as usize)
                    .map(|at| bytes.slice(at * payload..(at + 1) * payload))
                    .collect::<Vec<_>>()
            });
        });
    }
    group.finish();
}

fn commands(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    group.throughput(Throughput::Elements(1));
    let value = [7; PAYLOAD_BYTES];
    let put = || Command::Write {
        origin: None,
        operation: Operation::Put {
            key: b"key/000000000042",
            value: &value,
        },
    };
    group.bench_function("encode/put", |bencher| {
        bencher.iter(|| black_box(put()).encode().to_bytes());
    });
    let bytes = put().encode().to_bytes();
    group.bench_function("decode/put", |bencher| {
        bencher.iter(|| Command::decode(black_box(&bytes)).map(black_box).is_ok());
    });
    group.finish();
}

criterion_group!(benches, messages, commands);
criterion_main!(benches);
