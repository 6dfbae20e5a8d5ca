//! A snapshot of the cluster becomes another cluster, which must hold the same.

use std::path::Path;
use std::time::Instant;

use super::cluster::{Cluster, data_directory, free_ports};
use super::report::Report;
use super::tool::Tool;
use super::{await_leader, milliseconds, say};

/// Saves a snapshot of the running cluster, makes a cluster of one node of it, and compares every
/// key of the two.
pub(super) fn save_and_restore(
    tool: &Tool,
    directory: &Path,
    report: &mut Report,
) -> Result<(), String> {
    say("saving a snapshot of the running cluster");
    let file = directory.join("snapshot");
    let saving = Instant::now();
    let bytes = tool.save_snapshot(&file)?;
    let saved = milliseconds(saving.elapsed());
    let (keys, hash) = tool.verify_snapshot(&file)?;
    report.add(
        "snapshot saved and verified",
        format!("{bytes} bytes, {keys} keys, saved in {saved}"),
    );
    say("restoring it into a new cluster of one node");
    let port = free_ports(1)?[0];
    let restored = directory.join("restored");
    std::fs::create_dir_all(&restored)
        .map_err(|error| format!("{}: {error}", restored.display()))?;
    let restoring = Instant::now();
    tool.restore_snapshot(&file, &data_directory(&restored, 1), port)?;
    let alone = tool.at(&[port]);
    let mut cluster = Cluster::start(&alone, &restored, &[port])?;
    let (states, _) = await_leader(&alone, &mut cluster, None)?;
    let ready = milliseconds(restoring.elapsed());
    say("comparing every key of the two clusters");
    let (before, after) = (tool.everything()?, alone.everything()?);
    if before.len() as u64 != keys || before != after {
        return Err(different(&before, &after));
    }
    let found = states.iter().filter_map(|state| state.known.as_ref());
    if let Some(other) = found.map(|known| &known.hash).find(|found| **found != hash) {
        return Err(format!(
            "the snapshot's state has the hash {hash}, the restored node {other}"
        ));
    }
    cluster.stop()?;
    tool.verify_log(&data_directory(&restored, 1))?;
    report.add(
        "restored into a new cluster of one node",
        format!("{keys} keys equal, with their revisions; it answered {ready} after the command"),
    );
    Ok(())
}

/// Where two lists of pairs begin to differ.
fn different(before: &[serde_json::Value], after: &[serde_json::Value]) -> String {
    let equal = before.iter().zip(after).take_while(|(a, b)| a == b).count();
    let key = |pairs: &[serde_json::Value]| match pairs.get(equal) {
        Some(pair) => pair["key"].to_string(),
        None => "nothing".to_string(),
    };
    format!(
        "the restored cluster differs: {} keys before, {} after; after {equal} equal pairs come {} and {}",
        before.len(),
        after.len(),
        key(before),
        key(after)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn differences_are_located() {
        let [a, b, c] = ["a", "b", "c"].map(|key| json!({ "key": key }));
        let said = different(&[a.clone(), b], &[a, c]);
        assert!(
            said.ends_with("after 1 equal pairs come \"b\" and \"c\""),
            "{said}"
        );
    }
}
