//! The operator of a run: wipes disks and puts the nodes back, replaces members, tries learners.
//!
//! One task at a time. Each is a list of steps; a step is repeated until the membership that is
//! committed, or the node, is as wanted. Trouble goes on meanwhile, and a task that is not done when
//! it ends stays as it is.

use std::collections::VecDeque;

use raft_core::Time;
use raft_node::{ChangeSafety, MembershipChange};
use raft_proto::{Membership, NodeId, Promotion};

use crate::cluster::{Cluster, CrashKind, PendingChange};
use crate::marks::Mark;

/// How long the operator waits for the outcome of a change before asking again, in milliseconds.
const PATIENCE_MS: u64 = 1_000;
/// How long a removed or refused node is left running, in milliseconds.
const WATCH_MS: u64 = 600;
/// Tasks that wait at most; more are forgotten.
const TASKS_MAX: usize = 4;

/// What an operator may be told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// A node loses its disk, is started again as if nothing had happened, and is refused; then it
    /// is removed, and added with a new life.
    Wipe(NodeId),
    /// A new node takes the place of a member.
    Replace(NodeId),
    /// A new node is a learner for a while.
    TryLearner,
}

#[derive(Clone, Debug)]
enum Step {
    /// Ends it, and clears its disk.
    Clear(NodeId),
    /// Starts it with its empty disk, as at first.
    StartWiped(NodeId),
    /// Waits until then, or as long as from now.
    Pause(u64),
    PauseUntil(Time),
    /// Starts it, to be handed the first entry.
    Join(NodeId),
    Add(NodeId, Promotion),
    AwaitVoter(NodeId),
    Remove(NodeId),
    /// Its new life holds what its old one did.
    Recovered(NodeId),
    Reached(Mark),
}

/// See the module's page.
#[derive(Default)]
pub(super) struct Operator {
    steps: VecDeque<Step>,
    pending: Option<(PendingChange, Time)>,
}

impl Operator {
    /// Goes on with the present task, or begins the next one.
    pub(super) fn look(&mut self, cluster: &mut Cluster) {
        if self.steps.is_empty()
            && let Some(task) = cluster.take_task()
        {
            self.begin(cluster, task);
        }
        // A few steps may be done at once.
        for _ in 0..4 {
            let Some(step) = self.steps.front().cloned() else {
                return;
            };
            if !self.is_done(cluster, &step) {
                return;
            }
            self.steps.pop_front();
            self.pending = None;
        }
    }

    fn begin(&mut self, cluster: &mut Cluster, task: Task) {
        let Some(membership) = committed_membership(cluster) else {
            return;
        };
        let spare = || {
            let nodes = cluster.node_ids().into_iter();
            let mut free =
                nodes.filter(|node| !cluster.is_formed(*node) && !membership.contains(*node));
            free.next()
        };
        let is_voter = |node: &NodeId| membership.is_voter(*node);
        let steps = match task {
            Task::Wipe(node) if is_voter(&node) && cluster.may_wipe(node) => {
                cluster.note_wiped(node);
                vec![
                    Step::Clear(node),
                    Step::StartWiped(node),
                    Step::Pause(WATCH_MS),
                    Step::Remove(node),
                    Step::Clear(node),
                    Step::Join(node),
                    Step::Add(node, Promotion::Auto),
                    Step::AwaitVoter(node),
                    Step::Recovered(node),
                    Step::Reached(Mark::WipedNodeReadmitted),
                ]
            }
            Task::Replace(node) if is_voter(&node) => match spare() {
                None => return,
                Some(new) => vec![
                    Step::Join(new),
                    Step::Add(new, Promotion::Auto),
                    Step::AwaitVoter(new),
                    Step::Remove(node),
                    Step::Reached(Mark::MemberReplaced),
                    Step::Pause(WATCH_MS),
                    Step::Clear(node),
                ],
            },
            Task::TryLearner => match spare() {
                None => return,
                Some(new) => vec![
                    Step::Join(new),
                    Step::Add(new, Promotion::Manual),
                    Step::Pause(WATCH_MS),
                    Step::Remove(new),
                    Step::Reached(Mark::LearnerRemoved),
                    Step::Clear(new),
                ],
            },
            Task::Wipe(_) | Task::Replace(_) => return,
        };
        self.steps = steps.into();
    }

    /// Works on a step; says whether it is done.
    fn is_done(&mut self, cluster: &mut Cluster, step: &Step) -> bool {
        match step {
            Step::Clear(node) => {
                cluster.put_back(*node);
                cluster.stop_forming(*node);
                cluster.crash_by(*node, CrashKind::Killed);
                cluster.wipe(*node);
            }
            Step::StartWiped(node) => cluster.start_wiped(*node),
            Step::Pause(ms) => {
                let until = cluster.now().plus_ms(*ms);
                self.steps[0] = Step::PauseUntil(until);
                return false;
            }
            Step::PauseUntil(until) => return cluster.now() >= *until,
            Step::Join(node) => {
                if !cluster.is_formed(*node) && !cluster.is_waiting(*node) {
                    cluster.join(*node);
                }
            }
            Step::Add(node, promotion) => {
                let add = MembershipChange::AddLearner {
                    id: *node,
                    member: cluster.open_member(*node),
                    promotion: *promotion,
                };
                return self.has_changed(cluster, add, |members| members.contains(*node));
            }
            Step::Remove(node) => {
                let remove = MembershipChange::Remove(*node);
                return self.has_changed(cluster, remove, |members| !members.contains(*node));
            }
            Step::AwaitVoter(node) => {
                if !cluster.is_formed(*node) && !cluster.is_waiting(*node) {
                    // Its disk failed while it joined.
                    cluster.join(*node);
                }
                let members = committed_membership(cluster);
                return members.is_some_and(|members| members.is_voter(*node));
            }
            Step::Recovered(node) => return cluster.note_recovered(*node),
            Step::Reached(mark) => cluster.note_reached(*mark),
        }
        true
    }

    /// Asks the leader for a change now and then, until the committed membership is as wanted.
    fn has_changed(
        &mut self,
        cluster: &mut Cluster,
        change: MembershipChange,
        is_wanted: impl Fn(&Membership) -> bool,
    ) -> bool {
        if committed_membership(cluster).is_some_and(|members| is_wanted(&members)) {
            return true;
        }
        let now = cluster.now();
        let waits = self.pending.as_ref().is_some_and(|(pending, since)| {
            pending.outcome().is_none() && now.ms_since(*since) < PATIENCE_MS
        });
        if let Some(leader) = cluster.leader().filter(|_| !waits) {
            let asked = cluster.change_membership(leader, vec![change], ChangeSafety::KeepQuorum);
            self.pending = Some((asked, now));
        }
        false
    }
}

/// The membership that is committed, by the log of the present leader. One of an earlier term does not
/// know who was removed, and a member that is wiped by its word takes its vote with it.
pub(super) fn committed_membership(cluster: &Cluster) -> Option<Membership> {
    let (membership, is_committed) = cluster.membership(cluster.latest_leader()?)?;
    (is_committed && !membership.is_joint()).then(|| membership.clone())
}

/// Tasks that nobody has begun.
#[derive(Default)]
pub(crate) struct Tasks(VecDeque<Task>);

impl Tasks {
    pub(crate) fn push(&mut self, task: Task) {
        if self.0.len() < TASKS_MAX {
            self.0.push_back(task);
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Task> {
        self.0.pop_front()
    }
}
