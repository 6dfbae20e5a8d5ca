//! Who a verified certificate names: a node or a client of this cluster.

use raft_proto::NodeId;
use rustls_pki_types::CertificateDer;

use crate::error::{IdentityError, NetError};

/// The DNS name in a node's certificate: `n<ID>.<cluster>`.
#[must_use]
pub fn node_name(node: NodeId, cluster: &str) -> String {
    format!("n{}.{cluster}", node.0)
}

/// The DNS name in every client's certificate: `client.<cluster>`. A certificate may also carry
/// `<NAME>.client.<cluster>`, which then tells clients apart.
#[must_use]
pub fn client_name(cluster: &str) -> String {
    format!("client.{cluster}")
}

/// Whom a certificate names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertifiedName {
    /// A node of the cluster.
    Node(NodeId),
    /// A client of the cluster, by its name (`client` if the certificate gives no other).
    Client(String),
}

/// Longest label of a DNS name, in bytes.
const MAX_LABEL_BYTES: usize = 63;

pub(crate) fn check_cluster_name(cluster: &str) -> Result<(), NetError> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let fits = !cluster.is_empty() && cluster.len() <= MAX_LABEL_BYTES;
    let edges = !cluster.starts_with('-') && !cluster.ends_with('-');
    if fits && edges && cluster.bytes().all(allowed) {
        Ok(())
    } else {
        Err(NetError::ClusterName(cluster.to_owned()))
    }
}

/// Reads the identity from a certificate that the TLS stack has already verified.
///
/// # Errors
/// [`IdentityError`] if it names nobody of this cluster, or more than one.
pub fn certified_name(
    certificate: &CertificateDer<'_>,
    cluster: &str,
) -> Result<CertifiedName, IdentityError> {
    let certificate =
        webpki::EndEntityCert::try_from(certificate).map_err(|_| IdentityError::Malformed)?;
    from_dns_names(certificate.valid_dns_names(), cluster)
}

fn from_dns_names<'a>(
    names: impl Iterator<Item = &'a str>,
    cluster: &str,
) -> Result<CertifiedName, IdentityError> {
    let ambiguous = || IdentityError::Ambiguous {
        cluster: cluster.to_owned(),
    };
    let mut node: Option<NodeId> = None;
    let mut is_client = false;
    let mut client: Option<&str> = None;
    for name in names {
        let Some(label) = local_part(name, cluster) else {
            continue;
        };
        if label.eq_ignore_ascii_case("client") {
            is_client = true;
        } else if let Some(own) = strip_suffix_ignoring_case(label, ".client") {
            if client.replace(own).is_some() {
                return Err(ambiguous());
            }
        } else if let Some(id) = node_of(label)
            && node.replace(id).is_some_and(|before| before != id)
        {
            return Err(ambiguous());
        }
    }
    match (node, is_client) {
        (Some(_), true) => Err(ambiguous()),
        (Some(id), false) => Ok(CertifiedName::Node(id)),
        (None, true) => Ok(CertifiedName::Client(client.unwrap_or("client").to_owned())),
        (None, false) => Err(IdentityError::OtherCluster {
            cluster: cluster.to_owned(),
        }),
    }
}

/// `n1` of `n1.<cluster>`.
fn local_part<'a>(name: &'a str, cluster: &str) -> Option<&'a str> {
    strip_suffix_ignoring_case(name, cluster)?.strip_suffix('.')
}

/// DNS names compare without case. Names with bytes beyond ASCII never match.
fn strip_suffix_ignoring_case<'a>(name: &'a str, suffix: &str) -> Option<&'a str> {
    let at = name.len().checked_sub(suffix.len())?;
    let (head, tail) = (name.get(..at)?, name.get(at..)?);
    tail.eq_ignore_ascii_case(suffix).then_some(head)
}

/// The id in `n<ID>`: decimal, positive, written in the one way that [`node_name`] writes it.
fn node_of(label: &str) -> Option<NodeId> {
    let digits = label.strip_prefix(['n', 'N'])?;
    let id: u64 = digits.parse().ok()?;
    (id > 0 && id.to_string() == digits).then_some(NodeId(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> Result<CertifiedName, IdentityError> {
        from_dns_names(names.iter().copied(), "east")
    }

    #[test]
    fn names_of_this_cluster_are_understood() {
        assert_eq!(
            named(&["db.example.com", "n12.east"]),
            Ok(CertifiedName::Node(NodeId(12)))
        );
        assert_eq!(named(&["N12.EAST"]), Ok(CertifiedName::Node(NodeId(12))));
        let anonymous = CertifiedName::Client("client".into());
        assert_eq!(named(&["client.east"]), Ok(anonymous));
        let backup = CertifiedName::Client("backup".into());
        assert_eq!(named(&["client.east", "backup.client.east"]), Ok(backup));
    }

    #[test]
    fn everything_else_names_nobody() {
        for name in [
            "n1.west",
            "n1",
            "n0.east",
            "n01.east",
            "n.east",
            "n+1.east",
            "xn1.east",
            "n1.x.east",
            "n1east",
            "east",
            ".east",
            "*.east",
            "n18446744073709551616.east",
            "backup.client.east",
        ] {
            assert!(
                matches!(named(&[name]), Err(IdentityError::OtherCluster { .. })),
                "{name}"
            );
        }
    }

    #[test]
    fn two_identities_in_one_certificate_are_refused() {
        for names in [
            ["n1.east", "n2.east"],
            ["n1.east", "client.east"],
            ["a.client.east", "b.client.east"],
        ] {
            assert!(matches!(
                named(&names),
                Err(IdentityError::Ambiguous { .. })
            ));
        }
    }

    #[test]
    fn cluster_names_are_single_labels() {
        assert!(check_cluster_name("raft-kv").is_ok());
        for bad in ["", "a.b", "A", "-a", "a-", "a b", &"a".repeat(64)] {
            assert!(check_cluster_name(bad).is_err(), "{bad}");
        }
    }
}
