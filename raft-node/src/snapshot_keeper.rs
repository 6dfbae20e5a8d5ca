//! Carries out what the driver asks for about snapshot files. It blocks; the runtime gives it a
//! thread of its own, the simulator calls it when the time has come.

use std::sync::Arc;

use raft_log::{SnapshotError as StoreError, SnapshotReceiver, SnapshotStore, SnapshotWriter};
use raft_proto::{LogPosition, NodeId};

use crate::driver::{CutId, FetchId, FoundPart, PartName, PartReader, SnapshotDone, SnapshotJob};
use crate::error::SnapshotError;

/// The snapshot files of one node, and those that are being written.
///
/// It is never ahead of the driver: [`SnapshotJob`]s are done in order, and a failure ends the
/// save or transfer that it belongs to and nothing else.
pub struct SnapshotKeeper {
    node: NodeId,
    store: SnapshotStore,
    saving: Option<(CutId, SnapshotWriter)>,
    receiving: Option<(FetchId, SnapshotReceiver)>,
}

impl SnapshotKeeper {
    /// Keeps the snapshots of this store; `node` is for log lines.
    #[must_use]
    pub fn new(node: NodeId, store: SnapshotStore) -> Self {
        Self {
            node,
            store,
            saving: None,
            receiving: None,
        }
    }

    /// Whether a failed directory sync has left the names of snapshots in doubt. Nothing can be
    /// stored any more, and what is seen may not be durable: the node is to stop, as after any
    /// failed sync.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.store.is_poisoned()
    }

    /// Does a job, and says what came of it if the driver wants to know.
    pub fn carry_out(&mut self, job: SnapshotJob) -> Option<SnapshotDone> {
        match job {
            SnapshotJob::Create {
                cut,
                last_included,
                membership,
            } => {
                let created = self.store.create(last_included, &membership);
                let writer = created.map(|writer| self.saving = Some((cut, writer)));
                save_failure(cut, writer)
            }
            SnapshotJob::Write { cut, part } => {
                let mut writer = self.take_writer(cut)?;
                let written = writer.write(&part);
                self.saving = written.is_ok().then_some((cut, writer));
                save_failure(cut, written).or(Some(SnapshotDone::Written { cut }))
            }
            SnapshotJob::Finish { cut } => {
                let writer = self.take_writer(cut)?;
                Some(match writer.finish() {
                    Ok(snapshot) => SnapshotDone::Saved { cut, snapshot },
                    Err(error) => save_failed(cut, error),
                })
            }
            SnapshotJob::Abandon { cut } => {
                drop(self.take_writer(cut));
                None
            }
            SnapshotJob::Read { part, reader } => self.read(part, reader),
            SnapshotJob::RemoveOlder(keep) => {
                self.remove_older(keep);
                None
            }
            SnapshotJob::Receive { .. }
            | SnapshotJob::Store { .. }
            | SnapshotJob::FinishReceiving { .. }
            | SnapshotJob::StopReceiving { .. } => self.receive(job),
        }
    }

    /// Makes what was fetched durable, so that the next process goes on from there.
    pub fn stop(mut self) {
        self.stop_receiving();
    }

    fn receive(&mut self, job: SnapshotJob) -> Option<SnapshotDone> {
        match job {
            SnapshotJob::Receive { fetch, snapshot } => {
                self.stop_receiving();
                Some(match self.store.receive(&snapshot) {
                    Ok(receiver) => {
                        let received_bytes = receiver.next_offset();
                        self.receiving = Some((fetch, receiver));
                        SnapshotDone::Receiving {
                            fetch,
                            received_bytes,
                        }
                    }
                    Err(error) => receive_failed(fetch, error),
                })
            }
            SnapshotJob::Store {
                fetch,
                offset,
                data,
            } => {
                let mut receiver = self.take_receiver(fetch)?;
                Some(match receiver.write(offset, &data) {
                    Ok(stored_bytes) => {
                        let durable_bytes = receiver.received_bytes();
                        self.receiving = Some((fetch, receiver));
                        SnapshotDone::Stored {
                            fetch,
                            stored_bytes,
                            durable_bytes,
                        }
                    }
                    Err(error) => receive_failed(fetch, error),
                })
            }
            SnapshotJob::FinishReceiving { fetch } => {
                let receiver = self.take_receiver(fetch)?;
                let last_included = receiver.snapshot().last_included;
                Some(match receiver.finish() {
                    Ok(()) => SnapshotDone::Received {
                        fetch,
                        last_included,
                    },
                    Err(error) => receive_failed(fetch, error),
                })
            }
            SnapshotJob::StopReceiving { fetch: _ } => {
                self.stop_receiving();
                None
            }
            SnapshotJob::Create { .. }
            | SnapshotJob::Write { .. }
            | SnapshotJob::Finish { .. }
            | SnapshotJob::Abandon { .. }
            | SnapshotJob::Read { .. }
            | SnapshotJob::RemoveOlder(_) => unreachable!("only jobs of a transfer come here"),
        }
    }

    fn read(&self, part: PartName, reader: PartReader) -> Option<SnapshotDone> {
        let PartName {
            last_included,
            offset,
            max_bytes,
        } = part;
        let found = self.store.read_part(last_included, offset, max_bytes);
        match reader {
            PartReader::Peer(to) => {
                let found = self.or_nothing(found);
                Some(SnapshotDone::PartRead { to, part, found })
            }
            PartReader::Local(waiter) => {
                waiter(found.map_err(|error| SnapshotError::Failed(Arc::new(error))));
                None
            }
        }
    }

    /// A peer gets nothing of a damaged snapshot, and needs another one.
    fn or_nothing(&self, found: Result<FoundPart, StoreError>) -> FoundPart {
        found.unwrap_or_else(|error| {
            tracing::error!(node = self.node.0, %error, "a snapshot cannot be sent");
            None
        })
    }

    fn remove_older(&self, keep: LogPosition) {
        if let Err(error) = self.store.remove_older(keep) {
            // They take room and do no harm; the next snapshot tries again.
            tracing::warn!(node = self.node.0, %error, "old snapshots were not removed");
        }
    }

    fn stop_receiving(&mut self) {
        if let Some((_, mut receiver)) = self.receiving.take() {
            // What is not durable is fetched again.
            let _ = receiver.sync();
        }
    }

    fn take_writer(&mut self, cut: CutId) -> Option<SnapshotWriter> {
        let (_, writer) = self.saving.take_if(|(found, _)| *found == cut)?;
        Some(writer)
    }

    fn take_receiver(&mut self, fetch: FetchId) -> Option<SnapshotReceiver> {
        let (_, receiver) = self.receiving.take_if(|(found, _)| *found == fetch)?;
        Some(receiver)
    }
}

fn save_failure<T>(cut: CutId, outcome: Result<T, StoreError>) -> Option<SnapshotDone> {
    outcome.err().map(|error| save_failed(cut, error))
}

fn save_failed(cut: CutId, error: StoreError) -> SnapshotDone {
    let error = Arc::new(error);
    SnapshotDone::SaveFailed { cut, error }
}

fn receive_failed(fetch: FetchId, error: StoreError) -> SnapshotDone {
    let error = Arc::new(error);
    SnapshotDone::ReceiveFailed { fetch, error }
}
