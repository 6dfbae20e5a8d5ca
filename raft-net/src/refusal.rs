//! A refusal in words: what it means and what to do about it.

use std::fmt;

use raft_proto::Refusal;

/// Shows a [`Refusal`] as a sentence, from the view of the one who is refused.
pub struct RefusalText<'a>(pub &'a Refusal);

impl fmt::Display for RefusalText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Refusal::WrongIdentity { certified } => write!(
                f,
                "the hello names another node than the certificate, which is {certified}'s"
            ),
            Refusal::WrongReceiver { receiver } => write!(
                f,
                "{receiver} was reached instead of the node that was meant: check the addresses"
            ),
            Refusal::WrongCluster { cluster } => write!(
                f,
                "the node reached belongs to cluster {cluster}: check the data directory"
            ),
            Refusal::NotAMember => f.write_str("not a member: add the node to the cluster first"),
            Refusal::WrongIncarnation { member } => write!(
                f,
                "the member of this id has incarnation {member}: the data directory was wiped or \
                 is another one; restore it, or remove and add the member"
            ),
            Refusal::OldBoot { seen } => write!(
                f,
                "a later boot ({}) of this node was seen: the data directory is an old copy",
                seen.counter
            ),
            Refusal::OtherVoters { voters } => {
                f.write_str("the node reached was started with other initial voters:")?;
                voters
                    .iter()
                    .try_for_each(|(id, address)| write!(f, " {}={address}", id.0))
            }
            Refusal::NoCommonVersion { versions } => write!(
                f,
                "the node reached speaks the protocol in versions {versions} only: upgrade the \
                 older of the two"
            ),
            Refusal::Unavailable => {
                f.write_str("the node reached cannot tell at the moment; attempts go on")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use raft_proto::{Boot, NodeId};

    use super::*;

    #[test]
    fn refusals_read_as_sentences() {
        let seen = Boot {
            counter: 7,
            nonce: 1,
        };
        let old = RefusalText(&Refusal::OldBoot { seen }).to_string();
        assert!(old.starts_with("a later boot (7)"), "{old}");
        let voters = vec![(NodeId(1), "a:1".to_owned()), (NodeId(2), "b:2".to_owned())];
        let other = RefusalText(&Refusal::OtherVoters { voters }).to_string();
        assert!(other.ends_with("voters: 1=a:1 2=b:2"), "{other}");
    }
}
