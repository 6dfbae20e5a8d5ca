//! Calls about the cluster itself: how its nodes are, who leads, who belongs to it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_proto::NodeId;
use tokio::task::JoinSet;

use super::call::{Attempt, Bounds, CallError, Next, Patience, Problem, Repetition};
use super::exchange::{Answer, exchange};
use super::request::Request;
use super::{Client, ClientError, error, status_of};
use crate::protocol::{
    self, MemberChange, MemberList, NodeStatus, ReplicasCompared, RequestKind, ResponseKind,
    TransferRequest,
};

/// How long [`Client::status`] waits for one endpoint; the others are not held up by one that is
/// dead.
pub const STATUS_BOUND: Duration = Duration::from_millis(1_000);

/// Longer than a server takes to answer that a comparison did not come about.
const COMPARISON_BOUND: Duration = Duration::from_secs(90);

impl Client {
    /// Hands leadership to another node.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn transfer_leadership(&self, to: NodeId) -> Result<(), ClientError> {
        let request = Request::of(RequestKind::Transfer, &TransferRequest { to });
        match self.call(&request, Repetition::Harmless).await? {
            (ResponseKind::Done, _) => Ok(()),
            _ => Err(ClientError::Mismatched),
        }
    }

    /// Has the leader compare the replicas, and waits for what the members report: half a minute if
    /// one of them does not.
    ///
    /// # Errors
    /// [`ClientError`]; asking again does no harm.
    pub async fn compare_replicas(&self) -> Result<ReplicasCompared, ClientError> {
        let (leader, _) = self.leader().await?;
        let request = Request::empty(RequestKind::CompareReplicas);
        let asked = self.ask(&leader, &request, bounds_of_one(COMPARISON_BOUND));
        match asked.await {
            Attempt::Answered((ResponseKind::Compared, body)) => Ok(protocol::from_body(&body)?),
            Attempt::Answered(_) | Attempt::Redirected { .. } => Err(ClientError::Mismatched),
            Attempt::NotDone(problem) | Attempt::Unsure(problem) => {
                Err(CallError::Refused(problem).into())
            }
        }
    }

    /// Who belongs to the cluster, as the leader knows it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn members(&self) -> Result<MemberList, ClientError> {
        let leader = self.leader().await?;
        let request = Request::empty(RequestKind::Members);
        members_of(self.ask_until_answered(&leader.0, &request).await?)
    }

    /// Who belongs to the cluster, as each endpoint knows it by itself: also without a leader, and
    /// perhaps old. Each is asked for at most [`STATUS_BOUND`].
    pub async fn members_of_each(&self) -> Vec<(String, Result<MemberList, ClientError>)> {
        let bound = STATUS_BOUND.min(self.inner.policy.deadline);
        let mut asking = JoinSet::new();
        for (place, address) in self.inner.pool.addresses().into_iter().enumerate() {
            let client = self.clone();
            asking.spawn(async move {
                let request = Request::empty(RequestKind::Members);
                let attempt = client.ask(&address, &request, bounds_of_one(bound)).await;
                let members = match attempt {
                    Attempt::Answered(answer) => members_of(answer),
                    Attempt::Redirected { .. } => Err(ClientError::Mismatched),
                    Attempt::NotDone(problem) | Attempt::Unsure(problem) => {
                        Err(CallError::Refused(problem).into())
                    }
                };
                (place, address, members)
            });
        }
        let mut all = asking.join_all().await;
        all.sort_by_key(|(place, ..)| *place);
        all.into_iter()
            .map(|(_, address, members)| (address, members))
            .collect()
    }

    /// Changes who belongs to the cluster; returns the members once the change is committed.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::is_unknown`] if the change may yet be made: look at
    /// [`Client::members`].
    pub async fn change_members(&self, change: &MemberChange) -> Result<MemberList, ClientError> {
        let request = Request::of(RequestKind::ChangeMembers, change);
        let outcome = self.call(&request, Repetition::Forbidden).await;
        let unknown = match outcome {
            Ok(answer) => return members_of(answer),
            Err(error) if error.is_unknown() => error,
            Err(error) => return Err(error),
        };
        // The leader is gone, perhaps because it has removed itself. Its successor knows.
        match self.members().await {
            Ok(list) if change.is_done(&list.members) => Ok(list),
            Ok(_) | Err(_) => Err(unknown),
        }
    }

    /// Asks every endpoint how it is, all at once, each for at most [`STATUS_BOUND`].
    pub async fn status(&self) -> Vec<(String, Result<NodeStatus, ClientError>)> {
        let bound = STATUS_BOUND.min(self.inner.policy.deadline);
        let mut asked = Vec::new();
        for address in self.inner.pool.addresses() {
            let client = self.clone();
            let of_address = address.clone();
            let task = tokio::spawn(async move { client.status_once(&of_address, bound).await });
            asked.push((address, task));
        }
        let mut all = Vec::with_capacity(asked.len());
        for (address, task) in asked {
            let status = task.await.unwrap_or(Err(ClientError::Mismatched));
            all.push((address, status));
        }
        all
    }

    async fn status_once(&self, address: &str, bound: Duration) -> Result<NodeStatus, ClientError> {
        let bounds = bounds_of_one(bound);
        let request = Request::empty(RequestKind::Status);
        match self.ask(address, &request, bounds).await {
            Attempt::Answered(answer) => status_of(answer),
            Attempt::NotDone(problem) | Attempt::Unsure(problem) => {
                Err(CallError::Unreachable(problem).into())
            }
            Attempt::Redirected { .. } => Err(ClientError::Mismatched),
        }
    }

    /// Asks one endpoint how it is, until the deadline.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn status_of(&self, address: &str) -> Result<NodeStatus, ClientError> {
        let request = Request::empty(RequestKind::Status);
        status_of(self.ask_until_answered(address, &request).await?)
    }

    /// Finds the leader by asking everybody, and sends it all further calls. Reads are answered
    /// by every node, but a follower has to ask the leader first.
    ///
    /// # Errors
    /// [`ClientError`] if nobody names a leader within the deadline.
    pub async fn prefer_leader(&self) -> Result<NodeStatus, ClientError> {
        Ok(self.leader().await?.1)
    }

    /// Finds the leader, and sends it all further calls.
    async fn leader(&self) -> Result<(String, NodeStatus), ClientError> {
        let mut call = self.new_call(Repetition::Harmless);
        let started = Instant::now();
        loop {
            let bounds = call.bounds(started.elapsed());
            if let Some((address, status)) = self.find_leader(bounds).await {
                self.inner.pool.prefer(&address);
                return Ok((address, status));
            }
            let nobody = Attempt::NotDone(Problem::NoLeader("any endpoint".to_owned()));
            match call.next::<()>(nobody, started.elapsed()) {
                Next::Done(Err(error)) => return Err(error.into()),
                Next::Done(Ok(())) => return Err(ClientError::Mismatched),
                Next::Retry { after } => tokio::time::sleep(after).await,
            }
        }
    }

    /// Asks everybody once, and whoever they name as leader, until somebody says that it leads.
    async fn find_leader(&self, bounds: Bounds) -> Option<(String, NodeStatus)> {
        let mut asked = self.inner.pool.addresses();
        let mut asking = JoinSet::new();
        for address in asked.clone() {
            asking.spawn(self.clone().status_at(address, bounds));
        }
        while let Some(joined) = asking.join_next().await {
            let Ok((address, Some(status))) = joined else {
                continue;
            };
            if status.leader == Some(status.id) {
                return Some((address, status));
            }
            // The leader may be a node that we were never told of.
            let named = status
                .peers
                .iter()
                .find(|peer| status.leader == Some(peer.id));
            if let Some(named) = named.map(|peer| &peer.address)
                && !asked.contains(named)
            {
                asked.push(named.clone());
                asking.spawn(self.clone().status_at(named.clone(), bounds));
            }
        }
        None
    }

    async fn status_at(self, address: String, bounds: Bounds) -> (String, Option<NodeStatus>) {
        let request = Request::empty(RequestKind::Status);
        let status = match self.ask(&address, &request, bounds).await {
            Attempt::Answered(answer) => status_of(answer).ok(),
            Attempt::Redirected { .. } | Attempt::NotDone(_) | Attempt::Unsure(_) => None,
        };
        (address, status)
    }

    /// Asks one endpoint, and no other, until it answers or the deadline has passed.
    pub(super) async fn ask_until_answered(
        &self,
        address: &str,
        request: &Request,
    ) -> Result<Answer, ClientError> {
        let mut call = self.new_call(Repetition::Harmless);
        let started = Instant::now();
        loop {
            let bounds = call.bounds(started.elapsed());
            let attempt = self.ask(address, request, bounds).await;
            match call.next(attempt, started.elapsed()) {
                Next::Done(answer) => return Ok(answer?),
                Next::Retry { after } => tokio::time::sleep(after).await,
            }
        }
    }

    /// Asks one endpoint, and no other, once.
    pub(super) async fn ask(
        &self,
        address: &str,
        request: &Request,
        bounds: Bounds,
    ) -> Attempt<Answer> {
        let pool = &self.inner.pool;
        // This endpoint is meant, whoever leads.
        let bounds = Bounds {
            doubt: bounds.deadline,
            patience: Patience::Stays,
            ..bounds
        };
        match pool.connect_to(address, bounds.connect).await {
            Ok(connected) => exchange(pool, &connected, request, bounds).await,
            Err(error) if error::is_permanent(&error) => {
                Attempt::NotDone(Problem::Incompatible(error.to_string()))
            }
            Err(error) => Attempt::NotDone(Problem::NotConnected {
                address: address.to_owned(),
                reason: error.to_string(),
            }),
        }
    }
}

/// Bounds of a single attempt.
pub(super) const fn bounds_of_one(bound: Duration) -> Bounds {
    Bounds {
        connect: bound,
        attempt: bound,
        doubt: bound,
        patience: Patience::Stays,
        deadline: bound,
    }
}

fn members_of(answer: Answer) -> Result<MemberList, ClientError> {
    let (ResponseKind::Members, body): (ResponseKind, Bytes) = answer else {
        return Err(ClientError::Mismatched);
    };
    Ok(protocol::from_body(&body)?)
}
