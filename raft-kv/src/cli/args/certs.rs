//! Flags of `cert`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(in crate::cli) struct CertArgs {
    #[command(subcommand)]
    pub(in crate::cli) command: CertCommand,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum CertCommand {
    /// Make a certificate authority, and a certificate for every node and client.
    Init(CertInitArgs),
    /// Make certificates for more nodes and clients, by the authority there is.
    Add(CertAddArgs),
}

#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct CertInitArgs {
    /// Where the files go.
    #[arg(long, env = "RAFT_KV_CERT_DIR", value_name = "DIR")]
    pub(in crate::cli) dir: PathBuf,
    /// The cluster's name: lower-case letters, digits and hyphens.
    #[arg(long, env = "RAFT_KV_CLUSTER", value_name = "NAME")]
    pub(in crate::cli) cluster: String,
    /// A node and the host name or address that clients reach it by; once for each.
    #[arg(
        long,
        env = "RAFT_KV_CERT_NODES",
        value_name = "ID=HOST",
        value_delimiter = ',',
        required = true
    )]
    pub(in crate::cli) node: Vec<String>,
    /// A client's name; once for each.
    #[arg(
        long = "client",
        env = "RAFT_KV_CLIENTS",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub(in crate::cli) clients: Vec<String>,
    /// How many days the certificates are valid.
    #[arg(long, env = "RAFT_KV_CERT_DAYS", default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub(in crate::cli) days: u32,
}

#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct CertAddArgs {
    /// The directory that holds ca.pem and ca-key.pem; the new files go there, too.
    #[arg(long, env = "RAFT_KV_CERT_DIR", value_name = "DIR")]
    pub(in crate::cli) dir: PathBuf,
    /// The cluster's name, if no node's certificate in the directory tells it.
    #[arg(long, env = "RAFT_KV_CLUSTER", value_name = "NAME")]
    pub(in crate::cli) cluster: Option<String>,
    /// A new node and the host name or address that clients reach it by; once for each.
    #[arg(
        long,
        env = "RAFT_KV_CERT_NODES",
        value_name = "ID=HOST",
        value_delimiter = ',',
        required_unless_present = "clients"
    )]
    pub(in crate::cli) node: Vec<String>,
    /// A new client's name; once for each.
    #[arg(
        long = "client",
        env = "RAFT_KV_CLIENTS",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub(in crate::cli) clients: Vec<String>,
    /// How many days the certificates are valid.
    #[arg(long, env = "RAFT_KV_CERT_DAYS", default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub(in crate::cli) days: u32,
}
