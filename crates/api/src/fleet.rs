//! The machines of the service account: access nodes and MediaAgents. Only operators and viewers see them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use snapferry_types::{AccessNodeId, MediaAgentId, RecoveryPointId};
use utoipa::ToSchema;

/// A machine that runs an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccessNode {
    /// Its id.
    #[schema(value_type = String)]
    pub id: AccessNodeId,
    /// Its name.
    pub name: String,
    /// Region.
    pub region: String,
    /// Availability zone; may be empty.
    pub availability_zone: String,
    /// `linux` or `windows`.
    pub os: String,
    /// Pool group.
    pub group: String,
    /// Tasks at a time.
    pub slots: u32,
    /// Tasks it could take now.
    pub free_slots: u32,
    /// Of the agent.
    pub version: String,
    /// Whether it was heard within the last minute.
    pub online: bool,
    /// When it was last heard.
    #[schema(value_type = String, format = DateTime)]
    pub last_seen: Timestamp,
}

/// A storage daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MediaAgent {
    /// Its id.
    #[schema(value_type = String)]
    pub id: MediaAgentId,
    /// Its name.
    pub name: String,
    /// Where agents reach it.
    pub endpoint: String,
    /// Of the daemon.
    pub version: String,
    /// Bytes in its library.
    pub stored_bytes: u64,
    /// Absent where it is not known (object storage).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
    /// Recovery points in its library.
    pub recovery_points: u64,
    /// What its last scrub found, since it was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_scrub: Option<LastScrub>,
    /// Whether it was heard within the last minute.
    pub online: bool,
    /// When it was last heard.
    #[schema(value_type = String, format = DateTime)]
    pub last_seen: Timestamp,
}

/// What a scrub found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastScrub {
    /// When it ended.
    #[schema(value_type = String, format = DateTime)]
    pub ended_at: Timestamp,
    /// Bytes read.
    pub bytes_read: u64,
    /// Records and packs that do not read.
    pub damaged: u64,
    /// Recovery points that refer to them; at most 100. Back up their instances in full.
    #[schema(value_type = Vec<String>)]
    pub recovery_points_touched: Vec<RecoveryPointId>,
}

/// `POST /v1/media-agents/{id}/maintenance`: asks for work on a library, which the MediaAgent begins with its next
/// hello. Operators only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AskMaintenance {
    /// What to do.
    pub work: Maintenance,
}

/// Work on a library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Maintenance {
    /// Read everything that is stored and check it.
    Scrub,
    /// Remove what no recovery point refers to.
    CollectGarbage,
}
