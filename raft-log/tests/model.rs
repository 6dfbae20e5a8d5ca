//! Random histories give what a naive model gives, across reopens and crashes.
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use proptest::prelude::*;
use raft_log::LogOptions;
use raft_log::inspect::{Detail, survey};
use raft_log::vfs::MemVfs;

mod support;

use support::{Choices, Model, Pair, Step, open};

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..12u64, 0..4000usize).prop_map(|(count, bytes)| Step::Append { count, bytes }),
        2 => (1..4u64, 0..100usize).prop_map(|(count, bytes)| Step::Stage { count, bytes }),
        1 => (1..5u64).prop_map(|voters| Step::Members { voters }),
        2 => Just(Step::Vote),
        2 => (0..6u64).prop_map(|removed| Step::Replace { removed }),
        1 => (0..6u64).prop_map(|removed| Step::Truncate { removed }),
        2 => (0..20u64).prop_map(|left| Step::Compact { left }),
        1 => (0..5u64).prop_map(|beyond| Step::Install { beyond }),
        1 => (0..9u64).prop_map(|covered| Step::InstallOver { covered }),
        2 => (0..8u64, 1..6u64).prop_map(|(back, count)| Step::Rot { back, count }),
        2 => (1..6usize).prop_map(|most| Step::Refill { most }),
        1 => Just(Step::Vouch),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_random_history_gives_what_the_model_gives(
        history in prop::collection::vec(step(), 1..40),
        seed in 1..u64::MAX,
    ) {
        let mut pair = Pair::new(&MemVfs::new(seed), LogOptions::small());
        pair.reopen().unwrap();
        for step in &history {
            pair.run(step).unwrap();
            let log = pair.log.as_ref().unwrap();
            prop_assert_eq!(log.last(), pair.synced.last());
            prop_assert_eq!(log.last_staged(), pair.wanted.last());
            let missing: u64 = log.missing().iter().map(|hole| hole.last.since(hole.first) + 1).sum();
            prop_assert!(missing >= pair.holes.len() as u64, "what is wrong is not read");
        }
        // Staged and not synced: lost without a trace.
        let mut choices = Choices(seed);
        let disk = pair.vfs.crash(&mut |_| choices.next().is_multiple_of(2));
        let (_dir, log, recovered) = open(&disk).unwrap();
        prop_assert_eq!(Model::of_log(&log, &recovered), pair.synced);
    }

    #[test]
    fn a_random_history_survives_crash_after_crash(
        lives in prop::collection::vec(
            (prop::collection::vec(step(), 1..12), 0..80u64, 0..3u8, 0..256u64),
            1..6,
        ),
        seed in 1..u64::MAX,
    ) {
        let mut pair = Pair::new(&MemVfs::new(seed), LogOptions::small());
        pair.reopen().unwrap();
        let mut choices = Choices(seed);
        for (history, cut, end, share) in lives {
            match end {
                // A failed sync, whose pages the kernel takes for clean.
                0 => pair.vfs.fail_syncs_from(cut / 4 + 1),
                _ => pair.vfs.stop_after(cut),
            }
            let _ = history.iter().try_for_each(|step| pair.run(step));
            pair.log = None;
            pair.dir = None;
            pair.vfs.resume();
            let disk = if end == 1 {
                // Only the process dies; the page cache stays.
                pair.vfs.clone()
            } else {
                pair.vfs.crash(&mut |_| choices.next() >> 56 <= share)
            };
            pair.recover(&disk);
        }
    }

    #[test]
    fn random_bytes_never_panic_the_open(
        at in 0..65_536u64,
        garbage in prop::collection::vec(any::<u8>(), 1..600),
        seed in 1..u64::MAX,
    ) {
        let mut pair = Pair::new(&MemVfs::new(seed), LogOptions::small());
        pair.reopen().unwrap();
        for _ in 0..4 {
            pair.run(&Step::Append { count: 3, bytes: 700 }).unwrap();
        }
        pair.log = None;
        pair.dir = None;
        let garbage = &garbage[..garbage.len().min(65_536 - at as usize)];
        pair.vfs.corrupt(&support::segment_path(1), at, garbage).unwrap();
        let seen = survey(&pair.vfs, support::DIRECTORY.as_ref(), Detail::Records).unwrap();
        prop_assert!(!seen.to_string().is_empty());
        if let Ok((_dir, log, recovered)) = open(&pair.vfs) {
            let found = Model::of_log(&log, &recovered);
            prop_assert!(pair.synced.entries.starts_with(&found.entries));
        }
    }
}
