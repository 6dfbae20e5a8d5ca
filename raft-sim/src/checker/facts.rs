//! What the checker knows of the whole cluster: entries that were ever durable, the chain of committed
//! ones, and each node's durable image. The invariants compare with it.

use std::collections::{BTreeMap, BTreeSet};

use raft_proto::{LogIndex, Membership, NodeId, Term};

use super::commit_chain::Committed;
use super::image::{Image, LogChange};
use super::log_matching::Entries;
use super::view::Seen;

/// What is known of one node.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeFacts {
    pub(super) image: Image,
    /// The writes that were under way when the node crashed.
    pub(super) in_flight: Vec<LogChange>,
    /// The newest snapshot that is durable.
    pub(super) snapshot: LogIndex,
    /// What its state machine has applied.
    pub(super) applied: LogIndex,
    /// Entries from here on were durable, and the medium does not have them.
    pub(super) lost_from: Option<LogIndex>,
    pub(super) seen: Option<Seen>,
    /// The membership in force when it was seen last, and where its log said so.
    pub(super) configuration: Option<Configuration>,
}

/// A membership and the entry that carries it.
#[derive(Clone, Debug)]
pub(super) struct Configuration {
    pub(super) at: LogIndex,
    pub(super) term: Option<Term>,
    pub(super) membership: Membership,
}

/// Everything that is known.
#[derive(Default)]
pub(super) struct Facts {
    pub(super) entries: Entries,
    pub(super) chain: Vec<Committed>,
    pub(super) nodes: BTreeMap<NodeId, NodeFacts>,
    /// The logs that were on disks when these were cleared, or whose ends were lost.
    pub(super) former: Vec<(NodeId, Vec<Term>)>,
}

impl Facts {
    pub(super) fn node(&mut self, node: NodeId) -> &mut NodeFacts {
        self.nodes.entry(node).or_default()
    }

    /// The committed entry at an index, if one is known.
    pub(super) fn committed(&self, index: LogIndex) -> Option<&Committed> {
        let at = usize::try_from(index.0.checked_sub(1)?).ok()?;
        self.chain.get(at)
    }

    /// The term of the committed entry at an index, if one is known.
    pub(super) fn committed_term(&self, index: LogIndex) -> Option<Term> {
        self.committed(index).map(|committed| committed.term)
    }

    /// Who holds this entry durably, or did before its disk was cleared or it lost the end of its log:
    /// that may have been counted.
    pub(super) fn holders(&self, index: LogIndex, term: Term) -> BTreeSet<NodeId> {
        let at = index.0 as usize - 1;
        let now = self
            .nodes
            .iter()
            .map(|(id, facts)| (id, &facts.image.terms));
        let all = now.chain(self.former.iter().map(|(id, terms)| (id, terms)));
        let holders = all.filter(|(_, terms)| terms.get(at) == Some(&term));
        holders.map(|(id, _)| *id).collect()
    }
}
