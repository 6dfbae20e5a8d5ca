//! What must hold at every moment: promises are durable, and at most one cluster works.

use std::collections::BTreeSet;

use raft_node::formation::{Event, Formation, Local, Start};
use raft_proto::{
    AdoptResponse, ClusterId, GatherOutcome, GatherRequest, GatherResponse, Incarnation, Message,
    NodeId,
};

use crate::world::World;

impl World {
    /// What a message promises must survive the crash of its sender at this moment.
    pub(crate) fn assert_durable(&self, from: NodeId, to: NodeId, message: &Message) {
        if let Message::GatherResponse(response) = message {
            self.assert_answered_again(from, to, response);
        } else if let Message::GatherAbandoned(_) = message {
            let mut again = self.restarted(from);
            again.handle_peer_up(to, Incarnation(1));
            assert!(
                !matches!(again.poll_transmit(), Some((_, Message::GatherRequest(_)))),
                "{from} would gather again"
            );
        } else if let Message::AdoptResponse(AdoptResponse {
            cluster: Some(promised),
        }) = message
        {
            match self.restarted(from).poll_event() {
                Some(Event::WriteFirstEntry { cluster, .. } | Event::Formed { cluster, .. }) => {
                    assert_eq!(cluster, *promised);
                }
                other @ (Some(Event::Failed(_)) | None) => {
                    panic!("{from} would not belong to {promised}: {other:?}")
                }
            }
        }
    }

    fn assert_answered_again(&self, from: NodeId, to: NodeId, response: &GatherResponse) {
        let Start::Form(voters) = &self.nodes[&from].start else {
            return;
        };
        let expected = match &response.outcome {
            GatherOutcome::OtherVoters { .. } => return,
            GatherOutcome::Released => GatherOutcome::Superseded,
            outcome @ (GatherOutcome::Joining { .. }
            | GatherOutcome::Formed { .. }
            | GatherOutcome::StartedToJoin
            | GatherOutcome::Superseded) => outcome.clone(),
        };
        let request = GatherRequest {
            incarnation: response.gatherer,
            voters: voters.as_slice().to_vec(),
        };
        let mut again = self.restarted(from);
        again.handle_message(self.now, to, &request.into());
        let Some((_, Message::GatherResponse(answer))) = again.poll_transmit() else {
            panic!("{from} would not answer {response:?} again");
        };
        assert_eq!(answer.outcome, expected, "{from} forgets {response:?}");
    }

    /// The node as it would come back from its disk now.
    fn restarted(&self, id: NodeId) -> Formation {
        let node = &self.nodes[&id];
        let local = Local {
            node: id,
            incarnation: node.disk.incarnation,
        };
        let stored = node.disk.record.as_deref();
        Formation::new(local, node.start.clone(), stored, self.now).unwrap()
    }

    /// A cluster works once a majority of its members hold its log. Two may only if a majority of
    /// one has been wiped.
    pub(crate) fn note_working(&mut self) {
        for (cluster, first) in &self.clusters {
            let named = |id: &NodeId| first.membership().members[id].incarnation;
            let voters = &first.membership().voters;
            let majority = voters.len() / 2 + 1;
            let holds = |id: &&NodeId| {
                let disk = &self.nodes[*id].disk;
                disk.log == Some(*cluster) && named(id) == Some(disk.incarnation)
            };
            if voters.iter().filter(holds).count() >= majority {
                self.working.insert(*cluster);
            }
        }
        let alive = |cluster: &&ClusterId| {
            let first = &self.clusters[*cluster];
            let wiped = |id: &&NodeId| {
                let named = first.membership().members[*id].incarnation;
                named.is_some_and(|named| self.wiped.contains(&(**id, named)))
            };
            let voters = &first.membership().voters;
            voters.iter().filter(wiped).count() <= voters.len() / 2
        };
        let working: Vec<_> = self.working.iter().filter(alive).collect();
        assert!(working.len() <= 1, "two clusters work: {working:?}");
    }

    /// No two directories that exist belong to different clusters.
    pub(crate) fn assert_one_cluster(&self) {
        let logs: BTreeSet<_> = self.nodes.values().filter_map(|n| n.disk.log).collect();
        assert!(logs.len() <= 1, "two clusters have members: {logs:?}");
    }
}
