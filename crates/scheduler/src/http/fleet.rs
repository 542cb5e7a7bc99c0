//! `/v1/access-nodes`, `/v1/media-agents` and `/v1/ledger`: what only the service account's people see.

use axum::Json;
use axum::extract::State;
use snapferry_api::fleet::{AccessNode, AskMaintenance, MediaAgent};
use snapferry_api::ledger::{LedgerLine, LedgerQuery, Reap, Reaped};
use snapferry_api::page::PageQuery;
use snapferry_api::{Page, Problem};
use snapferry_types::{AccessNodeId, LedgerId, MediaAgentId};

use super::Api;
use super::auth::Caller;
use super::problem::Refusal;
use super::read::{Body, Id, Params, cursor, limit};

/// Machines that run agents.
#[utoipa::path(get, path = "/v1/access-nodes", tag = "fleet", params(PageQuery), responses((status = 200, body = Page<AccessNode>)))]
pub(super) async fn access_nodes(
    State(api): State<Api>,
    caller: Caller,
    Params(query): Params<PageQuery>,
) -> Result<Json<Page<AccessNode>>, Refusal> {
    caller.may_see_fleet()?;
    let limit = limit(query.limit)?;
    cursor::<AccessNodeId>(query.after.as_ref())?;
    Ok(Json(api.store.access_nodes(&query, limit, api.online_since_ms()).await?))
}

/// Storage daemons.
#[utoipa::path(get, path = "/v1/media-agents", tag = "fleet", params(PageQuery), responses((status = 200, body = Page<MediaAgent>)))]
pub(super) async fn media_agents(
    State(api): State<Api>,
    caller: Caller,
    Params(query): Params<PageQuery>,
) -> Result<Json<Page<MediaAgent>>, Refusal> {
    caller.may_see_fleet()?;
    let limit = limit(query.limit)?;
    cursor::<MediaAgentId>(query.after.as_ref())?;
    Ok(Json(api.store.media_agents(&query, limit, api.online_since_ms()).await?))
}

/// AWS objects that were made; with `reapable=true` those that the reaper would remove.
#[utoipa::path(get, path = "/v1/ledger", tag = "fleet", params(LedgerQuery), responses((status = 200, body = Page<LedgerLine>)))]
pub(super) async fn ledger(
    State(api): State<Api>,
    caller: Caller,
    Params(query): Params<LedgerQuery>,
) -> Result<Json<Page<LedgerLine>>, Refusal> {
    caller.may_see_fleet()?;
    let limit = limit(query.limit)?;
    cursor::<LedgerId>(query.after.as_ref())?;
    Ok(Json(api.store.ledger(&query, limit).await?))
}

/// Ask a MediaAgent for work on its library.
#[utoipa::path(post, path = "/v1/media-agents/{id}/maintenance", tag = "fleet", request_body = AskMaintenance,
    params(("id" = String, Path)), responses((status = 200, body = MediaAgent),
    (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn maintain(
    State(api): State<Api>,
    caller: Caller,
    Id(id): Id<MediaAgentId>,
    Body(request): Body<AskMaintenance>,
) -> Result<Json<MediaAgent>, Refusal> {
    caller.may_operate()?;
    api.store.ask_maintenance(id, request.work).await?;
    tracing::info!(media_agent = %id, work = ?request.work, by = caller.name, "maintenance was asked for");
    Ok(Json(api.store.media_agent(id, api.online_since_ms()).await?))
}

/// Remove now what no live task and no recovery point owns, or say what would go.
#[utoipa::path(post, path = "/v1/ledger/reap", tag = "fleet", request_body = Reap, responses((status = 200, body = Reaped)))]
pub(super) async fn reap(
    State(api): State<Api>,
    caller: Caller,
    Body(request): Body<Reap>,
) -> Result<Json<Reaped>, Refusal> {
    caller.may_operate()?;
    Ok(Json(Reaped { lines: api.reaper.reap(&request, &api.stop).await? }))
}
