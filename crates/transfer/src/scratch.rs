//! What a worker keeps between blocks: zstd's contexts and one buffer, so that the hot path allocates only what
//! it hands on.

use std::io;

use zstd::bulk::{Compressor, Decompressor};

use crate::buffers::BlockBuffer;
use crate::record::{MAX_PLAIN_BYTES, SealError};

/// zstd level of chunks: the slowest stage of a backup, so the fastest level.
const LEVEL: i32 = 1;

/// Contexts and buffer of one worker, about 2 MiB.
pub struct Scratch {
    compressor: Compressor<'static>,
    decompressor: Decompressor<'static>,
    buffer: Vec<u8>,
}

impl Scratch {
    /// New contexts.
    ///
    /// # Errors
    /// zstd has no memory.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            compressor: Compressor::new(LEVEL)?,
            decompressor: Decompressor::new()?,
            buffer: vec![0; MAX_PLAIN_BYTES],
        })
    }

    /// One zstd frame of `plain`, if it is shorter than `plain`.
    pub(crate) fn compress(&mut self, plain: &[u8]) -> Option<&[u8]> {
        // A destination of the exact limit makes zstd give up on what does not shrink; its only other error is a
        // lack of memory, and then the plain block is as good.
        let limit = plain.len().saturating_sub(1).min(self.buffer.len());
        let room = self.buffer.get_mut(..limit).unwrap_or_default();
        let frame_len = self.compressor.compress_to_buffer(plain, room).ok();
        frame_len.and_then(|len| self.buffer.get(..len))
    }

    /// Fills `frame_len` bytes by `fill` and decompresses them to exactly `plain_len` bytes, at most a block's. The
    /// outer error is `fill`'s; the inner one says why the frame is wrong.
    pub(crate) fn decompress(
        &mut self,
        plain_len: usize,
        frame_len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), SealError>,
    ) -> Result<Result<BlockBuffer, String>, SealError> {
        let Some(frame) = self.buffer.get_mut(..frame_len) else {
            return Ok(Err(format!("a frame of {frame_len} bytes")));
        };
        fill(frame)?;
        let mut plain = BlockBuffer::take(plain_len.min(MAX_PLAIN_BYTES));
        Ok(match self.decompressor.decompress_to_buffer(frame, plain.as_mut_slice()) {
            Ok(len) if len == plain_len => Ok(plain),
            Ok(len) => Err(format!("it decompresses to {len} bytes, not {plain_len}")),
            Err(cause) => Err(format!("it does not decompress to {plain_len} bytes: {cause}")),
        })
    }
}
