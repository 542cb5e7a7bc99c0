//! The public HTTP API, `/v1/…`. Handlers check the caller, ask the store and shape the answer; they decide nothing
//! about tasks. What a tenant sees passes [`tenant_view`].

mod auth;
mod control;
mod events;
mod fleet;
mod hypervisors;
mod jobs;
mod openapi;
mod problem;
mod read;
mod recovery_points;
mod tenant_view;
mod validate;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post, put};
use snapferry_api::ProblemCode;
use tokio_util::sync::CancellationToken;

pub use self::auth::{Tokens, TokensError};
use self::problem::Refusal;
use crate::clock::Clock;
use crate::discovery::Discovery;
use crate::metrics::Metrics;
use crate::reaper::Reaper;
use crate::reconcile::Reconciler;
use crate::store::Store;

/// Largest body of a request in bytes.
pub const MAX_BODY: usize = 1 << 20;

/// What handlers work on.
#[derive(Clone)]
pub struct Api {
    pub(crate) store: Arc<Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) discovery: Arc<dyn Discovery>,
    pub(crate) reaper: Reaper,
    pub(crate) reconciler: Arc<Reconciler>,
    pub(crate) metrics: Metrics,
    pub(crate) node_timeout: Duration,
    pub(crate) stop: CancellationToken,
}

impl Api {
    /// Nodes and MediaAgents that were heard since then are online.
    pub(crate) fn online_since_ms(&self) -> i64 {
        self.clock.wall_ms().saturating_sub(crate::dispatch::millis(self.node_timeout))
    }
}

/// The routes.
pub fn router(api: Api, registry: prometheus::Registry) -> Router {
    Router::new()
        .route("/v1/hypervisors", get(hypervisors::list).post(hypervisors::create))
        .route("/v1/hypervisors/{id}", get(hypervisors::show).delete(hypervisors::delete))
        .route("/v1/hypervisors/{id}/instances", get(hypervisors::instances))
        .route("/v1/hypervisors/{id}/reconcile", post(hypervisors::reconcile))
        .route("/v1/jobs", get(jobs::list).post(jobs::create))
        .route("/v1/jobs/{id}", get(jobs::show))
        .route("/v1/jobs/{id}/cancel", post(control::cancel))
        .route("/v1/jobs/{id}/suspend", post(control::suspend))
        .route("/v1/jobs/{id}/resume", post(control::resume))
        .route("/v1/jobs/{id}/priority", put(control::priority))
        .route("/v1/jobs/{id}/events", get(events::watch))
        .route("/v1/recovery-points", get(recovery_points::list))
        .route("/v1/recovery-points/{id}", get(recovery_points::show).delete(recovery_points::delete))
        .route("/v1/access-nodes", get(fleet::access_nodes))
        .route("/v1/media-agents", get(fleet::media_agents))
        .route("/v1/media-agents/{id}/maintenance", post(fleet::maintain))
        .route("/v1/ledger", get(fleet::ledger))
        .route("/v1/ledger/reap", post(fleet::reap))
        .route("/openapi.json", get(openapi::document))
        .route("/healthz", get(health))
        .fallback(|| async { Refusal::new(ProblemCode::NotFound, "no such path; see /openapi.json") })
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(axum::middleware::from_fn_with_state(api.clone(), count))
        .with_state(api)
        .merge(Router::new().route("/metrics", get(metrics)).with_state(registry))
}

async fn health(State(api): State<Api>) -> Result<&'static str, Refusal> {
    api.store.ping().await?;
    Ok("ok\n")
}

async fn metrics(State(registry): State<prometheus::Registry>) -> Response {
    match prometheus::TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => ([("content-type", prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => Refusal::new(ProblemCode::Internal, error.to_string()).into_response(),
    }
}

async fn method_not_allowed(request: Request) -> Response {
    let detail = format!("{} is not possible here; see /openapi.json", request.method());
    let mut response = Refusal::new(ProblemCode::InvalidRequest, detail).into_response();
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response
}

async fn count(State(api): State<Api>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let class = match response.status().as_u16() {
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    };
    api.metrics.http.with_label_values(&[class]).inc();
    response
}
