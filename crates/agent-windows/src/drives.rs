//! The devices of an instance on Windows: each EBS volume is a physical drive whose serial number begins with its id.

use std::io;
use std::path::PathBuf;

use snapferry_agent::{NoDevice, VolumeDevices};
use snapferry_drive::serial_number;
use snapferry_types::VolumeId;

/// Drives that are asked. Numbers begin at 0 and are given again, and an instance has at most 128 volumes.
const MAX_DRIVES: u32 = 256;

/// The drives `\\.\PhysicalDrive0` and on, by their serial numbers.
#[derive(Debug, Clone, Copy)]
pub struct PhysicalDrives;

impl VolumeDevices for PhysicalDrives {
    fn find(&self, volume: &VolumeId) -> Result<PathBuf, NoDevice> {
        let number = pick(volume, |number| snapferry_drive::descriptor(&snapferry_drive::path_of(number)))?;
        Ok(snapferry_drive::path_of(number))
    }
}

/// The number of the volume's drive; `descriptor` has what a drive says of itself.
fn pick(volume: &VolumeId, descriptor: impl Fn(u32) -> io::Result<Vec<u8>>) -> Result<u32, NoDevice> {
    let mut seen = Vec::new();
    for number in 0..MAX_DRIVES {
        let bytes = match descriptor(number) {
            Ok(bytes) => bytes,
            // Numbers have gaps where volumes were detached.
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => continue,
            Err(cause) => {
                seen.push(format!("{number}: {cause}"));
                continue;
            }
        };
        match serial_number(&bytes) {
            Ok(Some(serial)) if is_of(serial, volume) => return Ok(number),
            Ok(Some(serial)) => seen.push(format!("{number}: {serial}")),
            Ok(None) => seen.push(format!("{number}: no serial number")),
            Err(cause) => seen.push(format!("{number}: {cause}")),
        }
    }
    let seen = if seen.is_empty() { "none".to_owned() } else { seen.join("; ") };
    Err(NoDevice(format!(
        "no physical drive has its serial number: is this process running on that instance? Drives that were found: {seen}"
    )))
}

/// Whether a drive's serial number is the volume's id without the dash: alone, or with what the NVMe driver appends, such
/// as `_00000001.`.
fn is_of(serial: &str, volume: &VolumeId) -> bool {
    let id = volume.as_str().replace('-', "");
    let Some((start, rest)) = serial.trim().split_at_checked(id.len()) else { return false };
    start.eq_ignore_ascii_case(&id) && !rest.starts_with(|next: char| next.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume() -> VolumeId {
        "vol-0123456789abcdef0".parse().unwrap()
    }

    /// A descriptor with nothing but a serial number.
    fn descriptor(serial: &str) -> Vec<u8> {
        let mut bytes = vec![0; 36];
        bytes[24] = 36;
        bytes.extend(serial.as_bytes());
        bytes.push(0);
        bytes[4] = u8::try_from(bytes.len()).unwrap();
        bytes
    }

    #[test]
    fn a_serial_number_is_the_volumes_with_and_without_what_drivers_append() {
        for serial in [
            "vol0123456789abcdef0",
            "vol0123456789abcdef0_00000001.",
            "  vol0123456789abcdef0_00000001.   ",
            "VOL0123456789ABCDEF0",
            "vol0123456789abcdef0 ",
        ] {
            assert!(is_of(serial, &volume()), "{serial}");
        }
    }

    #[test]
    fn a_serial_number_of_another_volume_is_not_taken_for_it() {
        for serial in [
            "",
            "vol",
            "vol0123456789abcdef",
            "vol0123456789abcdef01",
            "vol0123456789abcdef1",
            "vol-0123456789abcdef0",
            "xvol0123456789abcdef0",
            "AWS0123456789ABCDEF0",
            "vol0123456789abcdé",
        ] {
            assert!(!is_of(serial, &volume()), "{serial}");
        }
        let short = "vol-01234567".parse().unwrap();
        assert!(is_of("vol01234567_00000001.", &short) && !is_of("vol0123456789abcdef0", &short));
    }

    #[test]
    fn a_drive_is_found_beyond_gaps_and_drives_that_say_nothing_of_use() {
        let drives = |number| match number {
            0 => Ok(descriptor("AWS1234567890ABCDEF0_00000001.")),
            1 => Err(io::ErrorKind::PermissionDenied.into()),
            2 => Ok(vec![1, 2, 3]),
            4 => Ok(descriptor("")),
            7 => Ok(descriptor("vol0123456789abcdef0_00000001.")),
            _ => Err(io::ErrorKind::NotFound.into()),
        };
        assert_eq!(pick(&volume(), drives), Ok(7));
    }

    #[test]
    fn a_volume_that_is_not_there_is_told_with_what_is() {
        let drives = |number| match number {
            0 => Ok(descriptor("vol0fedcba9876543210_00000001.")),
            1 => Err(io::ErrorKind::PermissionDenied.into()),
            2 => Ok(vec![1, 2, 3]),
            4 => Ok(descriptor("")),
            _ => Err(io::ErrorKind::NotFound.into()),
        };
        let missing = pick(&volume(), drives).unwrap_err().0;
        for part in
            ["0: vol0fedcba9876543210_00000001.;", "1: permission denied", "2: the descriptor has 3", "4: no"]
        {
            assert!(missing.contains(part), "{part} in {missing}");
        }
        assert!(!missing.contains("3:"), "{missing}");
        let nothing = pick(&volume(), |_| Err(io::ErrorKind::NotFound.into())).unwrap_err().0;
        assert!(nothing.ends_with("found: none"), "{nothing}");
    }
}
