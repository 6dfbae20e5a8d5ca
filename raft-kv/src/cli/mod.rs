//! The command line: arguments in, exit code out.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 usage, 3 outcome unknown.

mod args;
mod bench;
mod cert;
mod config_file;
mod data;
mod dev;
mod error;
mod log;
mod logging;
mod member;
mod output;
mod pace;
mod pairs;
mod recover;
mod replicas;
mod serve;
mod snapshot;
mod status;
mod txn;

use std::future::Future;
use std::process::ExitCode;

use self::args::{Cli, Command};
use self::config_file::{ParseError, Parsed};
pub use self::error::CliError;

/// Runs the program with the process's arguments and environment.
#[must_use]
pub fn main() -> ExitCode {
    let outcome = match config_file::parse(std::env::args_os().collect()) {
        Ok(parsed) => run(parsed),
        Err(ParseError::Arguments(error)) => error.exit(),
        Err(error) => Err(CliError::Usage(error.to_string())),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let message = error.to_string();
            if !message.is_empty() {
                eprintln!("error: {message}");
            }
            error.exit_code()
        }
    }
}

fn run(parsed: Parsed) -> Result<(), CliError> {
    let Parsed { cli, effective } = parsed;
    let Cli { common, command } = cli;
    match command {
        Command::Dev(args) => dev::run(&args),
        Command::Cert(args) => cert::run(&args),
        Command::Server(args) => serve::run(&common, args, &effective),
        Command::Log(args) => log::run(&common, &args),
        Command::Put(args) => block_on(data::put(&common, args)),
        Command::Get(args) => block_on(data::get(&common, args)),
        Command::Del(args) => block_on(data::delete(&common, args)),
        Command::Txn => block_on(txn::run(&common)),
        Command::Compact(args) => block_on(data::compact(&common, &args)),
        Command::Append(args) => block_on(data::append(&common, args)),
        Command::Cas(args) => block_on(data::compare_and_swap(&common, args)),
        Command::Status => block_on(status::status(&common)),
        Command::Transfer(args) => block_on(status::transfer(&common, &args)),
        Command::VerifyReplicas(args) => block_on(replicas::verify(&common, &args)),
        Command::Member(args) => block_on(member::run(&common, &args)),
        Command::Snapshot(args) => snapshot::run(&common, &args),
        Command::Recover(args) => recover::run(&common, &args),
        Command::Bench(args) => block_on(bench::run(&common, &args)),
    }
}

/// One thread does it all: commands are short, and a load generator on the servers' machine had
/// better leave the other processors to them.
fn block_on(work: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| CliError::io("start the async runtime", source))?;
    runtime.block_on(work)
}
