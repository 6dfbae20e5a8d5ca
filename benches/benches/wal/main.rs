//! The log against the bare disk and against other logs: append and sync of batches, several
//! writers, bytes written, opening a large log, reading it through.
//!
//! ```text
//! cargo bench -p benches --bench wal [--features peers] -- [--rounds 5] [--seconds 2] [filter]
//! ```
//!
//! The files are in `TMPDIR` (default `/var/tmp`), which must be on a real disk: on a tmpfs an
//! fdatasync costs nothing and the numbers mean nothing.

mod bare;
#[cfg(feature = "peers")]
mod engine;
mod large;
#[cfg(feature = "peers")]
mod okay;
mod ours;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use benches::contest::{Contest, Measured, Options, print_head};
use tempfile::TempDir;

/// Entries per sync, and payload bytes of each.
const SHAPES: [(u64, usize); 4] = [(1, 256), (16, 256), (256, 256), (1, 64 << 10)];
/// Threads that each make one entry durable after the other.
const WRITERS: u64 = 8;
/// Payload bytes of their entries.
const WRITERS_BYTES: usize = 256;
/// Batches over which written bytes are counted.
const COUNTED_BATCHES: u64 = 4096;

/// A new directory on the disk to be measured.
fn directory() -> TempDir {
    let parent =
        std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    tempfile::tempdir_in(parent).expect("TMPDIR can be written")
}

/// A payload without zero sectors, as real ones are.
fn payload(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|number| (number % 251) as u8 + 1).collect()
}

fn main() {
    let options = Options::from_arguments();
    print_head("wal", "entry");
    for (count, bytes) in SHAPES {
        let title = format!("{count} x {bytes} B a sync");
        if options.wants(&title) {
            append(&title, count, bytes, &options);
        }
    }
    if options.wants("writers") {
        writers(&options);
    }
    if options.wants("bytes written") {
        println!("\n## bytes written over bytes of payload\n");
        for (count, bytes) in SHAPES {
            written(count, bytes);
        }
    }
    if options.wants("open") {
        large::run(&options);
    }
}

fn append(title: &str, count: u64, bytes: usize, options: &Options) {
    let payload = payload(bytes);
    let mut ours = ours::Ours::new();
    let mut bare = bare::BareFile::new(count, bytes);
    let contest = Contest::new(title)
        .with("raft-log", |slice: Duration| {
            Measured::repeat(slice, || ours.append_and_sync(count, &payload))
        })
        .with("bare loop", move |slice| {
            Measured::repeat(slice, || bare.write())
        });
    #[cfg(feature = "peers")]
    let contest = {
        let mut engine = engine::Engine::new();
        let mut okay = okay::Okay::new();
        let (a, b) = (payload.clone(), payload.clone());
        contest
            .with("raft-engine 0.4.2", move |slice| {
                Measured::repeat(slice, || engine.append_and_sync(count, &a))
            })
            .with("okaywal 0.3", move |slice| {
                Measured::repeat(slice, || okay.append_and_sync(count, &b))
            })
    };
    contest.run(options);
}

fn writers(options: &Options) {
    let payload = payload(WRITERS_BYTES);
    let ours = ours::Shared::start(ours::Ours::new());
    let title = format!("{WRITERS} writers, {WRITERS_BYTES} B each");
    let ours_payload = payload.clone();
    let contest = Contest::new(&title).with("raft-log", move |slice| {
        together(slice, |_| {
            let writer = ours.writer();
            let payload = ours_payload.clone();
            move || writer.append(&payload)
        })
    });
    #[cfg(feature = "peers")]
    let contest = {
        let engine = engine::Engine::new();
        let okay = okay::Okay::new();
        let (a, b) = (payload.clone(), payload);
        contest
            .with("raft-engine 0.4.2", move |slice| {
                together(slice, |writer| {
                    let (mut engine, payload) = (engine.of_group(writer), a.clone());
                    move || engine.append_and_sync(1, &payload)
                })
            })
            .with("okaywal 0.3", move |slice| {
                together(slice, |_| {
                    let (mut okay, payload) = (okay.clone(), b.clone());
                    move || okay.append_and_sync(1, &payload)
                })
            })
    };
    contest.run(options);
}

/// All writers at the same time, each on a thread of its own.
fn together<W: FnMut() -> u64 + Send>(slice: Duration, writer: impl Fn(u64) -> W) -> Measured {
    let begin = Instant::now();
    Measured::once(|| {
        std::thread::scope(|scope| {
            let write = |mut work: W| {
                let mut written = 0;
                while begin.elapsed() < slice {
                    written += work();
                }
                written
            };
            let threads: Vec<_> = (0..WRITERS)
                .map(|number| {
                    let work = writer(number + 1);
                    scope.spawn(move || write(work))
                })
                .collect();
            let written = threads.into_iter().map(|thread| thread.join());
            written
                .map(|count| count.expect("a writer does not panic"))
                .sum::<u64>()
        })
    })
}

/// How much is written for a payload: in batches, and in all, zeros ahead included.
fn written(count: u64, bytes: usize) {
    let payload = payload(bytes);
    let payload_bytes = (count * bytes as u64 * COUNTED_BATCHES) as f64;
    let mut ours = ours::Ours::new();
    let before = written_bytes();
    for _ in 0..COUNTED_BATCHES {
        ours.append_and_sync(count, &payload);
    }
    let all = (written_bytes() - before) as f64;
    println!(
        "- {count} x {bytes} B: raft-log {:.2} in batches, {:.2} with zeros ahead",
        ours.batch_bytes() as f64 / payload_bytes,
        all / payload_bytes
    );
    #[cfg(feature = "peers")]
    {
        let mut engine = engine::Engine::new();
        let before = written_bytes();
        for _ in 0..COUNTED_BATCHES {
            engine.append_and_sync(count, &payload);
        }
        let engine_bytes = (written_bytes() - before) as f64;
        println!(
            "- {count} x {bytes} B: raft-engine {:.2}",
            engine_bytes / payload_bytes
        );
    }
}

/// Bytes that this process has handed to write calls.
fn written_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").expect("this is Linux");
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.and_then(|bytes| bytes.parse().ok())
        .expect("the kernel counts bytes written")
}
