//! `/v1/jobs`.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use snapferry_api::job::{CreateJob, Job, JobQuery, JobSummary, Work};
use snapferry_api::restore::RestoreTarget;
use snapferry_api::{Page, Problem, ProblemCode};
use snapferry_types::JobId;

use super::auth::Caller;
use super::problem::Refusal;
use super::read::{Body, Id, Params, cursor, limit};
use super::tenant_view::View;
use super::{Api, validate};
use crate::store::Submission;

/// Ask for work. With an `Idempotency-Key` header a repeated request answers the same job.
#[utoipa::path(post, path = "/v1/jobs", tag = "jobs", request_body = CreateJob,
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 200 visible characters")), responses(
    (status = 201, body = Job, description = "taken in"), (status = 200, body = Job, description = "was taken in before"),
    (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn create(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    Body(request): Body<CreateJob>,
) -> Result<(StatusCode, Json<Job>), Refusal> {
    submit(&api, &caller, &headers, &request).await
}

/// Jobs, newest first.
#[utoipa::path(get, path = "/v1/jobs", tag = "jobs", params(JobQuery), responses((status = 200, body = Page<JobSummary>)))]
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Params(mut query): Params<JobQuery>,
) -> Result<Json<Page<JobSummary>>, Refusal> {
    let limit = limit(query.limit)?;
    cursor::<JobId>(query.after.as_ref())?;
    if let Some(own) = caller.only() {
        if query.hypervisor.is_some_and(|asked| asked != own) {
            return Ok(Json(Page { items: Vec::new(), next: None }));
        }
        query.hypervisor = Some(own);
    }
    Ok(Json(api.store.jobs(&query, limit).await?))
}

/// A job with its tasks.
#[utoipa::path(get, path = "/v1/jobs/{id}", tag = "jobs", params(("id" = String, Path)), responses(
    (status = 200, body = Job), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn show(
    State(api): State<Api>,
    caller: Caller,
    Id(id): Id<JobId>,
) -> Result<Json<Job>, Refusal> {
    let view = View::of(&api, &caller).await?;
    Ok(Json(view.job(visible(&api, &caller, id).await?)))
}

pub(super) async fn visible(api: &Api, caller: &Caller, id: JobId) -> Result<Job, Refusal> {
    let job = api.store.job(id).await?;
    if caller.sees(job.summary.hypervisor) { Ok(job) } else { Err(Refusal::not_found("job", id)) }
}

pub(super) async fn submit(
    api: &Api,
    caller: &Caller,
    headers: &HeaderMap,
    request: &CreateJob,
) -> Result<(StatusCode, Json<Job>), Refusal> {
    caller.may_work()?;
    validate::job(request)?;
    if names_a_machine(&request.work) {
        caller.may_operate()?;
    }
    let idempotency_key = match headers.get("idempotency-key") {
        None => None,
        Some(value) => {
            let key =
                value.to_str().ok().filter(|key| (1..=200).contains(&key.len())).ok_or_else(|| {
                    Refusal::invalid("idempotency-key: give 1 to 200 visible ASCII characters")
                })?;
            Some(format!("{}\n{key}", caller.name))
        }
    };
    let submission = Submission { request, idempotency_key, only: caller.only() };
    let submitted = api.store.submit(&submission).await?;
    if submitted.new {
        tracing::info!(job = %submitted.job, kind = request.work.kind().as_str(), by = caller.name, "job taken in");
    }
    let job = api.store.job(submitted.job).await?;
    if !caller.sees(job.summary.hypervisor) {
        return Err(Refusal::new(ProblemCode::IdempotencyMismatch, "the key was used by another tenant"));
    }
    let status = if submitted.new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(View::of(api, caller).await?.job(job))))
}

/// Whether the work chooses a machine of the service account, or writes to the disk of one.
const fn names_a_machine(work: &Work) -> bool {
    match work {
        Work::StreamingBackup(backup) => backup.media_agent.is_some(),
        Work::BackupCopy(copy) => copy.media_agent.is_some(),
        Work::Restore(restore) => matches!(restore.target, RestoreTarget::DiskImage { .. }),
        Work::IntelliSnap(_) | Work::DeleteRecoveryPoint(_) | Work::Replication(_) | Work::Conversion(_) => {
            false
        }
    }
}
