//! The transport against bare quinn and TCP: short messages, bulk, and whole Raft groups over
//! either.
//!
//! ```text
//! cargo bench -p benches --bench transport -- [--rounds 5] [--seconds 2] [filter]
//! ```
//!
//! Messages and bulk run with both ends on one thread, so its processor time is that of both ends.

mod bare;
mod group;
mod namespaces;
mod ours;

use std::path::PathBuf;
use std::time::Instant;

use benches::contest::{Contest, Measured, Options, print_head};
use benches::processor;
use benches::quic::Settings;
use benches::tls::Identity;
use bytes::Bytes;
use raft_proto::Class;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Length of a short message, and how many are under way.
const MESSAGE_BYTES: usize = 128;
const OUTSTANDING: [usize; 3] = [1, 64, 1024];
/// Length of a part in bulk, and how many are under way.
const PART_BYTES: usize = 256 << 10;
const PARTS: usize = 8;
/// About the size of an acknowledgement's frame.
const ANSWER_BYTES: usize = 20;

fn main() {
    let options = Options::from_arguments();
    let identity = Identity::generate().expect("keys can be made");
    print_head("transport", "message");
    for outstanding in OUTSTANDING {
        let title = format!("{MESSAGE_BYTES} B, {outstanding} outstanding");
        if options.wants(&title) {
            messages(&title, outstanding, &identity, &options);
        }
    }
    let title = format!("bulk in parts of {} KiB", PART_BYTES >> 10);
    if options.wants(&title) {
        bulk(&title, &identity, &options);
    }
    group::run(&options);
}

fn runtime() -> Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime starts")
}

/// A new directory on the disk.
fn directory() -> TempDir {
    let parent =
        std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    tempfile::tempdir_in(parent).expect("TMPDIR can be written")
}

fn messages(title: &str, outstanding: usize, identity: &Identity, options: &Options) {
    let payload = Bytes::from(vec![7; MESSAGE_BYTES]);
    let runtime = runtime();
    let mut pair = runtime.block_on(ours::Pair::new());
    let mut defaults = runtime.block_on(bare::over_quic(identity, Settings::Defaults));
    let mut tuned = runtime.block_on(bare::over_quic(identity, Settings::Tuned));
    let on = |work: &mut bare::Line, slice| {
        runtime.block_on(measured(work.run(slice, outstanding, MESSAGE_BYTES)))
    };
    Contest::new(title)
        .with("raft-net", |slice| {
            let run = pair.run(slice, Class::Append, outstanding, &payload);
            runtime.block_on(measured(run))
        })
        .with("bare quinn, defaults", |slice| on(&mut defaults, slice))
        .with("bare quinn, our settings", |slice| on(&mut tuned, slice))
        .run(options);
}

fn bulk(title: &str, identity: &Identity, options: &Options) {
    let payload = Bytes::from(vec![7; PART_BYTES]);
    let runtime = runtime();
    let mut pair = runtime.block_on(ours::Pair::new());
    let mut quic = runtime.block_on(bare::over_quic(identity, Settings::Tuned));
    let mut tcp = runtime.block_on(bare::over_tcp());
    let mut tls = runtime.block_on(bare::over_tls(identity));
    let on = |line: &mut bare::Line, slice| {
        runtime.block_on(measured(line.run(slice, PARTS, PART_BYTES)))
    };
    Contest::new(title)
        .with("raft-net", |slice| {
            let run = pair.run(slice, Class::Bulk, PARTS, &payload);
            runtime.block_on(measured(run))
        })
        .with("bare quinn, our settings", |slice| on(&mut quic, slice))
        .with("TCP", |slice| on(&mut tcp, slice))
        .with("TCP + rustls", |slice| on(&mut tls, slice))
        .run(options);
}

/// Times something that answers how many operations it did.
async fn measured(work: impl Future<Output = u64>) -> Measured {
    let (begin, before) = (Instant::now(), processor::of_thread());
    let operations = work.await;
    Measured {
        operations,
        elapsed: begin.elapsed(),
        processor: processor::of_thread() - before,
        repetition: None,
    }
}
