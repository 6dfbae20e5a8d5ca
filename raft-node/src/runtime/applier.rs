//! The applier: the only one who touches the state machine.

use std::sync::Arc;

use crossbeam_channel::Receiver;
use raft_proto::EntryKind;

use crate::driver::{ApplyBatch, ApplyItem, Input};
use crate::inbox::{Inbox, Notice};
use crate::machine::{Applied, StateMachine};

/// Applies a batch and answers those who wait for it; the result belongs to the driver.
pub fn apply_batch(machine: &mut dyn StateMachine, batch: ApplyBatch) -> Input {
    for item in batch.items {
        match item {
            ApplyItem::Entry(entry, waiter) => {
                // Raft's own entries only move the index.
                if entry.kind != EntryKind::Command {
                    continue;
                }
                let reply = machine.apply(Applied {
                    index: entry.index,
                    term: entry.term,
                    command: &entry.payload,
                });
                if let Some(waiter) = waiter {
                    waiter.decide(Ok(reply));
                }
            }
            ApplyItem::Query(query, waiter) => waiter(Ok(machine.query(&query))),
        }
    }
    Input::Applied {
        through: batch.through,
        bytes: batch.bytes,
    }
}

/// Runs until the sender of batches is gone.
pub(super) fn run(
    mut machine: Box<dyn StateMachine>,
    batches: &Receiver<ApplyBatch>,
    inbox: &Arc<Inbox>,
) {
    while let Ok(batch) = batches.recv() {
        let applied = apply_batch(machine.as_mut(), batch);
        inbox.push_notice(Notice::Input(applied));
    }
}
