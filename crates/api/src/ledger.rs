//! The ledger: AWS objects that Snapferry made.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use snapferry_types::HypervisorId;
use snapferry_types::ledger::LedgerEntry;
use utoipa::ToSchema;

/// A line of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LedgerLine {
    /// The object.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    pub entry: LedgerEntry,
    /// The tenant.
    #[schema(value_type = String)]
    pub hypervisor: HypervisorId,
    /// Whether no live task and no recovery point owns it: the reaper removes it.
    pub reapable: bool,
    /// When the line last changed.
    #[schema(value_type = String, format = DateTime)]
    pub changed_at: Timestamp,
}

/// `GET /v1/ledger`; oldest first.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LedgerQuery {
    /// `true`: only what the reaper would remove (its dry run).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reapable: Option<bool>,
    /// `true`: lines of objects that are gone, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone: Option<bool>,
    /// Only this tenant's.
    #[param(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hypervisor: Option<HypervisorId>,
    /// Cursor of the last page's `next`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// 1 to 1,000; 100 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}
