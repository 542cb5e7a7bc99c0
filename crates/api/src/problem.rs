//! Errors of the API as `application/problem+json` (RFC 9457).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Media type of a [`Problem`].
pub const CONTENT_TYPE: &str = "application/problem+json";

/// What went wrong, and the way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:snapferry:problem:<code>`.
    #[serde(rename = "type")]
    pub type_uri: String,
    /// The kind of error in words.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What exactly, for a person: names the thing and the way out.
    pub detail: String,
    /// The kind of error as a stable word.
    pub code: ProblemCode,
}

/// Kinds of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProblemCode {
    /// 400: the request does not parse or says something impossible.
    InvalidRequest,
    /// 401: no token, or one nobody has.
    Unauthenticated,
    /// 403: the token's role does not allow it.
    Forbidden,
    /// 404: no such thing, or not one this token may see.
    NotFound,
    /// 409: the thing is in a state that does not allow it, or the name is taken.
    Conflict,
    /// 413: the body is larger than 1 MiB.
    TooLarge,
    /// 415: the body is not JSON.
    UnsupportedMediaType,
    /// 422: the idempotency key was used for another request.
    IdempotencyMismatch,
    /// 502: AWS refused or did not answer.
    Aws,
    /// 503: the database does not answer; try again.
    Unavailable,
    /// 500: a defect; the log says more.
    Internal,
    /// A word of a newer scheduler.
    #[serde(other)]
    Unknown,
}

impl ProblemCode {
    /// The stable word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::TooLarge => "too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::IdempotencyMismatch => "idempotency_mismatch",
            Self::Aws => "aws",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
            Self::Unknown => "unknown",
        }
    }

    /// HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidRequest => 400,
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::IdempotencyMismatch => 422,
            Self::Aws => 502,
            Self::Unavailable => 503,
            Self::Internal | Self::Unknown => 500,
        }
    }

    /// The kind of error in words.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::InvalidRequest => "the request is not valid",
            Self::Unauthenticated => "a valid bearer token is needed",
            Self::Forbidden => "the token does not allow this",
            Self::NotFound => "there is no such thing",
            Self::Conflict => "the present state does not allow this",
            Self::TooLarge => "the request is too large",
            Self::UnsupportedMediaType => "the body is not JSON",
            Self::IdempotencyMismatch => "the idempotency key belongs to another request",
            Self::Aws => "AWS refused or did not answer",
            Self::Unavailable => "the scheduler cannot answer at present",
            Self::Internal | Self::Unknown => "the scheduler failed",
        }
    }
}

impl Problem {
    /// A problem of a kind.
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self {
            type_uri: format!("urn:snapferry:problem:{}", code.as_str()),
            title: code.title().to_owned(),
            status: code.status(),
            detail: detail.into(),
            code,
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.title, self.detail)
    }
}

impl std::error::Error for Problem {}
