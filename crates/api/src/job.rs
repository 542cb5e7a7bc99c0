//! Jobs: what was asked for, and the tasks that do it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use snapferry_types::{
    AccessNodeId, HypervisorId, InstanceId, JobId, MediaAgentId, RecoveryPointId, Region, TaskId, TaskKind,
    TaskState, TransportWish,
};
use utoipa::ToSchema;

use crate::crossing::{Conversion, Replication};
use crate::protect::{BackupCopy, IntelliSnap, Retention};
use crate::restore::Restore;

/// `POST /v1/jobs`. An `Idempotency-Key` header makes a retry the same job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateJob {
    /// What to do.
    pub work: Work,
    /// Band of the dispatcher.
    #[serde(default)]
    pub priority: Priority,
}

/// What a job is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Work {
    /// Snapshot, read, store: one task an instance.
    StreamingBackup(StreamingBackup),
    /// Write back: one task.
    Restore(Restore),
    /// Remove a recovery point from its library or account: one task.
    DeleteRecoveryPoint(DeleteRecoveryPoint),
    /// Snapshots that are the recovery point: one task an instance.
    IntelliSnap(IntelliSnap),
    /// Read IntelliSnap recovery points into a library: one task each.
    BackupCopy(BackupCopy),
    /// Keep machines up to date in another place.
    Replication(Replication),
    /// Make instances of another vendor's machines.
    Conversion(Conversion),
}

impl Work {
    /// The kind of the tasks.
    #[must_use]
    pub const fn kind(&self) -> TaskKind {
        match self {
            Self::StreamingBackup(_) => TaskKind::StreamingBackup,
            Self::Restore(_) => TaskKind::Restore,
            Self::DeleteRecoveryPoint(_) => TaskKind::DeleteRecoveryPoint,
            Self::IntelliSnap(_) => TaskKind::IntelliSnap,
            Self::BackupCopy(_) => TaskKind::BackupCopy,
            Self::Replication(_) => TaskKind::Replication,
            Self::Conversion(_) => TaskKind::Conversion,
        }
    }
}

/// A streaming backup of some instances of one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamingBackup {
    /// The tenant.
    #[schema(value_type = String)]
    pub hypervisor: HypervisorId,
    /// 1 to 1,000 instances.
    #[schema(value_type = Vec<String>)]
    pub instances: Vec<InstanceId>,
    /// Their region; the hypervisor's first when absent.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Region>,
    /// Where to store; where the instance's last backup is, or else the emptiest, when absent. Operators only.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_agent: Option<MediaAgentId>,
    /// Read everything even if a base exists.
    #[serde(default)]
    pub full: bool,
    /// How blocks are read.
    #[schema(value_type = String)]
    #[serde(default)]
    pub transport: TransportWish,
    /// How long the recovery points are kept; until they are deleted when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
}

/// Removal of a recovery point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeleteRecoveryPoint {
    /// Which.
    #[schema(value_type = String)]
    pub recovery_point: RecoveryPointId,
}

/// Bands of the dispatcher; waiting lifts a task into the next band, so none waits for ever.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// After everything else.
    Low,
    /// The usual.
    #[default]
    Normal,
    /// Restores someone waits for.
    High,
}

/// State of a job, derived from its tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// No task has run yet.
    Queued,
    /// Some task has run, and some is not done.
    Running,
    /// Cancelling was asked for, and some task is not done.
    Cancelling,
    /// Every task that is not done is suspended.
    Suspended,
    /// Every task succeeded.
    Succeeded,
    /// All are done; some succeeded, some did not.
    PartlyFailed,
    /// All are done; none succeeded, and at least one was not cancelled.
    Failed,
    /// All are done; none succeeded or failed.
    Cancelled,
}

impl JobState {
    /// The word in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Suspended => "suspended",
            Self::Succeeded => "succeeded",
            Self::PartlyFailed => "partly_failed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing follows.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::PartlyFailed | Self::Failed | Self::Cancelled)
    }

    /// The state of a job whose tasks are in `states`.
    #[must_use]
    pub fn of(states: &[TaskState], cancel_requested: bool) -> Self {
        let n = |want: TaskState| states.iter().filter(|state| **state == want).count();
        if states.iter().all(|state| state.is_terminal()) {
            let succeeded = n(TaskState::Succeeded);
            return if succeeded == states.len() {
                Self::Succeeded
            } else if succeeded > 0 {
                Self::PartlyFailed
            } else if n(TaskState::Cancelled) == states.len() {
                Self::Cancelled
            } else {
                Self::Failed
            };
        }
        if cancel_requested {
            return Self::Cancelling;
        }
        if states.iter().all(|state| state.is_terminal() || *state == TaskState::Suspended) {
            return Self::Suspended;
        }
        let untouched = n(TaskState::Pending) + n(TaskState::Ready) + n(TaskState::Dispatched);
        if untouched == states.len() { Self::Queued } else { Self::Running }
    }
}

/// A job in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobSummary {
    /// Its id.
    #[schema(value_type = String)]
    pub id: JobId,
    /// What kind of work.
    #[schema(value_type = String)]
    pub kind: TaskKind,
    /// The tenant.
    #[schema(value_type = String)]
    pub hypervisor: HypervisorId,
    /// The tenant's name.
    pub hypervisor_name: String,
    /// Band.
    pub priority: Priority,
    /// How far.
    pub state: JobState,
    /// Tasks in all.
    pub tasks_total: u32,
    /// Tasks that nothing follows.
    pub tasks_done: u32,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When the last task ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}

/// A job with its tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// The figures of the list.
    #[serde(flatten)]
    pub summary: JobSummary,
    /// What went wrong in one sentence: what failed for good or is tried again, by the cause, with what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// One for each instance.
    pub tasks: Vec<Task>,
}

impl Job {
    /// [`Self::error`] of these tasks: those with the same cause are told together, the most of them first.
    #[must_use]
    pub fn error_of(tasks: &[Task]) -> Option<String> {
        let failed = Causes::of(tasks, |state| matches!(state, TaskState::Failed | TaskState::Dead));
        let again = Causes::of(tasks, |state| state == TaskState::RetryWait);
        let part = |causes: &Causes<'_>, what: &str| match (causes.n_tasks(), tasks.len()) {
            (0, _) => None,
            (_, 1) => Some(format!("{what}{}", causes.sentence())),
            (n, n_tasks) => Some(format!("{n} of {n_tasks} tasks {what}{}", causes.sentence())),
        };
        let failed = part(&failed, if tasks.len() == 1 { "" } else { "failed: " });
        let again = part(&again, "tried again: ");
        let parts: Vec<String> = failed.into_iter().chain(again).collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

/// Causes of errors, with the instances that they hit.
struct Causes<'a>(Vec<(&'a str, Vec<String>)>);

impl<'a> Causes<'a> {
    fn of(tasks: &'a [Task], wanted: impl Fn(TaskState) -> bool) -> Self {
        let mut causes: Vec<(&str, Vec<String>)> = Vec::new();
        for task in tasks.iter().filter(|task| wanted(task.state)) {
            let Some(error) = &task.error else { continue };
            let of = task.instance.as_ref().map_or_else(|| task.id.to_string(), ToString::to_string);
            match causes.iter_mut().find(|(cause, _)| *cause == error.message) {
                Some((_, all)) => all.push(of),
                None => causes.push((&error.message, vec![of])),
            }
        }
        causes.sort_by_key(|(_, all)| std::cmp::Reverse(all.len()));
        Self(causes)
    }

    fn n_tasks(&self) -> usize {
        self.0.iter().map(|(_, all)| all.len()).sum()
    }

    fn sentence(&self) -> String {
        let told = self.0.iter().take(MAX_CAUSES).map(|(cause, all)| {
            let shown = all.iter().take(MAX_NAMES).cloned().collect::<Vec<_>>().join(", ");
            let more = all.len().saturating_sub(MAX_NAMES);
            if more == 0 { format!("{shown}: {cause}") } else { format!("{shown} and {more} more: {cause}") }
        });
        let mut sentence = told.collect::<Vec<_>>().join("; ");
        let n_others: usize = self.0.iter().skip(MAX_CAUSES).map(|(_, all)| all.len()).sum();
        if n_others > 0 {
            sentence.push_str(&format!("; {n_others} more for other causes"));
        }
        sentence
    }
}

/// Causes that the sentence about a job names.
const MAX_CAUSES: usize = 3;
/// Instances that it names for each.
const MAX_NAMES: usize = 5;

/// One operation on one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Task {
    /// Its id.
    #[schema(value_type = String)]
    pub id: TaskId,
    /// What kind of work.
    #[schema(value_type = String)]
    pub kind: TaskKind,
    /// The instance, or the one that the recovery point is of.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// The recovery point that is read, removed, or was made.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_point: Option<RecoveryPointId>,
    /// How far.
    #[schema(value_type = String)]
    pub state: TaskState,
    /// Attempts begun.
    pub attempts: u32,
    /// Figures of the current or last attempt.
    pub progress: Progress,
    /// When the last attempt began.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When nothing followed any more.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// When the next attempt may begin.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TaskError>,
    /// What was made.
    #[serde(default)]
    pub made: Vec<Made>,
    /// Its history, oldest first; the last 200.
    #[serde(default)]
    pub notes: Vec<Note>,
    /// Its attempts that ended, oldest first; the last 20.
    #[serde(default)]
    pub history: Vec<Attempt>,
    /// Why it waits, while it waits for something that a person can change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// Who works on it; never told to tenants.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_node: Option<AccessNodeId>,
    /// Where it is stored; never told to tenants.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_agent: Option<MediaAgentId>,
}

/// Figures of an attempt. Blocks are of 524,288 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Progress {
    /// Such as `snapshot`, `read`, `seal`; empty before the first report.
    pub phase: String,
    /// How far it is, where it waits for AWS or uploads a disk image: percent, of the slowest of several volumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase_percent: Option<u8>,
    /// Blocks to do; 0 while not known.
    pub blocks_total: u64,
    /// Blocks done.
    pub blocks_done: u64,
    /// Bytes read from the source.
    pub bytes_read: u64,
    /// Bytes sent to the target.
    pub bytes_sent: u64,
    /// Bytes that the target stored.
    pub bytes_stored: u64,
    /// Calls to AWS.
    pub aws_calls: u64,
    /// Calls that AWS throttled.
    pub throttled: u64,
    /// Blocks that were in the library already.
    pub blocks_deduplicated: u64,
    /// Blocks of zeroes.
    pub blocks_zero: u64,
}

impl Progress {
    /// The phase, and how far it is where that is known: `import 40 %`.
    #[must_use]
    pub fn told_phase(&self) -> String {
        match self.phase_percent {
            Some(percent) => format!("{} {percent} %", self.phase),
            None => self.phase.clone(),
        }
    }
}

/// An attempt that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Attempt {
    /// Which, from 1.
    pub n: u32,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// When it ended.
    #[schema(value_type = String, format = DateTime)]
    pub finished_at: Timestamp,
    /// `succeeded`, `failed`, `retryable`, `cancelled`, `yielded` or `lost`.
    pub outcome: String,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TaskError>,
    /// Its figures.
    pub progress: Progress,
    /// What it did, in order, and for how long.
    #[serde(default)]
    pub phases: Vec<Phase>,
    /// The last lines of its agent's log; empty when it succeeded or yielded. Of an agent that was lost they are as of its last
    /// renewal, and so are the phases. Never told to tenants.
    #[serde(default)]
    pub log_excerpt: String,
    /// Who worked on it; never told to tenants.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_node: Option<AccessNodeId>,
}

/// A part of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Phase {
    /// Such as `snapshot`, `read`, `seal`.
    pub name: String,
    /// Milliseconds.
    pub took_ms: u64,
}

/// `PUT /v1/jobs/{id}/priority`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetPriority {
    /// The new band of the tasks that are not done.
    pub priority: Priority,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskError {
    /// A stable word, such as `throttled`, `access_denied`, `not_found`.
    pub class: String,
    /// The whole chain, for a person.
    pub message: String,
}

/// Something a task made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Made {
    /// `recovery_point`, `volume`, `instance` or `disk_image`.
    pub kind: String,
    /// Its id.
    pub id: String,
    /// What it stands for, such as the original volume's id; may be empty.
    #[serde(default)]
    pub source: String,
}

/// A sentence of a task's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Note {
    /// Grows within a job; the event id of the stream.
    pub seq: u64,
    /// The task.
    #[schema(value_type = String)]
    pub task: TaskId,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Whether someone should look.
    pub warning: bool,
    /// The sentence.
    pub text: String,
}

/// An event of `GET /v1/jobs/{id}/events`. The stream begins with the job as it is and ends after a terminal state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum JobEvent {
    /// The job as it is now; at most twice a second.
    Job(Box<Job>),
    /// A new sentence.
    Note(Note),
}

/// `GET /v1/jobs`; newest first.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct JobQuery {
    /// Only this tenant's.
    #[param(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hypervisor: Option<HypervisorId>,
    /// Only jobs that are not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<bool>,
    /// Cursor of the last page's `next`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// 1 to 1,000; 100 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(instance: &str, state: &str, error: Option<&str>) -> Task {
        let error = error.map(|message| serde_json::json!({ "class": "x", "message": message }));
        let task = serde_json::json!({
            "id": TaskId::generate(), "kind": "streaming_backup", "instance": instance, "state": state, "attempts": 1,
            "priority": "normal", "error": error,
            "progress": {
                "phase": "", "blocks_total": 0, "blocks_done": 0, "bytes_read": 0, "bytes_sent": 0, "bytes_stored": 0,
                "blocks_deduplicated": 0, "blocks_zero": 0, "aws_calls": 0, "throttled": 0,
            },
        });
        serde_json::from_value(task).unwrap()
    }

    #[test]
    fn the_error_of_a_job_tells_each_cause_once_with_what_it_hit() {
        let none = [
            task("i-0a", "succeeded", Some("an attempt failed before")),
            task("i-0b", "running", Some("so did one of this")),
        ];
        assert_eq!(Job::error_of(&none), None);
        let mut tasks =
            vec![task("i-0f", "failed", Some("key k is disabled")), task("i-00", "succeeded", None)];
        tasks.extend(
            (1..=7).map(|n| task(&format!("i-0{n}"), "failed", Some("role r may not ec2:CreateSnapshots"))),
        );
        assert_eq!(
            Job::error_of(&tasks).unwrap(),
            "8 of 9 tasks failed: i-01, i-02, i-03, i-04, i-05 and 2 more: role r may not ec2:CreateSnapshots; i-0f: key k is \
             disabled"
        );
        let many: Vec<Task> = (1..=5).map(|n| task("i-0a", "failed", Some(&format!("cause {n}")))).collect();
        assert!(Job::error_of(&many).unwrap().ends_with("cause 3; 2 more for other causes"));
        let mixed =
            [task("i-0a", "retry_wait", Some("slow")), task("i-0b", "dead", Some("key k is disabled"))];
        assert_eq!(
            Job::error_of(&mixed).unwrap(),
            "1 of 2 tasks failed: i-0b: key k is disabled; 1 of 2 tasks tried again: i-0a: slow"
        );
        assert_eq!(Job::error_of(&[task("i-0a", "cancelled", Some("an attempt failed before"))]), None);
    }
}
