//! An example of a workload: registers that are swapped and read, with a history that is checked
//! for linearizability and exactly-once.
//!
//! A write returns what was there before, so that a command that counts twice, or not at all,
//! shows. Every value is written once. Nothing is sent twice, so a value that is applied twice, or
//! applied although its client was told that it never will be, is a broken promise.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use raft_core::Time;
use raft_node::{Applied, ProposeError, ReadConsistency, Small, SmallState, StateMachine};
use raft_proto::NodeId;
use xxhash_rust::xxh3::xxh3_64;

use crate::campaign::{Judgement, Plan, Workload};
use crate::checker::exactly_once::{self, Repeats, Told};
use crate::checker::linearizability::{Bound, Model, Operation, judge};
use crate::client::{CallError, SimClient};
use crate::cluster::Cluster;

/// Registers of a seed.
const KEYS: u64 = 3;
/// How long a client waits for an answer, in milliseconds.
const TIMEOUT_MS: u64 = 400;
/// How long the first client waits, which wants to hear what nodes say at their own deadline.
const PATIENT_TIMEOUT_MS: u64 = 7_000;
/// Longest pause of a client between two operations, in milliseconds.
const PAUSE_MS_MAX: u64 = 40;
/// Of the search for an order, per register; beyond it it is given up.
const BOUND: Bound<'static> = Bound::Steps(2_000_000);
/// The register that probes write; clients leave it alone.
const PROBE_KEY: u8 = u8::MAX;
/// A register and its value, encoded.
const REGISTER_BYTES: usize = 9;
/// Values of one client.
const VALUES_PER_CLIENT: u64 = 1_000_000;

/// The state machine: values by register.
#[derive(Default)]
pub struct RegisterMachine(BTreeMap<u8, u64>);

impl SmallState for RegisterMachine {
    fn apply(&mut self, applied: Applied<'_>) -> Bytes {
        let old = decode(applied.command).and_then(|(key, value)| self.0.insert(key, value));
        number(old.unwrap_or(0))
    }

    fn query(&mut self, query: &Bytes) -> Bytes {
        let key = query.first().copied().unwrap_or_default();
        number(self.0.get(&key).copied().unwrap_or(0))
    }

    fn state_hash(&self) -> Option<u64> {
        Some(xxh3_64(&self.save()))
    }

    fn save(&self) -> Bytes {
        let registers = self.0.iter();
        let encoded = registers.flat_map(|(key, value)| encode(*key, *value));
        encoded.collect()
    }

    fn load(&mut self, saved: &[u8]) -> io::Result<()> {
        let registers = saved.chunks(REGISTER_BYTES).map(Bytes::copy_from_slice);
        let registers: Option<_> = registers.map(|bytes| decode(&bytes)).collect();
        self.0 = registers.ok_or(io::ErrorKind::InvalidData)?;
        Ok(())
    }
}

fn encode(key: u8, value: u64) -> Bytes {
    let mut command = vec![key];
    command.extend_from_slice(&value.to_be_bytes());
    command.into()
}

fn decode(command: &Bytes) -> Option<(u8, u64)> {
    let (key, value) = command.split_first()?;
    Some((*key, u64::from_be_bytes(value.try_into().ok()?)))
}

fn number(value: u64) -> Bytes {
    Bytes::copy_from_slice(&value.to_be_bytes())
}

/// What a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    Swap(u8, u64),
    Get(u8),
}

/// How an operation ended, as the client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ended {
    /// With the value that was there before.
    Answered(Time, u64),
    /// It certainly has no effect.
    Refused,
    /// It may take effect, now or later.
    Unknown,
}

struct Call {
    client: u64,
    ask: Ask,
    called: Time,
    ended: Ended,
}

/// See the module's page.
#[derive(Default)]
pub struct Registers {
    calls: Rc<RefCell<Vec<Call>>>,
}

impl Registers {
    /// The workload of a plan.
    #[must_use]
    pub fn boxed(_plan: &Plan) -> Box<dyn Workload> {
        Box::new(Self::default())
    }
}

impl Workload for Registers {
    fn machines(&self) -> Box<dyn Fn(NodeId) -> Box<dyn StateMachine>> {
        Box::new(|_| Small::boxed(RegisterMachine::default()))
    }

    fn spawn(&mut self, cluster: &mut Cluster, plan: &Plan) {
        let nodes = cluster.node_ids();
        for _ in 0..plan.clients {
            let (nodes, calls) = (nodes.clone(), Rc::clone(&self.calls));
            let (until, operations) = (Time::from_ms(plan.trouble_ms), plan.operations_max);
            cluster.spawn(move |client| play(client, nodes, calls, (until, operations)));
        }
    }

    fn probe_command(&self) -> Bytes {
        encode(PROBE_KEY, 1)
    }

    fn probe_query(&self) -> Bytes {
        Bytes::copy_from_slice(&[PROBE_KEY])
    }

    fn judge(&self, cluster: &Cluster) -> Result<Judgement, String> {
        let calls = self.calls.borrow();
        let applied = applied_values(cluster);
        for call in calls.iter() {
            check_outcome(call, &applied)?;
        }
        let answers = calls
            .iter()
            .filter_map(|call| match (call.ask, &call.ended) {
                (Ask::Swap(..), Ended::Answered(at, _)) => Some(*at),
                (
                    Ask::Swap(..) | Ask::Get(_),
                    Ended::Answered(..) | Ended::Refused | Ended::Unknown,
                ) => None,
            });
        Ok(Judgement {
            operations: calls.len() as u64,
            acknowledged: answers.collect(),
            is_undecided: judge(&RegisterModel, &history(&calls), BOUND)?.is_undecided(),
        })
    }
}

/// Asks random nodes for random things; goes back to a node that answered, because it leads.
async fn play(
    client: SimClient,
    nodes: Vec<NodeId>,
    calls: Rc<RefCell<Vec<Call>>>,
    (until, operations): (Time, u64),
) {
    let mut favourite = None;
    let timeout_ms = match client.id() {
        1 => PATIENT_TIMEOUT_MS,
        _ => TIMEOUT_MS,
    };
    for serial in 1..=operations {
        if client.now() >= until {
            return;
        }
        let (key, other) = client.draw(|r| (r.below(KEYS) as u8, *r.pick(&nodes)));
        let stays = client.draw(|random| random.per_mille(900));
        let node = favourite.filter(|_| stays).unwrap_or(other);
        let called = client.now();
        let is_write = client.draw(|random| random.per_mille(600));
        let (ask, outcome) = if is_write {
            let value = client.id() * VALUES_PER_CLIENT + serial;
            let outcome = client.write(node, encode(key, value), timeout_ms).await;
            (Ask::Swap(key, value), outcome)
        } else {
            let query = Bytes::copy_from_slice(&[key]);
            let level = ReadConsistency::Linearizable;
            let outcome = client.read(node, query, level, timeout_ms).await;
            (Ask::Get(key), outcome)
        };
        let ended = ended(client.now(), outcome);
        favourite = match &ended {
            Ended::Answered(..) => Some(node),
            Ended::Refused | Ended::Unknown => None,
        };
        calls.borrow_mut().push(Call {
            client: client.id(),
            ask,
            called,
            ended,
        });
        let ms = client.draw(|random| random.below(PAUSE_MS_MAX));
        client.sleep_ms(ms).await;
    }
}

fn ended(now: Time, outcome: Result<Bytes, CallError>) -> Ended {
    match outcome {
        Ok(reply) => match reply[..].try_into() {
            Ok(bytes) => Ended::Answered(now, u64::from_be_bytes(bytes)),
            Err(_) => Ended::Unknown,
        },
        Err(CallError::TimedOut | CallError::Propose(ProposeError::Unknown)) => Ended::Unknown,
        Err(CallError::Propose(_) | CallError::Read(_)) => Ended::Refused,
    }
}

/// Every value that was applied, and how often.
fn applied_values(cluster: &Cluster) -> BTreeMap<u64, u64> {
    let mut values = BTreeMap::new();
    for command in cluster.applied_commands() {
        if let Some((key, value)) = decode(&command.command)
            && key != PROBE_KEY
        {
            *values.entry(value).or_default() += 1;
        }
    }
    values
}

fn check_outcome(call: &Call, applied: &BTreeMap<u64, u64>) -> Result<(), String> {
    let Ask::Swap(_, value) = call.ask else {
        return Ok(());
    };
    let told = match call.ended {
        Ended::Answered(..) => Told::Acknowledged,
        Ended::Refused => Told::Refused,
        Ended::Unknown => Told::Unknown,
    };
    let times = applied.get(&value).copied().unwrap_or_default();
    let checked = exactly_once::check(told, Repeats::Never, times);
    checked.map_err(|broken| format!("{broken}: {value} of client {}", call.client))
}

/// What the linearizability checker gets. Left out are operations without effect, and writes that
/// nobody knows the outcome of and nobody saw the value of: if those took effect, then right before
/// another one of that kind, so the rest is as linearizable without them; and each of them would
/// double the search.
fn history(calls: &[Call]) -> Vec<Operation<Ask, u64>> {
    let answers = calls.iter().filter_map(|call| match call.ended {
        Ended::Answered(_, value) => Some(value),
        Ended::Refused | Ended::Unknown => None,
    });
    let seen: BTreeSet<u64> = answers.collect();
    let operation = |call: &Call| {
        let answered = match (call.ask, &call.ended) {
            (_, Ended::Answered(at, value)) => Some((*at, *value)),
            (Ask::Swap(_, value), Ended::Unknown) if seen.contains(&value) => None,
            (_, Ended::Refused | Ended::Unknown) => return None,
        };
        Some(Operation {
            client: call.client,
            input: call.ask,
            called: call.called,
            answered,
        })
    };
    calls.iter().filter_map(operation).collect()
}

struct RegisterModel;

impl Model for RegisterModel {
    type Part = u8;
    type State = u64;
    type Input = Ask;
    type Output = u64;

    fn part(&self, ask: &Ask) -> u8 {
        match ask {
            Ask::Swap(key, _) | Ask::Get(key) => *key,
        }
    }

    fn initial(&self, _key: &u8) -> u64 {
        0
    }

    fn step(&self, state: &u64, ask: &Ask, seen: Option<&u64>) -> Option<u64> {
        let fits = seen.is_none_or(|seen| seen == state);
        fits.then_some(match ask {
            Ask::Swap(_, value) => *value,
            Ask::Get(_) => *state,
        })
    }
}
