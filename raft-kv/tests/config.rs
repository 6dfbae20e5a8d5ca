//! Where a server's settings come from: flags, environment, file, defaults, for every one of them;
//! and that the example file says what the program does.
#![allow(
    clippy::unwrap_used,
    reason = "in test helpers too, a panic is the failure"
)]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use support::{program, run};
use tempfile::TempDir;

/// A setting, its variable, and three values for it: in the file, in the environment, as a flag.
struct Sample {
    name: &'static str,
    variable: &'static str,
    in_file: &'static str,
    in_environment: &'static str,
    as_flag: &'static str,
}

const fn sample(
    name: &'static str,
    variable: &'static str,
    [in_file, in_environment, as_flag]: [&'static str; 3],
) -> Sample {
    Sample {
        name,
        variable,
        in_file,
        in_environment,
        as_flag,
    }
}

/// Every setting there is.
const SAMPLES: &[Sample] = &[
    sample("id", "RAFT_KV_ID", ["1", "2", "3"]),
    sample("data-dir", "RAFT_KV_DATA_DIR", ["\"/f\"", "/e", "/c"]),
    sample(
        "listen",
        "RAFT_KV_LISTEN",
        ["\"127.0.0.1:1\"", "127.0.0.1:2", "127.0.0.1:3"],
    ),
    sample(
        "peer",
        "RAFT_KV_PEERS",
        ["[\"1=f:1\", \"2=f:2\"]", "1=e:1", "1=c:1"],
    ),
    sample("join", "RAFT_KV_JOIN", ["true", "false", "true"]),
    sample("tls-dir", "RAFT_KV_TLS_DIR", ["\"/f\"", "/e", "/c"]),
    sample("heartbeat-ms", "RAFT_KV_HEARTBEAT_MS", ["51", "52", "53"]),
    sample(
        "election-timeout-ms",
        "RAFT_KV_ELECTION_TIMEOUT_MS",
        ["301", "302", "303"],
    ),
    sample(
        "election-spread-ms",
        "RAFT_KV_ELECTION_SPREAD_MS",
        ["401", "402", "403"],
    ),
    sample(
        "segment-bytes",
        "RAFT_KV_SEGMENT_BYTES",
        ["1048576", "2097152", "4194304"],
    ),
    sample(
        "snapshot-log-bytes",
        "RAFT_KV_SNAPSHOT_LOG_BYTES",
        ["501", "502", "503"],
    ),
    sample(
        "snapshot-entries",
        "RAFT_KV_SNAPSHOT_ENTRIES",
        ["601", "602", "603"],
    ),
    sample(
        "snapshot-keep-entries",
        "RAFT_KV_SNAPSHOT_KEEP_ENTRIES",
        ["701", "702", "703"],
    ),
    sample(
        "compare-interval-seconds",
        "RAFT_KV_COMPARE_INTERVAL_SECONDS",
        ["801", "802", "803"],
    ),
    sample(
        "scrub-bytes-per-second",
        "RAFT_KV_SCRUB_BYTES_PER_SECOND",
        ["0", "801", "802"],
    ),
    sample(
        "metrics-listen",
        "RAFT_KV_METRICS_LISTEN",
        ["\"127.0.0.1:1\"", "127.0.0.1:2", "127.0.0.1:3"],
    ),
    sample(
        "log-format",
        "RAFT_KV_LOG_FORMAT",
        ["\"json\"", "human", "json"],
    ),
    sample("log-level", "RAFT_KV_LOG", ["\"warn\"", "error", "debug"]),
];

/// Settings without which nothing starts.
const REQUIRED: &str = "id = 1\ndata-dir = \"/r\"\nlisten = \"127.0.0.1:9\"\ntls-dir = \"/r\"\n\
                        peer = [\"1=r:1\", \"2=r:2\", \"3=r:3\"]\n";

/// Values and origins by name, as `server --check` prints them; `None` for what is not set.
type Settings = BTreeMap<String, Option<(String, String)>>;

fn check(file: &Path, adapt: impl FnOnce(&mut std::process::Command)) -> Settings {
    let mut command = program();
    command
        .args(["server", "--check", "--config"])
        .arg(file)
        .current_dir(file.parent().unwrap());
    adapt(&mut command);
    let output = run(&mut command);
    // Samples of one setting may not suit the others; what is in force is printed anyway.
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(!text.is_empty(), "{command:?}: {output:?}");
    let setting = |line: &str| match line.split_once(" = ") {
        Some((name, rest)) => {
            let (value, origin) = rest.rsplit_once(" # ").unwrap();
            (name.to_owned(), Some((value.to_owned(), origin.to_owned())))
        }
        None => {
            let name = line.strip_prefix("# ").unwrap();
            (name.strip_suffix(" is not set").unwrap().to_owned(), None)
        }
    };
    text.lines().map(setting).collect()
}

fn write(dir: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// The required settings, but for one.
fn required_without(name: &str) -> String {
    let lines = REQUIRED.lines();
    let others = lines.filter(|line| line.split_once(" = ").unwrap().0 != name);
    others.map(|line| format!("{line}\n")).collect()
}

/// As a value stands in a file: what the environment and flags give has no quotes there.
fn as_in_file(raw: &str, like: &str) -> String {
    if like.starts_with('[') {
        format!("[\"{raw}\"]")
    } else if like.starts_with('"') {
        format!("\"{raw}\"")
    } else {
        raw.to_owned()
    }
}

#[test]
fn flags_beat_the_environment_beats_the_file_beats_the_default() {
    let dir = TempDir::new().unwrap();
    for sample in SAMPLES {
        let Sample {
            name,
            variable,
            in_file,
            in_environment,
            as_flag,
        } = sample;
        let others = required_without(name);
        let file = write(&dir, "with.toml", &format!("{others}{name} = {in_file}\n"));
        let expected = |value: String, origin: &str| Some((value, origin.to_owned()));

        let found = check(&file, |_| {});
        assert_eq!(
            found[*name],
            expected((*in_file).to_owned(), "file"),
            "{name}"
        );

        let value = as_in_file(in_environment, in_file);
        let found = check(&file, |command| {
            command.env(variable, in_environment);
        });
        assert_eq!(found[*name], expected(value, "environment"), "{name}");

        let value = as_in_file(as_flag, in_file);
        let found = check(&file, |command| {
            command.env(variable, in_environment);
            match *in_file {
                "true" => command.arg(format!("--{name}")),
                _ => command.arg(format!("--{name}={as_flag}")),
            };
        });
        assert_eq!(found[*name], expected(value, "flag"), "{name}");
    }
}

#[test]
fn the_samples_are_all_settings_and_each_has_its_default() {
    let dir = TempDir::new().unwrap();
    let found = check(&write(&dir, "required.toml", REQUIRED), |_| {});
    let sampled: Vec<_> = SAMPLES.iter().map(|sample| sample.name).collect();
    for name in found.keys() {
        assert!(sampled.contains(&name.as_str()), "no sample of {name}");
    }
    assert_eq!(found.len(), sampled.len());
    let of_required = REQUIRED
        .lines()
        .map(|line| line.split_once(" = ").unwrap().0);
    let of_required: Vec<_> = of_required.collect();
    for (name, setting) in found {
        let origin = setting.map_or("default".to_owned(), |(_, origin)| origin);
        let expected = if of_required.contains(&name.as_str()) {
            "file"
        } else {
            "default"
        };
        assert_eq!(origin, expected, "{name}");
    }
}

#[test]
fn what_is_missing_or_wrong_is_a_usage_error() {
    let dir = TempDir::new().unwrap();
    let refused = |text: &str, words: &[&str]| {
        let file = write(&dir, "bad.toml", text);
        let mut command = program();
        let output = run(command.args(["server", "--config"]).arg(&file));
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{message}");
        for word in words {
            assert!(message.contains(word), "no {word:?} in: {message}");
        }
    };
    refused(&required_without("id"), &["--id"]);
    refused("hartbeat-ms = 5", &["bad.toml:1: ", "\"heartbeat-ms\""]);
    refused("\n\nid = \"x\"", &["bad.toml:3: ", "decimal number"]);

    let mut command = program();
    let output = run(command.args(["server", "--config", "/does/not/exist"]));
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("/does/not/exist"), "{message}");
}

#[test]
fn a_check_judges_what_is_in_force() {
    let dir = TempDir::new().unwrap();
    let file = write(&dir, "good.toml", REQUIRED);
    let check = |flags: &[&str]| {
        let mut command = program();
        command.args(["server", "--check", "--config"]).arg(&file);
        run(command.args(flags))
    };
    assert!(check(&[]).status.success());
    let output = check(&["--id=4"]);
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.contains("node 4 is not among the peers"),
        "{message}"
    );
}

fn example() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/raft-kv.toml");
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn the_example_file_names_every_setting_and_tells_the_defaults() {
    let dir = TempDir::new().unwrap();
    let defaults = check(&write(&dir, "required.toml", REQUIRED), |_| {});
    let as_it_is = write(&dir, "example.toml", &example());
    let mut command = program();
    let checked = run(command
        .args(["server", "--check", "--config"])
        .arg(&as_it_is));
    assert!(checked.status.success(), "{checked:?}");

    // A setting behind a `#` starts right after it; prose has a space there.
    let uncommented: String = example()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) => rest,
            Some(_) | None => line,
        })
        .map(|line| format!("{line}\n"))
        .collect();
    let found = check(&write(&dir, "all.toml", &uncommented), |_| {});
    let commented: Vec<_> = example()
        .lines()
        .filter_map(|line| line.strip_prefix('#')?.split_once(" = "))
        .map(|(name, _)| name.to_owned())
        .collect();
    assert!(commented.len() >= 5);
    for (name, setting) in &found {
        let (value, origin) = setting.as_ref().expect("the example names every setting");
        assert_eq!(origin, "file", "{name}");
        if commented.contains(name) {
            let default = defaults[name].as_ref().expect("it has a default");
            assert_eq!(*value, default.0, "{name}");
        }
    }
}

#[test]
fn the_unit_starts_the_program_with_the_example_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/raft-kv.service");
    let unit = std::fs::read_to_string(path).unwrap();
    let value = |key: &str| {
        let mut lines = unit.lines();
        let line = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("no {key}")).to_owned()
    };
    let start = "/usr/local/bin/raft-kv server --config /etc/raft-kv/raft-kv.toml";
    assert_eq!(value("ExecStart"), start);
    assert_eq!(value("ExecStartPre"), format!("{start} --check"));
    assert_eq!(value("Restart"), "on-failure");
    let state = format!("data-dir = \"/var/lib/{}\"", value("StateDirectory"));
    assert!(example().contains(&state));
    // Where systemd is at hand, it judges the unit itself.
    let verify = std::process::Command::new("systemd-analyze")
        .arg("--version")
        .output();
    if verify.is_ok_and(|output| output.status.success()) {
        let dir = TempDir::new().unwrap();
        // Its paths are those of an installation, which is not here.
        let here = unit.replace("/usr/local/bin/raft-kv", env!("CARGO_BIN_EXE_raft-kv"));
        let file = write(&dir, "raft-kv.service", &here);
        let output = std::process::Command::new("systemd-analyze")
            .arg("verify")
            .arg(file)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let about_us = |line: &&str| line.contains("raft-kv.service");
        assert_eq!(said.lines().filter(about_us).collect::<Vec<_>>(), [""; 0]);
    }
}
