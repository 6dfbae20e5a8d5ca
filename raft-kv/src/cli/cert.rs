//! `cert`: a certificate authority, and certificates for the nodes and clients of a cluster.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use raft_net::{TlsFiles, TlsIdentity, client_name, node_name};
use raft_proto::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

use super::args::{CertAddArgs, CertArgs, CertCommand, CertInitArgs};
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
        CertCommand::Add(args) => {
            let made = add(args)?;
            let dir = args.dir.display();
            print_line(&format!("made in {dir}: {}", made.join(", ")))
        }
    }
}

/// Makes everything, or nothing if the directory holds an authority already.
pub(super) fn init(args: &CertInitArgs) -> Result<(), CliError> {
    let wanted = Wanted::parse(&args.cluster, &args.node, &args.clients, args.days)?;
    let dir = TlsDir::new(&args.dir);
    if dir.authority().exists() {
        return Err(CliError::Failed(format!(
            "{} exists already; choose another directory, remove it to start afresh, or use \
             `raft-kv cert add`",
            dir.authority().display()
        )));
    }
    fs::create_dir_all(&args.dir)
        .map_err(|source| CliError::io(format!("create {}", args.dir.display()), source))?;
    let key = KeyPair::generate().map_err(refused)?;
    let issuer =
        CertifiedIssuer::self_signed(authority(&args.cluster, args.days), key).map_err(refused)?;
    for certificate in wanted.issue(&issuer, &dir)? {
        certificate.write()?;
    }
    // Last, so that a directory with ca.pem is complete.
    write_secret(&dir.authority_key(), &issuer.key().serialize_pem())?;
    write_public(&dir.authority(), &issuer.pem())
}

/// Makes certificates by the authority in the directory; returns for whom. Nothing is written if
/// one of them exists already or would not be accepted.
fn add(args: &CertAddArgs) -> Result<Vec<String>, CliError> {
    let dir = TlsDir::new(&args.dir);
    let cluster = match &args.cluster {
        Some(cluster) => cluster.clone(),
        None => dir.cluster_name().ok_or_else(|| {
            CliError::Usage(format!(
                "no node's certificate in {} tells the cluster's name; give it with --cluster",
                args.dir.display()
            ))
        })?,
    };
    let wanted = Wanted::parse(&cluster, &args.node, &args.clients, args.days)?;
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path);
        text.map_err(|source| CliError::io(format!("read {}", path.display()), source))
    };
    let authorities = read(dir.authority())?;
    let key = KeyPair::from_pem(&read(dir.authority_key())?).map_err(refused)?;
    // The authority is known by its name and its key; both are as `init` made them.
    let issuer = Issuer::new(authority(&cluster, args.days), key);
    let certificates = wanted.issue(&issuer, &dir)?;
    for certificate in &certificates {
        certificate.check(&authorities)?;
    }
    for certificate in &certificates {
        certificate.write()?;
    }
    Ok(certificates.into_iter().map(|one| one.subject).collect())
}

/// For whom certificates are made.
struct Wanted<'a> {
    cluster: &'a str,
    nodes: Vec<(NodeId, String)>,
    clients: &'a [String],
    days: u32,
}

/// A certificate that has been made and is to be written.
struct Issued {
    subject: String,
    certificate: String,
    key: String,
    files: TlsFiles,
}

impl<'a> Wanted<'a> {
    /// Checks all names before anything is made.
    fn parse(
        cluster: &'a str,
        nodes: &[String],
        clients: &'a [String],
        days: u32,
    ) -> Result<Self, CliError> {
        check_cluster_name(cluster)?;
        let nodes = nodes.iter().map(|node| parse_node(node));
        let nodes = nodes.collect::<Result<Vec<_>, _>>()?;
        for name in clients {
            check_label(name, "client name")?;
        }
        Ok(Self {
            cluster,
            nodes,
            clients,
            days,
        })
    }

    fn issue(&self, issuer: &Issuer<'_, KeyPair>, dir: &TlsDir) -> Result<Vec<Issued>, CliError> {
        let mut issued = Vec::new();
        for (id, host) in &self.nodes {
            let own = node_name(*id, self.cluster);
            let names = [san_dns(&own)?, san_host(host)?];
            issued.push(issue(issuer, self.days, own, &names, dir.node_files(*id))?);
        }
        for name in self.clients {
            let shared = client_name(self.cluster);
            let own = format!("{name}.{shared}");
            let names = [san_dns(&shared)?, san_dns(&own)?];
            issued.push(issue(
                issuer,
                self.days,
                own,
                &names,
                dir.client_files(name),
            )?);
        }
        Ok(issued)
    }
}

impl Issued {
    /// Checks that the servers will accept it, and that it replaces nothing.
    fn check(&self, authorities: &str) -> Result<(), CliError> {
        if self.files.certificate.exists() || self.files.key.exists() {
            return Err(CliError::Failed(format!(
                "{} exists already; remove it and its key to make a new one",
                self.files.certificate.display()
            )));
        }
        let identity = TlsIdentity::from_pem(&self.certificate, &self.key, authorities);
        let checked = identity.and_then(|identity| identity.check_client_certificate());
        checked.map_err(|error| {
            CliError::Failed(format!(
                "the new certificate would not be accepted, so nothing was written; the authority \
                 must be one of `raft-kv cert init` for this cluster: {error}"
            ))
        })
    }

    fn write(&self) -> Result<(), CliError> {
        write_secret(&self.files.key, &self.key)?;
        write_public(&self.files.certificate, &self.certificate)
    }
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

fn authority(cluster: &str, days: u32) -> CertificateParams {
    let mut params = params(days, &format!("{cluster} certificate authority"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn issue(
    issuer: &Issuer<'_, KeyPair>,
    days: u32,
    subject: String,
    names: &[SanType],
    files: TlsFiles,
) -> Result<Issued, CliError> {
    let mut params = params(days, &subject);
    params.subject_alt_names = names.to_vec();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Nodes dial each other, so their certificates serve on both ends.
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let key = KeyPair::generate().map_err(refused)?;
    let signed = params.signed_by(&key, issuer).map_err(refused)?;
    Ok(Issued {
        subject,
        certificate: signed.pem(),
        key: key.serialize_pem(),
        files,
    })
}

fn params(days: u32, common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    let now = OffsetDateTime::now_utc();
    // Clocks of the cluster's machines may differ a little.
    params.not_before = now - Duration::hours(1);
    params.not_after = now + Duration::days(i64::from(days));
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
