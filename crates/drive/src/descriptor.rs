//! A STORAGE_DEVICE_DESCRIPTOR: fixed fields, then text that they point to. Drivers fill it in, and not all of them
//! well: nothing in it is believed before it was looked at.

use thiserror::Error;

/// Where the number of bytes of the whole lies.
const SIZE: usize = 4;
/// Where the offset of the serial number lies.
const SERIAL_NUMBER_OFFSET: usize = 24;
/// The fixed fields; text comes after them.
const FIXED: usize = 36;
/// What some drivers write for "no serial number" in place of 0.
const NONE: u32 = u32::MAX;

/// A descriptor that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DescriptorError {
    /// The fixed fields are not all there.
    #[error("the descriptor has {0} bytes, fewer than the {FIXED} of its fixed fields")]
    Short(usize),
    /// The serial number would lie somewhere else.
    #[error("the descriptor of {n_bytes} bytes has its serial number at byte {offset}, outside its text")]
    Outside {
        /// Where it should be.
        offset: u32,
        /// The descriptor's length.
        n_bytes: usize,
    },
    /// The serial number goes on after the end.
    #[error("the serial number is cut off by the end of the descriptor")]
    CutOff,
    /// The serial number has bytes that no serial number has.
    #[error("the serial number is not printable ASCII")]
    NotText,
}

/// The serial number in a descriptor's bytes, without the blanks around it; `None` when the drive has none.
///
/// # Errors
/// [`DescriptorError`] for bytes that are no descriptor, or of which a part is missing.
pub fn serial_number(descriptor: &[u8]) -> Result<Option<&str>, DescriptorError> {
    if descriptor.len() < FIXED {
        return Err(DescriptorError::Short(descriptor.len()));
    }
    let n_claimed = field(descriptor, SIZE).and_then(|size| usize::try_from(size).ok());
    let whole = n_claimed.and_then(|size| descriptor.get(..size)).unwrap_or(descriptor);
    if whole.len() < FIXED {
        return Err(DescriptorError::Short(whole.len()));
    }
    let offset = field(whole, SERIAL_NUMBER_OFFSET).unwrap_or_default();
    if matches!(offset, 0 | NONE) {
        return Ok(None);
    }
    let start = usize::try_from(offset).ok().filter(|start| *start >= FIXED);
    let text = start
        .and_then(|start| whole.get(start..))
        .filter(|text| !text.is_empty())
        .ok_or(DescriptorError::Outside { offset, n_bytes: whole.len() })?;
    let end = text.iter().position(|byte| *byte == 0).ok_or(DescriptorError::CutOff)?;
    let serial = text.get(..end).and_then(|serial| std::str::from_utf8(serial).ok());
    let serial = serial.filter(|serial| serial.bytes().all(|byte| matches!(byte, b' '..=b'~')));
    let serial = serial.ok_or(DescriptorError::NotText)?.trim();
    Ok((!serial.is_empty()).then_some(serial))
}

/// The little-endian number at a byte.
fn field(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|number| u32::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A descriptor as a driver fills it in: fixed fields, the vendor's text, then the serial number at `offset`.
    fn descriptor(offset: u32, serial: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; FIXED];
        bytes.extend(b"NVMe    \0");
        bytes.extend(serial);
        let size = u32::try_from(bytes.len()).unwrap();
        for (at, number) in [(0, 40), (SIZE, size), (12, 36), (SERIAL_NUMBER_OFFSET, offset)] {
            bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(number));
        }
        bytes
    }

    /// Where [`descriptor`] puts the serial number.
    const AT: u32 = 45;

    #[test]
    fn the_serial_number_is_read_without_its_padding() {
        for serial in
            [&b"vol0123456789abcdef0_00000001.\0"[..], b"  vol0123456789abcdef0_00000001.      \0junk"]
        {
            let bytes = descriptor(AT, serial);
            assert_eq!(serial_number(&bytes), Ok(Some("vol0123456789abcdef0_00000001.")));
        }
    }

    #[test]
    fn a_drive_may_have_no_serial_number() {
        for bytes in [
            descriptor(0, b"x\0"),
            descriptor(u32::MAX, b"x\0"),
            descriptor(AT, b"\0"),
            descriptor(AT, b"    \0"),
        ] {
            assert_eq!(serial_number(&bytes), Ok(None));
        }
    }

    #[test]
    fn offsets_that_lie_are_refused() {
        for offset in [1, 24, 35, 47, 48, 4_096, u32::MAX - 1] {
            let bytes = descriptor(offset, b"x\0");
            let outside = DescriptorError::Outside { offset, n_bytes: 47 };
            assert_eq!(serial_number(&bytes), Err(outside), "{offset}");
        }
    }

    #[test]
    fn what_is_cut_off_is_no_serial_number() {
        let bytes = descriptor(AT, b"vol0123456789abcdef0\0");
        for n_bytes in 0..bytes.len() {
            let expected = match n_bytes {
                0..FIXED => DescriptorError::Short(n_bytes),
                FIXED..=45 => DescriptorError::Outside { offset: AT, n_bytes },
                _ => DescriptorError::CutOff,
            };
            assert_eq!(serial_number(&bytes[..n_bytes]), Err(expected), "{n_bytes}");
        }
    }

    #[test]
    fn bytes_after_the_claimed_size_do_not_count_and_a_larger_size_than_what_is_there_is_not_believed() {
        let mut bytes = descriptor(AT, b"vol0123456789abcdef0\0");
        bytes[SIZE..SIZE + 4].copy_from_slice(&50_u32.to_le_bytes());
        assert_eq!(serial_number(&bytes), Err(DescriptorError::CutOff));
        bytes[SIZE..SIZE + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(serial_number(&bytes), Ok(Some("vol0123456789abcdef0")));
        bytes[SIZE..SIZE + 4].copy_from_slice(&8_u32.to_le_bytes());
        assert_eq!(serial_number(&bytes), Err(DescriptorError::Short(8)));
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        for serial in [&b"vol\xff\0"[..], b"vol\n01\0", "vol\u{e9}\0".as_bytes()] {
            assert_eq!(serial_number(&descriptor(AT, serial)), Err(DescriptorError::NotText));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_printable_text_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            if let Ok(Some(serial)) = serial_number(&bytes) {
                prop_assert!(!serial.is_empty() && bytes.windows(serial.len()).any(|part| part == serial.as_bytes()));
            }
        }

        #[test]
        fn any_serial_number_comes_back(serial in "[!-~]{1,40}") {
            let bytes = descriptor(AT, format!("{serial}\0").as_bytes());
            prop_assert_eq!(serial_number(&bytes), Ok(Some(serial.as_str())));
        }
    }
}
