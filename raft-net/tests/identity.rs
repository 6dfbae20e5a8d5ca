//! Who is let in: authorities, expiry, identities, protocols, and what each refusal is called.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test panics when it fails, and picks the events it waits for"
)]

mod support;

use std::path::PathBuf;

use raft_net::{
    CLIENT_PROTOCOL, CertificateProblem, CloseCode, ConnectError, IdentityError, NetConfig,
    NetError, PEER_PROTOCOL, QuicTransport, TlsFiles, TlsIdentity,
};
use raft_proto::{ClusterId, Hello, HelloResponse, Message, NodeId, Refusal};
use support::raw::{Raw, frame, hello, read_message, tls};
use support::{Authority, CLUSTER, Event, Issued, Node, NodeSetup, Validity, any_socket, boot};

/// What both sides see when `issued` knocks at a node's peer protocol.
async fn knock(authority: &Authority, issued: Option<&Issued>) -> (ConnectError, ConnectError) {
    let mut node = NodeSetup::new(1).start(authority);
    let config = tls(authority, issued, PEER_PROTOCOL);
    let theirs = match Raw::connect(config, node.id, node.address).await {
        // In TLS 1.3 the dialling side finishes before its certificate is judged.
        Ok(raw) => raw.closed().await,
        Err(error) => error,
    };
    (node.next_rejection().await, theirs.into())
}

fn refused_for(problem: CertificateProblem, seen: &(ConnectError, ConnectError)) {
    let (ours, theirs) = seen;
    assert!(
        matches!(ours, ConnectError::TheirCertificate { problem: p, .. } if *p == problem),
        "{ours:?}"
    );
    assert_eq!(*theirs, ConnectError::OurCertificate(problem));
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let authority = Authority::new();
    for other in [Authority::new(), Authority::named("another authority")] {
        let seen = knock(&authority, Some(&other.node(2))).await;
        refused_for(CertificateProblem::UnknownAuthority, &seen);
    }
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let authority = Authority::new();
    let expired = authority.issue(&["n2.test"], Validity::Expired);
    let seen = knock(&authority, Some(&expired)).await;
    refused_for(CertificateProblem::Expired, &seen);
}

#[tokio::test]
async fn a_missing_certificate_is_refused() {
    let authority = Authority::new();
    let seen = knock(&authority, None).await;
    refused_for(CertificateProblem::Missing, &seen);
}

#[tokio::test]
async fn a_client_certificate_does_not_open_the_peer_protocol() {
    let authority = Authority::new();
    let (ours, theirs) = knock(&authority, Some(&authority.client())).await;
    let client = "client".to_owned();
    assert_eq!(ours, ConnectError::NotANode { client });
    let code = CloseCode::WrongCertificate;
    assert_eq!(theirs, ConnectError::ClosedByPeer(code));
}

#[tokio::test]
async fn a_node_of_another_cluster_is_refused_even_with_the_same_authority() {
    let authority = Authority::new();
    let foreign = authority.issue(&["n2.other"], Validity::Current);
    let (ours, theirs) = knock(&authority, Some(&foreign)).await;
    let cluster = CLUSTER.to_owned();
    let expected = IdentityError::OtherCluster { cluster };
    assert_eq!(ours, ConnectError::Identity(expected));
    let code = CloseCode::WrongCertificate;
    assert_eq!(theirs, ConnectError::ClosedByPeer(code));
}

#[tokio::test]
async fn a_certificate_with_two_identities_is_refused() {
    let authority = Authority::new();
    let both = authority.issue(&["n2.test", "n3.test"], Validity::Current);
    let (ours, _) = knock(&authority, Some(&both)).await;
    assert!(matches!(
        ours,
        ConnectError::Identity(IdentityError::Ambiguous { .. })
    ));
}

/// Says `hello` under node 3's certificate; returns the answer and what the node recorded.
async fn say(node: &mut Node, authority: &Authority, hello: &Message) -> (Refusal, ConnectError) {
    let config = tls(authority, Some(&authority.node(3)), PEER_PROTOCOL);
    let raw = Raw::connect(config, node.id, node.address).await.unwrap();
    let mut stream = raw.connection.open_uni().await.unwrap();
    stream.write_all(&frame(hello)).await.unwrap();
    let mut answers = raw.connection.accept_uni().await.unwrap();
    assert!(matches!(
        read_message(&mut answers).await,
        Message::Hello(_)
    ));
    let answer = read_message(&mut answers).await;
    let Message::HelloResponse(HelloResponse {
        refusal: Some(refusal),
    }) = answer
    else {
        panic!("not refused: {answer:?}");
    };
    assert_eq!(raw.close_code().await, CloseCode::Refused);
    (refusal, node.next_rejection().await)
}

#[tokio::test]
async fn a_node_cannot_pass_for_another() {
    let authority = Authority::new();
    let mut node = NodeSetup::new(1).start(&authority);
    let pretence = hello(2, node.id);
    let (refusal, recorded) = say(&mut node, &authority, &pretence).await;
    let certified = NodeId(3);
    assert_eq!(refusal, Refusal::WrongIdentity { certified });
    assert_eq!(recorded, ConnectError::RefusedByUs(refusal));
}

#[tokio::test]
async fn a_hello_for_somebody_else_is_refused() {
    let authority = Authority::new();
    let mut node = NodeSetup::new(1).start(&authority);
    let misdirected = hello(3, NodeId(9));
    let (refusal, _) = say(&mut node, &authority, &misdirected).await;
    let receiver = node.id;
    assert_eq!(refusal, Refusal::WrongReceiver { receiver });
}

#[tokio::test]
async fn another_cluster_id_is_refused() {
    let authority = Authority::new();
    let cluster = ClusterId([1; 16]);
    let mut setup = NodeSetup::new(1);
    setup.cluster = Some(cluster);
    let mut node = setup.start(&authority);
    let Message::Hello(plain) = hello(3, node.id) else {
        unreachable!()
    };
    let foreign = Message::Hello(Hello {
        cluster: Some(ClusterId([2; 16])),
        ..plain
    });
    let (refusal, _) = say(&mut node, &authority, &foreign).await;
    assert_eq!(refusal, Refusal::WrongCluster { cluster });
}

#[tokio::test]
async fn the_handler_refuses_an_old_boot_and_the_dialler_learns_why() {
    let authority = Authority::new();
    let seen = boot(7);
    let mut strict = NodeSetup::new(1);
    strict.admit = Box::new(move |hello| {
        if hello.boot.counter < seen.counter {
            return Err(Refusal::OldBoot { seen });
        }
        Ok(())
    });
    let mut strict = strict.start(&authority);
    let mut old = NodeSetup::new(2).start(&authority);
    old.transport.set_peers(&[strict.named()]);
    let refusal = Refusal::OldBoot { seen };
    let told = old.until("a refusal", |event| match event {
        Event::Refused(NodeId(1), refusal) => Some(refusal),
        Event::Up(..) => panic!("admitted"),
        _ => None,
    });
    assert_eq!(told.await, refusal);
    let stats = old.transport.stats();
    let last_error = stats.peers[0].last_error.clone();
    assert_eq!(
        last_error,
        Some(ConnectError::RefusedByThem(refusal.clone()))
    );
    let recorded = strict.next_rejection().await;
    assert_eq!(recorded, ConnectError::RefusedByUs(refusal));
}

#[tokio::test]
async fn dialling_finds_another_node_at_the_address() {
    let authority = Authority::new();
    let mut one = NodeSetup::new(1).start(&authority);
    let three = NodeSetup::new(3).start(&authority);
    let wrong = [(NodeId(2), three.address.to_string())];
    one.transport.set_peers(&wrong);
    let error = one.until("a failure", |event| match event {
        Event::ConnectFailed(NodeId(2), error) => Some(error),
        Event::Up(..) => panic!("connected"),
        _ => None,
    });
    let problem = CertificateProblem::WrongNameOrUse;
    assert!(
        matches!(error.await, ConnectError::TheirCertificate { problem: p, .. } if p == problem)
    );
}

#[tokio::test]
async fn the_client_protocol_is_not_offered_without_a_handler() {
    let authority = Authority::new();
    let tls_identity = authority.identity(&authority.node(1));
    let local = raft_net::LocalIdentity {
        node: NodeId(1),
        incarnation: raft_proto::Incarnation(1),
        boot: boot(1),
    };
    let other = NodeSetup::new(2).start(&authority);
    let transport = QuicTransport::bind(
        any_socket(),
        NetConfig::new(local, CLUSTER, tls_identity),
        other.recorder.clone(),
        None,
    )
    .unwrap();
    let address = transport.local_addr().unwrap();
    let config = tls(&authority, Some(&authority.client()), CLIENT_PROTOCOL);
    let error = match Raw::connect(config, NodeId(1), address).await {
        Ok(raw) => raw.closed().await,
        Err(error) => error,
    };
    assert_eq!(ConnectError::from(error), ConnectError::NoCommonProtocol);
}

/// What `bind` says to node 1 with these files.
fn bind_error(authority: &Authority, issued: &Issued, cluster: &str) -> NetError {
    let issued = authority.identity(issued);
    let local = raft_net::LocalIdentity {
        node: NodeId(1),
        incarnation: raft_proto::Incarnation(1),
        boot: boot(1),
    };
    let recorder = NodeSetup::new(2).start(authority).recorder;
    let config = NetConfig::new(local, cluster, issued);
    match QuicTransport::bind(any_socket(), config, recorder, None) {
        Ok(_) => panic!("bound"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn our_own_unusable_certificate_is_an_error_at_the_start() {
    let authority = Authority::new();
    let expired = authority.issue(&["n1.test"], Validity::Expired);
    let error = bind_error(&authority, &expired, CLUSTER);
    assert!(error.to_string().contains("expired"), "{error}");
    assert!(matches!(error, NetError::OwnCertificate { .. }));

    let error = bind_error(&authority, &authority.node(2), CLUSTER);
    assert!(error.to_string().contains("n1.test"), "{error}");

    let error = bind_error(&authority, &Authority::new().node(1), CLUSTER);
    assert!(error.to_string().contains("not signed by"), "{error}");

    let mixed = Issued {
        certificate: authority.node(1).certificate,
        key: authority.node(1).key,
    };
    assert!(matches!(
        bind_error(&authority, &mixed, CLUSTER),
        NetError::Tls(_)
    ));

    let error = bind_error(&authority, &authority.node(1), "Not a name");
    assert!(matches!(error, NetError::ClusterName(_)));
}

#[test]
fn unreadable_files_are_named() {
    let missing = TlsFiles {
        certificate: PathBuf::from("/nonexistent/node.pem"),
        key: PathBuf::from("/nonexistent/node.key"),
        authorities: PathBuf::from("/nonexistent/ca.pem"),
    };
    let error = TlsIdentity::from_files(&missing).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/"), "{error}");
    let error = TlsIdentity::from_pem("no certificate", "no key", "nothing").unwrap_err();
    assert!(matches!(error, NetError::Pem { .. }));
}
