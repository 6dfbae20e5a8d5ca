//! What a member does about forming: hands the first entry to nodes that it names, and refuses
//! every gathering. Everything else goes on to the driver.

use raft_proto::{AdoptResponse, Membership, Message, NodeId};
use tokio::task::spawn_blocking;

use crate::driver::Input;
use crate::formation::FormedResponder;
use crate::link::Link;
use crate::transport::Transport;

/// Stands between the inbox and the driver of a formed node.
pub(super) struct Greeter {
    pub(super) responder: FormedResponder,
    pub(super) link: Link,
    pub(super) membership: Membership,
    pub(super) leader: Option<NodeId>,
}

impl Greeter {
    /// Greets for a member of this membership.
    pub(super) fn new(responder: FormedResponder, link: Link, membership: &Membership) -> Self {
        let mut greeter = Self {
            responder,
            link,
            membership: membership.clone(),
            leader: None,
        };
        greeter.set_membership(membership);
        greeter
    }

    /// Handles what concerns forming; returns what the driver has to handle.
    pub(super) fn intercept(&self, transport: &dyn Transport, input: Input) -> Option<Input> {
        match &input {
            Input::PeerUp { peer, .. } => {
                let hello = self.link.hello_of(*peer);
                let answer = hello.and_then(|h| self.responder.hand_out(&h, &self.membership));
                send(transport, *peer, answer);
                Some(input)
            }
            Input::Message { from, message, .. } if concerns_forming(message) => {
                self.respond(transport, *from, message);
                None
            }
            Input::Message { .. }
            | Input::PeerDown { .. }
            | Input::Propose { .. }
            | Input::Read { .. }
            | Input::Transfer { .. }
            | Input::ChangeMembership { .. }
            | Input::Status { .. }
            | Input::Unsent { .. }
            | Input::Persisted(_)
            | Input::HardStatePersisted(_)
            | Input::DiskFull
            | Input::LogRead { .. }
            | Input::LogUnreadable { .. }
            | Input::RotFound(_)
            | Input::Applied { .. }
            | Input::CompareReplicas { .. }
            | Input::TakeSnapshot { .. }
            | Input::ReadSnapshot { .. }
            | Input::CutPart { .. }
            | Input::SnapshotDone(_)
            | Input::Compacted(_)
            | Input::Restored(_) => Some(input),
        }
    }

    /// Hands the first entry to everybody who waits for it: peers that were connected before this
    /// node was formed.
    pub(super) fn hand_out_to_all(&self, transport: &dyn Transport) {
        for hello in self.link.hellos() {
            let answer = self.responder.hand_out(&hello, &self.membership);
            send(transport, hello.node, answer);
        }
    }

    /// The membership in force has changed.
    pub(super) fn set_membership(&mut self, membership: &Membership) {
        self.membership.clone_from(membership);
        let cluster = self.responder.cluster();
        self.link.set_formed(cluster, membership.clone());
    }

    /// The node follows this leader, or none.
    pub(super) fn set_leader(&mut self, leader: Option<NodeId>) {
        if self.leader != leader {
            self.leader = leader;
            self.link.set_leader(leader);
        }
    }

    fn respond(&self, transport: &dyn Transport, from: NodeId, message: &Message) {
        let Some(hello) = self.link.hello_of(from) else {
            return;
        };
        let answer = self.responder.respond(&hello, &self.membership, message);
        send(transport, from, answer);
        if let Message::AdoptResponse(AdoptResponse { cluster }) = message
            && *cluster == Some(self.responder.cluster())
        {
            // It fsyncs; nothing waits for it.
            let link = self.link.clone();
            drop(spawn_blocking(move || {
                link.note_adopted(from, hello.incarnation);
            }));
        }
    }
}

fn send(transport: &dyn Transport, to: NodeId, message: Option<Message>) {
    if let Some(message) = message {
        // The peer asks again if this is lost.
        let _ = transport.send(to, false, message);
    }
}

fn concerns_forming(message: &Message) -> bool {
    matches!(
        message,
        Message::GatherRequest(_)
            | Message::GatherResponse(_)
            | Message::GatherAbandoned(_)
            | Message::AdoptRequest(_)
            | Message::AdoptResponse(_)
    )
}
