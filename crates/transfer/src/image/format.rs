//! The formats' names.

use std::fmt;
use std::str::FromStr;

use crate::error::{ErrorClass, TransferError};

/// A format of disk images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageFormat {
    /// The volume's bytes, holes left out by the file system.
    Raw,
    /// QEMU's qcow2, version 3, clusters of 64 KiB.
    Qcow2,
    /// VMware's VMDK, stream-optimised (compressed, one file).
    Vmdk,
    /// Microsoft's VHD, dynamic; at most 2,040 GiB.
    Vhd,
}

impl ImageFormat {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Qcow2, Self::Vmdk, Self::Vhd];

    /// Its word in commands and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhd => "vhd",
        }
    }

    /// How its files' names end, without the dot.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Raw => "img",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhd => "vhd",
        }
    }
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for ImageFormat {
    type Err = TransferError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|format| format.as_str().eq_ignore_ascii_case(word));
        found.ok_or_else(|| {
            let message = format!("'{word}' is no image format: choose raw, qcow2, vmdk or vhd");
            TransferError::new(ErrorClass::Invalid, message)
        })
    }
}
