//! Errors of the EBS direct APIs, as AWS words and codes them.

use bytes::Bytes;
use http::{Method, Response};
use serde_json::json;

use crate::faults::body::{self, ReplyBody};
use crate::faults::{Refusal, body::full};
use crate::store::StoreError;

/// An error answer.
#[derive(Clone, Debug)]
pub(super) struct EbsError(pub(super) Refusal);

impl From<Refusal> for EbsError {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl EbsError {
    fn new(status: u16, code: &str, reason: Option<&str>, message: impl Into<String>) -> Self {
        Self(Refusal::new(status, code, reason, message))
    }

    pub(super) fn validation(reason: &str, message: impl Into<String>) -> Self {
        Self::new(400, "ValidationException", Some(reason), message)
    }

    pub(super) fn snapshot_not_found(id: &str) -> Self {
        let message = format!("The snapshot '{id}' does not exist.");
        Self::new(404, "ResourceNotFoundException", Some("SNAPSHOT_NOT_FOUND"), message)
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "InternalServerException", None, message)
    }

    pub(super) fn unknown_operation(method: &Method, path: &str) -> Self {
        let path: String = path.chars().take(200).collect();
        Self::new(404, "UnknownOperationException", None, format!("There is no {method} {path}."))
    }

    /// The answer: a JSON body with `Message` and `Reason`, the code in `x-amzn-errortype`.
    pub(super) fn response(&self) -> Response<ReplyBody> {
        let Refusal { status, code, message, reason } = &self.0;
        let message: String = message.chars().take(256).collect();
        let body = match reason {
            Some(reason) => json!({ "Message": message, "Reason": reason }),
            None => json!({ "Message": message }),
        };
        let response = Response::builder()
            .status(*status)
            .header("content-type", "application/json")
            .header("x-amzn-errortype", code)
            .body(full(Bytes::from(body.to_string())));
        response.unwrap_or_else(|_| Response::new(body::empty()))
    }
}

impl From<StoreError> for EbsError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::SnapshotNotFound(id) => Self::snapshot_not_found(id),
            StoreError::Pending(id) => Self::validation(
                "INVALID_SNAPSHOT_ID",
                format!("The snapshot '{id}' is not in the completed state."),
            ),
            StoreError::NotPending(id) => Self::validation(
                "INVALID_SNAPSHOT_ID",
                format!("The snapshot '{id}' is not in the pending state."),
            ),
            StoreError::OutOfRange { what, limit, .. } => Self::validation(
                "INVALID_BLOCK",
                format!("The request reaches {what}; the snapshot has {limit}."),
            ),
            StoreError::ConflictingUpdate { index, .. } => {
                let message = format!("Another update of block {index} is in progress.");
                Self::validation("CONFLICTING_BLOCK_UPDATE", message)
            }
            StoreError::Unrelated { first, second } => {
                let message = format!("The snapshots '{first}' and '{second}' are not of the same lineage.");
                Self::validation("UNRELATED_SNAPSHOTS", message)
            }
            StoreError::Synthetic(_) | StoreError::BadId(_) | StoreError::BadSpec(_) => {
                Self::validation("INVALID_PARAMETER_VALUE", format!("failed to {error}"))
            }
            StoreError::VolumeNotFound(_)
            | StoreError::AlreadyExists(_)
            | StoreError::Damaged { .. }
            | StoreError::Io { .. } => {
                tracing::error!(error = %error, "block store failed");
                Self::internal(format!("failed to {error}"))
            }
        }
    }
}
