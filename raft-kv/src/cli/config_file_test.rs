//! What a configuration file may say, and how a mistake in it is told.

use super::*;

fn settings_of(text: &str) -> Result<Settings, String> {
    read(text).map_err(|(span, problem)| format!("{}: {problem}", line_of(text, &span)))
}

#[track_caller]
fn refused(text: &str, words: &[&str]) {
    let message = settings_of(text).expect_err("this is a mistake");
    for word in words {
        assert!(message.contains(word), "no {word:?} in: {message}");
    }
}

#[test]
fn every_shape_of_value_is_read() {
    let text = "# a comment\nid = 3\ndata-dir = \"/var/x\"\npeer = [\"1=a:1\", \"2=b:2\"]\n";
    let settings = settings_of(text).unwrap();
    let expected: [(&str, &[&str]); 3] = [
        ("data-dir", &["/var/x"]),
        ("id", &["3"]),
        ("peer", &["1=a:1", "2=b:2"]),
    ];
    let expected = expected.map(|(name, values)| {
        let values = values.iter().map(OsString::from).collect();
        (name.to_owned(), values)
    });
    assert_eq!(settings, Settings::from(expected));
}

#[test]
fn unknown_settings_are_refused_with_the_nearest_name() {
    refused(
        "id = 1\n\nheartbeat_ms = 5\n",
        &["3: ", "\"heartbeat_ms\"", "did you mean \"heartbeat-ms\"?"],
    );
    refused("peers = []", &["1: ", "did you mean \"peer\"?"]);
    refused("[server]\nid = 1\n", &["1: ", "there is no setting"]);
    refused("xyz = 1", &["\"xyz\"; every flag"]);
    // Flags that would make no sense there.
    for name in ["config", "check", "help", "endpoints", "until-stdin-closes"] {
        refused(&format!("{name} = \"x\""), &["there is no setting"]);
    }
}

#[test]
fn wrong_types_are_told_with_their_line() {
    refused(
        "\nid = \"one\"",
        &["2: id takes a decimal number, not string"],
    );
    refused("id = 0x10", &["a decimal number"]);
    refused(
        "data-dir = 5",
        &["data-dir takes a text in quotes, not integer"],
    );
    refused(
        "peer = \"1=a:1\"",
        &["peer takes a list of texts in quotes, not string"],
    );
    refused(
        "peer = [\"1=a:1\",\n 7]",
        &["a list of texts in quotes, not integer"],
    );
    refused("listen = { ip = 1 }", &["a text in quotes, not table"]);
}

#[test]
fn values_must_please_their_flag() {
    refused(
        "id = 1\nlisten = \"here\"",
        &["2: invalid value 'here' for '--listen"],
    );
    refused("id = -1", &["1: ", "--id"]);
    refused(
        "peer = [\"1=a:1\", \"nobody\"]",
        &["1: ", "'nobody' for '--peer", "has no `=`"],
    );
    refused("log-format = \"xml\"", &["'xml' for '--log-format"]);
    refused("log-level = \"raft_net=loud\"", &["'--log-level"]);
}

#[test]
fn broken_files_are_told_with_their_line() {
    refused("id = 1\nid = 2\n", &["2: ", "duplicate key"]);
    refused("id = 1\nlisten = \"127", &["2: "]);
    refused("= 1", &["1: "]);
}
