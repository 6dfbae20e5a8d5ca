//! A load on etcd by its own protocol (gRPC over HTTP/2), without more of gRPC than that takes:
//! the report is that of `raft-kv bench`, and the processor time of the load is small beside
//! that of the servers.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use benches::Failure;
use benches::load::{Latencies, Operation, Plan};
use bytes::Bytes;
use clap::Parser;
use h2::client::SendRequest;
use http::Request;
use tokio::net::TcpStream;
use tokio::task::{LocalSet, spawn_local};

/// Windows of streams and connections in bytes: no value that etcd takes is larger.
const WINDOW_BYTES: u32 = 4 << 20;
/// A gRPC message's flag and length.
const PREFIX_BYTES: usize = 5;
/// Wire type of bytes in a protobuf tag.
const LENGTH_DELIMITED: u8 = 2;

/// Puts or gets at one member of etcd, and a report in JSON
#[derive(Parser)]
struct Arguments {
    /// `HOST:PORT` of a member, best the leader
    #[arg(long)]
    endpoint: String,
    #[command(flatten)]
    plan: Plan,
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = runtime
        .map_err(Failure::from)
        .and_then(|runtime| LocalSet::new().block_on(&runtime, run(Arguments::parse())));
    match outcome {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<String, Failure> {
    let plan = arguments.plan;
    let mut connections = Vec::new();
    for _ in 0..plan.connections {
        connections.push(connect(&arguments.endpoint).await?);
    }
    let path = match plan.kind {
        Operation::Put => "Put",
        Operation::Get => "Range",
    };
    let load = Rc::new(Load {
        uri: format!("http://{}/etcdserverpb.KV/{path}", arguments.endpoint),
        value: vec![7; plan.value_size],
        begun: Cell::new(0),
        latencies: RefCell::new(Latencies::begin()),
        plan,
    });
    let mut clients = Vec::new();
    for client in 0..load.plan.clients {
        let connection = connections[(client % load.plan.connections) as usize].clone();
        clients.push(spawn_local(Rc::clone(&load).drive(connection)));
    }
    let mut errors = 0;
    for client in clients {
        if let Err(error) = client.await? {
            eprintln!("a client failed: {error}");
            errors += 1;
        }
    }
    Ok(load.latencies.borrow().report(errors))
}

async fn connect(endpoint: &str) -> Result<SendRequest<Bytes>, Failure> {
    let stream = TcpStream::connect(endpoint).await?;
    stream.set_nodelay(true)?;
    let (requests, connection) = h2::client::Builder::new()
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(4 * WINDOW_BYTES)
        .handshake(stream)
        .await?;
    // It ends with an error only when the member goes away, which the requests say as well.
    spawn_local(connection);
    Ok(requests.ready().await?)
}

struct Load {
    uri: String,
    value: Vec<u8>,
    plan: Plan,
    /// Operations that some client has taken.
    begun: Cell<u64>,
    latencies: RefCell<Latencies>,
}

impl Load {
    /// One client: an operation after the other until none is left.
    async fn drive(self: Rc<Self>, connection: SendRequest<Bytes>) -> Result<(), Failure> {
        loop {
            let number = self.begun.get();
            if number == self.plan.total {
                return Ok(());
            }
            self.begun.set(number + 1);
            let begin = self.latencies.borrow().begun();
            let since = match self.plan.due(number) {
                Some(due) => {
                    sleep_until(begin + due).await;
                    begin + due
                }
                None => Instant::now(),
            };
            call(connection.clone(), &self.uri, self.message(number)).await?;
            self.latencies.borrow_mut().record(since.elapsed());
        }
    }

    /// A `PutRequest` or `RangeRequest` with gRPC's prefix; a range of one key is linearizable
    /// unless it says otherwise.
    fn message(&self, number: u64) -> Bytes {
        let mut message = vec![0; PREFIX_BYTES];
        field(&mut message, 1, self.plan.key(number).as_bytes());
        match self.plan.kind {
            Operation::Put => field(&mut message, 2, &self.value),
            Operation::Get => {}
        }
        let length = (message.len() - PREFIX_BYTES) as u32;
        message[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
        message.into()
    }
}

/// Sleeps as exactly as the runtime's timer allows, which counts milliseconds.
async fn sleep_until(due: Instant) {
    let left = due.saturating_duration_since(Instant::now());
    if left > Duration::ZERO {
        tokio::time::sleep(left).await;
    }
}

/// One unary call; the answer's content is read and dropped.
async fn call(connection: SendRequest<Bytes>, uri: &str, message: Bytes) -> Result<(), Failure> {
    let request = Request::post(uri)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let mut connection = connection.ready().await?;
    let (response, mut body) = connection.send_request(request, false)?;
    body.send_data(message, true)?;
    let response = response.await?;
    let status = response.headers().get("grpc-status").cloned();
    let mut answer = response.into_body();
    while let Some(data) = answer.data().await {
        let length = data?.len();
        answer.flow_control().release_capacity(length)?;
    }
    let trailers = answer.trailers().await?;
    let status = status.or_else(|| trailers?.get("grpc-status").cloned());
    match status {
        Some(status) if status == "0" => Ok(()),
        status => Err(format!("the call ended with gRPC status {status:?}").into()),
    }
}

/// Appends a protobuf field of bytes.
fn field(message: &mut Vec<u8>, number: u8, content: &[u8]) {
    message.push(number << 3 | LENGTH_DELIMITED);
    let mut length = content.len();
    while length >= 0x80 {
        message.push(length as u8 | 0x80);
        length >>= 7;
    }
    message.push(length as u8);
    message.extend_from_slice(content);
}
