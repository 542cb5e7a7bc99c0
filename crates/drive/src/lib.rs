//! What Windows says of a physical drive: its descriptor, in which the serial number is, and its length in bytes. The
//! calls are in `os`; what they answer is read here, on every system.
//!
//! It never reads or writes the drive's content.

mod descriptor;
mod os;

use std::path::{Path, PathBuf};

pub use descriptor::{DescriptorError, serial_number};
pub use os::{descriptor, length};

/// Paths of devices begin with this; those of files do not.
const DEVICES: &str = r"\\.\";

/// The path of a drive by its number, such as `\\.\PhysicalDrive1`.
#[must_use]
pub fn path_of(number: u32) -> PathBuf {
    PathBuf::from(format!("{DEVICES}PhysicalDrive{number}"))
}

/// Whether Windows takes this path for a device's and not for a file's.
#[must_use]
pub fn is_device(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.starts_with(DEVICES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_known_by_their_paths() {
        assert_eq!(path_of(12).to_str(), Some(r"\\.\PhysicalDrive12"));
        assert!(is_device(&path_of(0)));
        for file in [r"C:\images\disk.raw", r"\\server\share\disk.raw", r"\\?\C:\disk.raw", "disk.raw", ""] {
            assert!(!is_device(Path::new(file)), "{file}");
        }
    }
}
