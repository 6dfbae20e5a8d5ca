//! What a node keeps on disk about the forming of its cluster: the first entry, and the record.

use bytes::Bytes;
use raft_proto::{
    ClusterId, CodecError, Incarnation, Membership, MembershipError, NodeId, Refusal, codec,
};
use thiserror::Error;

use super::voters::InitialVoters;

/// First bytes of every formation record.
const MAGIC: [u8; 4] = *b"RFRM";
/// The only version there is.
const VERSION: u8 = 1;

const KIND_UNFORMED: u8 = 1;
const KIND_ABANDONED_MEMBER_FOUND: u8 = 2;
const KIND_ABANDONED_REFUSED: u8 = 3;
const KIND_FORMED_LOG_PENDING: u8 = 4;
const KIND_FORMED_LOG_CREATED: u8 = 5;

/// Why stored bytes cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// The bytes are not what this module writes.
    #[error(
        "the formation record is damaged ({0}); restore it from a copy of this very directory, or clear the directory and re-admit the node"
    )]
    Damaged(&'static str),
    /// The structured part does not decode.
    #[error(
        "the formation record is damaged ({0}); restore it from a copy of this very directory, or clear the directory and re-admit the node"
    )]
    Codec(#[from] CodecError),
    /// A newer program wrote it.
    #[error(
        "the formation record has version {0}, this program knows {VERSION}; start a newer program on this directory"
    )]
    UnsupportedVersion(u8),
    /// The first entry in it is none.
    #[error("the formation record holds no first entry: {0}")]
    FirstEntry(#[from] FirstEntryError),
}

/// Why a payload cannot be the first entry of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FirstEntryError {
    /// It is no membership.
    #[error("it does not decode: {0}")]
    Codec(#[from] CodecError),
    /// The membership breaks a rule.
    #[error("its membership is not valid: {0}")]
    Membership(#[from] MembershipError),
    /// A cluster starts with voters only, in one configuration.
    #[error("it is a joint configuration or has learners")]
    NotInitial,
    /// A voter without an incarnation could be anybody.
    #[error("the incarnation of {0} is open")]
    OpenIncarnation(NodeId),
}

/// The payload of the entry with index 1 and term 1, and what follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstEntry {
    payload: Bytes,
    membership: Membership,
    cluster: ClusterId,
}

impl FirstEntry {
    /// Reads and checks the payload.
    ///
    /// # Errors
    /// [`FirstEntryError`] if no cluster starts like this.
    pub fn parse(payload: Bytes) -> Result<Self, FirstEntryError> {
        let membership = Membership::from_bytes(&payload)?;
        membership.validate()?;
        if membership.is_joint() || !membership.learners.is_empty() {
            return Err(FirstEntryError::NotInitial);
        }
        let mut members = membership.members.iter();
        if let Some((id, _)) = members.find(|(_, member)| member.incarnation.is_none()) {
            return Err(FirstEntryError::OpenIncarnation(*id));
        }
        let cluster = ClusterId::of_first_entry(&payload);
        Ok(Self {
            payload,
            membership,
            cluster,
        })
    }

    /// The first entry of a cluster that starts with this membership.
    ///
    /// # Panics
    /// If no cluster may start with it.
    pub(super) fn of(membership: &Membership) -> Self {
        let payload = membership.to_bytes();
        // At most MAX_MEMBERS addresses of MAX_ADDRESS_BYTES, far below the codec's limit.
        let parsed = Self::parse(payload.expect("checked voters fit the codec"));
        parsed.expect("checked voters and their incarnations make a first entry")
    }

    /// The bytes to write as entry 1.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The first membership.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// The cluster that starts with it.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The initial voters it names.
    #[must_use]
    pub fn voters(&self) -> InitialVoters {
        InitialVoters::of(&self.membership)
    }

    /// Whether it names this life of this node.
    #[must_use]
    pub fn names(&self, node: NodeId, incarnation: Incarnation) -> bool {
        let member = self.membership.members.get(&node);
        member.is_some_and(|member| member.incarnation == Some(incarnation))
    }

    /// The incarnation of the voter that gathered it.
    pub(super) fn gatherer(&self) -> Option<Incarnation> {
        let (_, member) = self.membership.members.first_key_value()?;
        member.incarnation
    }
}

/// How a gatherer learned that it must not form a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// A voter answered that it belongs to a cluster.
    MemberFound {
        /// That voter.
        peer: NodeId,
        /// Its cluster.
        cluster: ClusterId,
    },
    /// A member refused this node.
    Refused {
        /// That member.
        peer: NodeId,
        /// Its reason.
        refusal: Refusal,
    },
}

/// Whether the log that starts with the first entry has been created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogState {
    /// Perhaps not: a missing log is created from the first entry.
    Pending,
    /// Yes, durably: a missing log is a lost one, and the node must not start.
    Created,
}

/// What the directory says about forming.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// Belongs to no cluster.
    Unformed(Promises),
    /// Gathered, and will never form a cluster.
    Abandoned(Evidence),
    /// Belongs to the cluster that starts with this entry.
    Formed(FirstEntry, LogState),
}

/// To which gatherers an unformed node has answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Promises {
    /// The one whose first entry, and no other's, may be adopted. If `None`, no promise is open.
    pub(super) current: Option<Incarnation>,
    /// Earlier ones; a request from them is never answered again.
    pub(super) superseded: Vec<Incarnation>,
}

impl Promises {
    /// Whether this gatherer has ever been answered.
    pub(super) fn include(&self, gatherer: Incarnation) -> bool {
        self.current == Some(gatherer) || self.superseded.contains(&gatherer)
    }

    /// The same with another promise in the place of the current one.
    pub(super) fn replaced_by(&self, next: Option<Incarnation>) -> Self {
        let mut superseded = self.superseded.clone();
        superseded.extend(
            self.current
                .filter(|gatherer| !superseded.contains(gatherer)),
        );
        Self {
            current: next,
            superseded,
        }
    }
}

impl Record {
    /// The bytes to store.
    pub(super) fn encode(&self) -> Bytes {
        // Promises are bounded, and the refusals kept as evidence name no lists.
        self.try_encode()
            .expect("a record is far below the codec's limit")
    }

    fn try_encode(&self) -> Result<Bytes, CodecError> {
        let mut out = MAGIC.to_vec();
        out.push(VERSION);
        match self {
            Self::Unformed(promises) => {
                out.push(KIND_UNFORMED);
                codec::encode(&(promises.current, &promises.superseded), &mut out)?;
            }
            Self::Abandoned(Evidence::MemberFound { peer, cluster }) => {
                out.push(KIND_ABANDONED_MEMBER_FOUND);
                codec::encode(&(peer, cluster), &mut out)?;
            }
            Self::Abandoned(Evidence::Refused { peer, refusal }) => {
                out.push(KIND_ABANDONED_REFUSED);
                codec::encode(&(peer, refusal), &mut out)?;
            }
            Self::Formed(first_entry, log) => {
                out.push(match log {
                    LogState::Pending => KIND_FORMED_LOG_PENDING,
                    LogState::Created => KIND_FORMED_LOG_CREATED,
                });
                out.extend_from_slice(&first_entry.payload);
            }
        }
        Ok(out.into())
    }

    /// Reads stored bytes.
    ///
    /// # Errors
    /// [`RecordError`].
    pub(super) fn decode(stored: &[u8]) -> Result<Self, RecordError> {
        let rest = stored
            .strip_prefix(&MAGIC)
            .ok_or(RecordError::Damaged("it starts with other bytes"))?;
        let (version, rest) = rest
            .split_first()
            .ok_or(RecordError::Damaged("it is cut short"))?;
        if *version != VERSION {
            return Err(RecordError::UnsupportedVersion(*version));
        }
        let (kind, body) = rest
            .split_first()
            .ok_or(RecordError::Damaged("it is cut short"))?;
        match *kind {
            KIND_UNFORMED => {
                let (current, superseded) = codec::decode_exact(body)?;
                Ok(Self::Unformed(Promises {
                    current,
                    superseded,
                }))
            }
            KIND_ABANDONED_MEMBER_FOUND => {
                let (peer, cluster) = codec::decode_exact(body)?;
                Ok(Self::Abandoned(Evidence::MemberFound { peer, cluster }))
            }
            KIND_ABANDONED_REFUSED => {
                let (peer, refusal) = codec::decode_exact(body)?;
                Ok(Self::Abandoned(Evidence::Refused { peer, refusal }))
            }
            KIND_FORMED_LOG_PENDING => Self::decode_formed(body, LogState::Pending),
            KIND_FORMED_LOG_CREATED => Self::decode_formed(body, LogState::Created),
            _ => Err(RecordError::Damaged("its kind is unknown")),
        }
    }

    fn decode_formed(payload: &[u8], log: LogState) -> Result<Self, RecordError> {
        let first_entry = FirstEntry::parse(Bytes::copy_from_slice(payload))?;
        Ok(Self::Formed(first_entry, log))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_proto::Member;

    fn first_entry() -> FirstEntry {
        let membership = Membership::of_voters([(
            NodeId(1),
            Member {
                incarnation: Some(Incarnation(7)),
                address: "a:1".to_string(),
            },
        )]);
        FirstEntry::parse(membership.to_bytes().unwrap()).unwrap()
    }

    fn samples() -> Vec<Record> {
        vec![
            Record::Unformed(Promises::default()),
            Record::Unformed(Promises {
                current: Some(Incarnation(9)),
                superseded: vec![Incarnation(8), Incarnation(3)],
            }),
            Record::Abandoned(Evidence::MemberFound {
                peer: NodeId(2),
                cluster: ClusterId([5; 16]),
            }),
            Record::Abandoned(Evidence::Refused {
                peer: NodeId(2),
                refusal: Refusal::NotAMember,
            }),
            Record::Formed(first_entry(), LogState::Pending),
            Record::Formed(first_entry(), LogState::Created),
        ]
    }

    #[test]
    fn records_come_back() {
        for record in samples() {
            let bytes = record.encode();
            assert_eq!(Record::decode(&bytes), Ok(record));
        }
    }

    #[test]
    fn no_cut_or_foreign_bytes_are_taken_for_a_record() {
        for record in samples() {
            let bytes = record.encode();
            for length in 0..bytes.len() {
                assert!(Record::decode(&bytes[..length]).is_err(), "{record:?}");
            }
            let mut longer = bytes.to_vec();
            longer.push(0);
            assert!(Record::decode(&longer).is_err(), "{record:?}");
        }
    }

    #[test]
    fn an_unknown_version_is_not_damage() {
        let mut bytes = samples()[0].encode().to_vec();
        bytes[4] = 2;
        assert_eq!(
            Record::decode(&bytes),
            Err(RecordError::UnsupportedVersion(2))
        );
    }

    #[test]
    fn the_bytes_on_disk_stay_what_they_are() {
        let bytes = samples()[1].encode();
        assert_eq!(&bytes[..], b"RFRM\x01\x01\x01\x09\x02\x08\x03");
    }

    #[test]
    fn a_first_entry_has_no_open_ends() {
        let mut membership = first_entry().membership;
        membership.members.get_mut(&NodeId(1)).unwrap().incarnation = None;
        assert_eq!(
            FirstEntry::parse(membership.to_bytes().unwrap()),
            Err(FirstEntryError::OpenIncarnation(NodeId(1)))
        );
        let mut joint = first_entry().membership;
        joint.outgoing.insert(NodeId(1));
        assert_eq!(
            FirstEntry::parse(joint.to_bytes().unwrap()),
            Err(FirstEntryError::NotInitial)
        );
    }

    #[test]
    fn replacing_a_promise_keeps_the_old_one_closed() {
        let first = Promises::default().replaced_by(Some(Incarnation(1)));
        let second = first.replaced_by(Some(Incarnation(2)));
        assert!(second.include(Incarnation(1)));
        assert_eq!(second.current, Some(Incarnation(2)));
        let none = second.replaced_by(None);
        assert_eq!(none.superseded, [Incarnation(1), Incarnation(2)]);
    }
}
