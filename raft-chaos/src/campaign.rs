//! A campaign: clients that never rest, rounds of faults, healing, recovery, and the judgement.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use raft_kv::client::Write;
use raft_proto::NodeId;
use tokio::task::JoinSet;

use crate::cluster::{Cluster, Network, SEGMENT_BYTES};
use crate::history::Record;
use crate::judge::{self, Verdicts};
use crate::load::{Load, TOKEN_END};
use crate::members;
use crate::plan::{Fault, Plan, Round};
use crate::problem::Problem;
use crate::report::Report;
use crate::waiting::{LOOK_AGAIN, PATIENCE, Waiting, brief, in_vain};

/// Writes that must go through in a round that leaves a majority.
const PROGRESS: u64 = 10;
/// Attempts to find ports of loopback that nobody takes between our choosing and using them.
const PORT_ATTEMPTS: u32 = 10;
/// What a server logs when it meets a full disk: in its log, or in a snapshot that it fetches because
/// it is behind by then.
const DISK_IS_FULL: [&str; 2] = [
    "writes wait for room on the disk",
    "No space left on device",
];
/// The key whose values fill segments.
const BALLAST: &str = "ballast";
const BALLAST_BYTES: usize = 1 << 20;
/// Values that fill what is left of a segment and the next one, which is there already: then a full
/// disk is met.
const BALLAST_VALUES: u64 = 2 * SEGMENT_BYTES / BALLAST_BYTES as u64;

/// What a campaign does.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program under test.
    pub binary: PathBuf,
    /// An empty directory for certificates, data and logs.
    pub directory: PathBuf,
    /// How many servers, from 3 to 7.
    pub nodes: u64,
    /// How many clients, each with one call at a time.
    pub clients: u64,
    /// What is drawn is drawn from this.
    pub seed: u64,
    /// Where the servers are.
    pub network: Network,
    /// What happens.
    pub rounds: Rounds,
    /// Whether every second is printed when it is over.
    pub progress: Progress,
}

/// What happens in a campaign.
#[derive(Clone, Debug)]
pub enum Rounds {
    /// These rounds.
    Given(Vec<Round>),
    /// Rounds drawn from the seed, until the time is over.
    Drawn {
        /// How long.
        duration: Duration,
    },
}

/// Whether a campaign prints what happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Every second.
    Shown,
    /// Nothing.
    Hidden,
}

/// Runs a campaign to its end and judges it.
///
/// # Panics
/// If the machine has no thread left to run it on.
#[must_use]
pub fn run(options: Options) -> Report {
    // The thread moves to the clients' host and must not come back to anybody.
    let campaign = std::thread::Builder::new()
        .name("campaign".to_owned())
        .spawn(move || run_here(&options));
    let campaign = campaign.expect("a thread can be started");
    campaign.join().expect("a campaign reports what is wrong")
}

fn run_here(options: &Options) -> Report {
    let mut report = Report::new(options);
    let began = Instant::now();
    if let Err(problem) = attempt(options, &mut report) {
        report.problems.push(problem);
    }
    report.took = began.elapsed();
    report
}

fn attempt(options: &Options, report: &mut Report) -> Result<(), Problem> {
    // A copy: whoever builds meanwhile must not change the program under test.
    let binary = options.directory.join("raft-kv");
    std::fs::copy(&options.binary, &binary).map_err(Problem::io("copy raft-kv"))?;
    for attempt in 0..PORT_ATTEMPTS {
        let directory = options.directory.join(format!("cluster-{attempt}"));
        std::fs::create_dir_all(&directory).map_err(Problem::io("make a directory"))?;
        let mut cluster = Cluster::prepare(&binary, &directory, options.nodes, options.network)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Problem::io("make a runtime"))?;
        match runtime.block_on(start(&mut cluster)) {
            Err(Problem::Died { log, .. }) if log.contains("cannot listen") => continue,
            started => started?,
        }
        return runtime.block_on(play(options, cluster, report));
    }
    let attempts = PORT_ATTEMPTS;
    Err(Problem::NoPorts { attempts })
}

async fn start(cluster: &mut Cluster) -> Result<(), Problem> {
    cluster.heal()?;
    let mut campaign = Waiting::new(cluster);
    campaign.recovered().await
}

async fn play(options: &Options, cluster: Cluster, report: &mut Report) -> Result<(), Problem> {
    let load = Load::begin();
    let clients = load.start(options.clients, options.seed, cluster.access());
    let shown = match options.progress {
        Progress::Shown => Some(tokio::spawn(show(Arc::clone(&load)))),
        Progress::Hidden => None,
    };
    let mut campaign = Campaign {
        cluster,
        load: Arc::clone(&load),
        report,
    };
    let played = campaign.rounds(options).await;
    load.end();
    let ended = campaign.end_clients(clients).await;
    if let Some(shown) = shown {
        shown.abort();
    }
    let records = load.take_records();
    let mut closed = Ok(());
    if played.is_ok() && ended.is_ok() {
        closed = campaign.close(&records).await;
    }
    let Verdicts {
        keys,
        undecided,
        problems,
    } = judge::linearizable(&records);
    report.keys = keys;
    report.undecided = undecided;
    report.problems.extend(load.take_problems());
    report.problems.extend(problems);
    report.seconds = load.timeline.all();
    if report.outcome().is_failure() || closed.is_err() || played.is_err() {
        let path = options.directory.join("history.txt");
        let lines: Vec<_> = records.iter().map(|one| format!("{one:?}\n")).collect();
        std::fs::write(&path, lines.concat()).map_err(Problem::io("write the history"))?;
    }
    played.and(ended).and(closed)
}

/// Prints every second when it is over.
async fn show(load: Arc<Load>) {
    let mut printed = 0;
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        let seconds = load.timeline.finished();
        for (number, second) in seconds.iter().enumerate().skip(printed) {
            println!("{}", second.line(number));
        }
        printed = seconds.len();
    }
}

struct Campaign<'a> {
    cluster: Cluster,
    load: Arc<Load>,
    report: &'a mut Report,
}

impl Campaign<'_> {
    async fn rounds(&mut self, options: &Options) -> Result<(), Problem> {
        match &options.rounds {
            Rounds::Given(rounds) => {
                for round in rounds {
                    self.round(round).await?;
                }
            }
            Rounds::Drawn { duration } => {
                let deadline = Instant::now() + *duration;
                let mut plan = Plan::new(options.seed, options.nodes as usize, options.network);
                while Instant::now() < deadline {
                    self.round(&plan.next_round()).await?;
                }
            }
        }
        Ok(())
    }

    async fn round(&mut self, round: &Round) -> Result<(), Problem> {
        let line_up = self.line_up(round.turn).await?;
        let reach = round.reach(line_up.len());
        let mut transfers = JoinSet::new();
        for fault in &round.faults {
            self.load.timeline.event(fault.describe(&line_up));
            self.inject(fault, &line_up, &mut transfers).await?;
        }
        if reach.can_progress() {
            self.progressed(round, &line_up).await?;
        }
        let until = Instant::now() + round.hold;
        while Instant::now() < until {
            self.cluster.check()?;
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.load.timeline.event("heal".to_owned());
        self.cluster.heal()?;
        let healed = Instant::now();
        Waiting::new(&mut self.cluster).recovered().await?;
        // A transfer ends by itself, at its deadline at the latest.
        while let Some(done) = transfers.join_next().await {
            if let Ok(Some(said)) = done {
                self.load.timeline.event(said);
            }
        }
        let took = healed.elapsed();
        self.load
            .timeline
            .event(format!("recovered in {} ms", took.as_millis()));
        self.report.recoveries.push(took);
        Ok(())
    }

    /// The leader, then its followers, turned.
    async fn line_up(&mut self, turn: usize) -> Result<Vec<u64>, Problem> {
        let client = Waiting::new(&mut self.cluster).client()?;
        let leader = client
            .prefer_leader()
            .await
            .map_err(|_| in_vain("a leader"))?;
        let leader = leader.id.0;
        let ids = self.cluster.ids().into_iter();
        let mut followers: Vec<_> = ids.filter(|id| *id != leader).collect();
        let turn = turn % followers.len().max(1);
        followers.rotate_left(turn);
        Ok([vec![leader], followers].concat())
    }

    async fn inject(
        &mut self,
        fault: &Fault,
        line_up: &[u64],
        transfers: &mut JoinSet<Option<String>>,
    ) -> Result<(), Problem> {
        let cluster = &mut self.cluster;
        match fault {
            Fault::Kill { places } => {
                for place in places {
                    cluster.kill(line_up[*place])?;
                }
            }
            Fault::Restart { places } => {
                let ids = places.iter().map(|place| line_up[*place]);
                let running: Vec<_> = ids.filter(|id| cluster.runs(*id)).collect();
                let free = running.into_iter().filter(|id| !cluster.is_paused(*id));
                let ids: Vec<_> = free.collect();
                for id in &ids {
                    cluster.kill(*id)?;
                }
                for id in &ids {
                    cluster.start(*id)?;
                }
            }
            Fault::Pause { place } => cluster.pause(line_up[*place])?,
            Fault::Partition(shape) => {
                let cuts = shape.cuts(line_up.len()).into_iter();
                cluster.cut(cuts.map(|(from, to)| (line_up[from], line_up[to])))?;
            }
            Fault::Unplug { place } => cluster.unplug(line_up[*place])?,
            Fault::Transfer { place } => {
                let client = Waiting::new(cluster).client()?;
                let to = line_up[*place];
                transfers.spawn(async move {
                    let refused = client.transfer_leadership(NodeId(to)).await.err()?;
                    Some(format!("n{to} was not handed leadership: {refused}"))
                });
            }
            Fault::Replace { place } => {
                let said = members::replace(cluster, line_up[*place]).await?;
                self.load.timeline.event(said);
            }
            Fault::Snapshot { place } => self.snapshot(line_up[*place]).await?,
            Fault::FillDisk => self.fill_disk().await?,
        }
        Ok(())
    }

    /// Waits until writes have gone through that were called after the faults of the round.
    async fn progressed(&mut self, round: &Round, line_up: &[u64]) -> Result<(), Problem> {
        self.load.count_progress();
        let began = Instant::now();
        while self.load.progress() < PROGRESS {
            self.cluster.check()?;
            if began.elapsed() > PATIENCE {
                let faults = round.faults.iter().map(|fault| fault.describe(line_up));
                let faults: Vec<_> = faults.collect();
                let client = Waiting::new(&mut self.cluster).client()?;
                let statuses = Waiting::new(&mut self.cluster).statuses(&client).await;
                let seen: Vec<_> = statuses.iter().map(brief).collect();
                return Err(in_vain(&format!(
                    "writes to go through beside: {}; {}",
                    faults.join(", "),
                    seen.join(", ")
                )));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let took = began.elapsed();
        let said = format!("writes went on after {} ms", took.as_millis());
        self.load.timeline.event(said);
        self.report.interruptions.push(took);
        Ok(())
    }

    /// Leaves no room on the small disk, and writes until that is met.
    async fn fill_disk(&mut self) -> Result<(), Problem> {
        let Some(id) = self.cluster.fill_disk()? else {
            let said = "the node with the small disk is gone";
            self.load.timeline.event(said.to_owned());
            return Ok(());
        };
        self.load.timeline.event(format!("no room on n{id}"));
        let before = self.cluster.count_in_log(id, DISK_IS_FULL);
        let client = Waiting::new(&mut self.cluster).client()?;
        let mut last = None;
        for _ in 0..BALLAST_VALUES {
            self.cluster.check()?;
            // A leader whose disk is full hands over, and the write may be lost on the way.
            let written = client.put(BALLAST, vec![0; BALLAST_BYTES]).await.ok();
            last = written.map(|written| written.revision).or(last);
        }
        let deadline = Instant::now() + PATIENCE;
        while self.cluster.count_in_log(id, DISK_IS_FULL) == before {
            self.cluster.check()?;
            if Instant::now() > deadline {
                return Err(in_vain(&format!("n{id} to meet its full disk")));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        if let Some(revision) = last {
            // Or every snapshot from now on would hold all these values. Another round may do it.
            let _ = client.write(&Write::compact(revision)).await;
        }
        Ok(())
    }

    async fn snapshot(&mut self, id: u64) -> Result<(), Problem> {
        let address = self.cluster.address(id);
        let client = Waiting::new(&mut self.cluster).client()?;
        let taken = tokio::time::timeout(PATIENCE, client.take_snapshot(&address)).await;
        let said = match taken {
            Ok(Ok(offer)) => format!("snapshot of {} bytes", offer.total_bytes),
            Ok(Err(error)) => format!("no snapshot: {error}"),
            Err(_) => return Err(in_vain(&format!("a snapshot of n{id}"))),
        };
        self.load.timeline.event(said);
        Ok(())
    }

    async fn end_clients(
        &mut self,
        mut clients: JoinSet<Result<(), Problem>>,
    ) -> Result<(), Problem> {
        while let Some(ended) = clients.join_next().await {
            match ended {
                Ok(ended) => ended?,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Looks at the state that is left, and stops everything in good order.
    async fn close(&mut self, records: &[Record]) -> Result<(), Problem> {
        let mut waiting = Waiting::new(&mut self.cluster);
        waiting.converged().await?;
        let client = waiting.client()?;
        for key in judge::token_keys(records) {
            let found = client.get(key.as_bytes()).await?;
            let value = found.map(|pair| String::from_utf8_lossy(&pair.value).into_owned());
            let value = value.unwrap_or_default();
            self.report.tokens += value.matches(TOKEN_END).count();
            let problems = judge::counted_once(records, &key, &value);
            self.report.problems.extend(problems);
        }
        client.close(PATIENCE).await;
        self.cluster.ask_to_end()?;
        let deadline = Instant::now() + PATIENCE;
        while !self.cluster.have_ended()? {
            if Instant::now() > deadline {
                return Err(in_vain("all servers to end"));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.cluster.verify_logs()
    }
}
