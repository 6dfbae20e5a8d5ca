//! `bench`: many clients over few connections, each with one request under way.

use std::cell::{Cell, RefCell};
use std::io::IsTerminal;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::task::LocalSet;

use super::args::{BenchArgs, Common, Format, Load};
use super::data::client;
use super::error::CliError;
use super::output::{print_json, print_line};
use super::pace::Pace;
use crate::client::{Client, ClientError, Session};
use crate::limits;

/// Longest latency that is told apart, in nanoseconds: ten minutes.
const LATENCY_NS_MAX: u64 = 600_000_000_000;
/// Values are slices of this much random data, each at another offset, in bytes beyond their size.
const VALUE_VARIETY_BYTES: usize = 4096;

/// Clients that share a session: fewer than may write under it at a time, so that a slow write
/// does not hold up the others.
const CLIENTS_PER_SESSION: u64 = 256;

/// Which key a request is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Random,
    Sequential,
}

/// What all clients of a run share; they run on one thread.
struct Run {
    client: Client,
    /// Sessions to write under; none if writes are one-shot.
    sessions: Vec<Session>,
    load: Load,
    total: u64,
    key_space: u64,
    order: Order,
    /// `None` if every client asks as fast as it is answered.
    pace: Option<Pace>,
    value_size: usize,
    data: Bytes,
    started: Cell<u64>,
    done: Cell<u64>,
    errors: Cell<u64>,
    /// When the last request ended.
    last_end: Cell<Instant>,
    first_error: RefCell<Option<ClientError>>,
    latency_ns: RefCell<Histogram<u64>>,
}

pub(super) async fn run(common: &Common, args: &BenchArgs) -> Result<(), CliError> {
    let data = random_bytes(args.value_size + VALUE_VARIETY_BYTES)?;
    limits::check_value(&data[..args.value_size])
        .map_err(|error| CliError::Usage(error.to_string()))?;
    let client = client(common, args.connections as usize)?;
    client.prefer_leader().await?;
    let latency_ns = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)
        .map_err(|error| CliError::Failed(format!("cannot make a histogram: {error}")))?;
    let clients = u64::from(args.clients).min(args.total);
    let run = Rc::new(Run {
        sessions: sessions(&client, args, clients).await?,
        client,
        load: args.load,
        total: args.total,
        key_space: args.key_space,
        order: if args.sequential {
            Order::Sequential
        } else {
            Order::Random
        },
        // The last thing before the clients start.
        pace: pace(args)?,
        value_size: args.value_size,
        data,
        started: Cell::new(0),
        done: Cell::new(0),
        errors: Cell::new(0),
        last_end: Cell::new(Instant::now()),
        first_error: RefCell::new(None),
        latency_ns: RefCell::new(latency_ns),
    });
    let began = Instant::now();
    let tasks = LocalSet::new();
    for number in 0..clients {
        let run = Rc::clone(&run);
        tasks.spawn_local(async move { run.one_client(number).await });
    }
    let bar = progress_bar(args.total);
    let shown = Rc::clone(&run);
    let updates = tasks.run_until(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        while shown.finished() < shown.total {
            ticks.tick().await;
            bar.set_position(shown.finished());
        }
        bar.finish_and_clear();
    });
    updates.await;
    tasks.await;
    report(common, &run, (run.last_end.get() - began).as_secs_f64())
}

impl Run {
    /// Makes requests one after the other until there are enough of all clients together.
    async fn one_client(&self, client: u64) {
        let session = self.sessions.get((client / CLIENTS_PER_SESSION) as usize);
        loop {
            let number = self.started.get();
            if number >= self.total {
                return;
            }
            self.started.set(number + 1);
            let began = match &self.pace {
                Some(pace) => pace.turn(number).await,
                None => Instant::now(),
            };
            let outcome = self.request(session, number).await;
            let ended = Instant::now();
            self.last_end.set(ended);
            match outcome {
                Ok(()) => {
                    // A u64 of nanoseconds lasts for centuries.
                    let elapsed = (ended - began).as_nanos() as u64;
                    self.latency_ns
                        .borrow_mut()
                        .saturating_record(elapsed.max(1));
                    self.done.set(self.done.get() + 1);
                }
                Err(error) => {
                    self.errors.set(self.errors.get() + 1);
                    self.first_error.borrow_mut().get_or_insert(error);
                }
            }
        }
    }

    async fn request(&self, session: Option<&Session>, number: u64) -> Result<(), ClientError> {
        let random = scatter(number);
        let key = match self.order {
            Order::Random => random % self.key_space,
            Order::Sequential => number % self.key_space,
        };
        let key = format!("bench/{key:012}");
        match self.load {
            Load::Put => {
                let offset = (random >> 32) as usize % VALUE_VARIETY_BYTES;
                let value = self.data.slice(offset..offset + self.value_size);
                match session {
                    Some(session) => session.put(key, value).await.map(drop),
                    None => self.client.put(key, value).await.map(drop),
                }
            }
            Load::Get => self.client.get(key.as_bytes()).await.map(drop),
        }
    }

    fn finished(&self) -> u64 {
        self.done.get() + self.errors.get()
    }
}

/// Sessions for the clients of a run, unless they only read or write without.
async fn sessions(
    client: &Client,
    args: &BenchArgs,
    clients: u64,
) -> Result<Vec<Session>, ClientError> {
    let mut sessions = Vec::new();
    if args.load == Load::Put && !args.one_shot {
        for _ in 0..clients.div_ceil(CLIENTS_PER_SESSION) {
            sessions.push(client.session().await?);
        }
    }
    Ok(sessions)
}

fn pace(args: &BenchArgs) -> Result<Option<Pace>, CliError> {
    let start = |rate| Pace::start(f64::from(rate), args.total);
    let pace = args.rate.map(start).transpose();
    pace.map_err(|error| CliError::Failed(format!("cannot start a thread: {error}")))
}

fn report(common: &Common, run: &Run, seconds: f64) -> Result<(), CliError> {
    let (ops, errors) = (run.done.get(), run.errors.get());
    let per_second = if seconds > 0.0 {
        ops as f64 / seconds
    } else {
        0.0
    };
    let latency = run.latency_ns.borrow();
    let us = |ns: u64| ns as f64 / 1_000.0;
    let quantile = |q: f64| us(latency.value_at_quantile(q));
    let (p50, p99, p999) = (quantile(0.50), quantile(0.99), quantile(0.999));
    let max = us(latency.max());
    match common.write_out {
        Format::Json => print_json(&json!({
            "ops": ops,
            "errors": errors,
            "seconds": seconds,
            "ops_per_s": per_second,
            "p50_us": p50,
            "p99_us": p99,
            "p999_us": p999,
            "max_us": max,
        }))?,
        Format::Simple => print_line(&format!(
            "{ops} operations, {errors} errors in {seconds:.3} s: {per_second:.0} per second\n\
             latency: p50 {p50:.0} µs, p99 {p99:.0} µs, p99.9 {p999:.0} µs, max {max:.0} µs"
        ))?,
    }
    match &*run.first_error.borrow() {
        Some(error) => Err(CliError::Failed(format!(
            "{errors} of {} requests failed; the first: {error}",
            run.total
        ))),
        None => Ok(()),
    }
}

fn progress_bar(total: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "{bar:40} {pos}/{len} {per_sec} {eta}";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style)
}

fn random_bytes(length: usize) -> Result<Bytes, CliError> {
    let mut bytes = vec![0; length];
    getrandom::fill(&mut bytes)
        .map_err(|error| CliError::Failed(format!("cannot draw random bytes: {error}")))?;
    Ok(bytes.into())
}

/// A number that looks random, and differs for every `number` (splitmix64's finisher).
fn scatter(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
