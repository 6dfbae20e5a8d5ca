//! `verify-replicas`: has the members compare their logs and stores, and says who differs.

use serde_json::{Value, json};

use super::args::{Common, Format, VerifyReplicasArgs};
use super::data::{CLOSE_BOUND, client};
use super::error::CliError;
use super::output::{print_json, print_line};
use crate::protocol::ReplicasCompared;

/// Most comparisons of one run; each is of up to 16,384 entries.
const COMPARISONS_MAX: usize = 100_000;

pub(super) async fn verify(common: &Common, args: &VerifyReplicasArgs) -> Result<(), CliError> {
    let client = client(common, 1)?;
    let mut way = Way::default();
    let (mut differ, mut silent) = (false, false);
    for _ in 0..COMPARISONS_MAX {
        let compared = client.compare_replicas().await?;
        differ |= !compared.differences.is_empty();
        silent |= !compared.silent.is_empty();
        tell(common, &compared)?;
        if !args.all || way.is_through(&compared) {
            break;
        }
    }
    client.close(CLOSE_BOUND).await;
    if differ {
        return Err(CliError::Failed("replicas differ".to_owned()));
    }
    if silent {
        let reason = "no difference was found, but not all members took part";
        return Err(CliError::Failed(reason.to_owned()));
    }
    Ok(())
}

/// How far a pass through the whole log has come. Each comparison goes on behind the one before, and
/// at the end of the log the next one begins at its start.
#[derive(Default)]
struct Way {
    /// Where the pass began.
    from: Option<u64>,
    /// Where the latest comparison began.
    at: u64,
    has_turned: bool,
}

impl Way {
    /// Takes note of a comparison. Whether everything was compared.
    fn is_through(&mut self, compared: &ReplicasCompared) -> bool {
        let Some((first, last)) = compared.entries else {
            return true;
        };
        let from = *self.from.get_or_insert(first);
        self.has_turned |= first <= self.at;
        self.at = first;
        self.has_turned && last + 1 >= from
    }
}

fn tell(common: &Common, compared: &ReplicasCompared) -> Result<(), CliError> {
    match common.write_out {
        Format::Simple => {
            let entries = match compared.entries {
                Some((first, last)) => format!("entries {first} to {last} and the states"),
                None => "the states".to_owned(),
            };
            let taking_part = compared.reported.len();
            let all = taking_part + compared.silent.len();
            let entry = compared.entry;
            print_line(&format!(
                "compared {entries} as of entry {entry}, {taking_part} of {all} members took part"
            ))?;
            for node in &compared.silent {
                print_line(&format!("{node} has not reported"))?;
            }
            for difference in &compared.differences {
                print_line(&difference.text)?;
            }
            Ok(())
        }
        Format::Json => print_json(&to_json(compared)),
    }
}

fn to_json(compared: &ReplicasCompared) -> Value {
    let ids = |nodes: &[raft_proto::NodeId]| nodes.iter().map(|id| id.0).collect::<Vec<_>>();
    let differences = compared.differences.iter().map(|difference| {
        json!({
            "what": if difference.entries.is_some() { "log" } else { "state" },
            "entries": difference.entries,
            "nodes": ids(&difference.nodes),
            "named": difference.is_named,
            "text": difference.text,
        })
    });
    json!({
        "entry": compared.entry,
        "entries": compared.entries,
        "reported": ids(&compared.reported),
        "silent": ids(&compared.silent),
        "differences": differences.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(ranges: &[(u64, u64)]) -> Option<usize> {
        let mut way = Way::default();
        let compared = |(first, last): &(u64, u64)| ReplicasCompared {
            entry: 100,
            entries: Some((*first, *last)),
            reported: Vec::new(),
            silent: Vec::new(),
            differences: Vec::new(),
        };
        ranges
            .iter()
            .position(|range| way.is_through(&compared(range)))
    }

    #[test]
    fn a_pass_ends_where_it_began() {
        assert_eq!(through(&[(1, 9), (1, 10)]), Some(1));
        assert_eq!(through(&[(1, 9), (10, 19), (1, 9)]), Some(2));
        // It began in the middle, and the log was compacted to 5.
        assert_eq!(through(&[(20, 29), (5, 14), (15, 24)]), Some(2));
        assert_eq!(through(&[(20, 29), (5, 19)]), Some(1));
        assert_eq!(through(&[(20, 29), (30, 39)]), None);
    }
}
