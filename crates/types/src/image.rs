//! Disk image formats.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Format of a disk image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageFormat {
    /// The bytes of the volume, sparse.
    #[default]
    Raw,
    /// QEMU's, version 3.
    Qcow2,
    /// VMware's, stream-optimised.
    Vmdk,
    /// Microsoft's older one, dynamic; at most 2,040 GiB.
    Vhd,
}

impl ImageFormat {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Qcow2, Self::Vmdk, Self::Vhd];

    /// The word in JSON, on the wire and at the command line; also the file name's extension.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhd => "vhd",
        }
    }

    /// The format of a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == word)
    }
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
