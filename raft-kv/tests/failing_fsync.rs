//! A real server whose fsync fails: it acknowledges nothing more, says which file, and ends with an
//! error; the others go on, and it comes back once its disk is sound (D7).
//!
//! The unchanged program runs with a small C library in front of the system's, which lets fdatasync of
//! the log's segments fail while a file exists. It needs a C compiler, which Rust's linker mostly comes
//! with; without one the tests say that they are skipped.
#![allow(
    clippy::unwrap_used,
    reason = "in test helpers too, a panic is the failure"
)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use raft_kv::client::Write;
use support::{Cluster, program, succeed};

/// Fails what the program asks of the disk, as a dying disk would.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int fdatasync(int fd) {
    char link[64], path[4096];
    const char *when = getenv("FAIL_FDATASYNC_WHILE");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length > 4 && when && access(when, F_OK) == 0) {
        path[length] = 0;
        if (strcmp(path + length - 4, ".wal") == 0) {
            errno = EIO;
            return -1;
        }
    }
    return (int)syscall(SYS_fdatasync, fd);
}
"#;

/// The library, and the file whose existence lets syncs fail.
struct Shim {
    library: PathBuf,
    switch: PathBuf,
}

impl Shim {
    /// `None` if there is no C compiler.
    fn build(dir: &Path) -> Option<Self> {
        let source = dir.join("shim.c");
        let library = dir.join("shim.so");
        fs::write(&source, SHIM).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]);
        match compiler.arg(&library).arg(&source).output() {
            Ok(output) if output.status.success() => Some(Self {
                library,
                switch: dir.join("fail"),
            }),
            other => {
                println!("SKIPPED: there is no C compiler here: {other:?}");
                None
            }
        }
    }

    fn start(&self, cluster: &mut Cluster, id: usize) {
        let mut command = cluster.server_command(id);
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAIL_FDATASYNC_WHILE", &self.switch);
        cluster.start_as(id, command);
    }

    fn fail(&self) {
        fs::write(&self.switch, b"").unwrap();
    }

    fn heal(&self) {
        fs::remove_file(&self.switch).unwrap();
    }
}

/// What a server says that ends because of its disk.
fn assert_ended_by_disk(cluster: &mut Cluster, id: usize) {
    let status = cluster.wait_for_end(id);
    assert_eq!(status.code(), Some(1), "{status:?}");
    let log = cluster.log(id);
    let last = log.lines().rev().find(|line| line.contains("cannot sync"));
    assert!(last.is_some_and(|line| line.contains(".wal")), "{log}");
}

#[tokio::test]
async fn a_server_whose_fsync_fails_acknowledges_nothing_more_and_ends() {
    let mut cluster = Cluster::prepare(1);
    let Some(shim) = Shim::build(cluster.dir.path()) else {
        return;
    };
    shim.start(&mut cluster, 1);
    let client = cluster.client();
    for number in 0..20 {
        client.put(format!("k{number}"), "v").await.unwrap();
    }
    shim.fail();
    let impatient = cluster.client_of(cluster.endpoints(), Duration::from_secs(5));
    for number in 0..3 {
        let refused = impatient.put(format!("after{number}"), "v").await;
        assert!(refused.is_err(), "nothing is durable any more: {refused:?}");
    }
    assert_ended_by_disk(&mut cluster, 1);
    // A start that cannot sync ends, too: it promises nothing.
    shim.start(&mut cluster, 1);
    assert_eq!(cluster.wait_for_end(1).code(), Some(1));

    shim.heal();
    shim.start(&mut cluster, 1);
    for number in 0..20 {
        let found = client.get(format!("k{number}").as_bytes()).await.unwrap();
        assert_eq!(found.unwrap().value, "v", "k{number}");
    }
    client.put("healed", "v").await.unwrap();
    cluster.kill(1);
    let verified = succeed(program().args(["log", "verify"]).arg(cluster.data_dir(1)));
    let verified = String::from_utf8(verified).unwrap();
    assert!(verified.contains("sound"), "{verified}");
}

#[tokio::test]
async fn a_leader_whose_fsync_fails_loses_no_acknowledged_write_of_its_cluster() {
    let mut cluster = Cluster::prepare(3);
    let Some(shim) = Shim::build(cluster.dir.path()) else {
        return;
    };
    (1..=2).for_each(|id| cluster.start_server(id));
    shim.start(&mut cluster, 3);
    let client = cluster.client();
    client.put("before", "v").await.unwrap();
    cluster.converged(&[1, 2, 3]).await;
    succeed(&mut cluster.command(&["transfer", "3"]));
    let session = client.session().await.unwrap();
    for number in 0..60 {
        if number == 20 {
            shim.fail();
        }
        // A session's write counts once, whoever leads by the time it is done.
        let append = Write::append(format!("k{}", number % 6), format!("{number};"));
        session.write(&append).await.unwrap();
    }
    assert_ended_by_disk(&mut cluster, 3);
    shim.heal();
    shim.start(&mut cluster, 3);
    let state = cluster.converged(&[1, 2, 3]).await;
    assert_eq!(state.keys, 7, "{state:?}");
    for key in 0..6 {
        let found = client.get(format!("k{key}").as_bytes()).await.unwrap();
        let expected: String = (0..10)
            .map(|round| format!("{};", round * 6 + key))
            .collect();
        assert_eq!(found.unwrap().value, expected, "k{key}");
    }
}
