//! Frames from a QUIC stream and chunks onto one.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::{ReadError, RecvStream, SendStream, WriteError};
use raft_proto::FrameHeader;
use raft_proto::frame::{self, HEADER_BYTES};

use crate::error::{CloseCode, ConnectError, ProtocolError};

/// Chunks taken from quinn at once.
const CHUNKS_PER_READ: usize = 32;
/// Room is made for a whole frame at once up to this size; a larger one must earn its memory by
/// arriving, so that a claimed length alone allocates nothing.
const RESERVE_AT_ONCE_BYTES: usize = 1 << 20;

/// Cuts a stream into frames whose bodies are slices of the receive buffer.
pub(crate) struct FrameReader {
    stream: RecvStream,
    buffer: BytesMut,
    block_bytes: usize,
    max_body_bytes: u32,
}

impl FrameReader {
    /// Reads frames of bodies up to `max_body_bytes`. The buffer is made of blocks of
    /// `block_bytes`; a body that is kept keeps its block alive.
    pub(crate) fn new(stream: RecvStream, max_body_bytes: u32, block_bytes: usize) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            block_bytes,
            max_body_bytes,
        }
    }

    /// The next frame, or `None` at the orderly end of the stream.
    pub(crate) async fn next(&mut self) -> Result<Option<(FrameHeader, Bytes)>, ConnectError> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(Some(frame));
            }
            if !self.fill().await? {
                return match self.buffer.len() {
                    0 => Ok(None),
                    left => Err(ProtocolError::Truncated(left).into()),
                };
            }
        }
    }

    /// The next frame if it is already here.
    pub(crate) fn buffered(&mut self) -> Result<Option<(FrameHeader, Bytes)>, ProtocolError> {
        let Some(first) = self.buffer.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let header = FrameHeader::parse(first, self.max_body_bytes)?;
        let needed = HEADER_BYTES + header.body_bytes as usize;
        let missing = needed.saturating_sub(self.buffer.len());
        if missing > 0 {
            self.buffer.reserve(missing.min(RESERVE_AT_ONCE_BYTES));
            return Ok(None);
        }
        Ok(frame::take(&mut self.buffer, self.max_body_bytes)?)
    }

    /// Waits for bytes; `false` at the end of the stream.
    async fn fill(&mut self) -> Result<bool, ConnectError> {
        let mut chunks: [Bytes; CHUNKS_PER_READ] = std::array::from_fn(|_| Bytes::new());
        let count = match self.stream.read_chunks(&mut chunks).await {
            Ok(Some(count)) => count,
            Ok(None) => return Ok(false),
            Err(ReadError::ConnectionLost(error)) => return Err(error.into()),
            Err(ReadError::Reset(code)) => {
                let code = CloseCode::from_number(code.into_inner());
                return Err(ConnectError::ClosedByPeer(code));
            }
            Err(
                error @ (ReadError::ClosedStream
                | ReadError::IllegalOrderedRead
                | ReadError::ZeroRttRejected),
            ) => return Err(ConnectError::Lost(error.to_string())),
        };
        let total: usize = chunks[..count].iter().map(Bytes::len).sum();
        if self.buffer.capacity() - self.buffer.len() < total {
            self.buffer.reserve(total.max(self.block_bytes));
        }
        for chunk in &chunks[..count] {
            self.buffer.extend_from_slice(chunk);
        }
        Ok(true)
    }
}

/// Writes all chunks; fails with [`CloseCode::Stalled`] if nothing moves for `stall`.
pub(crate) async fn write_chunks(
    stream: &mut SendStream,
    mut chunks: &mut [Bytes],
    stall: Duration,
) -> Result<(), ConnectError> {
    while !chunks.is_empty() {
        let written = tokio::time::timeout(stall, stream.write_chunks(chunks))
            .await
            .map_err(|_| ConnectError::ClosedByUs(CloseCode::Stalled))?
            .map_err(write_error)?;
        chunks = &mut chunks[written.chunks..];
    }
    Ok(())
}

fn write_error(error: WriteError) -> ConnectError {
    match error {
        WriteError::ConnectionLost(error) => error.into(),
        WriteError::Stopped(code) => {
            ConnectError::ClosedByPeer(CloseCode::from_number(code.into_inner()))
        }
        WriteError::ClosedStream | WriteError::ZeroRttRejected => {
            ConnectError::Lost(error.to_string())
        }
    }
}
