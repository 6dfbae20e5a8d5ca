//! How results are printed: for people, or as one JSON value.

use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::error::CliError;
use crate::client::ClientError;
use crate::protocol::{NodeStatus, PeerStatus};

/// Writes bytes to the standard output. A reader that has gone away is no error.
pub(super) fn print_bytes(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::io("write to the standard output", error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes one line.
pub(super) fn print_line(text: &str) -> Result<(), CliError> {
    print_bytes(format!("{text}\n").as_bytes())
}

/// Writes one JSON value on a line.
pub(super) fn print_json(value: &Value) -> Result<(), CliError> {
    print_line(&value.to_string())
}

/// A field of bytes: as text under its name, or in base64 under `<name>_base64`.
pub(super) fn insert_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), json!(text)),
        Err(_) => object.insert(format!("{name}_base64"), json!(STANDARD.encode(bytes))),
    };
}

fn peer_json(peer: &PeerStatus) -> Value {
    json!({
        "id": peer.id.0,
        "address": peer.address,
        "role": peer.role,
        "state": peer.state,
        "match_index": peer.match_index,
        "silent_ms": peer.silent_ms,
    })
}

/// One endpoint's status, or its error.
pub(super) fn status_json(endpoint: &str, status: &Result<NodeStatus, ClientError>) -> Value {
    match status {
        Err(error) => json!({ "endpoint": endpoint, "error": error.to_string() }),
        Ok(status) => json!({
            "endpoint": endpoint,
            "id": status.id.0,
            "cluster": status.cluster,
            "role": status.role,
            "waiting_for": status.waiting_for,
            "notes": status.notes,
            "term": status.term,
            "leader": status.leader.map(|leader| leader.0),
            "commit_index": status.commit_index,
            "applied_index": status.applied_index,
            "last_index": status.last_index,
            "snapshot_index": status.snapshot_index,
            "saving": status.saving.map(|saving| json!({ "index": saving.index, "bytes": saving.bytes })),
            "restoring": status.is_restoring,
            "log_bytes": status.log_bytes,
            "revision": status.revision.0,
            // As text: JSON readers that use floating point would round a 64-bit number.
            "hash": format!("{:016x}", status.hash),
            "keys": status.keys,
            "data_bytes": status.data_bytes,
            "sessions": status.sessions,
            "peers": status.peers.iter().map(peer_json).collect::<Vec<_>>(),
        }),
    }
}

/// All endpoints in a table, then what could not be put into it.
pub(super) fn status_table(all: &[(String, Result<NodeStatus, ClientError>)]) -> String {
    let mut rows = vec![
        [
            "ENDPOINT",
            "ID",
            "ROLE",
            "TERM",
            "LEADER",
            "COMMIT",
            "APPLIED",
            "LOG BYTES",
            "REVISION",
            "KEYS",
            "HASH",
        ]
        .map(str::to_owned),
    ];
    let mut notes = String::new();
    for (endpoint, status) in all {
        match status {
            Ok(status) => {
                rows.push(status_row(endpoint, status));
                if !status.waiting_for.is_empty() {
                    let waiting_for = status.waiting_for.join(", ");
                    notes += &format!("{endpoint}: waits for {waiting_for}\n");
                }
                for note in &status.notes {
                    notes += &format!("{endpoint}: {note}\n");
                }
            }
            Err(error) => {
                let mut row: [String; 11] = std::array::from_fn(|_| "-".to_owned());
                row[0].clone_from(endpoint);
                "unreachable".clone_into(&mut row[2]);
                rows.push(row);
                notes += &format!("{endpoint}: {error}\n");
            }
        }
    }
    table(&rows) + &notes
}

fn status_row(endpoint: &str, status: &NodeStatus) -> [String; 11] {
    [
        endpoint.to_owned(),
        status.id.0.to_string(),
        status.role.clone(),
        status.term.to_string(),
        status
            .leader
            .map_or("-".to_owned(), |leader| leader.0.to_string()),
        status.commit_index.to_string(),
        status.applied_index.to_string(),
        status.log_bytes.to_string(),
        status.revision.0.to_string(),
        status.keys.to_string(),
        format!("{:016x}", status.hash),
    ]
}

/// Rows with aligned columns.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths);
        let padded: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text += padded.join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [["A", "BB"], ["123", "4"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "A    BB\n123  4\n");
    }
}
