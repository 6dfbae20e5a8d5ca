//! The commands that read and write many keys: ranges, transactions, compaction; as etcdctl's.

mod support;

use std::process::Command;

use raft_kv::limits::{MAX_RANGE_REPLY_BYTES, MAX_TXN_OPERATIONS};
use serde_json::{Value, json};
use support::{Cluster, refused, run, succeed, with_stdin};

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("it printed JSON")
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("we wrote text")
}

/// What a command prints that must succeed.
fn said(cluster: &Cluster, arguments: &[&str]) -> String {
    text(succeed(&mut cluster.command(arguments)))
}

fn txn(cluster: &Cluster, arguments: &[&str], input: &str) -> String {
    let output = with_stdin(
        &mut cluster.command(&[&["txn"], arguments].concat()),
        input.as_bytes(),
    );
    assert!(output.status.success(), "{input}: {output:?}");
    text(output.stdout)
}

#[tokio::test]
async fn ranges_are_read_as_asked() {
    let cluster = Cluster::start(1).await;
    for (key, value) in [
        ("a", "3"),
        ("b1", "1"),
        ("b2", "2"),
        ("c", "0"),
        ("b1", "9"),
    ] {
        said(&cluster, &["put", key, value]);
    }
    let get = |arguments: &[&str]| said(&cluster, &[&["get"], arguments].concat());
    assert_eq!(get(&["b", "--prefix"]), "b1\n9\nb2\n2\n");
    assert_eq!(get(&["a", "b2"]), "a\n3\nb1\n9\n");
    assert_eq!(get(&["b2", "--from-key"]), "b2\n2\nc\n0\n");
    assert_eq!(get(&["", "--prefix", "--keys-only"]), "a\nb1\nb2\nc\n");
    let values = &["", "--prefix", "--print-value-only"];
    assert_eq!(
        get(&[&values[..], &["--order=desc"]].concat()),
        "0\n2\n9\n3\n"
    );
    let sorted = |by: &str| get(&[&values[..], &["--sort-by", by]].concat());
    assert_eq!(sorted("value"), "0\n2\n3\n9\n");
    assert_eq!(sorted("create"), "3\n9\n2\n0\n");
    assert_eq!(sorted("mod"), "3\n2\n0\n9\n");
    assert_eq!(sorted("version"), "3\n2\n0\n9\n");
    assert_eq!(get(&["", "--prefix", "--count-only"]), "4\n");
    assert_eq!(get(&["nothing", "--count-only"]), "0\n");
    assert_eq!(get(&["b", "--prefix", "--rev=4"]), "b1\n1\nb2\n2\n");
    let page = json(get(&["", "--prefix", "--limit=2", "-w=json"]).as_bytes());
    assert_eq!((&page["count"], &page["more"]), (&json!(4), &json!(true)));
    assert_eq!(page["revision"], 6);
    assert_eq!(page["kvs"].as_array().unwrap().len(), 2);
    assert_eq!(
        page["kvs"][1],
        json!({"key": "b1", "value": "9", "create_revision": 3, "mod_revision": 6, "version": 2})
    );
    let keys = json(get(&["b1", "--keys-only", "-w=json"]).as_bytes());
    assert_eq!(keys["kvs"][0].get("value"), None);
    let stale = get(&["c", "--stale"]);
    assert_eq!(stale, "c\n0\n");
}

#[tokio::test]
async fn more_than_one_answer_holds_is_read_at_one_revision() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    const VALUE_BYTES: usize = 1 << 20;
    let keys = MAX_RANGE_REPLY_BYTES / VALUE_BYTES + 5;
    for number in 0..keys {
        let value = vec![b'a' + (number * 7 % keys) as u8; VALUE_BYTES];
        client.put(format!("k{number:02}"), value).await.unwrap();
    }
    let get = |arguments: &[&str]| said(&cluster, &[&["get", "k", "--prefix"], arguments].concat());
    for order in ["asc", "desc"] {
        let found = json(get(&["-w=json", "--order", order]).as_bytes());
        assert_eq!(
            (&found["count"], &found["more"]),
            (&json!(keys), &json!(false))
        );
        let found = found["kvs"].as_array().unwrap();
        assert_eq!(found.len(), keys);
        for (place, pair) in found.iter().enumerate() {
            let number = if order == "asc" {
                place
            } else {
                keys - 1 - place
            };
            assert_eq!(pair["key"], format!("k{number:02}"));
            let value = pair["value"].as_str().unwrap();
            assert_eq!(value.len(), VALUE_BYTES);
            assert_eq!(value.as_bytes()[0], b'a' + (number * 7 % keys) as u8);
        }
    }
    // Sorted by something else, and still whole.
    let sorted = get(&["--print-value-only", "--sort-by=value"]);
    let values: Vec<u8> = sorted.lines().map(|line| line.as_bytes()[0]).collect();
    assert_eq!(values.len(), keys);
    assert!(values.is_sorted(), "{values:?}");
    let limit = (keys - 1).to_string();
    let limited = json(get(&["-w=json", "--limit", &limit]).as_bytes());
    assert_eq!(limited["more"], true);
    assert_eq!(limited["kvs"].as_array().unwrap().len(), keys - 1);
}

#[tokio::test]
async fn previous_pairs_are_returned_when_asked_for() {
    let cluster = Cluster::start(1).await;
    assert_eq!(said(&cluster, &["put", "k", "old", "--prev-kv"]), "OK\n");
    assert_eq!(
        said(&cluster, &["put", "k", "new", "--prev-kv"]),
        "OK\nk\nold\n"
    );
    let put = json(said(&cluster, &["put", "k", "newer", "--prev-kv", "-w=json"]).as_bytes());
    assert_eq!(put["revision"], 4);
    assert_eq!(put["prev_kv"]["value"], "new");
    said(&cluster, &["put", "k2", "x"]);
    let del = said(&cluster, &["del", "k", "--prefix", "--prev-kv"]);
    assert_eq!(del, "2\nk\nnewer\nk2\nx\n");
    for key in ["a", "b", "c"] {
        said(&cluster, &["put", key, "v"]);
    }
    assert_eq!(said(&cluster, &["del", "a", "b"]), "1\n");
    let del = json(
        said(
            &cluster,
            &["del", "b", "--from-key", "--prev-kv", "-w=json"],
        )
        .as_bytes(),
    );
    assert_eq!(del["deleted"], 2);
    assert_eq!(del["prev_kvs"][1]["key"], "c");
    assert_eq!(said(&cluster, &["del", "b"]), "0\n");
}

#[tokio::test]
async fn a_transaction_does_one_of_two_lists() {
    let cluster = Cluster::start(3).await;
    let create = "create(\"k 1\") = \"0\"\n\nput \"k 1\" \"first\\nvalue\"\nget \"k 1\"\n\n\
                  get 'k 1' --keys-only\nput other x\n";
    assert_eq!(
        txn(&cluster, &[], create),
        "SUCCESS\n\nOK\n\nk 1\nfirst\nvalue\n"
    );
    assert_eq!(txn(&cluster, &[], create), "FAILURE\n\nk 1\n\nOK\n");
    let swap = "value(\"k 1\") = \"first\\nvalue\"\nversion(\"k 1\") < \"2\"\nmod(\"other\") > 0\n\n\
                del other --prev-kv\nput new 1\nget \"\" --prefix --count-only\n";
    let done = json(txn(&cluster, &["-w=json"], swap).as_bytes());
    assert_eq!(done["succeeded"], true);
    assert_eq!(done["responses"][0]["delete"]["deleted"], 1);
    assert_eq!(done["responses"][0]["delete"]["prev_kvs"][0]["value"], "x");
    assert_eq!(done["responses"][1]["put"], json!({}));
    assert_eq!(done["responses"][2]["get"]["count"], 2);
    let revision = done["revision"].as_u64().unwrap();
    // All of it happened at one revision, and nothing remains of `other`.
    let found = json(said(&cluster, &["get", "new", "-w=json"]).as_bytes());
    assert_eq!(found["kvs"][0]["mod_revision"], revision);
    assert_eq!(said(&cluster, &["get", "other"]), "");
    assert_eq!(txn(&cluster, &[], ""), "SUCCESS\n");
}

#[tokio::test]
async fn bad_transactions_are_refused_with_their_line() {
    let cluster = Cluster::start(1).await;
    let fails = |input: &str, code: i32| {
        let output = with_stdin(&mut cluster.command(&["txn"]), input.as_bytes());
        assert_eq!(output.status.code(), Some(code), "{input}: {output:?}");
        text(output.stderr)
    };
    let said = fails("mod(\"k\") = \"1\"\n\nput k\n", 2);
    assert!(said.contains("line 3"), "{said}");
    assert!(fails("\nput k v --lease=7\n", 2).contains("leases are not supported"));
    let twice = fails("\nput k 1\nput k 2\n", 1);
    assert!(twice.contains("puts the key \"k\" twice"), "{twice}");
    assert!(twice.contains("list for when all compares hold"), "{twice}");
    let twice = fails("\n\nput a 1\nput b 2\ndel b\n", 1);
    assert!(twice.contains("puts the key \"b\" twice"), "{twice}");
    assert!(
        twice.contains("list for when a compare does not hold"),
        "{twice}"
    );
    let mut many = String::from("\n");
    for number in 0..=MAX_TXN_OPERATIONS {
        many += &format!("get k{number}\n");
    }
    let said = fails(&many, 1);
    let length = format!(
        "list for when all compares hold has {} entries",
        MAX_TXN_OPERATIONS + 1
    );
    assert!(said.contains(&length), "{said}");
    assert!(said.contains(&MAX_TXN_OPERATIONS.to_string()), "{said}");
    let future = fails("\nget k --rev=99\n", 1);
    assert!(future.contains("revision 99 is in the future"), "{future}");
}

#[tokio::test]
async fn revisions_that_are_gone_or_to_come_are_refused() {
    let cluster = Cluster::start(1).await;
    for value in ["1", "2", "3"] {
        said(&cluster, &["put", "k", value]);
    }
    assert_eq!(said(&cluster, &["get", "k", "--rev=3"]), "k\n2\n");
    assert_eq!(said(&cluster, &["compact", "3"]), "compacted revision 3\n");
    let at = |revision: &str| refused(&mut cluster.command(&["get", "k", "--rev", revision]));
    at("2").says(&["revision 2 has been compacted", "3"]);
    at("9").says(&["revision 9 is in the future", "4"]);
    assert_eq!(said(&cluster, &["get", "k", "--rev=3"]), "k\n2\n");
    refused(&mut cluster.command(&["compact", "2"])).says(&["compacted"]);
    refused(&mut cluster.command(&["compact", "7"])).says(&["future"]);
    let done = json(said(&cluster, &["compact", "4", "-w=json"]).as_bytes());
    assert_eq!(done, json!({"compacted": 4, "revision": 4}));
}

#[test]
fn flags_that_contradict_each_other_are_usage_errors() {
    for arguments in [
        &["get", "a", "b", "--prefix"][..],
        &["get", "a", "--prefix", "--from-key"],
        &["get", "a", "--count-only", "--keys-only"],
        &["get", "a", "--order=up"],
        &["get", "a", "--rev=-1"],
        &["del"],
        &["del", "a", "b", "--from-key"],
        &["compact"],
        &["compact", "x"],
        // Revision 0 means the latest in reads, and nothing here.
        &["compact", "0"],
        &["member", "add", "4"],
        &["member", "add", "4=h:1", "--promote=maybe"],
        &["member", "promote", "x"],
        &["cert", "add", "--dir=d"],
        &["snapshot", "save"],
        &["snapshot", "restore", "f", "--data-dir=d", "--id=1"],
    ] {
        let mut command: Command = support::program();
        let output = run(command.args(arguments));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
    }
}
