//! Runs a test that waits for events, and ends it if it hangs.

use std::time::Duration;

/// Only ends a test that hangs, so that it may be long.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let ended = runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await });
    ended.expect("the test hangs");
}
