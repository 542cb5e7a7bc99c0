//! The calls that differ between systems: positioned reads and writes, holes.

use std::fs::File;
use std::io;

#[cfg(unix)]
pub(super) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, bytes, offset)
}

#[cfg(windows)]
pub(super) fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = bytes.get(n..).unwrap_or_default();
        offset += n as u64;
    }
    Ok(())
}

#[cfg(windows)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, bytes, offset)
}

/// Reads until `bytes` is full or the file ends; the rest is filled with zeroes.
pub(super) fn read_up_to(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match read_at(file, rest, offset + done as u64) {
            Ok(0) => {
                rest.fill(0);
                break;
            }
            Ok(n) => done += n,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(())
}

/// The next run of bytes at or after `offset` that is no hole: start and end. `None` at the end of the file. A file
/// system or device without holes has one run.
#[cfg(target_os = "linux")]
pub(super) fn next_data(file: &File, offset: u64, len: u64) -> io::Result<Option<(u64, u64)>> {
    use rustix::fs::{SeekFrom, seek};
    use rustix::io::Errno;
    if offset >= len {
        return Ok(None);
    }
    match seek(file, SeekFrom::Data(offset)) {
        Ok(start) => {
            let end = seek(file, SeekFrom::Hole(start)).map_err(io::Error::from)?;
            Ok(Some((start, end.min(len))))
        }
        Err(Errno::NXIO) => Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some((offset, len))),
        Err(cause) => Err(cause.into()),
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn next_data(_file: &File, offset: u64, len: u64) -> io::Result<Option<(u64, u64)>> {
    Ok((offset < len).then_some((offset, len)))
}

/// Makes a range read as zeroes without writing it; false where that is not to be had.
#[cfg(target_os = "linux")]
pub(super) fn punch(file: &File, offset: u64, len: u64) -> io::Result<bool> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
    match fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NODEV | Errno::NOSYS) => Ok(false),
        Err(cause) => Err(cause.into()),
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn punch(_file: &File, _offset: u64, _len: u64) -> io::Result<bool> {
    Ok(false)
}
