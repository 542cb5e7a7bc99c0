//! Errors as problem+json.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use snapferry_api::{Problem, ProblemCode};

use crate::discovery::DiscoveryError;
use crate::store::StoreError;

/// A refused call.
#[derive(Debug)]
pub(super) struct Refusal(Box<Problem>);

impl Refusal {
    pub(super) fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem::new(code, detail)))
    }

    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(ProblemCode::InvalidRequest, detail)
    }

    pub(super) fn not_found(kind: &str, id: impl std::fmt::Display) -> Self {
        Self::new(ProblemCode::NotFound, format!("there is no {kind} {id}"))
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::NotFound { .. } => ProblemCode::NotFound,
            StoreError::Conflict(_) | StoreError::Refused(_) | StoreError::Stale(_) => ProblemCode::Conflict,
            StoreError::Invalid(_) => ProblemCode::InvalidRequest,
            StoreError::IdempotencyMismatch(_) => ProblemCode::IdempotencyMismatch,
            StoreError::Database(_) => {
                tracing::error!(%error, "an API call failed");
                return Self::new(ProblemCode::Unavailable, "the database does not answer; try again");
            }
            StoreError::Url { .. }
            | StoreError::NewerSchema { .. }
            | StoreError::Superseded
            | StoreError::Corrupt { .. }
            | StoreError::Vault(_) => {
                tracing::error!(%error, "an API call failed");
                return Self::new(ProblemCode::Internal, "the scheduler failed; its log says more");
            }
        };
        Self::new(code, error.to_string())
    }
}

impl From<DiscoveryError> for Refusal {
    fn from(error: DiscoveryError) -> Self {
        match error {
            DiscoveryError::Store(error) => error.into(),
            DiscoveryError::Aws(text) => Self::new(ProblemCode::Aws, text),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        let mut response =
            (status, [(header::CONTENT_TYPE, snapferry_api::problem::CONTENT_TYPE)], body).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        response
    }
}
