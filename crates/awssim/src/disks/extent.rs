//! The data of a sparse file, without its holes.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::Result;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Read at a time.
const STEP: usize = 1 << 20;

/// Calls `take(offset, bytes)` for every stretch of data, in order, in pieces of at most 1 MiB that never cross a
/// multiple of 1 MiB.
///
/// # Errors
/// The file's, or that of `take`.
pub fn for_each_data(file: &File, mut take: impl FnMut(u64, &[u8]) -> std::io::Result<()>) -> Result<()> {
    let mut buffer = vec![0_u8; STEP];
    let mut offset = 0_u64;
    loop {
        let start = match seek(file, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(()),
            Err(error) => return Err(std::io::Error::from(error).into()),
        };
        let end = seek(file, SeekFrom::Hole(start)).map_err(std::io::Error::from)?;
        offset = start;
        while offset < end {
            let until = (offset / STEP as u64 + 1) * STEP as u64;
            let length = usize::try_from(until.min(end) - offset).unwrap_or(STEP);
            let Some(piece) = buffer.get_mut(..length) else { break };
            file.read_exact_at(piece, offset)?;
            take(offset, piece)?;
            offset += length as u64;
        }
    }
}
