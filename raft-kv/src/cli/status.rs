//! `status` and `transfer`.

use raft_proto::NodeId;
use serde_json::{Value, json};

use super::args::{Common, Format, TransferArgs};
use super::data::{CLOSE_BOUND, client};
use super::error::CliError;
use super::output::{print_bytes, print_json, print_line, status_json, status_table};

/// Asks every endpoint; fails only if none answers.
pub(super) async fn status(common: &Common) -> Result<(), CliError> {
    let client = client(common, 1)?;
    let all = client.status().await;
    client.close(CLOSE_BOUND).await;
    match common.write_out {
        Format::Simple => print_bytes(status_table(&all).as_bytes())?,
        Format::Json => {
            let each = all
                .iter()
                .map(|(endpoint, status)| status_json(endpoint, status));
            print_json(&Value::Array(each.collect()))?;
        }
    }
    if all.iter().any(|(_, status)| status.is_ok()) {
        return Ok(());
    }
    Err(CliError::Failed("no endpoint answered".to_owned()))
}

pub(super) async fn transfer(common: &Common, args: &TransferArgs) -> Result<(), CliError> {
    if args.id == 0 {
        return Err(CliError::Usage("node ids are numbers from 1 on".to_owned()));
    }
    client(common, 1)?
        .transfer_leadership(NodeId(args.id))
        .await?;
    match common.write_out {
        Format::Simple => print_line(&format!("node {} leads", args.id)),
        Format::Json => print_json(&json!({ "leader": args.id })),
    }
}
