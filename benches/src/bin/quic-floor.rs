//! The processes of the floor: `certificates`, `follower`, `leader`, `load`.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use benches::Failure;
use benches::floor::{follower, leader, load};
use benches::load::Plan;
use benches::quic::{Settings, endpoint};
use benches::tls::Identity;
use clap::Parser;
use tokio::task::LocalSet;

/// A leader, two followers and a load over QUIC: what a replicated store costs at least
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    part: Part,
}

#[derive(clap::Subcommand)]
enum Part {
    /// Writes the certificate that all parts share
    Certificates {
        /// Where to
        #[arg(long)]
        tls: PathBuf,
    },
    /// Syncs what the leader sends
    Follower(Server),
    /// Takes puts and gets; says `ready` when it can
    Leader {
        #[command(flatten)]
        server: Server,
        /// A follower that runs; give two
        #[arg(long = "follower")]
        followers: Vec<SocketAddr>,
    },
    /// Puts or gets, and a report in JSON
    Load {
        /// Where the certificate is
        #[arg(long)]
        tls: PathBuf,
        /// The leader
        #[arg(long)]
        leader: SocketAddr,
        #[command(flatten)]
        plan: Plan,
    },
}

#[derive(clap::Args)]
struct Server {
    /// Port on loopback
    #[arg(long)]
    port: u16,
    /// Where the certificate is
    #[arg(long)]
    tls: PathBuf,
    /// The file to write; it must not exist
    #[arg(long)]
    file: PathBuf,
}

fn main() -> ExitCode {
    match run(Arguments::parse().part) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(part: Part) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, async {
        match part {
            Part::Certificates { tls } => Identity::generate()?.write(&tls),
            Part::Follower(server) => {
                let identity = Identity::read(&server.tls)?;
                let endpoint = endpoint(&identity, server.port, Settings::Tuned)?;
                follower::run(endpoint, &server.file).await
            }
            Part::Leader { server, followers } => {
                let identity = Identity::read(&server.tls)?;
                let endpoint = endpoint(&identity, server.port, Settings::Tuned)?;
                let followers = followers.try_into();
                let followers = followers.map_err(|_| "there must be two followers")?;
                leader::run(endpoint, &server.file, followers).await
            }
            Part::Load { tls, leader, plan } => {
                let identity = Identity::read(&tls)?;
                let endpoint = endpoint(&identity, 0, Settings::Tuned)?;
                println!("{}", load::run(endpoint, leader, plan).await?);
                Ok(())
            }
        }
    })
}
