//! The calls that differ between systems: positioned reads and writes, lengths, holes, direct I/O.

use std::fs::File;
use std::io;
use std::path::Path;

#[cfg(unix)]
pub(crate) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, bytes, offset)
}

#[cfg(windows)]
pub(crate) fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
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

/// Reads until `bytes` is full or the file ends; how many bytes were read.
fn read_at_most(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match read_at(file, rest, offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(done)
}

/// Reads until `bytes` is full or the file ends; the rest is filled with zeroes.
pub(crate) fn read_up_to(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    let n_read = read_at_most(file, bytes, offset)?;
    bytes.get_mut(n_read..).unwrap_or_default().fill(0);
    Ok(())
}

/// Fills `bytes`, or fails because the file ends before.
pub(crate) fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    if read_at_most(file, bytes, offset)? == bytes.len() {
        return Ok(());
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// Bytes of an open file or device.
#[cfg(not(windows))]
pub(crate) fn length(mut file: &File, _path: &Path) -> io::Result<u64> {
    io::Seek::seek(&mut file, io::SeekFrom::End(0))
}

/// Bytes of an open file or device. A device has no end to seek to: it is asked, by its path.
#[cfg(windows)]
pub(crate) fn length(file: &File, path: &Path) -> io::Result<u64> {
    if snapferry_drive::is_device(path) { snapferry_drive::length(path) } else { Ok(file.metadata()?.len()) }
}

/// Opens for direct I/O, and says whether it is to be had; without it, as any file. A block device that is written
/// is opened for one user: a mounted one is refused.
#[cfg(target_os = "linux")]
pub(crate) fn open_direct(path: &Path, is_written: bool) -> io::Result<(File, bool)> {
    use rustix::fs::{Mode, OFlags, open};
    use rustix::io::Errno;
    use std::os::unix::fs::FileTypeExt;
    let mut flags = OFlags::CLOEXEC | if is_written { OFlags::RDWR } else { OFlags::RDONLY };
    if is_written && std::fs::metadata(path)?.file_type().is_block_device() {
        flags |= OFlags::EXCL;
    }
    match open(path, flags | OFlags::DIRECT, Mode::empty()) {
        Ok(file) => Ok((file.into(), true)),
        Err(Errno::INVAL) => Ok((open(path, flags, Mode::empty())?.into(), false)),
        Err(cause) => Err(cause.into()),
    }
}

/// Opens for direct I/O. That nobody else works with the device is the system's to see to: it refuses to write where a
/// volume is mounted.
#[cfg(windows)]
pub(crate) fn open_direct(path: &Path, is_written: bool) -> io::Result<(File, bool)> {
    const FILE_FLAG_NO_BUFFERING: u32 = 0x2000_0000;
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(is_written);
    std::os::windows::fs::OpenOptionsExt::custom_flags(&mut options, FILE_FLAG_NO_BUFFERING);
    Ok((options.open(path)?, true))
}

#[cfg(not(any(target_os = "linux", windows)))]
pub(crate) fn open_direct(path: &Path, is_written: bool) -> io::Result<(File, bool)> {
    let file = std::fs::OpenOptions::new().read(true).write(is_written).open(path)?;
    Ok((file, false))
}

/// Makes a range read as zeroes without sending them, by whatever the file system or device has; false where there
/// is nothing. What a device merely discards may read as anything and is not used.
#[cfg(target_os = "linux")]
pub(crate) fn zero_range(file: &File, offset: u64, len: u64) -> io::Result<bool> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
    if punch(file, offset, len)? {
        return Ok(true);
    }
    match fallocate(file, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, offset, len) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NODEV | Errno::NOSYS) => Ok(false),
        Err(cause) => Err(cause.into()),
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn zero_range(_file: &File, _offset: u64, _len: u64) -> io::Result<bool> {
    Ok(false)
}

/// The next run of bytes at or after `offset` that is no hole: start and end. `None` at the end of the file. A file
/// system or device without holes has one run.
#[cfg(target_os = "linux")]
pub(crate) fn next_data(file: &File, offset: u64, len: u64) -> io::Result<Option<(u64, u64)>> {
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
pub(crate) fn next_data(_file: &File, offset: u64, len: u64) -> io::Result<Option<(u64, u64)>> {
    Ok((offset < len).then_some((offset, len)))
}

/// Makes a range read as zeroes without writing it; false where that is not to be had.
#[cfg(target_os = "linux")]
pub(crate) fn punch(file: &File, offset: u64, len: u64) -> io::Result<bool> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
    match fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NODEV | Errno::NOSYS) => Ok(false),
        Err(cause) => Err(cause.into()),
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn punch(_file: &File, _offset: u64, _len: u64) -> io::Result<bool> {
    Ok(false)
}
