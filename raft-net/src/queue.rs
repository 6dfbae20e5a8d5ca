//! A bounded queue of frames that is emptied in one piece: everything that waits is one write.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use raft_proto::frame::FrameHeader;
use raft_proto::wire::EncodedFrame;
use tokio::sync::Notify;

use crate::config::QueueLimits;

/// Payloads below this are copied next to their neighbours, larger ones are sent as they are.
/// quinn walks over all unacknowledged chunks for each packet, so many small ones cost more than
/// copying them does.
const COPY_BELOW_BYTES: usize = 4096;
/// Copied bytes are cut into chunks of about this size, so that memory is given back piece by
/// piece as acknowledgements arrive.
const CHUNK_BYTES: usize = 64 << 10;

/// Frames that will be written together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    sealed: Vec<Bytes>,
    open: Vec<u8>,
    frames: usize,
    bytes: usize,
}

impl Batch {
    /// Adds an encoded frame.
    pub(crate) fn push_encoded(&mut self, frame: &EncodedFrame) {
        self.put(&frame.head);
        for payload in &frame.payloads {
            self.put_shared(payload);
        }
        self.end_frame(frame.len());
    }

    /// Adds a frame made of a header, a head in two parts and payloads.
    pub(crate) fn push_parts(
        &mut self,
        header: &FrameHeader,
        prefix: &[u8],
        head: &[u8],
        payloads: &[Bytes],
    ) {
        let header = header.to_bytes();
        for part in [&header[..], prefix, head] {
            self.put(part);
        }
        for payload in payloads {
            self.put_shared(payload);
        }
        let payload_bytes: usize = payloads.iter().map(Bytes::len).sum();
        self.end_frame(header.len() + prefix.len() + head.len() + payload_bytes);
    }

    fn put(&mut self, bytes: &[u8]) {
        self.open.extend_from_slice(bytes);
    }

    fn put_shared(&mut self, payload: &Bytes) {
        if payload.len() < COPY_BELOW_BYTES {
            self.put(payload);
        } else {
            self.seal();
            self.sealed.push(payload.clone());
        }
    }

    fn end_frame(&mut self, bytes: usize) {
        self.frames += 1;
        self.bytes += bytes;
        if self.open.len() >= CHUNK_BYTES {
            self.seal();
        }
    }

    fn seal(&mut self) {
        if !self.open.is_empty() {
            self.sealed.push(std::mem::take(&mut self.open).into());
        }
    }

    /// Frames in it.
    pub(crate) fn frames(&self) -> usize {
        self.frames
    }

    /// Bytes in it.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The pieces to write, none of them empty.
    pub(crate) fn into_chunks(mut self) -> Vec<Bytes> {
        self.seal();
        self.sealed
    }

    /// The same, with no piece larger than `most` bytes.
    pub(crate) fn into_chunks_of(self, most: usize) -> Vec<Bytes> {
        let mut pieces = Vec::new();
        for mut chunk in self.into_chunks() {
            while chunk.len() > most {
                pieces.push(chunk.split_to(most));
            }
            pieces.push(chunk);
        }
        pieces
    }
}

/// What [`SendQueue::push`] says when it takes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// It holds as much as it may.
    Full,
    /// Nobody will read it any more.
    Closed,
}

#[derive(Debug, Default)]
struct Waiting {
    batch: Batch,
    is_closed: bool,
}

/// A bounded queue for one destination. Pushing never waits.
#[derive(Debug)]
pub(crate) struct SendQueue {
    waiting: Mutex<Waiting>,
    filled: Notify,
    limits: QueueLimits,
}

impl SendQueue {
    pub(crate) fn new(limits: QueueLimits) -> Self {
        Self {
            waiting: Mutex::default(),
            filled: Notify::new(),
            limits,
        }
    }

    /// Adds a frame of `bytes` bytes by means of `add`, if there is room. An empty queue takes
    /// any frame. Returns the bytes waiting afterwards.
    pub(crate) fn push(
        &self,
        bytes: usize,
        add: impl FnOnce(&mut Batch),
    ) -> Result<usize, Rejected> {
        let mut waiting = self.lock();
        if waiting.is_closed {
            return Err(Rejected::Closed);
        }
        let was_empty = waiting.batch.frames == 0;
        let fits = waiting.batch.frames < self.limits.messages
            && waiting.batch.bytes.saturating_add(bytes) <= self.limits.bytes;
        if !was_empty && !fits {
            return Err(Rejected::Full);
        }
        add(&mut waiting.batch);
        let now_waiting = waiting.batch.bytes;
        drop(waiting);
        if was_empty {
            self.filled.notify_one();
        }
        Ok(now_waiting)
    }

    /// Everything that waits, or `None`.
    pub(crate) fn try_take(&self) -> Option<Batch> {
        let mut waiting = self.lock();
        (waiting.batch.frames > 0).then(|| std::mem::take(&mut waiting.batch))
    }

    /// Waits for at least one frame and takes everything. Safe to cancel.
    pub(crate) async fn take(&self) -> Batch {
        loop {
            if let Some(batch) = self.try_take() {
                return batch;
            }
            self.filled.notified().await;
        }
    }

    /// Waits until a frame is there, without taking it. Safe to cancel.
    pub(crate) async fn filled(&self) {
        loop {
            if self.lock().batch.frames > 0 {
                // The wake-up may have been meant for whoever takes the frame.
                self.filled.notify_one();
                return;
            }
            self.filled.notified().await;
        }
    }

    /// Throws away what waits; returns how many frames that were.
    pub(crate) fn clear(&self) -> usize {
        self.try_take().map_or(0, |batch| batch.frames)
    }

    /// Throws away what waits and takes nothing any more.
    pub(crate) fn close(&self) {
        let mut waiting = self.lock();
        waiting.is_closed = true;
        waiting.batch = Batch::default();
    }

    /// Bytes waiting.
    pub(crate) fn bytes(&self) -> usize {
        self.lock().batch.bytes
    }

    /// Frames waiting.
    pub(crate) fn frames(&self) -> usize {
        self.lock().batch.frames
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: QueueLimits = QueueLimits {
        messages: 3,
        bytes: 100,
    };

    fn frame(head: usize, payloads: &[usize]) -> EncodedFrame {
        EncodedFrame {
            head: vec![1; head].into(),
            payloads: payloads.iter().map(|n| vec![2; *n].into()).collect(),
        }
    }

    fn push(queue: &SendQueue, bytes: usize) -> Result<usize, Rejected> {
        queue.push(bytes, |batch| batch.push_encoded(&frame(bytes, &[])))
    }

    #[test]
    fn a_queue_is_bounded_in_messages_and_bytes() {
        let queue = SendQueue::new(LIMITS);
        assert_eq!(push(&queue, 40), Ok(40));
        assert_eq!(push(&queue, 60), Ok(100));
        assert_eq!(push(&queue, 1), Err(Rejected::Full));
        assert_eq!(queue.clear(), 2);
        for _ in 0..3 {
            assert!(push(&queue, 1).is_ok());
        }
        assert_eq!(push(&queue, 1), Err(Rejected::Full));
    }

    #[test]
    fn an_empty_queue_takes_a_frame_of_any_size() {
        let queue = SendQueue::new(LIMITS);
        assert_eq!(push(&queue, 1000), Ok(1000));
        assert_eq!(push(&queue, 1), Err(Rejected::Full));
    }

    #[test]
    fn a_closed_queue_takes_nothing() {
        let queue = SendQueue::new(LIMITS);
        assert!(push(&queue, 1).is_ok());
        queue.close();
        assert_eq!(push(&queue, 1), Err(Rejected::Closed));
        assert!(queue.try_take().is_none());
    }

    #[test]
    fn order_and_bytes_survive_coalescing() {
        let mut batch = Batch::default();
        let mut expected = Vec::new();
        for (head, payloads) in [
            (16, &[10, 5000, 3][..]),
            (20, &[]),
            (16, &[COPY_BELOW_BYTES, COPY_BELOW_BYTES - 1]),
            (CHUNK_BYTES, &[1]),
            (30, &[0, 7]),
        ] {
            let frame = frame(head, payloads);
            expected.extend(frame.to_vec());
            batch.push_encoded(&frame);
        }
        assert_eq!((batch.frames(), batch.bytes()), (5, expected.len()));
        let chunks = batch.into_chunks();
        assert!(chunks.iter().all(|chunk| !chunk.is_empty()));
        assert_eq!(chunks.concat(), expected);
    }

    #[test]
    fn large_payloads_are_shared_and_can_be_cut() {
        let frame = frame(16, &[10_000]);
        let mut batch = Batch::default();
        batch.push_encoded(&frame);
        let pieces = batch.into_chunks_of(4000);
        let lengths: Vec<_> = pieces.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [16, 4000, 4000, 2000]);
        assert_eq!(pieces[1].as_ptr(), frame.payloads[0].as_ptr());
    }
}
