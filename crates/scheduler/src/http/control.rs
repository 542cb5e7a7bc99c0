//! `/v1/jobs/{id}/…`: what people want of a job that is taken in.

use axum::Json;
use axum::extract::State;
use snapferry_api::Problem;
use snapferry_api::job::{Job, SetPriority};
use snapferry_types::JobId;

use super::Api;
use super::auth::Caller;
use super::jobs::visible;
use super::problem::Refusal;
use super::read::{Body, Id};
use super::tenant_view::View;

/// Cancel what is left of a job.
#[utoipa::path(post, path = "/v1/jobs/{id}/cancel", tag = "jobs", params(("id" = String, Path)), responses(
    (status = 200, body = Job), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn cancel(
    State(api): State<Api>,
    caller: Caller,
    Id(id): Id<JobId>,
) -> Result<Json<Job>, Refusal> {
    may_change(&api, &caller, id).await?;
    api.store.cancel_job(id).await?;
    changed(&api, &caller, id, "cancel").await
}

/// Suspend what is left of a job; its progress is kept.
#[utoipa::path(post, path = "/v1/jobs/{id}/suspend", tag = "jobs", params(("id" = String, Path)), responses(
    (status = 200, body = Job), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn suspend(
    State(api): State<Api>,
    caller: Caller,
    Id(id): Id<JobId>,
) -> Result<Json<Job>, Refusal> {
    may_change(&api, &caller, id).await?;
    api.store.suspend_job(id).await?;
    changed(&api, &caller, id, "suspend").await
}

/// Let a suspended job go on.
#[utoipa::path(post, path = "/v1/jobs/{id}/resume", tag = "jobs", params(("id" = String, Path)), responses(
    (status = 200, body = Job), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn resume(
    State(api): State<Api>,
    caller: Caller,
    Id(id): Id<JobId>,
) -> Result<Json<Job>, Refusal> {
    may_change(&api, &caller, id).await?;
    api.store.resume_job(id).await?;
    changed(&api, &caller, id, "resume").await
}

/// Change the band of a job's tasks that are not done.
#[utoipa::path(put, path = "/v1/jobs/{id}/priority", tag = "jobs", request_body = SetPriority,
    params(("id" = String, Path)), responses((status = 200, body = Job),
    (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn priority(
    State(api): State<Api>,
    caller: Caller,
    Id(id): Id<JobId>,
    Body(request): Body<SetPriority>,
) -> Result<Json<Job>, Refusal> {
    may_change(&api, &caller, id).await?;
    api.store.set_priority(id, request.priority).await?;
    changed(&api, &caller, id, "priority").await
}

async fn may_change(api: &Api, caller: &Caller, id: JobId) -> Result<(), Refusal> {
    caller.may_work()?;
    visible(api, caller, id).await.map(drop)
}

async fn changed(api: &Api, caller: &Caller, id: JobId, what: &str) -> Result<Json<Job>, Refusal> {
    tracing::info!(job = %id, by = caller.name, what, "a change of the job was asked for");
    let view = View::of(api, caller).await?;
    Ok(Json(view.job(api.store.job(id).await?)))
}
