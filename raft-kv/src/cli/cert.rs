//! `cert init`: a certificate authority, and certificates for the nodes and clients of a cluster.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use raft_net::{client_name, node_name};
use raft_proto::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

use super::args::{CertArgs, CertCommand, CertInitArgs};
use super::error::CliError;
use super::output::print_line;
use crate::server::TlsDir;

pub(super) fn run(args: &CertArgs) -> Result<(), CliError> {
    match &args.command {
        CertCommand::Init(args) => {
            init(args)?;
            let dir = args.dir.display();
            print_line(&format!(
                "certificates for cluster {} are in {dir}",
                args.cluster
            ))
        }
    }
}

/// Makes everything, or nothing if the directory holds an authority already.
pub(super) fn init(args: &CertInitArgs) -> Result<(), CliError> {
    check_cluster_name(&args.cluster)?;
    let nodes = args.node.iter().map(|node| parse_node(node));
    let nodes = nodes.collect::<Result<Vec<_>, _>>()?;
    for name in &args.clients {
        check_label(name, "client name")?;
    }
    let dir = TlsDir::new(&args.dir);
    if dir.authority().exists() {
        return Err(CliError::Failed(format!(
            "{} exists already; choose another directory, or remove it to start afresh",
            dir.authority().display()
        )));
    }
    fs::create_dir_all(&args.dir)
        .map_err(|source| CliError::io(format!("create {}", args.dir.display()), source))?;
    let issuer = authority(args)?;
    for (id, host) in &nodes {
        let names = [san_dns(&node_name(*id, &args.cluster))?, san_host(host)?];
        let files = dir.node_files(*id);
        let common_name = node_name(*id, &args.cluster);
        issue(
            &issuer,
            args,
            &common_name,
            &names,
            &files.certificate,
            &files.key,
        )?;
    }
    for name in &args.clients {
        let shared = client_name(&args.cluster);
        let own = format!("{name}.{shared}");
        let names = [san_dns(&shared)?, san_dns(&own)?];
        let files = dir.client_files(name);
        issue(&issuer, args, &own, &names, &files.certificate, &files.key)?;
    }
    // Last, so that a directory with ca.pem is complete.
    write_secret(&dir.authority_key(), &issuer.key().serialize_pem())?;
    write_public(&dir.authority(), &issuer.pem())
}

fn parse_node(text: &str) -> Result<(NodeId, String), CliError> {
    let usage = || CliError::Usage(format!("{text:?} is not ID=HOST, for example 1=127.0.0.1"));
    let (id, host) = text.split_once('=').ok_or_else(usage)?;
    let id: u64 = id.parse().map_err(|_| usage())?;
    if id == 0 || host.is_empty() {
        return Err(usage());
    }
    Ok((NodeId(id), host.to_owned()))
}

fn check_cluster_name(name: &str) -> Result<(), CliError> {
    check_label(name, "cluster name")
}

/// A label of a DNS name, in lower case.
fn check_label(name: &str, what: &str) -> Result<(), CliError> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let edges = !name.starts_with('-') && !name.ends_with('-');
    if (1..=63).contains(&name.len()) && edges && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(CliError::Usage(format!(
        "{what} {name:?}: use 1 to 63 lower-case letters, digits and hyphens"
    )))
}

fn authority(args: &CertInitArgs) -> Result<CertifiedIssuer<'static, KeyPair>, CliError> {
    let mut params = params(args, &format!("{} certificate authority", args.cluster));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().map_err(refused)?;
    CertifiedIssuer::self_signed(params, key).map_err(refused)
}

fn issue(
    issuer: &CertifiedIssuer<'static, KeyPair>,
    args: &CertInitArgs,
    common_name: &str,
    names: &[SanType],
    certificate: &Path,
    key: &Path,
) -> Result<(), CliError> {
    let mut params = params(args, common_name);
    params.subject_alt_names = names.to_vec();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Nodes dial each other, so their certificates serve on both ends.
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let own_key = KeyPair::generate().map_err(refused)?;
    let signed = params.signed_by(&own_key, issuer).map_err(refused)?;
    write_secret(key, &own_key.serialize_pem())?;
    write_public(certificate, &signed.pem())
}

fn params(args: &CertInitArgs, common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    let now = OffsetDateTime::now_utc();
    // Clocks of the cluster's machines may differ a little.
    params.not_before = now - Duration::hours(1);
    params.not_after = now + Duration::days(i64::from(args.days));
    params
}

fn san_dns(name: &str) -> Result<SanType, CliError> {
    let name = name.try_into().map_err(refused)?;
    Ok(SanType::DnsName(name))
}

fn san_host(host: &str) -> Result<SanType, CliError> {
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) => san_dns(host),
    }
}

fn refused(error: rcgen::Error) -> CliError {
    CliError::Failed(format!("cannot make a certificate: {error}"))
}

fn write_public(path: &Path, text: &str) -> Result<(), CliError> {
    write_file(path, text, 0o644)
}

/// Readable for the owner only.
fn write_secret(path: &Path, text: &str) -> Result<(), CliError> {
    write_file(path, text, 0o600)
}

fn write_file(path: &Path, text: &str, mode: u32) -> Result<(), CliError> {
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(mode);
    file.open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|source| CliError::io(format!("write {}", path.display()), source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_nodes_are_checked_before_anything_is_made() {
        assert!(parse_node("1=127.0.0.1").is_ok());
        for bad in ["1", "0=a", "x=a", "1="] {
            assert!(parse_node(bad).is_err(), "{bad}");
        }
        assert!(check_label("east-1", "cluster name").is_ok());
        for bad in ["", "East", "a.b", "-a", "a-"] {
            assert!(check_label(bad, "cluster name").is_err(), "{bad}");
        }
    }
}
