//! What a worker keeps between blocks: zstd's contexts and one buffer, so that the hot path allocates only what
//! it hands on.

use std::io;

use zstd::bulk::{Compressor, Decompressor};

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
    pub(crate) fn compress(&mut self, plain: &[u8]) -> io::Result<Option<&[u8]>> {
        // A destination of the exact limit makes zstd give up early on what does not shrink; its only other errors
        // are lack of memory, and then the plain block is as good.
        let limit = plain.len().saturating_sub(1).min(self.buffer.len());
        let Some(room) = self.buffer.get_mut(..limit) else { return Ok(None) };
        match self.compressor.compress_to_buffer(plain, room) {
            Ok(len) => Ok(self.buffer.get(..len)),
            Err(_) => Ok(None),
        }
    }

    /// Fills `frame_len` bytes by `fill` and decompresses them to exactly `plain_len` bytes. The outer error is
    /// `fill`'s; the inner one says why the frame is wrong.
    pub(crate) fn decompress(
        &mut self,
        plain_len: usize,
        frame_len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), SealError>,
    ) -> Result<Result<Vec<u8>, String>, SealError> {
        let Some(frame) = self.buffer.get_mut(..frame_len) else {
            return Ok(Err(format!("a frame of {frame_len} bytes")));
        };
        fill(frame)?;
        let mut plain = Vec::with_capacity(plain_len.min(MAX_PLAIN_BYTES));
        Ok(match self.decompressor.decompress_to_buffer(frame, &mut plain) {
            Ok(len) if len == plain_len => Ok(plain),
            Ok(len) => Err(format!("it decompresses to {len} bytes, not {plain_len}")),
            Err(cause) => Err(format!("it does not decompress to {plain_len} bytes: {cause}")),
        })
    }
}
