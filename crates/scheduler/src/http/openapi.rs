//! `/openapi.json`.

use axum::Json;
use utoipa::OpenApi as _;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};

use super::{control, events, fleet, hypervisors, jobs, recovery_points};

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Snapferry", description = "Backup and restore of EC2 instances on a service account's resources."),
    paths(
        hypervisors::create,
        hypervisors::list,
        hypervisors::show,
        hypervisors::delete,
        hypervisors::instances,
        hypervisors::reconcile,
        jobs::create,
        jobs::list,
        jobs::show,
        control::cancel,
        control::suspend,
        control::resume,
        control::priority,
        events::watch,
        recovery_points::list,
        recovery_points::show,
        recovery_points::delete,
        fleet::access_nodes,
        fleet::media_agents,
        fleet::maintain,
        fleet::ledger,
        fleet::reap,
    ),
    security(("bearer" = [])),
    modifiers(&Bearer)
)]
struct Document;

struct Bearer;

impl utoipa::Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        document.components.get_or_insert_default().add_security_scheme("bearer", scheme);
    }
}

pub(super) async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}
