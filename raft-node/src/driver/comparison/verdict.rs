//! Who differs, by what the members have reported. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use raft_core::IndexRange;
use raft_proto::{Comparison, ComparisonReport, LogPosition, NodeId};

/// What differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// The state machines, with everything applied up to the entry of the comparison.
    State,
    /// Entries of the log.
    Log(IndexRange),
}

/// Whether it is known which nodes are wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// More than half of all members agree with each other, and not with these nodes.
    Named,
    /// These nodes differ among each other, and too few others tell which of them is right.
    Undecided,
}

/// Replicas that are not what they should be: copies of each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The entry that carried the comparison.
    pub entry: LogPosition,
    /// What differs.
    pub compared: Compared,
    /// The nodes, in order.
    pub nodes: Vec<NodeId>,
    /// Whether these are the wrong ones.
    pub blame: Blame,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<String> = self.nodes.iter().map(NodeId::to_string).collect();
        let nodes = nodes.join(", ");
        let entry = self.entry.index;
        match (self.compared, self.blame) {
            (Compared::State, Blame::Named) => write!(
                f,
                "the state of {nodes} differs from that of most members, as of entry {entry}"
            ),
            (Compared::State, Blame::Undecided) => write!(
                f,
                "the states of {nodes} differ, as of entry {entry}; too few members tell which is right"
            ),
            (Compared::Log(IndexRange { first, last }), Blame::Named) => write!(
                f,
                "entries {first} to {last} in the log of {nodes} differ from those of most members"
            ),
            (Compared::Log(IndexRange { first, last }), Blame::Undecided) => write!(
                f,
                "entries {first} to {last} in the logs of {nodes} differ; too few members tell which \
                 are right"
            ),
        }
    }
}

/// What the reports of one comparison say.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// Who differs.
    pub(super) differences: Vec<Difference>,
    /// Whose states more than half of the members have.
    pub(super) sound_states: BTreeSet<NodeId>,
    /// Whose entries more than half of the members have, by sections, where there are such.
    pub(super) sound_logs: Vec<(IndexRange, BTreeSet<NodeId>)>,
}

/// Judges the reports of those who are members.
pub(super) fn judge(
    entry: LogPosition,
    comparison: Comparison,
    members: &BTreeSet<NodeId>,
    reports: &BTreeMap<NodeId, ComparisonReport>,
) -> Verdict {
    let counted = || reports.iter().filter(|(id, _)| members.contains(id));
    let mut verdict = Verdict::default();
    let states = counted().filter_map(|(id, report)| Some((*id, report.state?)));
    let states = count(states, members.len());
    verdict
        .differences
        .extend(states.odd.map(|(blame, nodes)| Difference {
            entry,
            compared: Compared::State,
            nodes,
            blame,
        }));
    verdict.sound_states = states.sound;
    for number in 0..Comparison::MAX_SECTIONS {
        let Some((first, last)) = comparison.section(number) else {
            break;
        };
        // There are at most 64.
        let sum = |report: &ComparisonReport| *report.sections.get(number as usize)?;
        let sums = counted().filter_map(|(id, report)| Some((*id, sum(report)?)));
        let sums = count(sums, members.len());
        let range = IndexRange { first, last };
        verdict.sound_logs.push((range, sums.sound));
        let Some((blame, nodes)) = sums.odd else {
            continue;
        };
        if let Some(before) = verdict.differences.last_mut()
            && let Compared::Log(found) = &mut before.compared
            && found.last.next() == first
            && (before.blame, &before.nodes) == (blame, &nodes)
        {
            found.last = last;
            continue;
        }
        verdict.differences.push(Difference {
            entry,
            compared: Compared::Log(range),
            nodes,
            blame,
        });
    }
    verdict
}

/// Who has the same value as more than half of the members, and who has another one.
struct Count {
    sound: BTreeSet<NodeId>,
    odd: Option<(Blame, Vec<NodeId>)>,
}

fn count(values: impl Iterator<Item = (NodeId, u64)>, members: usize) -> Count {
    let mut by_value: BTreeMap<u64, BTreeSet<NodeId>> = BTreeMap::new();
    for (node, value) in values {
        by_value.entry(value).or_default().insert(node);
    }
    let majority = by_value
        .values()
        .position(|nodes| nodes.len() * 2 > members);
    let mut groups: Vec<BTreeSet<NodeId>> = by_value.into_values().collect();
    let sound = majority.map(|at| groups.remove(at));
    let mut nodes: Vec<NodeId> = groups.iter().flatten().copied().collect();
    nodes.sort_unstable();
    let odd = match (&sound, groups.len()) {
        (_, 0) | (None, 1) => None,
        (Some(_), _) => Some((Blame::Named, nodes)),
        (None, _) => Some((Blame::Undecided, nodes)),
    };
    Count {
        sound: sound.unwrap_or_default(),
        odd,
    }
}

#[cfg(test)]
mod tests {
    use raft_proto::{LogIndex, Term};

    use super::*;

    fn members(count: u64) -> BTreeSet<NodeId> {
        (1..=count).map(NodeId).collect()
    }

    fn entry() -> LogPosition {
        LogPosition {
            index: LogIndex(100),
            term: Term(2),
        }
    }

    /// Reports of nodes 1, 2, … with these states and sections.
    fn verdict(members_count: u64, reports: &[(Option<u64>, &[u64])]) -> Vec<String> {
        let comparison = Comparison {
            first: LogIndex(1),
            last: LogIndex(6),
        };
        let report = |(state, sections): &(Option<u64>, &[u64])| ComparisonReport {
            entry: entry(),
            state: *state,
            // Zero stands for a section that could not be read.
            sections: sections
                .iter()
                .map(|sum| Some(*sum).filter(|sum| *sum > 0))
                .collect(),
        };
        let reports = (1..).map(NodeId).zip(reports.iter().map(report));
        let found = judge(
            entry(),
            comparison,
            &members(members_count),
            &reports.collect(),
        );
        found.differences.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn equal_replicas_are_no_finding() {
        let one: (Option<u64>, &[u64]) = (Some(7), &[1, 2, 3, 4, 5, 6]);
        assert_eq!(verdict(3, &[one, one, one]), [""; 0]);
        assert_eq!(verdict(3, &[one]), [""; 0]);
        // Without a hash of the state, and with sections that could not be read.
        let other: (Option<u64>, &[u64]) = (None, &[0, 2, 0, 4]);
        assert_eq!(verdict(3, &[one, other, one]), [""; 0]);
        assert_eq!(verdict(3, &[other, (None, &[]), one]), [""; 0]);
    }

    #[test]
    fn the_one_that_differs_from_most_is_named_whoever_it_is() {
        let good: (Option<u64>, &[u64]) = (Some(7), &[1, 2, 3, 4, 5, 6]);
        let bad: (Option<u64>, &[u64]) = (Some(8), &[1, 2, 9, 9, 5, 6]);
        for odd in 0..3 {
            let mut reports = [good; 3];
            reports[odd] = bad;
            let name = format!("n{}", odd + 1);
            assert_eq!(
                verdict(3, &reports),
                [
                    format!(
                        "the state of {name} differs from that of most members, as of entry 100"
                    ),
                    format!(
                        "entries 3 to 4 in the log of {name} differ from those of most members"
                    ),
                ]
            );
        }
        // Two of five that differ, each in its own way.
        let worse: (Option<u64>, &[u64]) = (Some(9), &[1, 2, 3, 4, 5, 6]);
        assert_eq!(
            verdict(5, &[good, bad, good, worse, good])[0],
            "the state of n2, n4 differs from that of most members, as of entry 100"
        );
    }

    #[test]
    fn without_a_majority_of_all_members_nobody_is_named() {
        let good: (Option<u64>, &[u64]) = (Some(7), &[1]);
        let bad: (Option<u64>, &[u64]) = (Some(8), &[1]);
        let undecided =
            "the states of n1, n2 differ, as of entry 100; too few members tell which is right";
        assert_eq!(verdict(2, &[good, bad]), [undecided]);
        assert_eq!(verdict(3, &[good, bad]), [undecided]);
        // Two of five agree: the other two may agree with the third.
        assert_eq!(verdict(5, &[good, good, bad]).len(), 1);
        assert!(verdict(5, &[good, good, bad])[0].contains("n1, n2, n3 differ"));
        assert!(verdict(4, &[good, good, bad, bad])[0].contains("too few"));
    }

    #[test]
    fn who_is_no_member_is_not_counted() {
        let good: (Option<u64>, &[u64]) = (Some(7), &[1]);
        let bad: (Option<u64>, &[u64]) = (Some(8), &[1]);
        assert_eq!(verdict(2, &[good, good, bad]), [""; 0]);
    }
}
