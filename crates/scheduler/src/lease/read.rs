//! Reading the lease contract into the store's words.

use snapferry_api::fleet::LastScrub;
use snapferry_api::job::{Made, Phase, Progress, TaskError};
use snapferry_queue::QueueName;
use snapferry_types::instance::OsFamily;
use snapferry_types::{Fence, TaskId, Transport};
use snapferry_wire::convert::{parse, required};
use snapferry_wire::{ConvertError, v1};

use crate::store::{
    AttemptReport, ClaimBy, FinishOutcome, MediaAgentFigures, NodeFigures, SealedPoint, Step,
};

/// Longest name, zone, group or version.
const MAX_TEXT: usize = 200;
/// Most things a task may say it made.
const MAX_MADE: usize = 1_000;
/// Longest error message, in characters; a longer one is cut.
const MAX_MESSAGE: usize = 8_000;
/// Most tasks whose disk images are looked at in one hello.
const MAX_TASKS: usize = 1_000;
/// Most recovery points that a scrub may name.
const MAX_TOUCHED: usize = 100;

pub(super) fn node(request: v1::NodeHelloRequest) -> Result<NodeFigures, ConvertError> {
    let os = match request.os.as_str() {
        "linux" => OsFamily::Linux,
        "windows" => OsFamily::Windows,
        other => return Err(invalid("os", format!("{other:?} is neither linux nor windows"))),
    };
    let region = parse("region", &request.region)?;
    let queue =
        QueueName::new(&region, os, &request.group).map_err(|error| invalid("group", error.to_string()))?;
    Ok(NodeFigures {
        id: parse("node_id", &request.node_id)?,
        incarnation: parse("incarnation", &request.incarnation)?,
        name: short("name", request.name)?,
        region: request.region,
        availability_zone: short("availability_zone", request.availability_zone)?,
        os: request.os,
        group: request.group,
        queue: queue.to_string(),
        slots: request.slots,
        free_slots: request.free_slots,
        version: short("version", request.version)?,
        // What a newer agent can do beyond these is not asked for by this scheduler.
        transports: request.transports.iter().filter_map(|word| Transport::from_word(word)).collect(),
    })
}

/// The tasks that have disk images in a node's staging folder.
pub(super) fn staged(request: &v1::NodeHelloRequest) -> Result<Vec<TaskId>, ConvertError> {
    tasks("staged_tasks", &request.staged_tasks)
}

/// The tasks that have begun disk images for their caller on a node.
pub(super) fn with_images(request: &v1::NodeHelloRequest) -> Result<Vec<TaskId>, ConvertError> {
    tasks("image_tasks", &request.image_tasks)
}

fn tasks(field: &'static str, ids: &[String]) -> Result<Vec<TaskId>, ConvertError> {
    ids.iter().take(MAX_TASKS).map(|id| parse(field, id)).collect()
}

pub(super) fn media_agent(request: v1::MediaAgentHelloRequest) -> Result<MediaAgentFigures, ConvertError> {
    if !request.endpoint.starts_with("http://") && !request.endpoint.starts_with("https://") {
        return Err(invalid("endpoint", format!("{:?} is no http:// or https:// URL", request.endpoint)));
    }
    Ok(MediaAgentFigures {
        id: parse("media_agent_id", &request.media_agent_id)?,
        name: short("name", request.name)?,
        endpoint: short("endpoint", request.endpoint)?,
        version: short("version", request.version)?,
        stored_bytes: request.stored_bytes,
        free_bytes: request.free_bytes,
        recovery_points: request.recovery_points,
        scrub_done: request.scrub_done,
        collect_done: request.collect_done,
        last_scrub: request.last_scrub.map(last_scrub).transpose()?,
    })
}

fn last_scrub(scrub: v1::LastScrub) -> Result<LastScrub, ConvertError> {
    let ended_ms = i64::try_from(scrub.ended_unix_ms).unwrap_or(i64::MAX);
    let touched = scrub.recovery_points_touched.iter().take(MAX_TOUCHED);
    Ok(LastScrub {
        ended_at: crate::store::timestamp(ended_ms),
        bytes_read: scrub.bytes_read,
        damaged: scrub.damaged,
        recovery_points_touched: touched
            .map(|id| parse("recovery_points_touched", id))
            .collect::<Result<_, _>>()?,
    })
}

pub(super) fn claim(request: &v1::ClaimRequest, heard_since_ms: i64) -> Result<ClaimBy, ConvertError> {
    Ok(ClaimBy {
        heard_since_ms,
        task: parse("task_id", &request.task_id)?,
        dispatch: parse("dispatch_id", &request.dispatch_id)?,
        node: parse("node_id", &request.node_id)?,
        incarnation: parse("incarnation", &request.incarnation)?,
    })
}

pub(super) fn right(task: &str, fence: Option<v1::Fence>) -> Result<(TaskId, Fence), ConvertError> {
    Ok((parse("task_id", task)?, required("fence", fence)?.into()))
}

fn progress(progress: v1::Progress) -> Progress {
    Progress {
        phase: progress.phase.chars().take(MAX_TEXT).collect(),
        phase_percent: progress.phase_percent.map(|percent| u8::try_from(percent.min(100)).unwrap_or(100)),
        blocks_total: progress.blocks_total,
        blocks_done: progress.blocks_done,
        bytes_read: progress.bytes_read,
        bytes_sent: progress.bytes_sent,
        bytes_stored: progress.bytes_stored,
        aws_calls: progress.aws_calls,
        throttled: progress.throttled,
        blocks_deduplicated: progress.blocks_deduplicated,
        blocks_zero: progress.blocks_zero,
    }
}

pub(super) fn report(
    progress: Option<v1::Progress>,
    phases: Vec<v1::Phase>,
    log_excerpt: String,
) -> AttemptReport {
    let name = |name: String| name.chars().take(MAX_TEXT).collect();
    AttemptReport {
        progress: progress.map(self::progress),
        phases: phases
            .into_iter()
            .map(|phase| Phase { name: name(phase.name), took_ms: phase.took_ms })
            .collect(),
        log_excerpt,
    }
}

pub(super) fn step(step: v1::record_request::Step) -> Result<Step, ConvertError> {
    use v1::record_request::Step as Wire;
    Ok(match step {
        Wire::Ledger(entry) => Step::Ledger(entry.try_into()?),
        Wire::Checkpoint(body) => Step::Checkpoint(body.into()),
        Wire::Note(note) => Step::Note { warning: note.warning, text: note.text },
        Wire::Sealed(point) => Step::Sealed(SealedPoint {
            id: parse("recovery_point_id", &point.recovery_point_id)?,
            metadata: point.metadata.into(),
            logical_bytes: point.logical_bytes,
            read_bytes: point.read_bytes,
            stored_bytes: point.stored_bytes,
        }),
        Wire::RecoveryPointDeleted(id) => Step::Deleted(parse("recovery_point_deleted", &id)?),
        Wire::Release(id) => Step::Release(parse("release", &id)?),
        Wire::Lost(lost) => Step::Lost(
            lost.snapshot_ids.iter().map(|id| parse("snapshot_ids", id)).collect::<Result<_, _>>()?,
        ),
    })
}

pub(super) fn outcome(outcome: v1::finish_request::Outcome) -> Result<FinishOutcome, ConvertError> {
    use v1::finish_request::Outcome as Wire;
    Ok(match outcome {
        Wire::Succeeded(succeeded) if succeeded.made.len() > MAX_MADE => {
            return Err(invalid("made", format!("{} things, {MAX_MADE} allowed", succeeded.made.len())));
        }
        Wire::Succeeded(succeeded) => FinishOutcome::Succeeded(
            succeeded
                .made
                .into_iter()
                .map(|made| Made { kind: made.kind, id: made.id, source: made.source })
                .collect(),
        ),
        Wire::Failed(failed) => FinishOutcome::Failed {
            retryable: failed.retryable,
            error: TaskError {
                class: short("error_class", failed.error_class)?,
                message: failed.message.chars().take(MAX_MESSAGE).collect(),
            },
        },
        Wire::Cancelled(v1::Cancelled {}) => FinishOutcome::Cancelled,
        Wire::Yielded(yielded) => FinishOutcome::Yielded { shutting_down: yielded.shutting_down },
    })
}

fn short(field: &'static str, text: String) -> Result<String, ConvertError> {
    if text.len() <= MAX_TEXT {
        return Ok(text);
    }
    Err(invalid(field, format!("{} bytes, {MAX_TEXT} allowed", text.len())))
}

fn invalid(field: &'static str, reason: String) -> ConvertError {
    ConvertError::Invalid { field, reason }
}
