//! What a campaign has shown, for people and as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::campaign::Options;
use crate::cluster::Network;
use crate::problem::Problem;
use crate::timeline::{Second, percentile_of};

/// What a campaign has shown.
#[derive(Debug)]
pub struct Report {
    /// What is wrong; nothing, in a sound campaign.
    pub problems: Vec<Problem>,
    /// Keys whose histories were too hard to judge.
    pub undecided: Vec<String>,
    /// From each healing until writes went through and everybody followed one leader.
    pub recoveries: Vec<Duration>,
    /// From each round's faults until writes had gone through, where they must.
    pub interruptions: Vec<Duration>,
    pub(crate) seed: u64,
    pub(crate) nodes: u64,
    pub(crate) network: Network,
    pub(crate) took: Duration,
    pub(crate) keys: usize,
    /// Appends found in the final state.
    pub(crate) tokens: usize,
    pub(crate) seconds: Vec<Second>,
}

/// What a campaign means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing is wrong.
    Sound,
    /// Nothing was found wrong, but not everything could be judged.
    Undecided,
    /// Something is wrong.
    Wrong,
}

impl Outcome {
    pub(crate) const fn is_failure(self) -> bool {
        match self {
            Self::Sound => false,
            Self::Undecided | Self::Wrong => true,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Sound => "sound",
            Self::Undecided => "undecided",
            Self::Wrong => "wrong",
        }
    }
}

impl Report {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            problems: Vec::new(),
            undecided: Vec::new(),
            recoveries: Vec::new(),
            interruptions: Vec::new(),
            seed: options.seed,
            nodes: options.nodes,
            network: options.network,
            took: Duration::ZERO,
            keys: 0,
            tokens: 0,
            seconds: Vec::new(),
        }
    }

    /// What it means.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match (self.problems.len(), self.undecided.len()) {
            (0, 0) => Outcome::Sound,
            (0, _) => Outcome::Undecided,
            _ => Outcome::Wrong,
        }
    }

    /// Calls that were answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.seconds.iter().map(Second::answered).sum()
    }

    fn unknown(&self) -> u64 {
        self.seconds.iter().map(Second::unknown).sum()
    }

    fn failed(&self) -> u64 {
        self.seconds.iter().map(Second::failed).sum()
    }

    /// Some lines for people.
    #[must_use]
    pub fn summary(&self) -> String {
        let ms = |percent| match percentile_of(&self.seconds, percent) {
            Some(us) => format!("{:.1} ms", us as f64 / 1_000.0),
            None => "-".to_owned(),
        };
        let mut text = format!(
            "{} nodes, seed {}, {:?}, {:.0} s: {}\n\
             rounds of faults   {}, healed after at most {} ms\n\
             majority left      in {} of them, writes went on after at most {} ms\n\
             calls              {} answered, {} of unknown outcome, {} failed\n\
             latency            p50 {}, p99 {}\n\
             judged             {} keys, {} of them undecided; {} appends counted at the end\n",
            self.nodes,
            self.seed,
            self.network,
            self.took.as_secs_f64(),
            self.outcome().name(),
            self.recoveries.len(),
            longest_ms(&self.recoveries),
            self.interruptions.len(),
            longest_ms(&self.interruptions),
            self.answered(),
            self.unknown(),
            self.failed(),
            ms(50),
            ms(99),
            self.keys,
            self.undecided.len(),
            self.tokens,
        );
        for problem in &self.problems {
            // A string takes everything.
            let _ = writeln!(text, "WRONG: {problem}");
        }
        for key in &self.undecided {
            let _ = writeln!(text, "UNDECIDED: the history of key {key}");
        }
        text
    }

    /// Everything, the timeline too.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let problems: Vec<_> = self.problems.iter().map(ToString::to_string).collect();
        let all_ms = |all: &[Duration]| all.iter().map(Duration::as_millis).collect::<Vec<_>>();
        let timeline: Vec<_> = self.seconds.iter().map(Second::to_json).collect();
        json!({
            "outcome": self.outcome().name(),
            "nodes": self.nodes,
            "seed": self.seed,
            "namespaces": self.network == Network::Namespaces,
            "seconds": self.took.as_secs_f64(),
            "recoveries_ms": all_ms(&self.recoveries),
            "interruptions_ms": all_ms(&self.interruptions),
            "answered": self.answered(),
            "unknown": self.unknown(),
            "failed": self.failed(),
            "p50_us": percentile_of(&self.seconds, 50),
            "p99_us": percentile_of(&self.seconds, 99),
            "keys": self.keys,
            "undecided": self.undecided,
            "appends_counted": self.tokens,
            "problems": problems,
            "timeline": timeline,
        })
    }
}

fn longest_ms(all: &[Duration]) -> u128 {
    all.iter().max().map_or(0, Duration::as_millis)
}
