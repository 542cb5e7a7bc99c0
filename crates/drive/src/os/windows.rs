//! DeviceIoControl, for two questions that only read.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::fs::OpenOptionsExt as _;
use std::os::windows::io::AsRawHandle as _;
use std::path::Path;

use windows_sys::Win32::System::IO::DeviceIoControl;
use windows_sys::Win32::System::Ioctl::{
    IOCTL_DISK_GET_LENGTH_INFO, IOCTL_STORAGE_QUERY_PROPERTY, PropertyStandardQuery, StorageDeviceProperty,
};

/// Descriptors have some hundred bytes.
const MAX_DESCRIPTOR: usize = 4_096;

/// The bytes of a drive's STORAGE_DEVICE_DESCRIPTOR, as its driver gives them, at most 4,096. Needs no rights on the
/// drive.
///
/// # Errors
/// The drive does not exist ([`io::ErrorKind::NotFound`]), or does not answer.
pub fn descriptor(drive: &Path) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().access_mode(0).open(drive)?;
    // A STORAGE_PROPERTY_QUERY: property, kind of query, and a byte for further parameters, of which there are none.
    let mut query = [0; 12];
    let (property, rest) = query.split_at_mut(4);
    property.copy_from_slice(&StorageDeviceProperty.to_le_bytes());
    rest.split_at_mut(4).0.copy_from_slice(&PropertyStandardQuery.to_le_bytes());
    let mut answer = vec![0; MAX_DESCRIPTOR];
    let n_bytes = ask(&file, IOCTL_STORAGE_QUERY_PROPERTY, &query, &mut answer)?;
    answer.truncate(n_bytes);
    Ok(answer)
}

/// The length of a drive in bytes, or of a volume given by its device path. Needs the right to read it.
///
/// # Errors
/// The drive does not exist, must not be read, or does not answer.
pub fn length(drive: &Path) -> io::Result<u64> {
    let file = File::open(drive)?;
    let mut answer = [0; 8];
    let n_bytes = ask(&file, IOCTL_DISK_GET_LENGTH_INFO, &[], &mut answer)?;
    let len = u64::try_from(i64::from_le_bytes(answer)).ok();
    let len = len.filter(|_| n_bytes == answer.len());
    len.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the drive did not say its length"))
}

/// Asks a device; how many bytes of the answer it has written. `code` is one of the two questions above.
#[allow(
    unsafe_code,
    reason = "neither the standard library nor a well-kept crate has a safe DeviceIoControl"
)]
fn ask(file: &File, code: u32, question: &[u8], answer: &mut [u8]) -> io::Result<usize> {
    let size = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(io::Error::other);
    let (n_question, n_answer) = (size(question)?, size(answer)?);
    let mut n_written = 0;
    // SAFETY: the handle is open as long as `file` is borrowed, and is ours alone. Both buffers are valid for the sizes
    // given with them, and may be at any address: both questions copy them (METHOD_BUFFERED), and have no pointers in
    // them. The handle was opened without FILE_FLAG_OVERLAPPED, so the call returns when all is written.
    let is_done = unsafe {
        DeviceIoControl(
            file.as_raw_handle(),
            code,
            question.as_ptr().cast(),
            n_question,
            answer.as_mut_ptr().cast(),
            n_answer,
            &raw mut n_written,
            std::ptr::null_mut(),
        )
    };
    if is_done == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(n_written).unwrap_or(usize::MAX).min(answer.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{path_of, serial_number};

    #[test]
    fn the_first_drive_describes_itself() {
        let bytes = descriptor(&path_of(0)).unwrap();
        assert!((36..MAX_DESCRIPTOR).contains(&bytes.len()), "{} bytes", bytes.len());
        let serial = serial_number(&bytes).unwrap();
        eprintln!("{}: {serial:?}", path_of(0).display());
    }

    #[test]
    fn a_drive_that_is_not_there_is_not_found() {
        let drive = path_of(4_000_000);
        assert_eq!(descriptor(&drive).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(length(&drive).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_is_asked_in_vain() {
        let file = std::env::current_exe().unwrap();
        assert!(descriptor(&file).is_err());
        assert!(length(&file).is_err());
    }
}
