//! Bad input to the real program: a clear error, a non-zero exit within a second, nothing lost.

mod support;

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_kv::limits::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
use raft_kv::protocol::{RequestKind, ResponseKind, ServerRefusal, from_body};
use raft_kv::server::TlsDir;
use raft_net::TlsIdentity;
use raft_net::client::{ClientEndpoint, ClientOptions};
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use support::{Cluster, free_ports, make_certificates, program, refused, run, with_stdin};
use time::{Duration as Days, OffsetDateTime};

#[test]
fn impossible_arguments_are_refused_before_anything_is_touched() {
    let cluster = Cluster::prepare(3);
    let server = || cluster.server_command(1);
    let mut slow = server();
    slow.arg("--heartbeat-ms=300");
    refused(&mut slow).says(&["heartbeat", "300", "210"]);
    let mut twice = server();
    twice.arg("--peer=2=127.0.0.1:9");
    refused(&mut twice).says(&["node 2 is named twice"]);
    let mut shared = server();
    shared.arg(format!("--peer=4={}", cluster.address(2)));
    refused(&mut shared).says(&["nodes 2 and 4 share the address"]);
    assert!(!cluster.data_dir(1).exists(), "nothing was touched");
}

#[test]
fn an_id_that_is_no_peer_is_refused() {
    let cluster = Cluster::prepare(2);
    let mut stranger = program();
    stranger.args([
        "server",
        "--id=7",
        "--listen=127.0.0.1:0",
        "--peer=1=127.0.0.1:1",
    ]);
    stranger.arg("--data-dir").arg(cluster.data_dir(1));
    stranger.arg("--tls-dir").arg(cluster.tls());
    refused(&mut stranger).says(&["node 7 is not among the peers (1=127.0.0.1:1)"]);
    assert!(!cluster.data_dir(1).exists(), "nothing was touched");
}

#[test]
fn wrong_usage_has_its_own_exit_code() {
    for arguments in [
        &["put", "k"][..],
        &["frobnicate"],
        &["get", "k", "--timeout=5"],
        &["cas", "k", "v"],
        &["server", "--id=1", "--data-dir=d", "--listen=here"],
        &["server", "--id=0", "--data-dir=d", "--listen=127.0.0.1:1"],
        &["get", "k", "--print-value-only", "-w=json"],
        &["bench", "put", "--clients=0"],
        &["get", "k"],
    ] {
        let output = run(program().args(arguments));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn an_unwritable_data_directory_is_refused() {
    let cluster = Cluster::prepare(1);
    fs::write(cluster.data_dir(1), "a file").unwrap();
    let path = cluster.data_dir(1);
    refused(&mut cluster.server_command(1)).says(&[path.to_str().unwrap()]);
    assert_eq!(fs::read(path).unwrap(), b"a file");
}

#[test]
fn a_port_in_use_is_refused_before_the_directory_is_touched() {
    let cluster = Cluster::prepare(1);
    let _taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, cluster.ports[0])).unwrap();
    refused(&mut cluster.server_command(1)).says(&["cannot listen on", "in use"]);
    assert!(!cluster.data_dir(1).exists());
}

/// The arguments of node 1 of a cluster, with another value for some flags.
fn node_1_with(cluster: &Cluster, id: usize, data_dir: &Path, port: u16) -> std::process::Command {
    let mut command = program();
    command.args([
        "server",
        &format!("--id={id}"),
        &format!("--listen=127.0.0.1:{port}"),
    ]);
    for (index, address) in cluster.endpoints().iter().enumerate() {
        command.arg(format!("--peer={}={address}", index + 1));
    }
    command.arg("--data-dir").arg(data_dir);
    command.arg("--tls-dir").arg(cluster.tls());
    command
}

#[tokio::test]
async fn a_busy_or_foreign_directory_is_refused_and_left_alone() {
    let mut cluster = Cluster::start(3).await;
    cluster.client().put("k", "v").await.unwrap();
    let port = free_ports(1)[0];
    let dir = cluster.data_dir(1);
    refused(&mut node_1_with(&cluster, 1, &dir, port)).says(&["in use by another process"]);
    cluster.kill(1);
    let foreign = refused(&mut node_1_with(&cluster, 2, &dir, port));
    foreign.says(&["belongs to node n1, not to n2"]);
    cluster.start_server(1);
    cluster.converged(&[1, 2, 3]).await;
}

#[test]
fn missing_and_mismatched_certificates_are_refused() {
    let cluster = Cluster::prepare(2);
    let tls = TlsDir::new(&cluster.tls());
    let [one, two] = [1, 2].map(|id| tls.node_files(raft_proto::NodeId(id)));
    fs::rename(&one.certificate, cluster.dir.path().join("kept")).unwrap();
    let name = one.certificate.to_str().unwrap();
    refused(&mut cluster.server_command(1)).says(&["there is no", name, "raft-kv cert add"]);
    // Another node's certificate, with its key.
    fs::copy(&two.certificate, &one.certificate).unwrap();
    fs::copy(&two.key, &one.key).unwrap();
    refused(&mut cluster.server_command(1)).says(&["not for node 1", "n2.test"]);
    // The right certificate with another key.
    fs::copy(cluster.dir.path().join("kept"), &one.certificate).unwrap();
    refused(&mut cluster.server_command(1)).says(&["do not fit together"]);
    assert!(!cluster.dir.path().join("n1/log").exists());
}

#[test]
fn certificates_of_another_authority_are_refused() {
    let cluster = Cluster::prepare(1);
    let other = cluster.dir.path().join("other");
    make_certificates(&other, "test", 1);
    fs::copy(other.join("ca.pem"), cluster.tls().join("ca.pem")).unwrap();
    refused(&mut cluster.server_command(1)).says(&[
        "n1.test",
        "not signed by the cluster's certificate authority",
    ]);
}

#[test]
fn an_expired_certificate_is_refused() {
    let cluster = Cluster::prepare(1);
    let tls = TlsDir::new(&cluster.tls());
    let files = tls.node_files(raft_proto::NodeId(1));
    let (certificate, key) = expired("n1.test").unwrap();
    fs::write(tls.authority(), &certificate).unwrap();
    fs::write(&files.certificate, &certificate).unwrap();
    fs::write(&files.key, &key).unwrap();
    refused(&mut cluster.server_command(1)).says(&["certificate", "n1.test", "expired"]);
}

/// A certificate that was valid until yesterday, and its key. It is issued by an authority of its
/// own, both in one PEM text.
fn expired(name: &str) -> Result<(String, String), rcgen::Error> {
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_pem = authority.self_signed(&authority_key)?.pem();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    let loopback = SanType::IpAddress(Ipv4Addr::LOCALHOST.into());
    params.subject_alt_names.push(loopback);
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Days::days(30);
    params.not_after = now - Days::days(1);
    let certificate = params.signed_by(&key, &issuer)?.pem();
    Ok((format!("{certificate}{authority_pem}"), key.serialize_pem()))
}

#[tokio::test]
async fn a_client_of_another_authority_is_refused_as_soon_as_a_node_answers() {
    let cluster = Cluster::start(1).await;
    let other = cluster.dir.path().join("other");
    make_certificates(&other, "test", 1);
    let mut get = program();
    get.args(["get", "k", "--endpoints", &cluster.address(1)]);
    get.arg("--tls-dir").arg(&other);
    refused(&mut get).says(&["certificate"]);
    // Ours is accepted, but theirs is not.
    let tls = TlsDir::new(&other);
    fs::copy(cluster.tls().join("ca.pem"), tls.authority()).unwrap();
    refused(&mut get).says(&["certificate"]);
}

#[test]
fn endpoints_that_cannot_be_reached_are_given_up_after_the_timeout() {
    let cluster = Cluster::prepare(2);
    for arguments in [&["get", "k"][..], &["put", "k", "v"], &["status"]] {
        let began = Instant::now();
        let output = run(cluster.command(arguments).arg("--timeout=700ms"));
        let took = began.elapsed();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(took < Duration::from_millis(1_700), "took {took:?}");
        let shown = [output.stdout, output.stderr].concat();
        let shown = String::from_utf8(shown).unwrap();
        assert!(shown.contains(&cluster.address(1)), "{shown}");
    }
}

#[tokio::test]
async fn keys_and_values_over_the_limit_are_refused_with_the_limit() {
    let cluster = Cluster::start(1).await;
    let long_key = "k".repeat(MAX_KEY_BYTES + 1);
    let limit = MAX_KEY_BYTES.to_string();
    refused(&mut cluster.command(&["put", &long_key, "v"])).says(&[&limit]);
    refused(&mut cluster.command(&["get", &long_key])).says(&[&limit]);
    refused(&mut cluster.command(&["put", "", "v"])).says(&["empty"]);
    let long_value = vec![7; MAX_VALUE_BYTES + 1];
    let limit = MAX_VALUE_BYTES.to_string();
    let output = with_stdin(&mut cluster.command(&["put", "k", "-"]), &long_value);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains(&limit));
    let longest = &long_value[1..];
    let output = with_stdin(&mut cluster.command(&["put", "k", "-"]), longest);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    // What an append would make is only known to the store.
    refused(&mut cluster.command(&["append", "k", "x"])).says(&[&limit]);
    let found = cluster.client().get(b"k").await.unwrap().unwrap();
    assert!(found.value == longest);
    assert_eq!(found.version, 1);
}

#[tokio::test]
async fn another_bootstrap_of_a_formed_cluster_is_refused() {
    let mut cluster = Cluster::start(3).await;
    cluster.client().put("k", "v").await.unwrap();
    cluster.kill(1);
    let [port, other] = free_ports(2)[..] else {
        panic!("two ports were asked for");
    };
    let mut again = program();
    again.args(["server", "--id=1", &format!("--listen=127.0.0.1:{port}")]);
    again.arg(format!("--peer=1=127.0.0.1:{port}"));
    again.arg(format!("--peer=2=127.0.0.1:{other}"));
    again.arg("--data-dir").arg(cluster.data_dir(1));
    again.arg("--tls-dir").arg(cluster.tls());
    refused(&mut again).says(&["belongs to cluster"]);
    cluster.start_server(1);
    cluster.converged(&[1, 2, 3]).await;
}

#[tokio::test]
async fn a_wiped_node_is_refused_and_told_how_to_come_back() {
    let mut cluster = Cluster::start(3).await;
    cluster.client().put("k", "v").await.unwrap();
    let leader = cluster.leader().await;
    let wiped = leader % 3 + 1;
    cluster.kill(wiped);
    fs::remove_dir_all(cluster.data_dir(wiped)).unwrap();
    let again = refused(&mut cluster.server_command(wiped));
    again.says(&[
        &format!("raft-kv member remove {wiped}"),
        &format!("raft-kv member add {wiped}="),
    ]);
    let found = cluster.client().get(b"k").await.unwrap().unwrap();
    assert_eq!(&found.value[..], b"v");
}

#[tokio::test]
async fn garbage_closes_its_own_connection_and_nothing_else() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client();
    client.put("k", "v").await.unwrap();
    // Datagrams that are no QUIC, and some that begin like it.
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for size in 0..1_400usize {
        let bytes: Vec<u8> = (0..size)
            .map(|n| (n * 131 + size * 7) as u8 | 0x40)
            .collect();
        for id in 1..=3 {
            socket.send_to(&bytes, cluster.address(id)).unwrap();
        }
    }
    // Well-framed requests that make no sense.
    let files = TlsDir::new(&cluster.tls()).client_files("test");
    let tls = TlsIdentity::from_files(&files).unwrap();
    let endpoint = ClientEndpoint::new(&tls, ClientOptions::default()).unwrap();
    let connection = endpoint
        .connect(&cluster.address(1), support::PATIENCE)
        .await
        .unwrap();
    for kind in 1..=u8::MAX {
        if kind == RequestKind::Status as u8 {
            continue;
        }
        let garbage = [kind, 0xff, 0xff, 0xff];
        let response = connection
            .request(kind, &garbage, Bytes::new())
            .await
            .unwrap();
        assert_eq!(response.kind, ResponseKind::Refused as u8, "kind {kind}");
        let refusal: ServerRefusal = from_body(&response.body).unwrap();
        assert!(!refusal.is_transient(), "kind {kind}: {refusal}");
    }
    let found = client.get(b"k").await.unwrap().unwrap();
    assert_eq!(&found.value[..], b"v");
    cluster.converged(&[1, 2, 3]).await;
}

#[test]
fn certificates_are_not_overwritten() {
    let cluster = Cluster::prepare(1);
    let before = fs::read(cluster.tls().join("ca.pem")).unwrap();
    let mut again = program();
    again.args([
        "cert",
        "init",
        "--cluster=test",
        "--node=1=127.0.0.1",
        "--dir",
    ]);
    again.arg(cluster.tls());
    refused(&mut again).says(&["exists already"]);
    assert_eq!(fs::read(cluster.tls().join("ca.pem")).unwrap(), before);
}
