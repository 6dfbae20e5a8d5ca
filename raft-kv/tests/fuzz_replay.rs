//! Replays stored inputs of the fuzz target `kv_protocol` with the code of the target.
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
#![allow(
    dead_code,
    unreachable_pub,
    reason = "the fuzz targets are a crate of their own, and use more of it"
)]

use std::path::Path;

#[path = "../../fuzz/src/input.rs"]
mod input;
#[path = "../../fuzz/src/kv_protocol.rs"]
mod kv_protocol;

#[test]
fn messages_of_arbitrary_bytes_decode_or_are_refused() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/kv_protocol");
    let mut inputs = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        let input = std::fs::read(entry.unwrap().path()).unwrap();
        kv_protocol::run(&input);
        // Every byte of a small one in turn says something else.
        for at in 0..input.len().min(300) {
            for change in [1, 0x80, 0xff] {
                let mut changed = input.clone();
                changed[at] ^= change;
                kv_protocol::run(&changed);
            }
        }
        inputs += 1;
    }
    assert!(inputs > 20);
}
