//! openraft 0.9 on one thread: its tasks on a single-threaded runtime, its network a function call,
//! its log and state machine in memory.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::Cursor;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use benches::contest::Measured;
use benches::processor;
use bytes::Bytes;
use openraft::error::{InstallSnapshotError, RPCError, RaftError};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::storage::{LogFlushed, LogState, RaftLogStorage, RaftStateMachine};
use openraft::{
    BasicNode, Config, Entry, EntryPayload, LogId, RaftLogReader, RaftSnapshotBuilder, Snapshot,
    SnapshotMeta, SnapshotPolicy, StorageError, StoredMembership, TokioRuntime, Vote,
};
use tokio::runtime::Runtime;

openraft::declare_raft_types!(
    /// Commands of bytes that answer nothing.
    Types:
        D = Command,
        R = (),
        NodeId = u64,
        Node = BasicNode,
        Entry = Entry<Types>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = TokioRuntime,
);

type Node = openraft::Raft<Types>;
type Stored<T> = Result<T, StorageError<u64>>;
type Answer<T, E = RaftError<u64>> = Result<T, RPCError<u64, BasicNode, E>>;

/// A command; cloning it copies no bytes.
#[derive(Clone, Debug)]
pub(super) struct Command(Bytes);

/// A cluster on a runtime of its own.
pub(super) struct Cluster {
    runtime: Runtime,
    leader: Node,
    payload: Bytes,
}

impl Cluster {
    /// A cluster led by its first node.
    pub(super) fn new(size: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.expect("a runtime starts");
        let leader = runtime.block_on(start(size));
        let payload = super::payload();
        Self {
            runtime,
            leader,
            payload,
        }
    }

    /// So many clients write, each its next command when the last one is applied.
    pub(super) fn run(&self, clients: u64, slice: Duration) -> Measured {
        let (begin, processor) = (Instant::now(), processor::of_thread());
        let operations = self.runtime.block_on(async {
            let client = || {
                let (leader, payload) = (self.leader.clone(), self.payload.clone());
                async move {
                    let mut written = 0;
                    while begin.elapsed() < slice {
                        let write = leader.client_write(Command(payload.clone())).await;
                        write.expect("the leader stays");
                        written += 1;
                    }
                    written
                }
            };
            let clients: Vec<_> = (0..clients).map(|_| tokio::spawn(client())).collect();
            let mut operations: u64 = 0;
            for client in clients {
                operations += client.await.expect("a client does not panic");
            }
            operations
        });
        Measured {
            operations,
            elapsed: begin.elapsed(),
            processor: processor::of_thread() - processor,
            repetition: None,
        }
    }
}

async fn start(size: u64) -> Node {
    let config = Config {
        snapshot_policy: SnapshotPolicy::Never,
        ..Config::default()
    };
    let config = Arc::new(config.validate().expect("the configuration is valid"));
    let nodes = Nodes::default();
    for id in 1..=size {
        let (log, machine) = (Log::default(), Machine::default());
        let node = Node::new(id, Arc::clone(&config), nodes.clone(), log, machine);
        let node = node.await.expect("a node starts");
        lock(&nodes.0).insert(id, node);
    }
    let leader = lock(&nodes.0)[&1].clone();
    let members: BTreeMap<u64, BasicNode> =
        (1..=size).map(|id| (id, BasicNode::default())).collect();
    leader
        .initialize(members)
        .await
        .expect("the cluster is new");
    let patience = Some(Duration::from_secs(30));
    let leads = leader.wait(patience).current_leader(1, "leads").await;
    leads.expect("the node that forms the cluster is elected");
    leader
}

/// All nodes of the process, and the network between them.
#[derive(Clone, Default)]
struct Nodes(Arc<Mutex<BTreeMap<u64, Node>>>);

impl RaftNetworkFactory<Types> for Nodes {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _node: &BasicNode) -> Peer {
        Peer(lock(&self.0)[&target].clone())
    }
}

/// The way to a node: its own methods.
struct Peer(Node);

impl RaftNetwork<Types> for Peer {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Answer<AppendEntriesResponse<u64>> {
        Ok(self.0.append_entries(request).await.expect("it runs"))
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<Types>,
        _option: RPCOption,
    ) -> Answer<InstallSnapshotResponse<u64>, RaftError<u64, InstallSnapshotError>> {
        Ok(self.0.install_snapshot(request).await.expect("it runs"))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        _option: RPCOption,
    ) -> Answer<VoteResponse<u64>> {
        Ok(self.0.vote(request).await.expect("it runs"))
    }
}

/// A log in memory; only the latest entries are kept, as a snapshot would have it.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Content>>);

#[derive(Default)]
struct Content {
    entries: BTreeMap<u64, Entry<Types>>,
    last: Option<LogId<u64>>,
    vote: Option<Vote<u64>>,
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: R,
    ) -> Stored<Vec<Entry<Types>>> {
        let content = lock(&self.0);
        Ok(content
            .entries
            .range(range)
            .map(|(_, entry)| entry.clone())
            .collect())
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Stored<LogState<Types>> {
        Ok(LogState {
            last_purged_log_id: None,
            last_log_id: lock(&self.0).last,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Stored<()> {
        lock(&self.0).vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Stored<Option<Vote<u64>>> {
        Ok(lock(&self.0).vote)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Stored<()>
    where
        I: IntoIterator<Item = Entry<Types>> + Send,
        I::IntoIter: Send,
    {
        let mut content = lock(&self.0);
        for entry in entries {
            content.last = Some(entry.log_id);
            content.entries.insert(entry.log_id.index, entry);
            // Nobody is further behind than what is kept.
            if content.entries.len() as u64 > super::KEPT_ENTRIES {
                content.entries.pop_first();
            }
        }
        drop(content);
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId<u64>) -> Stored<()> {
        let mut content = lock(&self.0);
        content.entries.split_off(&log_id.index);
        content.last = content
            .entries
            .last_key_value()
            .map(|(_, entry)| entry.log_id);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId<u64>) -> Stored<()> {
        let mut content = lock(&self.0);
        content.entries = content.entries.split_off(&(log_id.index + 1));
        Ok(())
    }
}

/// Counts bytes.
#[derive(Clone, Default)]
struct Machine {
    applied: Option<LogId<u64>>,
    membership: StoredMembership<u64, BasicNode>,
    bytes: u64,
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> Stored<Snapshot<Types>> {
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
            snapshot_id: self.bytes.to_string(),
        };
        let snapshot = Box::new(Cursor::new(self.bytes.to_le_bytes().to_vec()));
        Ok(Snapshot { meta, snapshot })
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Stored<(Option<LogId<u64>>, StoredMembership<u64, BasicNode>)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Stored<Vec<()>>
    where
        I: IntoIterator<Item = Entry<Types>> + Send,
        I::IntoIter: Send,
    {
        let mut replies = Vec::new();
        for entry in entries {
            self.applied = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(command) => self.bytes += command.0.len() as u64,
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                }
            }
            replies.push(());
        }
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Stored<Box<Cursor<Vec<u8>>>> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, BasicNode>,
        _snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Stored<()> {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Stored<Option<Snapshot<Types>>> {
        Ok(None)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
