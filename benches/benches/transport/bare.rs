//! Bare streams over quinn, TCP, and TCP with TLS: framed messages one way, short answers back, on
//! one long-lived stream.

use std::pin::Pin;
use std::time::{Duration, Instant};

use benches::floor::frame::{self, Kind, Parser};
use benches::quic::{self, Settings};
use benches::tls::{Identity, NAME};
use rustls::pki_types::ServerName;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// How much is read at a time, in bytes.
const READ_BYTES: usize = 256 << 10;

type Reader = Pin<Box<dyn AsyncRead>>;
type Writer = Pin<Box<dyn AsyncWrite>>;

/// The sender's end of a line; the other end answers in a task.
pub(super) struct Line {
    reader: Reader,
    writer: Writer,
    /// What keeps the connection alive.
    _kept: Box<dyn std::any::Any>,
}

impl Line {
    /// Keeps so many messages under way; returns how many were answered.
    pub(super) async fn run(&mut self, slice: Duration, outstanding: usize, bytes: usize) -> u64 {
        let message = vec![7; bytes];
        let mut parser = Parser::default();
        let (mut out, mut buffer) = (Vec::new(), vec![0; READ_BYTES]);
        let (mut under_way, mut answered) = (0, 0);
        let begin = Instant::now();
        loop {
            let is_over = begin.elapsed() >= slice;
            while !is_over && under_way < outstanding {
                frame::push(&mut out, Kind::Append, answered, &message);
                under_way += 1;
            }
            if under_way == 0 {
                return answered;
            }
            if !out.is_empty() {
                self.writer.write_all(&out).await.expect("the line holds");
                self.writer.flush().await.expect("the line holds");
                out.clear();
            }
            let read = self.reader.read(&mut buffer).await.expect("the line holds");
            assert!(read > 0, "the line ended");
            parser.feed(&buffer[..read], |_, _, _| {
                under_way -= 1;
                answered += 1;
            });
        }
    }
}

/// Answers every whole message.
async fn answer(mut reader: impl AsyncRead + Unpin, mut writer: impl AsyncWrite + Unpin) {
    let mut parser = Parser::default();
    let (mut out, mut buffer) = (Vec::new(), vec![0; READ_BYTES]);
    // It ends with the process, or with the sender.
    while let Ok(read @ 1..) = reader.read(&mut buffer).await {
        let padding = [0; super::ANSWER_BYTES - 13];
        parser.feed(&buffer[..read], |_, number, _| {
            frame::push(&mut out, Kind::Durable, number, &padding);
        });
        if writer.write_all(&out).await.is_err() || writer.flush().await.is_err() {
            return;
        }
        out.clear();
    }
}

/// Over one stream of a QUIC connection.
pub(super) async fn over_quic(identity: &Identity, settings: Settings) -> Line {
    let endpoint = || quic::endpoint(identity, 0, settings).expect("an endpoint opens");
    let (server, client) = (endpoint(), endpoint());
    let address = server.local_addr().expect("it is bound");
    let accepting = tokio::spawn(async move {
        let incoming = server.accept().await.expect("somebody connects");
        let connection = incoming.await.expect("the handshake works");
        let (writer, reader) = connection.accept_bi().await.expect("a stream is opened");
        answer(reader, writer).await;
    });
    let connecting = client.connect(address, NAME).expect("the address is one");
    let connection = connecting.await.expect("the handshake works");
    let (writer, reader) = connection.open_bi().await.expect("streams are allowed");
    Line {
        reader: Box::pin(reader),
        writer: Box::pin(writer),
        _kept: Box::new((client, connection, accepting)),
    }
}

async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let ends = tokio::join!(TcpStream::connect(address), listener.accept());
    let (client, server) = (ends.0.expect("it connects"), ends.1.expect("it connects").0);
    for stream in [&client, &server] {
        stream.set_nodelay(true).expect("it is a TCP socket");
    }
    (client, server)
}

/// Over TCP, in the clear.
pub(super) async fn over_tcp() -> Line {
    let (client, server) = tcp_pair().await;
    let (reader, writer) = server.into_split();
    tokio::spawn(answer(reader, writer));
    let (reader, writer) = client.into_split();
    Line {
        reader: Box::pin(reader),
        writer: Box::pin(writer),
        _kept: Box::new(()),
    }
}

/// Over TCP with TLS 1.3.
pub(super) async fn over_tls(identity: &Identity) -> Line {
    let (client, server) = tcp_pair().await;
    let acceptor = TlsAcceptor::from(Arc::new(identity.server().expect("the key fits")));
    let connector = TlsConnector::from(Arc::new(identity.client().expect("the key fits")));
    let name = ServerName::try_from(NAME).expect("it is a name");
    let ends = tokio::join!(connector.connect(name, client), acceptor.accept(server));
    let (client, server) = (ends.0.expect("it works"), ends.1.expect("it works"));
    let (reader, writer) = tokio::io::split(server);
    tokio::spawn(answer(reader, writer));
    let (reader, writer) = tokio::io::split(client);
    Line {
        reader: Box::pin(reader),
        writer: Box::pin(writer),
        _kept: Box::new(()),
    }
}
