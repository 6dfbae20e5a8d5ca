//! Runs the scripts of `tests/scripts`: what the log writes and what recovery makes of it.
//!
//! Apart from the recorded text, the runner checks after every command that the log agrees with a
//! naive model of it, and after every open that nothing synced was lost.
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::error::Error;
use std::path::Path;

use goldenscript::{ArgumentConsumer, Command, Context};
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
        let lost = match recovered.lost_copies {
            0 => String::new(),
            lost => format!("; {lost} with one copy of its identity lost"),
        };
        self.pair.synced = found.clone();
        self.pair.wanted = found;
        self.pair.dir = Some(dir);
        self.pair.log = Some(log);
        Ok(format!(
            "entries {} to {}, term {}, snapshot {}, copied {}{torn}{lost}",
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
        let output = match command.name.as_str() {
            "open" => self.open()?,
            "crash" => {
                self.pair.log = None;
                self.pair.dir = None;
                self.pair.vfs = self.pair.vfs.crash(&mut |_| false);
                String::new()
            }
            "dump" => {
                let detail = match args.next_pos() {
                    Some("records") => Detail::Records,
                    Some(other) => return Err(format!("unknown detail {other}").into()),
                    None => Detail::Batches,
                };
                survey(&self.pair.vfs, DIRECTORY.as_ref(), detail)?.to_string()
            }
            "zero" | "rot" => {
                let segment = number(&mut args)?;
                let offset = key(&mut args, "at")?.ok_or("where?")?;
                let bytes = key(&mut args, "bytes")?.unwrap_or(512);
                let fill = if command.name == "zero" { 0 } else { 0xab };
                self.tampered = true;
                let fill = vec![fill; bytes as usize];
                self.pair
                    .vfs
                    .corrupt(&segment_path(segment), offset, &fill)?;
                String::new()
            }
            name => {
                let step = step(name, &mut args)?;
                self.step(&step)?
            }
        };
        args.reject_next()?;
        Ok(output)
    }
}

/// The step of this name.
fn step(name: &str, args: &mut ArgumentConsumer<'_>) -> Result<Step, Box<dyn Error>> {
    Ok(match name {
        "append" | "stage" => {
            let count = number(args)?;
            let bytes = key(args, "bytes")?.unwrap_or(100) as usize;
            if name == "append" {
                Step::Append { count, bytes }
            } else {
                Step::Stage { count, bytes }
            }
        }
        "replace" => Step::Replace {
            removed: number(args)?,
        },
        "truncate" => Step::Truncate {
            removed: number(args)?,
        },
        "members" => Step::Members {
            voters: number(args)?,
        },
        "compact" => Step::Compact {
            left: key(args, "leave")?.unwrap_or(0),
        },
        "install" => Step::Install {
            beyond: key(args, "beyond")?.unwrap_or(0),
        },
        "vote" => Step::Vote,
        "vouch" => Step::Vouch,
        other => return Err(format!("unknown command {other}").into()),
    })
}

fn number(args: &mut ArgumentConsumer<'_>) -> Result<u64, Box<dyn Error>> {
    Ok(args.next_pos().ok_or("how many?")?.parse()?)
}

fn key(args: &mut ArgumentConsumer<'_>, name: &str) -> Result<Option<u64>, Box<dyn Error>> {
    Ok(args.take_key(name).map(str::parse).transpose()?)
}
