//! What a million keys take: the store's layout is compact. A process of its own, because the
//! memory of the whole process is measured.

use raft_kv::operation::Operation;
use raft_kv::store::{Retention, Store};

/// Keys stored here; a part of a million, to be quick.
const KEYS: u64 = 200_000;
const VALUE_BYTES: usize = 256;
/// What a million keys of 256 bytes may take, in bytes: 22 % more than the bytes of keys and values.
const BUDGET_PER_MILLION: u64 = 350_000_000;

/// Anonymous resident memory of this process, in bytes.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status
        .lines()
        .find(|line| line.starts_with("RssAnon:"))
        .expect("it is listed");
    let kib: u64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .expect("it is a number");
    kib << 10
}

#[test]
fn a_million_keys_stay_within_the_budget() {
    let mut store = Store::new(Retention::default());
    let before = resident_bytes();
    for number in 0..KEYS {
        // In no particular order, as keys come.
        let key = format!(
            "key/{:012}",
            number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24
        );
        let value = [number as u8; VALUE_BYTES];
        let put = Operation::Put {
            key: key.as_bytes(),
            value: &value,
        };
        store.apply(&put).expect("it is within the limits");
    }
    assert_eq!(store.key_count(), KEYS);
    let taken = resident_bytes() - before;
    let budget = BUDGET_PER_MILLION * KEYS / 1_000_000;
    assert!(
        taken < budget,
        "{KEYS} keys take {taken} bytes, more than {budget}"
    );
    println!("{} bytes a key", taken / KEYS);
}
