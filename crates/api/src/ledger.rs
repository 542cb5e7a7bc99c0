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
    /// Why the reaper would remove it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
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

/// `POST /v1/ledger/reap`: removes now what no live task and no recovery point owns. Operators only.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reap {
    /// Only say what would go.
    pub dry_run: bool,
    /// Only this tenant's.
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hypervisor: Option<HypervisorId>,
}

/// What came of it; at most 1,000 lines at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reaped {
    /// One for each object.
    pub lines: Vec<ReapedLine>,
}

/// What the reaper did, or would do, with an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReapedLine {
    /// The object.
    #[serde(flatten)]
    pub line: LedgerLine,
    /// Whether it is gone now; false in a dry run.
    pub removed: bool,
    /// Why it could not be removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
