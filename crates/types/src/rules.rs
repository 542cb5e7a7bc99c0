//! Rules of the mission that no configuration changes: which work may use another account's resources over which
//! transport. Pure functions; who takes a request in applies them.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::transport::TransportWish;

/// Whose machines a replication or conversion starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vendor {
    /// EC2 instances.
    Amazon,
    /// VMware virtual machines.
    Vmware,
}

impl Vendor {
    /// The word for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Amazon => "Amazon",
            Self::Vmware => "VMware",
        }
    }
}

/// Work that a rule speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Crossing {
    /// A copy that is kept up to date.
    Replication,
    /// A machine of another vendor becomes an instance.
    Conversion,
}

/// A request that a rule forbids; the sentence has the reason and the way that works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Forbidden {
    /// HotAdd or Import with another account's resources.
    #[error(
        "{} from {} to Amazon over {} may not use another account's resources: the service account would hold a writable \
         copy of the tenant's disks; use EBS direct, or an access node in the target account without the option \
         \"use admin account backup resources\"",
        crossing_word(*.crossing), .vendor.name(), .transport.as_str()
    )]
    ForeignResources {
        /// The work.
        crossing: Crossing,
        /// From where.
        vendor: Vendor,
        /// Over what; never EBS direct.
        transport: TransportWish,
    },
    /// A conversion is between vendors.
    #[error(
        "a conversion comes from another vendor: for an instance that is in Amazon already use replication or a restore"
    )]
    NothingToConvert,
}

const fn crossing_word(crossing: Crossing) -> &'static str {
    match crossing {
        Crossing::Replication => "replication",
        Crossing::Conversion => "conversion",
    }
}

/// Whether the work may be done over the transport when the target uses its admin hypervisor's resources. Automatic
/// never picks a forbidden transport, so it is allowed.
///
/// # Errors
/// [`Forbidden`] with the reason and the way out.
pub const fn check_crossing(
    crossing: Crossing,
    vendor: Vendor,
    transport: TransportWish,
    uses_admin_resources: bool,
) -> Result<(), Forbidden> {
    if matches!((crossing, vendor), (Crossing::Conversion, Vendor::Amazon)) {
        return Err(Forbidden::NothingToConvert);
    }
    match transport {
        TransportWish::HotAdd | TransportWish::Import if uses_admin_resources => {
            Err(Forbidden::ForeignResources { crossing, vendor, transport })
        }
        TransportWish::HotAdd
        | TransportWish::Import
        | TransportWish::EbsDirect
        | TransportWish::Automatic => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hot_add_and_import_need_the_accounts_own_resources() {
        for crossing in [Crossing::Replication, Crossing::Conversion] {
            for transport in TransportWish::ALL {
                let is_forbidden = matches!(transport, TransportWish::HotAdd | TransportWish::Import);
                let answer = check_crossing(crossing, Vendor::Vmware, transport, true);
                assert_eq!(answer.is_err(), is_forbidden, "{crossing:?} over {transport:?}");
                assert_eq!(check_crossing(crossing, Vendor::Vmware, transport, false), Ok(()));
            }
        }
    }

    #[test]
    fn a_refusal_has_the_reason_and_the_way_out() {
        let refused = check_crossing(Crossing::Replication, Vendor::Amazon, TransportWish::HotAdd, true);
        let sentence = refused.unwrap_err().to_string();
        assert!(
            sentence.contains("replication from Amazon") && sentence.contains("use EBS direct"),
            "{sentence}"
        );
        assert!(sentence.contains("or an access node in the target account"), "{sentence}");
        let nothing = check_crossing(Crossing::Conversion, Vendor::Amazon, TransportWish::EbsDirect, false);
        assert_eq!(nothing, Err(Forbidden::NothingToConvert));
    }
}
