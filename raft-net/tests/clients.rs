//! Clients over real sockets: pipelining, order, bounds, and what a lost connection means.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test panics when it fails, and picks the events it waits for"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use raft_net::client::{
    ClientConnection, ClientEndpoint, ClientOptions, RequestError, Response, Sent,
};
use raft_net::{CertificateProblem, CloseCode, ConnectError, SendError};
use support::{Authority, DEADLINE, Event, Issued, Node, NodeSetup};

/// Answers a request with its own body under the next kind.
fn echo(client: &raft_net::ClientConnection, id: u64, kind: u8, body: &Bytes) {
    client
        .respond(id, kind + 1, b"", std::slice::from_ref(body))
        .unwrap();
}

fn echoing() -> NodeSetup {
    let mut setup = NodeSetup::new(1);
    setup.answer = Box::new(|client, id, kind, body| echo(client, id, kind, &body));
    setup
}

async fn connect(
    authority: &Authority,
    issued: &Issued,
    address: &str,
) -> Result<ClientConnection, ConnectError> {
    let tls = authority.identity(issued);
    let endpoint = ClientEndpoint::new(&tls, ClientOptions::default()).unwrap();
    endpoint.connect(address, DEADLINE).await
}

async fn connected(authority: &Authority, node: &Node) -> ClientConnection {
    let address = node.address.to_string();
    connect(authority, &authority.client(), &address)
        .await
        .unwrap()
}

async fn next_request(node: &mut Node) -> (u64, u8, Bytes) {
    node.until("a request", |event| match event {
        Event::Request(_, id, kind, body) => Some((id, kind, body)),
        _ => None,
    })
    .await
}

/// Waits for a task with the tests' deadline.
async fn within<T>(task: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, task).await.expect("in time")
}

#[tokio::test]
async fn many_callers_share_a_connection() {
    let authority = Authority::new();
    let node = echoing().start(&authority);
    let connection = connected(&authority, &node).await;
    assert_eq!(connection.node(), node.id);
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..500_usize {
        let connection = connection.clone();
        calls.spawn(async move {
            let payload = Bytes::from(vec![number as u8; number * 7]);
            let answer = connection
                .request(4, &number.to_le_bytes(), payload.clone())
                .await;
            let body = [&number.to_le_bytes()[..], &payload].concat().into();
            assert_eq!(answer, Ok(Response { kind: 5, body }));
        });
    }
    within(async {
        while let Some(call) = calls.join_next().await {
            call.unwrap();
        }
    })
    .await;
    assert_eq!(connection.outstanding(), 0);
}

#[tokio::test]
async fn large_requests_and_responses_pass() {
    let authority = Authority::new();
    let node = echoing().start(&authority);
    let connection = connected(&authority, &node).await;
    let payload = Bytes::from(vec![9; 10 << 20]);
    let answer = within(connection.request(1, b"", payload.clone())).await;
    assert!(answer.unwrap().body == payload);
    let too_large = Bytes::from(vec![9; (16 << 20) + 1]);
    let answer = connection.request(1, b"", too_large).await;
    assert!(matches!(answer, Err(RequestError::TooLarge { .. })));
    let answer = within(connection.request(1, b"still", Bytes::new())).await;
    assert_eq!(&answer.unwrap().body[..], b"still");
}

#[tokio::test]
async fn answers_find_their_requests_in_any_order() {
    let authority = Authority::new();
    let mut node = NodeSetup::new(1).start(&authority);
    let connection = connected(&authority, &node).await;
    let call = |kind| {
        let connection = connection.clone();
        tokio::spawn(async move { connection.request(kind, b"", Bytes::new()).await })
    };
    let calls = [call(10), call(20), call(30)];
    let mut requests = Vec::new();
    for _ in &calls {
        requests.push(next_request(&mut node).await);
    }
    let client = node.recorder.clients.lock().unwrap()[0].clone();
    for (id, kind, body) in requests.iter().rev() {
        echo(&client, *id, *kind, body);
    }
    for (call, kind) in calls.into_iter().zip([11, 21, 31]) {
        assert_eq!(within(call).await.unwrap().unwrap().kind, kind);
    }
}

#[tokio::test]
async fn a_lost_connection_fails_everything_outstanding() {
    let authority = Authority::new();
    let mut node = NodeSetup::new(1).start(&authority);
    let connection = connected(&authority, &node).await;
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let connection = connection.clone();
            tokio::spawn(async move { connection.request(1, b"x", Bytes::new()).await })
        })
        .collect();
    for _ in &calls {
        next_request(&mut node).await;
    }
    node.recorder.clients.lock().unwrap()[0].disconnect();
    let reason = ConnectError::ClosedByPeer(CloseCode::ShutDown);
    for call in calls {
        let lost = RequestError::Disconnected {
            sent: Sent::Maybe,
            reason: reason.clone(),
        };
        assert_eq!(within(call).await.unwrap(), Err(lost));
    }
    assert_eq!(connection.ended(), Some(reason.clone()));
    let late = connection.request(1, b"x", Bytes::new()).await;
    let sent = Sent::No;
    assert_eq!(late, Err(RequestError::Disconnected { sent, reason }));
    node.until("the end", |event| {
        matches!(event, Event::ClientGone(_)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_request_that_never_left_is_known_to_have_no_effect() {
    let authority = Authority::new();
    let node = echoing().start(&authority);
    let connection = connected(&authority, &node).await;
    // Nothing else runs on this thread between the request and the close.
    let (answer, ()) = tokio::join!(connection.request(1, b"x", Bytes::new()), async {
        connection.close();
    });
    let sent = Sent::No;
    let reason = ConnectError::ClosedByUs(CloseCode::ShutDown);
    assert_eq!(answer, Err(RequestError::Disconnected { sent, reason }));
}

#[tokio::test]
async fn a_caller_that_gives_up_leaves_nothing_behind() {
    let authority = Authority::new();
    let mut node = NodeSetup::new(1).start(&authority);
    let connection = connected(&authority, &node).await;
    let abandoned = {
        let connection = connection.clone();
        tokio::spawn(async move { connection.request(1, b"", Bytes::new()).await })
    };
    let (id, kind, body) = next_request(&mut node).await;
    assert_eq!(connection.outstanding(), 1);
    abandoned.abort();
    assert!(abandoned.await.unwrap_err().is_cancelled());
    assert_eq!(connection.outstanding(), 0);
    // The late answer disturbs nobody.
    let client = node.recorder.clients.lock().unwrap()[0].clone();
    echo(&client, id, kind, &body);
    let next = tokio::spawn(async move { connection.request(7, b"", Bytes::new()).await });
    let (id, kind, body) = next_request(&mut node).await;
    echo(&client, id, kind, &body);
    assert_eq!(within(next).await.unwrap().unwrap().kind, 8);
}

#[tokio::test]
async fn unanswered_requests_are_bounded() {
    const BOUND: usize = 4;
    let authority = Authority::new();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut setup = NodeSetup::new(1);
    setup.configure = Box::new(|config| config.limits.max_outstanding_requests = BOUND);
    let counters = (Arc::clone(&now), Arc::clone(&most));
    setup.answer = Box::new(move |_, _, _, _| {
        let outstanding = counters.0.fetch_add(1, Ordering::SeqCst) + 1;
        counters.1.fetch_max(outstanding, Ordering::SeqCst);
    });
    let mut node = setup.start(&authority);
    let connection = connected(&authority, &node).await;
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let connection = connection.clone();
            tokio::spawn(async move { connection.request(1, b"", Bytes::new()).await })
        })
        .collect();
    for _ in &calls {
        let (id, kind, body) = next_request(&mut node).await;
        let client = node.recorder.clients.lock().unwrap()[0].clone();
        now.fetch_sub(1, Ordering::SeqCst);
        echo(&client, id, kind, &body);
    }
    for call in calls {
        within(call).await.unwrap().unwrap();
    }
    assert_eq!(most.load(Ordering::SeqCst), BOUND);
}

#[tokio::test]
async fn a_client_that_reads_no_responses_is_disconnected() {
    let authority = Authority::new();
    let mut setup = NodeSetup::new(1);
    setup.configure = Box::new(|config| config.limits.max_response_bytes = 1000);
    let mut node = setup.start(&authority);
    let connection = connected(&authority, &node).await;
    let call = tokio::spawn(async move { connection.request(1, b"", Bytes::new()).await });
    let (id, _, _) = next_request(&mut node).await;
    let client = node.recorder.clients.lock().unwrap()[0].clone();
    // Nothing is written between these calls, as if the client did not read.
    let answers = (0..10).map(|_| client.respond(id, 2, &[0; 900], &[]));
    let refused = answers.filter(|a| *a == Err(SendError::ShutDown)).count();
    assert_eq!(refused, 6);
    let answer = within(call).await.unwrap();
    let reason = ConnectError::ClosedByPeer(CloseCode::Overloaded);
    let sent = Sent::Maybe;
    assert_eq!(answer, Err(RequestError::Disconnected { sent, reason }));
}

#[tokio::test]
async fn a_foreign_client_is_refused_when_it_connects() {
    let authority = Authority::new();
    let mut node = echoing().start(&authority);
    let other = Authority::named("another authority");
    let stranger = support::raw::tls(&authority, Some(&other.client()), raft_net::CLIENT_PROTOCOL);
    let raw = support::raw::Raw::connect(stranger, node.id, node.address).await;
    let error = match raw {
        Ok(raw) => raw.closed().await,
        Err(error) => error,
    };
    let problem = CertificateProblem::UnknownAuthority;
    assert_eq!(
        ConnectError::from(error),
        ConnectError::OurCertificate(problem)
    );
    node.next_rejection().await;

    // A certificate of the right authority, but of another cluster.
    let elsewhere = authority.issue(&["client.elsewhere"], support::Validity::Current);
    let error = connect(&authority, &elsewhere, &node.address.to_string()).await;
    let code = CloseCode::WrongCertificate;
    assert_eq!(error.unwrap_err(), ConnectError::ClosedByPeer(code));
}

#[tokio::test]
async fn the_server_must_be_certified_for_the_address_dialled() {
    let authority = Authority::new();
    let node = echoing().start(&authority);
    let by_name = format!("localhost:{}", node.address.port());
    let error = connect(&authority, &authority.client(), &by_name)
        .await
        .unwrap_err();
    let problem = CertificateProblem::WrongNameOrUse;
    assert!(
        matches!(&error, ConnectError::TheirCertificate { problem: p, .. } if *p == problem),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_silent_address_is_given_up_at_the_deadline() {
    let authority = Authority::new();
    let silent = support::any_socket();
    let tls = authority.identity(&authority.client());
    let endpoint = ClientEndpoint::new(&tls, ClientOptions::default()).unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let outcome = endpoint.connect(&address, Duration::from_millis(50)).await;
    assert_eq!(outcome.unwrap_err(), ConnectError::TimedOut);
    let outcome = endpoint.connect("no.such.host.invalid:1", DEADLINE).await;
    assert!(matches!(outcome, Err(ConnectError::Resolve { .. })));
}

#[tokio::test]
async fn an_orderly_shutdown_delivers_answers() {
    let authority = Authority::new();
    let mut node = NodeSetup::new(1).start(&authority);
    let connection = connected(&authority, &node).await;
    let call = tokio::spawn(async move { connection.request(1, b"q", Bytes::new()).await });
    let (id, kind, body) = next_request(&mut node).await;
    let client = node.recorder.clients.lock().unwrap()[0].clone();
    echo(&client, id, kind, &body);
    node.transport.shutdown().await;
    assert_eq!(within(call).await.unwrap().unwrap().kind, 2);
}

#[tokio::test]
async fn too_many_clients_are_turned_away() {
    let authority = Authority::new();
    let mut setup = echoing();
    setup.configure = Box::new(|config| config.limits.max_client_connections = 1);
    let node = setup.start(&authority);
    let first = connected(&authority, &node).await;
    let address = node.address.to_string();
    let second = connect(&authority, &authority.client(), &address).await;
    let code = CloseCode::Overloaded;
    assert_eq!(second.unwrap_err(), ConnectError::ClosedByPeer(code));
    assert!(within(first.request(1, b"", Bytes::new())).await.is_ok());
}
