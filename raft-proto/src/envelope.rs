//! The [`Message`] enum over all RPCs, their numbers in frame headers, and their traffic classes.

use crate::ids::Term;
use crate::message::{
    AdoptRequest, AdoptResponse, AppendRequest, AppendResponse, ComparisonReport,
    DescribeSnapshotRequest, DescribeSnapshotResponse, FetchEntriesRequest, FetchEntriesResponse,
    FetchSnapshotRequest, FetchSnapshotResponse, GatherAbandoned, GatherRequest, GatherResponse,
    Heartbeat, HeartbeatResponse, Hello, HelloResponse, InstallSnapshotRequest,
    InstallSnapshotResponse, PreVoteRequest, PreVoteResponse, ReadIndexRequest, ReadIndexResponse,
    RecountOffer, RecountRequest, RecountResponse, TimeoutNow, VoteRequest, VoteResponse,
};
use crate::version::ProtocolVersion;

/// Kinds from here on belong to the protocol between clients and servers, which is defined by the
/// application; peers never send them.
pub const FIRST_CLIENT_KIND: u8 = 128;

/// A class of traffic; each has a stream of its own, so that none delays another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Small and urgent: votes, heartbeats, read rounds, hellos.
    Control,
    /// Entries and their acknowledgements.
    Append,
    /// Snapshots and repair, on a connection of their own.
    Bulk,
}

impl Class {
    /// All classes, in the order of their streams.
    pub const ALL: [Self; 3] = [Self::Control, Self::Append, Self::Bulk];
}

macro_rules! messages {
    ($($name:ident = $kind:literal, $class:ident;)*) => {
        /// Any message between peers.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each variant holds the struct of the same name, documented there")]
        pub enum Message {
            $($name($name),)*
        }

        impl Message {
            /// Number, class and name of every message, in the order of the numbers.
            pub const KINDS: &'static [(u8, Class, &'static str)] = &[
                $(($kind, Class::$class, stringify!($name)),)*
            ];

            /// The number of this message in a frame header.
            #[must_use]
            pub const fn kind(&self) -> u8 {
                match self {
                    $(Self::$name(_) => $name::KIND,)*
                }
            }

            /// The class of traffic it belongs to.
            #[must_use]
            pub const fn class(&self) -> Class {
                match self {
                    $(Self::$name(_) => Class::$class,)*
                }
            }

            /// Its name, as in the type.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => stringify!($name),)*
                }
            }
        }

        $(
            impl $name {
                /// The number of this message in a frame header.
                pub const KIND: u8 = $kind;
            }

            impl From<$name> for Message {
                fn from(message: $name) -> Self {
                    Self::$name(message)
                }
            }
        )*
    };
}

messages! {
    Hello = 1, Control;
    HelloResponse = 2, Control;
    GatherRequest = 3, Control;
    GatherResponse = 4, Control;
    AdoptRequest = 5, Control;
    AdoptResponse = 6, Control;
    GatherAbandoned = 7, Control;
    PreVoteRequest = 10, Control;
    PreVoteResponse = 11, Control;
    VoteRequest = 12, Control;
    VoteResponse = 13, Control;
    Heartbeat = 14, Control;
    HeartbeatResponse = 15, Control;
    TimeoutNow = 16, Control;
    ReadIndexRequest = 17, Control;
    ReadIndexResponse = 18, Control;
    AppendRequest = 20, Append;
    AppendResponse = 21, Append;
    InstallSnapshotRequest = 22, Append;
    InstallSnapshotResponse = 23, Append;
    FetchSnapshotRequest = 30, Bulk;
    FetchSnapshotResponse = 31, Bulk;
    FetchEntriesRequest = 32, Bulk;
    FetchEntriesResponse = 33, Bulk;
    DescribeSnapshotRequest = 34, Bulk;
    DescribeSnapshotResponse = 35, Bulk;
    RecountRequest = 40, Control;
    RecountOffer = 41, Control;
    RecountResponse = 42, Control;
    ComparisonReport = 43, Control;
}

impl Message {
    /// The version of the protocol that it came with: a peer that does not speak it must not be
    /// sent such a message.
    #[must_use]
    pub const fn since(&self) -> ProtocolVersion {
        match self.kind() {
            DescribeSnapshotRequest::KIND
            | DescribeSnapshotResponse::KIND
            | RecountRequest::KIND
            | RecountOffer::KIND
            | RecountResponse::KIND
            | ComparisonReport::KIND => ProtocolVersion::TWO,
            _ => ProtocolVersion::ONE,
        }
    }

    /// The term it carries, if it takes part in consensus.
    #[must_use]
    pub const fn term(&self) -> Option<Term> {
        match self {
            Self::PreVoteRequest(m) => Some(m.term),
            Self::PreVoteResponse(m) => Some(m.term),
            Self::VoteRequest(m) => Some(m.term),
            Self::VoteResponse(m) => Some(m.term),
            Self::Heartbeat(m) => Some(m.term),
            Self::HeartbeatResponse(m) => Some(m.term),
            Self::TimeoutNow(m) => Some(m.term),
            Self::ReadIndexRequest(m) => Some(m.term),
            Self::ReadIndexResponse(m) => Some(m.term),
            Self::AppendRequest(m) => Some(m.term),
            Self::AppendResponse(m) => Some(m.term),
            Self::InstallSnapshotRequest(m) => Some(m.term),
            Self::InstallSnapshotResponse(m) => Some(m.term),
            Self::FetchSnapshotRequest(m) => Some(m.term),
            Self::FetchSnapshotResponse(m) => Some(m.term),
            Self::FetchEntriesRequest(m) => Some(m.term),
            Self::FetchEntriesResponse(m) => Some(m.term),
            Self::DescribeSnapshotRequest(m) => Some(m.term),
            Self::DescribeSnapshotResponse(m) => Some(m.term),
            Self::RecountRequest(m) => Some(m.term),
            Self::RecountOffer(m) => Some(m.term),
            Self::RecountResponse(m) => Some(m.term),
            Self::Hello(_)
            | Self::HelloResponse(_)
            | Self::GatherRequest(_)
            | Self::GatherResponse(_)
            | Self::AdoptRequest(_)
            | Self::AdoptResponse(_)
            | Self::GatherAbandoned(_)
            | Self::ComparisonReport(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_ascend_and_leave_the_client_range_alone() {
        let numbers: Vec<u8> = Message::KINDS.iter().map(|(kind, ..)| *kind).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        assert!(numbers.iter().all(|kind| *kind < FIRST_CLIENT_KIND));
    }
}
