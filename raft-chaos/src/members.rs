//! A member that is lost for good, and the one that takes its place.

use std::time::{Duration, Instant};

use raft_kv::client::Client;
use raft_kv::protocol::{MemberChange, MemberRole, RemovalSafety};
use raft_proto::{NodeId, Promotion};

use crate::cluster::Cluster;
use crate::problem::Problem;
use crate::waiting::{LOOK_AGAIN, Waiting, in_vain};

/// Longest wait for a change of members: a new node has to catch up.
const MEMBER_PATIENCE: Duration = Duration::from_secs(90);

/// Kills a server for good, adds another one, waits until it votes, removes the dead one; returns
/// what was done.
pub(crate) async fn replace(cluster: &mut Cluster, lost: u64) -> Result<String, Problem> {
    cluster.kill(lost)?;
    let (id, address) = cluster.next_node()?;
    let client = Waiting::new(cluster).client()?;
    let joining = MemberChange::Add {
        id: NodeId(id),
        address: address.to_string(),
        promotion: Promotion::Auto,
    };
    change(cluster, &client, &joining).await?;
    cluster.start_joining(id, address)?;
    await_voter(cluster, &client, id).await?;
    let leaving = MemberChange::Remove {
        id: NodeId(lost),
        safety: RemovalSafety::KeepQuorum,
    };
    change(cluster, &client, &leaving).await?;
    cluster.forget(lost);
    Ok(format!("n{id} has taken the place of n{lost}"))
}

async fn await_voter(cluster: &mut Cluster, client: &Client, id: u64) -> Result<(), Problem> {
    let deadline = Instant::now() + MEMBER_PATIENCE;
    loop {
        let list = client.members().await;
        let votes = list.is_ok_and(|list| {
            let mut members = list.members.iter();
            members.any(|one| one.id.0 == id && one.role == MemberRole::Voter)
        });
        if votes {
            return Ok(());
        }
        cluster.check()?;
        if Instant::now() > deadline {
            return Err(in_vain(&format!("n{id} to become a voter")));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Makes a change, however often its outcome gets lost.
async fn change(
    cluster: &mut Cluster,
    client: &Client,
    change: &MemberChange,
) -> Result<(), Problem> {
    let deadline = Instant::now() + MEMBER_PATIENCE;
    loop {
        let error = match client.change_members(change).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        let now = client.members().await;
        if now.is_ok_and(|list| change.is_done(&list.members)) {
            return Ok(());
        }
        cluster.check()?;
        if Instant::now() > deadline {
            return Err(in_vain(&format!("{change:?}: {error}")));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
