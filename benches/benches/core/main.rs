//! Proposals per second of whole clusters in one thread: messages are handed over directly, disks
//! take no time. What is left is the consensus code itself.
//!
//! ```text
//! cargo bench -p benches --bench core [--features peers] -- [--rounds 5] [--seconds 2] [filter]
//! ```

#[cfg(feature = "peers")]
mod raft_rs;
#[cfg(feature = "peers")]
mod with_openraft;

use std::time::Duration;

use benches::contest::{Contest, Measured, Options, print_head};
use benches::cores::Cluster;
#[cfg(feature = "peers")]
use benches::cores::KEPT_ENTRIES;
use bytes::Bytes;

/// Length of each proposal in bytes.
const PAYLOAD_BYTES: usize = 256;
/// Nodes of the clusters.
const SIZES: [u64; 2] = [3, 5];
/// Proposals that are made before anything is delivered.
const BATCHES: [u64; 3] = [1, 16, 256];
/// Clients of the comparison with a library that only has an asynchronous interface.
#[cfg(feature = "peers")]
const CLIENTS: u64 = 64;

fn payload() -> Bytes {
    Bytes::from(vec![7; PAYLOAD_BYTES])
}

fn main() {
    let options = Options::from_arguments();
    print_head("core", "proposal");
    for size in SIZES {
        for batch in BATCHES {
            let title = format!("{size} nodes, batch {batch}");
            if options.wants(&title) {
                lockstep(&title, size, batch, &options);
            }
        }
    }
    #[cfg(feature = "peers")]
    for size in SIZES {
        let title = format!("{size} nodes, {CLIENTS} clients");
        if options.wants(&title) {
            clients(&title, size, &options);
        }
    }
}

/// A batch is proposed, and everything delivered until nothing is left to do.
fn lockstep(title: &str, size: u64, batch: u64, options: &Options) {
    let mut ours = Cluster::new(size, payload());
    let contest = Contest::new(title).with("raft-core", move |slice: Duration| {
        Measured::repeat(slice, || ours.commit(batch))
    });
    #[cfg(feature = "peers")]
    let contest = {
        let mut theirs = raft_rs::Cluster::new(size);
        contest.with("raft-rs 0.7", move |slice| {
            Measured::repeat(slice, || theirs.commit(batch))
        })
    };
    contest.run(options);
}

/// As many proposals under way as there are clients. openraft brings tasks and channels with it,
/// which belong to it and run on this one thread; raft-core is driven as above.
#[cfg(feature = "peers")]
fn clients(title: &str, size: u64, options: &Options) {
    let mut ours = Cluster::new(size, payload());
    let theirs = with_openraft::Cluster::new(size);
    Contest::new(title)
        .with("raft-core", move |slice| {
            Measured::repeat(slice, || ours.commit(CLIENTS))
        })
        .with("openraft 0.9", move |slice| theirs.run(CLIENTS, slice))
        .run(options);
}
