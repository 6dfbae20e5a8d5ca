//! The `raft-kv` command line, called as a user would call it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use base64::Engine as _;
use serde_json::Value;

use super::process;

/// What a client command may take, over failovers.
const CLIENT_TIMEOUT: &str = "30s";
/// What a node may take to say how it is.
const STATUS_TIMEOUT: &str = "2s";
/// When a command counts as hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// The command line tool with the cluster it talks to.
#[derive(Clone)]
pub(crate) struct Tool {
    binary: PathBuf,
    tls_directory: PathBuf,
    endpoints: String,
}

/// What one endpoint says about itself.
#[derive(Clone, Debug)]
pub(crate) struct NodeState {
    pub(crate) endpoint: String,
    /// `None` if it does not answer.
    pub(crate) known: Option<KnownState>,
    /// Why it does not answer.
    pub(crate) error: String,
}

/// The state of a node that answers.
#[derive(Clone, Debug)]
pub(crate) struct KnownState {
    pub(crate) id: u64,
    pub(crate) role: String,
    pub(crate) term: u64,
    pub(crate) leader: Option<u64>,
    pub(crate) applied_index: u64,
    pub(crate) last_index: u64,
    pub(crate) revision: u64,
    pub(crate) hash: String,
}

impl Tool {
    pub(crate) fn new(binary: &Path, tls_directory: &Path, ports: &[u16]) -> Self {
        let endpoints: Vec<_> = ports
            .iter()
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        Self {
            binary: binary.to_path_buf(),
            tls_directory: tls_directory.to_path_buf(),
            endpoints: endpoints.join(","),
        }
    }

    /// The same tool, talking to other nodes.
    pub(crate) fn at(&self, ports: &[u16]) -> Self {
        Self::new(&self.binary, &self.tls_directory, ports)
    }

    /// The tool without arguments, and without settings of the user's environment.
    pub(crate) fn bare(&self) -> Command {
        let mut command = Command::new(&self.binary);
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("RAFT_KV_") {
                command.env_remove(name);
            }
        }
        command
    }

    pub(crate) fn tls_directory(&self) -> &Path {
        &self.tls_directory
    }

    /// A client command against the cluster.
    pub(crate) fn client(&self, arguments: &[&str]) -> Command {
        self.client_of(&self.endpoints, CLIENT_TIMEOUT, arguments)
    }

    fn client_of(&self, endpoints: &str, timeout: &str, arguments: &[&str]) -> Command {
        let mut command = self.bare();
        command
            .args(arguments)
            .args(["--endpoints", endpoints, "--timeout", timeout])
            .arg("--tls-dir")
            .arg(&self.tls_directory);
        command
    }

    pub(crate) fn make_certificates(&self, nodes: u64) -> Result<(), String> {
        let mut command = self.bare();
        command.args([
            "cert",
            "init",
            "--cluster",
            "demo",
            "--client",
            "demo",
            "--dir",
        ]);
        command.arg(&self.tls_directory);
        for id in 1..=nodes {
            command.args(["--node", &format!("{id}=127.0.0.1")]);
        }
        succeed("raft-kv cert init", &mut command, Vec::new()).map(drop)
    }

    /// Makes the certificate of one more node.
    pub(crate) fn add_certificate(&self, id: u64) -> Result<(), String> {
        let mut command = self.bare();
        command.args(["cert", "add", "--node", &format!("{id}=127.0.0.1"), "--dir"]);
        command.arg(&self.tls_directory);
        succeed("raft-kv cert add", &mut command, Vec::new()).map(drop)
    }

    pub(crate) fn add_member(&self, id: u64, port: u16) -> Result<(), String> {
        let node = format!("{id}=127.0.0.1:{port}");
        let mut command = self.client(&["member", "add", &node]);
        succeed("raft-kv member add", &mut command, Vec::new()).map(drop)
    }

    pub(crate) fn remove_member(&self, id: u64) -> Result<(), String> {
        let mut command = self.client(&["member", "remove", &id.to_string()]);
        succeed("raft-kv member remove", &mut command, Vec::new()).map(drop)
    }

    pub(crate) fn transfer_leadership(&self, to: u64) -> Result<(), String> {
        let mut command = self.client(&["transfer", &to.to_string()]);
        succeed("raft-kv transfer", &mut command, Vec::new()).map(drop)
    }

    /// Every member's id and role.
    pub(crate) fn members(&self) -> Result<Vec<(u64, String)>, String> {
        let name = "raft-kv member list";
        let mut command = self.client(&["member", "list", "-w", "json"]);
        let printed = parse(name, &succeed(name, &mut command, Vec::new())?)?;
        let member = |one: &Value| Some((one["id"].as_u64()?, one["role"].as_str()?.to_string()));
        let members = printed["members"].as_array();
        let members = members.and_then(|all| all.iter().map(member).collect());
        members.ok_or(format!("{name} printed {printed}"))
    }

    /// Saves a snapshot into a file; returns its bytes.
    pub(crate) fn save_snapshot(&self, file: &Path) -> Result<u64, String> {
        let name = "raft-kv snapshot save";
        let mut command = self.client(&["snapshot", "save", "-w", "json"]);
        let printed = parse(name, &succeed(name, command.arg(file), Vec::new())?)?;
        let bytes = printed["total_bytes"].as_u64();
        bytes.ok_or(format!("{name} printed {printed}"))
    }

    /// Checks a snapshot; returns its number of keys and the hash of its state.
    pub(crate) fn verify_snapshot(&self, file: &Path) -> Result<(u64, String), String> {
        let name = "raft-kv snapshot verify";
        let mut command = self.bare();
        command.args(["snapshot", "verify", "-w", "json"]).arg(file);
        let printed = parse(name, &succeed(name, &mut command, Vec::new())?)?;
        let found = printed["keys"].as_u64().zip(printed["hash"].as_str());
        let found = found.map(|(keys, hash)| (keys, hash.to_string()));
        found.ok_or(format!("{name} printed {printed}"))
    }

    /// Makes the data directory of the only node of a new cluster from a snapshot.
    pub(crate) fn restore_snapshot(
        &self,
        file: &Path,
        data_directory: &Path,
        port: u16,
    ) -> Result<(), String> {
        let mut command = self.bare();
        command.args(["snapshot", "restore", "--new-cluster", "--id", "1"]);
        command.args(["--peer", &format!("1=127.0.0.1:{port}")]);
        command.arg("--data-dir").arg(data_directory).arg(file);
        succeed("raft-kv snapshot restore", &mut command, Vec::new()).map(drop)
    }

    /// Every key with its value and revisions, as it is printed.
    pub(crate) fn everything(&self) -> Result<Vec<Value>, String> {
        let name = "raft-kv get --prefix";
        let mut command = self.client(&["get", "", "--prefix", "-w", "json"]);
        let mut printed = parse(name, &succeed(name, &mut command, Vec::new())?)?;
        if let Value::Array(pairs) = printed["kvs"].take() {
            return Ok(pairs);
        }
        Err(format!("{name} printed no list of pairs"))
    }

    pub(crate) fn put(&self, key: &str, value: &[u8]) -> Result<(), String> {
        let mut command = self.client(&["put", key, "-"]);
        succeed(&format!("raft-kv put {key}"), &mut command, value.to_vec()).map(drop)
    }

    /// A linearizable read.
    pub(crate) fn get(&self, key: &str) -> Result<Option<Vec<u8>>, String> {
        let name = format!("raft-kv get {key}");
        let mut command = self.client(&["get", key, "-w", "json"]);
        let output = succeed(&name, &mut command, Vec::new())?;
        value_of(&parse(&name, &output)?).map_err(|reason| format!("{name}: {reason}"))
    }

    /// What each of these endpoints says.
    pub(crate) fn status(&self, endpoints: &[String]) -> Result<Vec<NodeState>, String> {
        let name = "raft-kv status";
        let endpoints = endpoints.join(",");
        let mut command = self.client_of(&endpoints, STATUS_TIMEOUT, &["status", "-w", "json"]);
        // An endpoint that does not answer is part of what is printed, whatever the exit code.
        let output = process::call(name, &mut command, Vec::new(), PATIENCE)?;
        let Value::Array(nodes) = parse(name, &output)? else {
            return Err(format!("{name} did not print an array"));
        };
        let state = |node: &Value| node_state(node).ok_or(format!("{name} printed {node}"));
        nodes.iter().map(state).collect()
    }

    pub(crate) fn verify_log(&self, data_directory: &Path) -> Result<(), String> {
        let mut command = self.bare();
        command.args(["log", "verify"]).arg(data_directory);
        succeed("raft-kv log verify", &mut command, Vec::new()).map(drop)
    }
}

fn succeed(name: &str, command: &mut Command, input: Vec<u8>) -> Result<Output, String> {
    let output = process::call(name, command, input, PATIENCE)?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{name}: {}\n{}", output.status, said.trim_end()))
}

/// What a command printed as JSON.
pub(crate) fn parse(name: &str, output: &Output) -> Result<Value, String> {
    serde_json::from_slice(&output.stdout).map_err(|error| {
        let printed = String::from_utf8_lossy(&output.stdout);
        let said = String::from_utf8_lossy(&output.stderr);
        format!(
            "{name} ({}) did not print JSON: {error}\n{printed}{said}",
            output.status
        )
    })
}

fn node_state(node: &Value) -> Option<NodeState> {
    let endpoint = node["endpoint"].as_str()?.to_string();
    if let Some(error) = node["error"].as_str() {
        return Some(NodeState {
            endpoint,
            known: None,
            error: error.to_string(),
        });
    }
    let hash = match &node["hash"] {
        Value::String(hash) => hash.clone(),
        Value::Number(hash) => hash.to_string(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    let known = KnownState {
        id: node["id"].as_u64()?,
        role: node["role"].as_str()?.to_string(),
        term: node["term"].as_u64()?,
        leader: node["leader"].as_u64(),
        applied_index: node["applied_index"].as_u64()?,
        last_index: node["last_index"].as_u64()?,
        revision: node["revision"].as_u64()?,
        hash,
    };
    Some(NodeState {
        endpoint,
        known: Some(known),
        error: String::new(),
    })
}

/// The value in what `get -w json` prints.
fn value_of(printed: &Value) -> Result<Option<Vec<u8>>, String> {
    let kvs = printed["kvs"]
        .as_array()
        .ok_or(format!("no kvs in {printed}"))?;
    let Some(found) = kvs.first() else {
        return Ok(None);
    };
    if let Some(text) = found["value"].as_str() {
        return Ok(Some(text.as_bytes().to_vec()));
    }
    let encoded = found["value_base64"]
        .as_str()
        .ok_or(format!("no value in {found}"))?;
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded);
    decoded
        .map(Some)
        .map_err(|error| format!("value_base64: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_text_or_base64_or_missing() {
        let value = |kv: Value| value_of(&json!({ "kvs": [kv] }));
        assert_eq!(
            value(json!({ "value": "é" })),
            Ok(Some("é".as_bytes().to_vec()))
        );
        assert_eq!(
            value(json!({ "value_base64": "/wA=" })),
            Ok(Some(vec![255, 0]))
        );
        assert_eq!(value_of(&json!({ "kvs": [] })), Ok(None));
        assert!(value(json!({ "value_base64": "?" })).is_err());
        assert!(value(json!({})).is_err());
        assert!(value_of(&json!({})).is_err());
    }

    #[test]
    fn a_node_answers_or_says_why_not() {
        let mut node = json!({
            "endpoint": "127.0.0.1:1", "id": 1, "role": "leader", "term": 2, "leader": 1,
            "commit_index": 9, "applied_index": 9, "last_index": 9, "revision": 4, "hash": "ab",
        });
        let known = node_state(&node).unwrap().known.unwrap();
        assert_eq!((known.leader, known.hash.as_str()), (Some(1), "ab"));
        node["leader"] = Value::Null;
        assert_eq!(node_state(&node).unwrap().known.unwrap().leader, None);
        node["hash"] = Value::Null;
        assert!(node_state(&node).is_none());
        let down = json!({ "endpoint": "127.0.0.1:1", "error": "timed out" });
        assert!(node_state(&down).unwrap().known.is_none());
    }
}
