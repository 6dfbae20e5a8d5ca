//! Runs the scripts of `tests/scripts`: what the log writes and what recovery makes of it.
//!
//! Apart from the recorded text, the runner checks after every command that the log agrees with a
//! naive model of it, and after every open that nothing synced was lost.
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::error::Error;
use std::path::Path;

use goldenscript::{Command, Context};
use raft_log::inspect::{Detail, survey};
use raft_log::vfs::MemVfs;
use raft_log::{DamageKind, LogOptions, OpenError};

mod support;

use support::{DIRECTORY, Model, Pair, Step, open, segment_path};

#[test]
fn append_and_truncate() {
    run("append_and_truncate");
}

#[test]
fn rotate_and_compact() {
    run("rotate_and_compact");
}

#[test]
fn torn_and_corrupt() {
    run("torn_and_corrupt");
}

fn run(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/scripts")
        .join(name);
    goldenscript::run(&mut Runner::new(), path).unwrap();
}

struct Runner {
    pair: Pair,
    /// Whether bytes were changed behind the log's back: then it may hold less than the model.
    tampered: bool,
}

impl Runner {
    fn new() -> Self {
        let pair = Pair::new(&MemVfs::new(1), LogOptions::small());
        Self {
            pair,
            tampered: false,
        }
    }

    fn open(&mut self) -> Result<String, Box<dyn Error>> {
        self.pair.log = None;
        self.pair.dir = None;
        let (dir, log, recovered) = match open(&self.pair.vfs) {
            Ok(opened) => opened,
            Err(OpenError::Damaged(damage)) => {
                let kind = match damage.kind {
                    DamageKind::Suspect(_) => "suspect",
                    DamageKind::UnknownEnd(_) => "unknown end",
                };
                return Err(format!("{kind}: {damage}").into());
            }
            Err(other) => return Err(other.into()),
        };
        let found = Model::of_log(&log, &recovered);
        assert!(
            self.tampered || found == self.pair.synced,
            "nothing synced is lost"
        );
        assert!(
            self.pair.synced.entries.starts_with(&found.entries),
            "nothing is invented"
        );
        let torn = recovered.dropped_torn.map_or(String::new(), |torn| {
            let entries = torn
                .entries
                .map(|(first, last)| format!(", entries {first} to {last}"));
            format!(
                "; dropped a torn batch at {}{}",
                torn.offset,
                entries.unwrap_or_default()
            )
        });
        self.pair.synced = found.clone();
        self.pair.wanted = found;
        self.pair.dir = Some(dir);
        self.pair.log = Some(log);
        Ok(format!(
            "entries {} to {}, term {}, snapshot {}, copied {}{torn}",
            recovered.first_index,
            recovered.last,
            recovered.hard_state.term.0,
            recovered.snapshot.unwrap_or_default(),
            recovered.copied_entries,
        ))
    }

    fn step(&mut self, step: &Step) -> Result<String, Box<dyn Error>> {
        self.pair.run(step).unwrap();
        let log = self.pair.log.as_ref().unwrap();
        assert_eq!(log.last(), self.pair.synced.last(), "log and model agree");
        let mut text = format!("durable up to {}", log.last());
        if log.last_staged() != log.last() {
            text.push_str(&format!(", staged up to {}", log.last_staged()));
        }
        Ok(text)
    }
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let step = match command.name.as_str() {
            "open" => None,
            "crash" | "dump" => None,
            "zero" | "rot" => {
                let segment = args.next_pos().ok_or("which segment?")?.parse()?;
                let offset: u64 = args
                    .take_key("at")
                    .map(str::parse)
                    .transpose()?
                    .ok_or("where?")?;
                let bytes: usize = args
                    .take_key("bytes")
                    .map(str::parse)
                    .transpose()?
                    .unwrap_or(512);
                let fill = if command.name == "zero" { 0 } else { 0xab };
                self.tampered = true;
                self.pair
                    .vfs
                    .corrupt(&segment_path(segment), offset, &vec![fill; bytes])?;
                None
            }
            "append" | "stage" => {
                let count = args.next_pos().ok_or("how many?")?.parse()?;
                let bytes = args
                    .take_key("bytes")
                    .map(str::parse)
                    .transpose()?
                    .unwrap_or(100);
                Some(if command.name == "append" {
                    Step::Append { count, bytes }
                } else {
                    Step::Stage { count, bytes }
                })
            }
            "replace" => Some(Step::Replace {
                removed: args.next_pos().ok_or("how many?")?.parse()?,
            }),
            "truncate" => Some(Step::Truncate {
                removed: args.next_pos().ok_or("how many?")?.parse()?,
            }),
            "compact" => Some(Step::Compact {
                left: args
                    .take_key("leave")
                    .map(str::parse)
                    .transpose()?
                    .unwrap_or(0),
            }),
            "install" => Some(Step::Install {
                beyond: args
                    .take_key("beyond")
                    .map(str::parse)
                    .transpose()?
                    .unwrap_or(0),
            }),
            "vote" => Some(Step::Vote),
            "vouch" => Some(Step::Vouch),
            "members" => Some(Step::Members {
                voters: args.next_pos().ok_or("how many?")?.parse()?,
            }),
            other => return Err(format!("unknown command {other}").into()),
        };
        let output = match (step, command.name.as_str()) {
            (Some(step), _) => self.step(&step)?,
            (None, "open") => self.open()?,
            (None, "crash") => {
                self.pair.log = None;
                self.pair.dir = None;
                self.pair.vfs = self.pair.vfs.crash(&mut |_| false);
                String::new()
            }
            (None, "dump") => {
                let records = args.next_pos().is_some_and(|arg| arg == "records");
                let detail = if records {
                    Detail::Records
                } else {
                    Detail::Batches
                };
                survey(&self.pair.vfs, DIRECTORY.as_ref(), detail)?.to_string()
            }
            (None, _) => String::new(),
        };
        args.reject_next()?;
        Ok(output)
    }
}
