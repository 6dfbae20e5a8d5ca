//! A state machine of your own under the simulator, with an invariant of your own: a bank that
//! neither makes nor loses money.
//!
//! `cargo run --release --example bank -p raft-sim -- 100` runs 100 seeds; with `--bug` behind it, of a
//! bank that loses money. Each is a cluster of the
//! real consensus core, driver and log, whose network, disks, clocks, processes and operator misbehave as
//! the seed says, and whose every event is checked against Raft's own invariants. What a user adds is
//! in this file, in four steps:
//!
//! 1. a [state machine](Bank), the one that runs in production;
//! 2. [clients](play) that use it while everything goes wrong, and write down what they were told;
//! 3. a [`Workload`], which brings both into a world and names a command and a query that always work;
//! 4. [what must hold](Tellers::judge) of that at the end.
//!
//! The bank has two promises. Whoever reads all accounts sees [`TOTAL`], whatever crashed: a transfer
//! takes from one account and gives to another, or does neither. And a transfer that was
//! acknowledged is in the log once, one that was refused never is.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use raft_node::{Applied, ProposeError, ReadConsistency, Small, SmallState, StateMachine};
use raft_proto::NodeId;
use raft_sim::campaign::{Failure, Judgement, Plan, Report, Workload, run};
use raft_sim::checker::exactly_once::{self, Repeats, Told};
use raft_sim::{CallError, Cluster, SimClient, Time, TraceDepth};

/// Accounts of the bank.
const ACCOUNTS: usize = 4;
/// What each holds at first.
const DEPOSIT: u64 = 100;
/// What all hold together, always.
const TOTAL: u64 = ACCOUNTS as u64 * DEPOSIT;
/// How long a client waits for an answer, in milliseconds.
const TIMEOUT_MS: u64 = 500;
/// Longest pause of a client, in milliseconds.
const PAUSE_MS_MAX: u64 = 30;

/// A bug that can be switched on, to see that the simulator finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// None.
    None,
    /// A snapshot leaves the last account out.
    ForgetsAnAccount,
}

/// The state machine: balances by account.
pub(crate) struct Bank {
    balances: [u64; ACCOUNTS],
    bug: Bug,
}

impl SmallState for Bank {
    /// Carries out a transfer if the account has the money; replies whether it did.
    fn apply(&mut self, applied: Applied<'_>) -> Bytes {
        let done =
            Transfer::decode(applied.command).is_some_and(|transfer| self.carry_out(transfer));
        Bytes::copy_from_slice(&[u8::from(done)])
    }

    /// All balances, whatever the query.
    fn query(&mut self, _query: &Bytes) -> Bytes {
        self.balances.iter().flat_map(|b| b.to_be_bytes()).collect()
    }

    fn save(&self) -> Bytes {
        let saved = match self.bug {
            Bug::None => ACCOUNTS,
            Bug::ForgetsAnAccount => ACCOUNTS - 1,
        };
        let balances = self.balances.iter().take(saved);
        balances.flat_map(|balance| balance.to_be_bytes()).collect()
    }

    fn load(&mut self, saved: &[u8]) -> io::Result<()> {
        self.balances = [0; ACCOUNTS];
        for (balance, bytes) in self.balances.iter_mut().zip(saved.chunks_exact(8)) {
            *balance = u64::from_be_bytes(bytes.try_into().map_err(io::Error::other)?);
        }
        Ok(())
    }
}

impl Bank {
    fn carry_out(&mut self, transfer: Transfer) -> bool {
        let (from, to) = (usize::from(transfer.from), usize::from(transfer.to));
        let has_enough = from < ACCOUNTS && to < ACCOUNTS && self.balances[from] >= transfer.amount;
        if has_enough {
            self.balances[from] -= transfer.amount;
            self.balances[to] += transfer.amount;
        }
        has_enough
    }
}

/// A command. Its serial makes it unlike every other one.
#[derive(Clone, Copy)]
struct Transfer {
    serial: u64,
    from: u8,
    to: u8,
    amount: u64,
}

impl Transfer {
    fn encode(self) -> Bytes {
        let mut bytes = vec![self.from, self.to];
        bytes.extend_from_slice(&self.amount.to_be_bytes());
        bytes.extend_from_slice(&self.serial.to_be_bytes());
        bytes.into()
    }

    fn decode(bytes: &Bytes) -> Option<Self> {
        let (&[from, to], rest) = bytes.split_first_chunk()?;
        let (amount, serial) = rest.split_first_chunk()?;
        Some(Self {
            serial: u64::from_be_bytes(serial.try_into().ok()?),
            from,
            to,
            amount: u64::from_be_bytes(*amount),
        })
    }
}

/// What clients were told, by all of them together.
#[derive(Default)]
struct Book {
    transfers: Vec<(Bytes, Told, Time)>,
    /// Sums of all accounts, as read.
    sums: Vec<u64>,
}

/// A client: transfers money and now and then looks at all accounts, until the time is over.
async fn play(client: SimClient, nodes: Vec<NodeId>, book: Rc<RefCell<Book>>, until: Time) {
    let mut node = nodes[0];
    for serial in 0.. {
        if client.now() >= until {
            return;
        }
        let outcome = if client.draw(|random| random.per_mille(200)) {
            let level = ReadConsistency::Linearizable;
            let read = client.read(node, Bytes::new(), level, TIMEOUT_MS).await;
            if let Ok(balances) = &read {
                let balances = balances.chunks_exact(8);
                let sum = balances.map(|b| b.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)));
                book.borrow_mut().sums.push(sum.sum());
            }
            read
        } else {
            let transfer = client.draw(|random| Transfer {
                serial: client.id() << 32 | serial,
                from: random.below(ACCOUNTS as u64) as u8,
                to: random.below(ACCOUNTS as u64) as u8,
                amount: random.between(1, DEPOSIT),
            });
            let command = transfer.encode();
            let answer = client.write(node, command.clone(), TIMEOUT_MS).await;
            let told = match &answer {
                Ok(_) => Told::Acknowledged,
                // Nobody knows, so both must be fine.
                Err(CallError::TimedOut | CallError::Propose(ProposeError::Unknown)) => {
                    Told::Unknown
                }
                Err(CallError::Propose(_) | CallError::Read(_)) => Told::Refused,
            };
            book.borrow_mut()
                .transfers
                .push((command, told, client.now()));
            answer
        };
        if outcome.is_err() {
            // Perhaps another node leads.
            node = client.draw(|random| *random.pick(&nodes));
        }
        let pause_ms = client.draw(|random| random.below(PAUSE_MS_MAX));
        client.sleep_ms(pause_ms).await;
    }
}

/// Clients of one bank, and their book.
struct Tellers {
    bug: Bug,
    book: Rc<RefCell<Book>>,
}

impl Workload for Tellers {
    fn machines(&self) -> Box<dyn Fn(NodeId) -> Box<dyn StateMachine>> {
        let bug = self.bug;
        let balances = [DEPOSIT; ACCOUNTS];
        Box::new(move |_node| Small::boxed(Bank { balances, bug }))
    }

    fn spawn(&mut self, cluster: &mut Cluster, plan: &Plan) {
        for _ in 0..plan.clients {
            let (nodes, book) = (cluster.node_ids(), Rc::clone(&self.book));
            let until = Time::from_ms(plan.trouble_ms);
            cluster.spawn(move |client| play(client, nodes, book, until));
        }
    }

    fn probe_command(&self) -> Bytes {
        // Nothing from nobody: no state minds.
        Bytes::new()
    }

    fn probe_query(&self) -> Bytes {
        Bytes::new()
    }

    fn judge(&self, cluster: &Cluster) -> Result<Judgement, String> {
        let book = self.book.borrow();
        if let Some(sum) = book.sums.iter().find(|sum| **sum != TOTAL) {
            return Err(format!("money: all accounts hold {sum}, and not {TOTAL}"));
        }
        let mut logged: BTreeMap<&Bytes, u64> = BTreeMap::new();
        for applied in cluster.applied_commands() {
            *logged.entry(&applied.command).or_default() += 1;
        }
        for (command, told, at) in &book.transfers {
            let times = logged.get(command).copied().unwrap_or_default();
            exactly_once::check(*told, Repeats::Never, times)
                .map_err(|broken| format!("{broken}: a transfer that ended at {at:?}"))?;
        }
        let acknowledged =
            |(_, told, at): &(Bytes, Told, Time)| (*told == Told::Acknowledged).then_some(*at);
        Ok(Judgement {
            operations: (book.transfers.len() + book.sums.len()) as u64,
            acknowledged: book.transfers.iter().filter_map(acknowledged).collect(),
            is_undecided: false,
        })
    }
}

/// Runs one seed.
///
/// # Errors
/// The promise that was broken, of Raft or of the bank.
pub(crate) fn check(seed: u64, bug: Bug) -> Result<Report, Failure> {
    let workload = move |_plan: &Plan| -> Box<dyn Workload> {
        let book = Rc::default();
        Box::new(Tellers { bug, book })
    };
    run(&Plan::draw(seed), &workload, TraceDepth::Latest(100))
}

#[allow(
    dead_code,
    reason = "the test of this example calls the rest of the file"
)]
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let seeds = arguments.first().and_then(|count| count.parse().ok());
    let bug = if arguments.iter().any(|argument| argument == "--bug") {
        Bug::ForgetsAnAccount
    } else {
        Bug::None
    };
    for seed in 1..=seeds.unwrap_or(10) {
        match check(seed, bug) {
            Ok(report) => println!("seed {seed}: {} operations", report.operations),
            Err(failure) => {
                failure.trace.iter().for_each(|record| println!("{record}"));
                println!(
                    "seed {seed} after {} ms: {}",
                    failure.at_ms, failure.message
                );
                std::process::exit(1);
            }
        }
    }
}
