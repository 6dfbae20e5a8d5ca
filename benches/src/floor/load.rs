//! The load on the floor: each client sends its next operation as soon as its last is answered.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use quinn::{Endpoint, RecvStream, SendStream};
use tokio::task::spawn_local;

use super::frame::{self, Kind, Parser};
use crate::Failure;
use crate::load::{Latencies, Operation, Plan};
use crate::tls::NAME;

/// Does what the plan says at the leader, and reports. Must run on a local set.
///
/// # Errors
/// The network's, or a plan without clients.
pub async fn run(endpoint: Endpoint, leader: SocketAddr, plan: Plan) -> Result<String, Failure> {
    if plan.clients < plan.connections || plan.connections == 0 || plan.rate.is_some() {
        return Err("each connection needs a client, and there is no open loop".into());
    }
    let mut streams = Vec::new();
    for _ in 0..plan.connections {
        let connection = endpoint.connect(leader, NAME)?.await?;
        streams.push((connection.open_bi().await?, connection));
    }
    let shared = Rc::new(Shared {
        latencies: RefCell::new(Latencies::begin()),
        left: RefCell::new(plan.total),
        plan,
    });
    let mut ends = Vec::new();
    let mut kept = Vec::new();
    for (at, ((send, receive), connection)) in (0..).zip(streams) {
        let plan = &shared.plan;
        let clients =
            plan.clients / plan.connections + u64::from(at < plan.clients % plan.connections);
        let shared = Rc::clone(&shared);
        ends.push(spawn_local(shared.drive(send, receive, clients)));
        kept.push(connection);
    }
    for end in ends {
        end.await??;
    }
    Ok(shared.latencies.borrow().report(0))
}

struct Shared {
    latencies: RefCell<Latencies>,
    /// Operations that nobody has begun.
    left: RefCell<u64>,
    plan: Plan,
}

impl Shared {
    async fn drive(
        self: Rc<Self>,
        mut send: SendStream,
        mut receive: RecvStream,
        clients: u64,
    ) -> Result<(), Failure> {
        let mut sent_at = vec![Instant::now(); clients as usize];
        let mut out = Vec::new();
        let mut under_way: u64 = 0;
        let value = vec![7; self.plan.value_size];
        for client in 0..clients {
            under_way += self.begin(client, &mut sent_at, &value, &mut out);
        }
        send.write_all(&out).await?;
        let mut parser = Parser::default();
        while under_way > 0 {
            out.clear();
            let chunk = receive.read_chunk(usize::MAX, true).await?;
            let chunk = chunk.ok_or("the leader is gone")?;
            parser.feed(&chunk.bytes, |_, client, _| {
                let latency = sent_at[client as usize].elapsed();
                self.latencies.borrow_mut().record(latency);
                under_way -= 1;
                under_way += self.begin(client, &mut sent_at, &value, &mut out);
            });
            send.write_all(&out).await?;
        }
        Ok(())
    }

    /// A client's next operation, if there is one left; says how many it began.
    fn begin(&self, client: u64, sent_at: &mut [Instant], value: &[u8], out: &mut Vec<u8>) -> u64 {
        let mut left = self.left.borrow_mut();
        if *left == 0 {
            return 0;
        }
        *left -= 1;
        sent_at[client as usize] = Instant::now();
        match self.plan.kind {
            Operation::Put => frame::push(out, Kind::Put, client, value),
            Operation::Get => frame::push(out, Kind::Get, client, &[]),
        }
        1
    }
}
