//! `/v1/recovery-points`.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use snapferry_api::job::{CreateJob, DeleteRecoveryPoint, Job, Priority, Work};
use snapferry_api::recovery_point::{RecoveryPoint, RecoveryPointQuery, RecoveryPointSummary};
use snapferry_api::{Page, Problem};
use snapferry_types::RecoveryPointId;

use super::Api;
use super::auth::Caller;
use super::problem::Refusal;
use super::read::{Id, Params, cursor, limit};
use super::tenant_view::View;

/// The catalogue, newest first.
#[utoipa::path(get, path = "/v1/recovery-points", tag = "recovery points", params(RecoveryPointQuery), responses(
    (status = 200, body = Page<RecoveryPointSummary>)))]
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Params(mut query): Params<RecoveryPointQuery>,
) -> Result<Json<Page<RecoveryPointSummary>>, Refusal> {
    let limit = limit(query.limit)?;
    cursor::<RecoveryPointId>(query.after.as_ref())?;
    if let Some(own) = caller.only() {
        if query.hypervisor.is_some_and(|asked| asked != own) {
            return Ok(Json(Page { items: Vec::new(), next: None }));
        }
        query.hypervisor = Some(own);
    }
    let view = View::of(&api, &caller).await?;
    let page = api.store.recovery_points(&query, limit).await?;
    let items = page.items.into_iter().map(|point| view.recovery_point(point)).collect();
    Ok(Json(Page { items, next: page.next }))
}

/// A recovery point.
#[utoipa::path(get, path = "/v1/recovery-points/{id}", tag = "recovery points", params(("id" = String, Path)), responses(
    (status = 200, body = RecoveryPoint), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn show(
    State(api): State<Api>,
    caller: Caller,
    Id(id): Id<RecoveryPointId>,
) -> Result<Json<RecoveryPoint>, Refusal> {
    let point = api.store.recovery_point(id).await?;
    if !caller.sees(point.summary.hypervisor) {
        return Err(Refusal::not_found("recovery point", id));
    }
    let view = View::of(&api, &caller).await?;
    Ok(Json(RecoveryPoint { summary: view.recovery_point(point.summary.clone()), ..point }))
}

/// Ask for the removal of a recovery point.
#[utoipa::path(delete, path = "/v1/recovery-points/{id}", tag = "recovery points", params(("id" = String, Path)), responses(
    (status = 201, body = Job), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Id(id): Id<RecoveryPointId>,
    headers: HeaderMap,
) -> Result<(StatusCode, Json<Job>), Refusal> {
    let work = Work::DeleteRecoveryPoint(DeleteRecoveryPoint { recovery_point: id });
    super::jobs::submit(&api, &caller, &headers, &CreateJob { work, priority: Priority::Normal }).await
}
