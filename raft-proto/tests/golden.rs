//! Golden bytes: every message is written as exactly the checked-in bytes, and read back from them.
//!
//! `RAFT_PROTO_WRITE_GOLDEN=1 cargo test -p raft-proto --test golden` writes the files anew. A diff in one that was there
//! before is a change of the wire format: it needs a new version and a new `docs/WIRE_FORMAT.md`.
#![allow(
    clippy::unwrap_used,
    reason = "in test helpers too, a panic is the failure"
)]

mod samples;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use raft_proto::{Comparison, LogIndex, Membership, Message, frame, wire};

/// Set to `1`, it rewrites the golden files instead of checking them.
const WRITE: &str = "RAFT_PROTO_WRITE_GOLDEN";
const MAX_BODY_BYTES: u32 = 1 << 20;

/// A golden file: a comment, then lines of a label and up to 16 bytes in hexadecimal.
struct Golden {
    name: String,
    comment: String,
    /// Label and bytes of each part, in order.
    parts: Vec<(&'static str, Vec<u8>)>,
}

impl Golden {
    fn of_message(sample: &samples::Sample) -> Self {
        let encoded = sample.encode();
        let (header, head) = encoded.head.split_at(frame::HEADER_BYTES);
        let mut parts = vec![("header", header.to_vec()), ("head", head.to_vec())];
        parts.extend(encoded.payloads.iter().map(|p| ("payload", p.to_vec())));
        let uncounted = if sample.uncounted { ", uncounted" } else { "" };
        Self {
            name: sample.name.to_string(),
            comment: format!(
                "kind {}{uncounted}: {:?}",
                sample.message.kind(),
                sample.message
            ),
            parts,
        }
    }

    fn of_membership(name: &str, membership: &Membership) -> Self {
        Self {
            name: name.to_string(),
            comment: format!("{membership:?}"),
            parts: vec![("bytes", membership.to_bytes().unwrap().to_vec())],
        }
    }

    fn path(&self) -> PathBuf {
        directory().join(format!("{}.hex", self.name))
    }

    fn render(&self) -> String {
        let mut text = format!("# {}\n", self.comment);
        for (label, bytes) in &self.parts {
            for line in bytes.chunks(16) {
                let hex: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
                text.push_str(&format!("{label:<8}{}\n", hex.join(" ")));
            }
        }
        text
    }

    fn bytes(&self) -> Vec<u8> {
        self.parts
            .iter()
            .flat_map(|(_, bytes)| bytes.clone())
            .collect()
    }

    /// Compares with the file, or writes it; returns the file's bytes.
    fn check(&self) -> Vec<u8> {
        if std::env::var(WRITE).is_ok_and(|value| value == "1") {
            fs::write(self.path(), self.render()).unwrap();
        }
        let text = fs::read_to_string(self.path()).unwrap_or_else(|error| {
            let path = self.path();
            panic!(
                "{}: {error}; a new message needs golden bytes, see {WRITE}",
                path.display()
            )
        });
        let stored = parse(&text);
        assert_eq!(
            stored,
            self.bytes(),
            "{} is not written as its golden bytes any more; now:\n{}",
            self.name,
            self.render()
        );
        stored
    }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The bytes of a golden file, without comments and labels.
fn parse(text: &str) -> Vec<u8> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let words = lines.flat_map(|line| line.split_whitespace().skip(1));
    words
        .map(|word| u8::from_str_radix(word, 16).unwrap_or_else(|_| panic!("bad byte {word:?}")))
        .collect()
}

#[test]
fn messages_are_written_and_read_as_golden_bytes() {
    for sample in samples::all() {
        let stored = Bytes::from(Golden::of_message(&sample).check());
        let (header, body) = frame::split(&stored, MAX_BODY_BYTES).unwrap();
        let message = wire::decode(&header, &body).unwrap();
        assert_eq!(message, sample.message, "{}", sample.name);
        assert_eq!(header.is_uncounted(), sample.uncounted, "{}", sample.name);
    }
}

#[test]
fn memberships_are_written_and_read_as_golden_bytes() {
    for (name, membership) in memberships() {
        let stored = Golden::of_membership(name, &membership).check();
        assert_eq!(Membership::from_bytes(&stored).unwrap(), membership);
        assert_eq!(membership.validate(), Ok(()));
    }
}

fn memberships() -> [(&'static str, Membership); 2] {
    [
        ("membership_voters", samples::voters()),
        ("membership_joint", samples::joint()),
    ]
}

#[test]
fn a_comparison_is_written_and_read_as_golden_bytes() {
    let comparison = Comparison {
        first: LogIndex(5),
        last: LogIndex(300),
    };
    let golden = Golden {
        name: "comparison".to_owned(),
        comment: format!("{comparison:?}"),
        parts: vec![("bytes", comparison.to_bytes().unwrap().to_vec())],
    };
    assert_eq!(Comparison::from_bytes(&golden.check()), Ok(comparison));
}

#[test]
fn every_message_has_golden_bytes_and_every_file_a_message() {
    let sampled: BTreeSet<u8> = samples::all().iter().map(|s| s.message.kind()).collect();
    let known: BTreeSet<u8> = Message::KINDS.iter().map(|(kind, ..)| *kind).collect();
    assert_eq!(sampled, known, "kinds with a sample, and kinds there are");

    let mut expected: BTreeSet<String> = samples::all()
        .iter()
        .map(|sample| format!("{}.hex", sample.name))
        .collect();
    assert_eq!(expected.len(), samples::all().len(), "names are unique");
    expected.insert("comparison.hex".to_owned());
    expected.extend(memberships().map(|(name, _)| format!("{name}.hex")));
    let found: BTreeSet<String> = fs::read_dir(directory())
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(
        found, expected,
        "golden files there, and golden files wanted"
    );
}
