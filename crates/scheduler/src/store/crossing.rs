//! Replication and conversion: what the mission forbids is refused with the rule's sentence, what it allows with what is
//! not there yet; so that nobody follows a way out that is not there, the first says that, too.

use snapferry_api::crossing::{Conversion, Replication};
use snapferry_api::hypervisor::{Hypervisor, Role};
use snapferry_types::rules::{Crossing, Vendor, check_crossing};
use snapferry_types::transport::{Transport, TransportWish};

use super::StoreError;

/// Why a replication is not taken in.
pub(super) fn refuse_replication(tenant: &Hypervisor, asked: &Replication) -> StoreError {
    refuse(tenant, Crossing::Replication, asked.from, asked.transport)
}

/// Why a conversion is not taken in.
pub(super) fn refuse_conversion(tenant: &Hypervisor, asked: &Conversion) -> StoreError {
    refuse(tenant, Crossing::Conversion, asked.from, asked.transport)
}

fn refuse(tenant: &Hypervisor, crossing: Crossing, vendor: Vendor, transport: TransportWish) -> StoreError {
    let uses_admin_resources =
        matches!(tenant.role, Role::Tenant { use_admin_account_resources: Some(_), .. });
    if let Err(forbidden) = check_crossing(crossing, vendor, transport, uses_admin_resources) {
        return StoreError::Invalid(format!(
            "{forbidden} (this version does no replication or conversion yet)"
        ));
    }
    let word = match crossing {
        Crossing::Replication => "replication",
        Crossing::Conversion => "conversion",
    };
    StoreError::Invalid(format!(
        "not available yet: {word} from {} to Amazon, {}; the rules allow it, this version does not do it",
        vendor.name(),
        transport.only().map_or("by EBS direct", |only| match only {
            Transport::EbsDirect => "by EBS direct",
            Transport::HotAdd => "by HotAdd with the account's own access node",
            Transport::Import => "by Import with the account's own bucket",
        })
    ))
}
