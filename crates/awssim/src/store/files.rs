//! Small moves on files: names that are safe, whole-file replacement, and where a sparse file has data.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use super::error::{Result, StoreError};

/// Refuses ids that are not plain file names.
pub(super) fn check_id(id: &str) -> Result<()> {
    let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
    if (1..=64).contains(&id.len()) && id.bytes().all(plain) {
        Ok(())
    } else {
        Err(StoreError::BadId(id.chars().take(64).collect()))
    }
}

/// Writes a whole file so that a reader sees the old one or the new one.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, bytes).map_err(StoreError::io("write", &temporary))?;
    std::fs::rename(&temporary, path).map_err(StoreError::io("put in place", path))
}

/// Removes a file that may be gone already.
pub(super) fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The first data at or after `from`, cut at `end`: where the file system has content, as bytes.
pub(super) fn next_extent(file: &File, from: u64, end: u64) -> io::Result<Option<Range<u64>>> {
    if from >= end {
        return Ok(None);
    }
    let start = match rustix::fs::seek(file, SeekFrom::Data(from)) {
        Ok(start) if start < end => start,
        Ok(_) | Err(Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stop = rustix::fs::seek(file, SeekFrom::Hole(start))?;
    Ok(Some(start..stop.min(end)))
}

/// Frees a range, which then reads as zeroes and is a hole.
pub(super) fn punch(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(rustix::fs::fallocate(file, flags, offset, len)?)
}

/// Copies a range between files inside the kernel where it can.
pub(super) fn copy(from: &File, from_offset: u64, to: &File, to_offset: u64, len: usize) -> io::Result<()> {
    let (mut source, mut target, mut left) = (from_offset, to_offset, len);
    while left > 0 {
        match rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), left) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(copied) => left -= copied.min(left),
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                let mut buffer = vec![0; left];
                from.read_exact_at(&mut buffer, source)?;
                return to.write_all_at(&buffer, target);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// How a volume's file was left, written into its modification time.
///
/// Any write by anybody sets the time to now, so a time that is neither mark shows that somebody else wrote:
/// a loop device, an editor, a restore from outside. Times of the kernel's clock alone could not show that, since
/// two writes within one tick carry one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// The content is that of the volume's base map.
    Clean,
    /// Only the store wrote since then; which blocks, its memory knows.
    Tracked,
    /// Somebody else wrote.
    Foreign,
}

const CLEAN: Duration = Duration::new(1_000_000_000, 111_000_000);
const TRACKED: Duration = Duration::new(1_000_000_000, 222_000_000);

impl Mark {
    pub(super) fn read(file: &File) -> io::Result<Self> {
        let since = file.metadata()?.modified()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(match since {
            CLEAN => Self::Clean,
            TRACKED => Self::Tracked,
            _ => Self::Foreign,
        })
    }

    pub(super) fn write(self, file: &File) -> io::Result<()> {
        match self {
            Self::Clean => file.set_modified(SystemTime::UNIX_EPOCH + CLEAN),
            Self::Tracked => file.set_modified(SystemTime::UNIX_EPOCH + TRACKED),
            Self::Foreign => file.set_modified(SystemTime::now()),
        }
    }
}
