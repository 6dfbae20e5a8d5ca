//! Garbage in every place where bytes arrive: it ends that connection and touches nothing else.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test panics when it fails, and picks the events it waits for"
)]

mod support;

use quinn::TransportConfig;
use raft_net::CloseCode;
use raft_proto::frame::HEADER_BYTES;
use raft_proto::{AppendOutcome, AppendResponse, FrameHeader, GroupId, Message, NodeId, Term};
use support::raw::{Raw, endpoint, frame, hello, tls};
use support::{Authority, Node, NodeSetup, any_socket, heartbeat, introduce};

/// Nodes 1 and 2, connected.
async fn pair(authority: &Authority) -> (Node, Node) {
    let mut one = NodeSetup::new(1).start(authority);
    let mut two = NodeSetup::new(2).start(authority);
    introduce(&[&one, &two]);
    one.until_up(two.id).await;
    two.until_up(one.id).await;
    (one, two)
}

/// Messages pass both ways, on the connection that was there from the start.
async fn assert_undisturbed(one: &mut Node, two: &mut Node) {
    one.transport.send(two.id, &heartbeat(5), false).unwrap();
    assert_eq!(two.next_message().await, (one.id, false, heartbeat(5)));
    two.transport.send(one.id, &heartbeat(6), false).unwrap();
    assert_eq!(one.next_message().await, (two.id, false, heartbeat(6)));
    for stats in one.transport.stats().peers {
        if stats.node == two.id {
            assert!(stats.connected.is_some());
            assert_eq!(stats.dropped, [0; 3]);
        }
    }
}

/// An admitted node 3 writes `bytes` and, if asked to, ends its stream.
async fn admitted_peer_writes(bytes: &[u8], finish: bool) -> CloseCode {
    let authority = Authority::new();
    let (mut one, mut two) = pair(&authority).await;
    let plain = TransportConfig::default();
    let (raw, mut stream) = Raw::admitted(&authority, 3, one.id, one.address, plain).await;
    one.until_up(NodeId(3)).await;
    stream.write_all(bytes).await.unwrap();
    if finish {
        stream.finish().unwrap();
    }
    let code = raw.close_code().await;
    one.until_down(NodeId(3)).await;
    assert_undisturbed(&mut one, &mut two).await;
    code
}

fn header(body_bytes: u32, kind: u8, head_bytes: u32) -> [u8; HEADER_BYTES] {
    FrameHeader {
        body_bytes,
        kind,
        flags: 0,
        group: GroupId(0),
        head_bytes,
    }
    .to_bytes()
}

#[tokio::test]
async fn garbage_instead_of_a_frame() {
    let code = admitted_peer_writes(&[0x5a; 64], false).await;
    assert_eq!(code, CloseCode::Malformed);
}

#[tokio::test]
async fn a_length_bomb() {
    let bomb = header(u32::MAX, 14, 0);
    assert_eq!(
        admitted_peer_writes(&bomb, false).await,
        CloseCode::Malformed
    );
}

#[tokio::test]
async fn a_count_bomb_inside_a_frame() {
    // FetchEntriesRequest with term 1 that claims 2^60 wanted positions.
    let body = [1, 253, 0, 0, 0, 0, 0, 0, 0, 16];
    let mut bytes = header(body.len() as u32, 32, body.len() as u32).to_vec();
    bytes.extend(body);
    assert_eq!(
        admitted_peer_writes(&bytes, false).await,
        CloseCode::Malformed
    );
}

#[tokio::test]
async fn a_frame_that_ends_too_early() {
    let whole = frame(&heartbeat(1));
    let code = admitted_peer_writes(&whole[..whole.len() - 1], true).await;
    assert_eq!(code, CloseCode::Malformed);
}

#[tokio::test]
async fn an_unknown_message() {
    assert_eq!(
        admitted_peer_writes(&header(0, 200, 0), false).await,
        CloseCode::Malformed
    );
}

#[tokio::test]
async fn another_version() {
    let mut bytes = header(0, 14, 0);
    bytes[4] = 77;
    assert_eq!(
        admitted_peer_writes(&bytes, false).await,
        CloseCode::Malformed
    );
}

#[tokio::test]
async fn a_message_on_the_wrong_stream() {
    let entries = Message::AppendResponse(AppendResponse {
        term: Term(1),
        sequence: 1,
        outcome: AppendOutcome::Accepted,
    });
    let code = admitted_peer_writes(&frame(&entries), false).await;
    assert_eq!(code, CloseCode::Malformed);
}

#[tokio::test]
async fn a_second_hello() {
    let code = admitted_peer_writes(&frame(&hello(3, NodeId(1))), false).await;
    assert_eq!(code, CloseCode::Malformed);
}

#[tokio::test]
async fn something_else_than_a_hello_comes_first() {
    let authority = Authority::new();
    let (mut one, mut two) = pair(&authority).await;
    let config = tls(
        &authority,
        Some(&authority.node(3)),
        raft_net::PEER_PROTOCOL,
    );
    let raw = Raw::connect(config, one.id, one.address).await.unwrap();
    let mut stream = raw.connection.open_uni().await.unwrap();
    stream.write_all(&frame(&heartbeat(1))).await.unwrap();
    assert_eq!(raw.close_code().await, CloseCode::Malformed);
    assert_undisturbed(&mut one, &mut two).await;
}

/// A genuine first datagram of a handshake, and the socket that caught it and never answers.
async fn first_datagram(authority: &Authority) -> (tokio::net::UdpSocket, Vec<u8>) {
    let socket = any_socket();
    socket.set_nonblocking(true).unwrap();
    let catcher = tokio::net::UdpSocket::from_std(socket).unwrap();
    let config = tls(authority, Some(&authority.node(3)), raft_net::PEER_PROTOCOL);
    let dialler = endpoint();
    let _connecting = dialler
        .connect_with(config, catcher.local_addr().unwrap(), "n1.test")
        .unwrap();
    let mut datagram = vec![0; 2048];
    let (length, _) = catcher.recv_from(&mut datagram).await.unwrap();
    datagram.truncate(length);
    (catcher, datagram)
}

#[tokio::test]
async fn unfinished_handshakes_keep_nobody_out() {
    let authority = Authority::new();
    let mut setup = NodeSetup::new(1);
    setup.configure = Box::new(|config| {
        config.limits.max_handshakes = 1;
        config.timing.election_timeout_max = std::time::Duration::from_secs(600);
    });
    let mut one = setup.start(&authority);
    let (catcher, datagram) = first_datagram(&authority).await;
    catcher.send_to(&datagram, one.address).await.unwrap();
    // The node's answer shows that the unfinished handshake takes up the only place.
    let mut answer = [0; 2048];
    catcher.recv_from(&mut answer).await.unwrap();
    // Whoever answers from its address is let in all the same.
    let mut two = NodeSetup::new(2).start(&authority);
    two.transport.set_peers(&[one.named()]);
    one.until_up(two.id).await;
    two.until_up(one.id).await;
    assert_undisturbed(&mut one, &mut two).await;
}

#[tokio::test]
async fn garbage_and_truncated_datagrams() {
    let authority = Authority::new();
    let (mut one, mut two) = pair(&authority).await;

    let (catcher, datagram) = first_datagram(&authority).await;
    for length in (0..datagram.len()).step_by(17) {
        catcher
            .send_to(&datagram[..length], one.address)
            .await
            .unwrap();
        let mut flipped = datagram.clone();
        flipped[length] ^= 0xff;
        catcher.send_to(&flipped, one.address).await.unwrap();
        let noise = vec![length as u8; length];
        catcher.send_to(&noise, one.address).await.unwrap();
    }
    assert_undisturbed(&mut one, &mut two).await;
}

#[tokio::test]
async fn garbage_from_a_client() {
    let authority = Authority::new();
    let (mut one, mut two) = pair(&authority).await;
    for bytes in [
        &[0xff_u8; 40][..],
        &header(u32::MAX, 1, 0),
        &header(4, 0, 4),
    ] {
        let config = tls(
            &authority,
            Some(&authority.client()),
            raft_net::CLIENT_PROTOCOL,
        );
        let raw = Raw::connect(config, one.id, one.address).await.unwrap();
        let (mut stream, _receive) = raw.connection.open_bi().await.unwrap();
        if bytes.len() == HEADER_BYTES && bytes[5] == 0 {
            // A welcome is in order; the frame after it has no room for a request id.
            stream.write_all(&header(0, 0, 0)).await.unwrap();
            stream.write_all(&header(4, 1, 4)).await.unwrap();
            stream.write_all(&[0; 4]).await.unwrap();
        } else {
            stream.write_all(bytes).await.unwrap();
        }
        assert_eq!(raw.close_code().await, CloseCode::Malformed);
    }
    assert_undisturbed(&mut one, &mut two).await;
}
