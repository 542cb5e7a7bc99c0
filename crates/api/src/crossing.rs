//! Replication and conversion. Requests are checked against the rules of [`snapferry_types::rules`].

use serde::{Deserialize, Serialize};
use snapferry_types::rules::Vendor;
use snapferry_types::{HypervisorId, TransportWish};
use utoipa::ToSchema;

/// Keep machines up to date in a tenant's account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Replication {
    /// The tenant whose account gets the copies.
    #[schema(value_type = String)]
    pub hypervisor: HypervisorId,
    /// From where.
    #[schema(value_type = String)]
    pub from: Vendor,
    /// 1 to 1,000 machines, as their vendor names them.
    pub machines: Vec<String>,
    /// How blocks are moved.
    #[schema(value_type = String)]
    #[serde(default)]
    pub transport: TransportWish,
}

/// Make EC2 instances of another vendor's machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Conversion {
    /// The tenant whose account gets the instances.
    #[schema(value_type = String)]
    pub hypervisor: HypervisorId,
    /// From where.
    #[schema(value_type = String)]
    pub from: Vendor,
    /// 1 to 1,000 machines, as their vendor names them.
    pub machines: Vec<String>,
    /// How blocks are moved.
    #[schema(value_type = String)]
    #[serde(default)]
    pub transport: TransportWish,
}
