//! How blocks are moved between AWS and a MediaAgent, and what a person may wish for.

use serde::{Deserialize, Serialize};

/// A way to move blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// The EBS direct APIs: blocks of snapshots over HTTPS, from any machine.
    EbsDirect,
    /// A volume attached to the access node, read or written as a block device. The node has to be an instance of the
    /// service account in the region.
    HotAdd,
    /// A disk image in S3 that EC2 imports as a snapshot; writing only.
    Import,
}

impl Transport {
    /// Every transport, in the order in which ties are broken.
    pub const ALL: [Self; 3] = [Self::EbsDirect, Self::HotAdd, Self::Import];

    /// The word in JSON, on the wire and in notes.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EbsDirect => "ebs_direct",
            Self::HotAdd => "hot_add",
            Self::Import => "import",
        }
    }

    /// The transport of a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == word)
    }
}

/// What a person asks for. A wish that cannot be kept is refused before anything is made, never changed in silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransportWish {
    /// What is possible and cheapest in time and money; the job says what was chosen and why.
    #[default]
    Automatic,
    /// Only EBS direct.
    EbsDirect,
    /// Only HotAdd.
    HotAdd,
    /// Only Import.
    Import,
}

impl TransportWish {
    /// Every wish.
    pub const ALL: [Self; 4] = [Self::Automatic, Self::EbsDirect, Self::HotAdd, Self::Import];

    /// The word in JSON, on the wire and at the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Automatic => "automatic",
            Self::EbsDirect => "ebs_direct",
            Self::HotAdd => "hot_add",
            Self::Import => "import",
        }
    }

    /// The wish of a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == word)
    }

    /// The one transport that is asked for; nothing when the choice is left to us.
    #[must_use]
    pub const fn only(self) -> Option<Transport> {
        match self {
            Self::Automatic => None,
            Self::EbsDirect => Some(Transport::EbsDirect),
            Self::HotAdd => Some(Transport::HotAdd),
            Self::Import => Some(Transport::Import),
        }
    }

    /// Whether the service account's machines and accounts have a part in it.
    #[must_use]
    pub const fn may_use_service_account(self) -> bool {
        !matches!(self, Self::EbsDirect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back() {
        for transport in Transport::ALL {
            assert_eq!(Transport::from_word(transport.as_str()), Some(transport));
            let wish = TransportWish::from_word(transport.as_str()).unwrap();
            assert_eq!(wish.only(), Some(transport));
        }
        assert_eq!(TransportWish::from_word("automatic"), Some(TransportWish::Automatic));
        assert_eq!(TransportWish::from_word("fastest"), None);
    }
}
