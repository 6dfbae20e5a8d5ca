//! Waits for what a cluster must do, each wait with a generous end.

use std::time::{Duration, Instant};

use raft_kv::client::Client;
use raft_kv::protocol::NodeStatus;

use crate::cluster::Cluster;
use crate::problem::Problem;

/// Longest wait for anything that must happen: it only ends a campaign that failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two looks at something that is awaited.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// The key that tells whether writes go through.
const PROBE: &str = "probe";

/// Waits for what a cluster must do.
pub(crate) struct Waiting<'a> {
    cluster: &'a mut Cluster,
}

impl<'a> Waiting<'a> {
    pub(crate) fn new(cluster: &'a mut Cluster) -> Self {
        Self { cluster }
    }

    /// A client that tries for a long time.
    pub(crate) fn client(&self) -> Result<Client, Problem> {
        Ok(self.cluster.access().client(PATIENCE)?)
    }

    /// Waits until a write goes through and every node follows one leader.
    pub(crate) async fn recovered(&mut self) -> Result<(), Problem> {
        let what = "a write to go through after everything was healed";
        let client = self.client()?;
        let deadline = Instant::now() + PATIENCE;
        let mut write = std::pin::pin!(client.put(PROBE, "written"));
        let written = loop {
            self.cluster.check()?;
            match tokio::time::timeout(LOOK_AGAIN, &mut write).await {
                Ok(written) => break written,
                Err(_) if Instant::now() > deadline + PATIENCE => return Err(in_vain(what)),
                Err(_) => {}
            }
        };
        // It may be answered by a leader that is deposed meanwhile, so that its fate is unknown.
        match written {
            Ok(_) => {}
            Err(error) if error.is_unknown() => {
                client
                    .put(PROBE, "again")
                    .await
                    .map_err(|_| in_vain(what))?;
            }
            Err(_) => return Err(in_vain(what)),
        }
        self.agreed(deadline + PATIENCE).await
    }

    async fn agreed(&mut self, deadline: Instant) -> Result<(), Problem> {
        let client = self.client()?;
        loop {
            let statuses = self.statuses(&client).await;
            let leaders = statuses.iter().map(|status| status.leader);
            let mut leaders: Vec<_> = leaders.collect();
            leaders.dedup();
            let is_agreed = matches!(leaders[..], [Some(_)]);
            if is_agreed && statuses.len() == self.cluster.ids().len() {
                return Ok(());
            }
            self.cluster.check()?;
            if Instant::now() > deadline {
                let seen: Vec<_> = statuses.iter().map(brief).collect();
                return Err(in_vain(&format!("one leader; {}", seen.join(", "))));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The status of every member that answers.
    pub(crate) async fn statuses(&self, client: &Client) -> Vec<NodeStatus> {
        let addresses: Vec<_> = self
            .cluster
            .ids()
            .iter()
            .map(|id| self.cluster.address(*id))
            .collect();
        let all = client.status().await;
        let of_members = all.into_iter().filter(|(at, _)| addresses.contains(at));
        of_members.filter_map(|(_, status)| status.ok()).collect()
    }

    /// Waits until all replicas have the same state.
    pub(crate) async fn converged(&mut self) -> Result<(), Problem> {
        let client = self.client()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let statuses = self.statuses(&client).await;
            let is_whole = statuses.len() == self.cluster.ids().len();
            let mut applied: Vec<_> = statuses.iter().map(|one| one.applied_index).collect();
            let mut hashes: Vec<_> = statuses.iter().map(|one| one.hash).collect();
            applied.dedup();
            hashes.dedup();
            match (is_whole, &applied[..], hashes.len()) {
                (true, [_], 1) => return Ok(()),
                (true, [applied_index], _) => {
                    let hash = |one: &NodeStatus| format!("{} {:016x}", one.id, one.hash);
                    let hashes: Vec<_> = statuses.iter().map(hash).collect();
                    return Err(Problem::Diverged {
                        applied_index: *applied_index,
                        hashes: hashes.join(", "),
                    });
                }
                _ => {}
            }
            self.cluster.check()?;
            if Instant::now() > deadline {
                let seen: Vec<_> = statuses.iter().map(brief).collect();
                return Err(in_vain(&format!("equal states; {}", seen.join(", "))));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// What was awaited did not happen.
pub(crate) fn in_vain(what: &str) -> Problem {
    Problem::InVain {
        what: what.to_owned(),
        after: PATIENCE,
    }
}

/// A node's status in one line.
pub(crate) fn brief(status: &NodeStatus) -> String {
    format!(
        "{} is {} in term {}, follows {:?}, has applied {} of {}",
        status.id,
        status.role,
        status.term,
        status.leader.map(|leader| leader.0),
        status.applied_index,
        status.last_index
    )
}
