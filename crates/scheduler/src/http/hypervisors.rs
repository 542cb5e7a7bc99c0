//! `/v1/hypervisors`.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use snapferry_api::hypervisor::{CreateHypervisor, Hypervisor, HypervisorQuery};
use snapferry_api::instance::{Instance, InstanceQuery};
use snapferry_api::recovery_point::Reconciled;
use snapferry_api::{Page, Problem, ProblemCode};
use snapferry_types::HypervisorId;

use super::auth::Caller;
use super::problem::Refusal;
use super::read::{Body, Id, Params, cursor, limit};
use super::tenant_view::View;
use super::{Api, validate};

/// A region is looked at for at most this long; the client waits a minute in all.
const LONGEST_LOOK: Duration = Duration::from_secs(40);

/// Register an account.
#[utoipa::path(post, path = "/v1/hypervisors", tag = "hypervisors", request_body = CreateHypervisor, responses(
    (status = 201, body = Hypervisor), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Body(request): Body<CreateHypervisor>,
) -> Result<(StatusCode, Json<Hypervisor>), Refusal> {
    caller.may_operate()?;
    validate::hypervisor(&request)?;
    let made = api.store.create_hypervisor(&request).await?;
    tracing::info!(hypervisor = %made.id, name = made.name, account = %made.account, by = caller.name, "registered");
    Ok((StatusCode::CREATED, Json(made)))
}

/// Registered accounts, oldest first.
#[utoipa::path(get, path = "/v1/hypervisors", tag = "hypervisors", params(HypervisorQuery), responses(
    (status = 200, body = Page<Hypervisor>)))]
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Params(query): Params<HypervisorQuery>,
) -> Result<Json<Page<Hypervisor>>, Refusal> {
    let limit = limit(query.limit)?;
    cursor::<HypervisorId>(query.after.as_ref())?;
    let Some(own) = caller.only() else { return Ok(Json(api.store.hypervisors(&query, limit).await?)) };
    let view = View::of(&api, &caller).await?;
    let own = api.store.hypervisor(own).await?;
    let items = if query.after.is_none() && query.name.as_ref().is_none_or(|name| *name == own.name) {
        vec![view.hypervisor(own)]
    } else {
        Vec::new()
    };
    Ok(Json(Page { items, next: None }))
}

/// A registered account.
#[utoipa::path(get, path = "/v1/hypervisors/{id}", tag = "hypervisors", params(("id" = String, Path)), responses(
    (status = 200, body = Hypervisor), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn show(
    State(api): State<Api>,
    caller: Caller,
    Id(id): Id<HypervisorId>,
) -> Result<Json<Hypervisor>, Refusal> {
    seen(&caller, id)?;
    let view = View::of(&api, &caller).await?;
    Ok(Json(view.hypervisor(api.store.hypervisor(id).await?)))
}

/// Remove an account that has no open task and no recovery point.
#[utoipa::path(delete, path = "/v1/hypervisors/{id}", tag = "hypervisors", params(("id" = String, Path)), responses(
    (status = 204), (status = 409, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Id(id): Id<HypervisorId>,
) -> Result<StatusCode, Refusal> {
    caller.may_operate()?;
    api.store.delete_hypervisor(id).await?;
    tracing::info!(hypervisor = %id, by = caller.name, "removed");
    Ok(StatusCode::NO_CONTENT)
}

/// The account's instances as AWS knows them now.
#[utoipa::path(get, path = "/v1/hypervisors/{id}/instances", tag = "hypervisors",
    params(("id" = String, Path), InstanceQuery), responses(
    (status = 200, body = Page<Instance>), (status = 502, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn instances(
    State(api): State<Api>,
    caller: Caller,
    Id(id): Id<HypervisorId>,
    Params(query): Params<InstanceQuery>,
) -> Result<Json<Page<Instance>>, Refusal> {
    seen(&caller, id)?;
    let hypervisor = api.store.hypervisor(id).await?;
    let regions = match query.region {
        Some(region) if hypervisor.regions.contains(&region) => vec![region],
        Some(region) => {
            return Err(Refusal::invalid(format!(
                "hypervisor {} is not registered for {region}; its regions are {:?}",
                hypervisor.name, hypervisor.regions
            )));
        }
        None => hypervisor.regions,
    };
    let mut items = Vec::new();
    for region in regions {
        let access = api.store.account_access(id, &region).await?;
        let looked = tokio::time::timeout(LONGEST_LOOK, api.discovery.instances(&access)).await;
        items.extend(looked.map_err(|_| {
            Refusal::new(ProblemCode::Aws, format!("AWS did not answer for {region} within {LONGEST_LOOK:?}"))
        })??);
    }
    Ok(Json(Page { items, next: None }))
}

/// Look which of the kept snapshots are still in the account.
#[utoipa::path(post, path = "/v1/hypervisors/{id}/reconcile", tag = "hypervisors", params(("id" = String, Path)), responses(
    (status = 200, body = Reconciled), (status = 502, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn reconcile(
    State(api): State<Api>,
    caller: Caller,
    Id(id): Id<HypervisorId>,
) -> Result<Json<Reconciled>, Refusal> {
    caller.may_work()?;
    seen(&caller, id)?;
    Ok(Json(api.reconciler.tenant(id).await?))
}

fn seen(caller: &Caller, id: HypervisorId) -> Result<(), Refusal> {
    if caller.sees(id) { Ok(()) } else { Err(Refusal::not_found("hypervisor", id)) }
}
