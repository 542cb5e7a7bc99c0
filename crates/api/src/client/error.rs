//! How a call fails.

use thiserror::Error;

use crate::problem::{Problem, ProblemCode};

/// A call that failed.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The scheduler's URL is unusable.
    #[error("{url:?} is no URL of a scheduler: {reason}")]
    Url {
        /// What was given.
        url: String,
        /// Why not.
        reason: String,
    },
    /// Nobody answers there, or the connection broke.
    #[error("reach the scheduler at {url}: {source}")]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The scheduler refused.
    #[error(transparent)]
    Problem(Box<Problem>),
    /// The answer is not what the API promises: another version, or not a scheduler.
    #[error("the answer of {url} does not read: {reason}")]
    Answer {
        /// Which call.
        url: String,
        /// Why.
        reason: String,
    },
}

impl ClientError {
    /// Whether the same call may work later.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        match self {
            Self::Url { .. } | Self::Answer { .. } => false,
            Self::Unreachable { .. } => true,
            Self::Problem(problem) => matches!(problem.code, ProblemCode::Unavailable | ProblemCode::Aws),
        }
    }

    /// The kind of refusal, if the scheduler refused.
    #[must_use]
    pub const fn code(&self) -> Option<ProblemCode> {
        match self {
            Self::Problem(problem) => Some(problem.code),
            Self::Url { .. } | Self::Unreachable { .. } | Self::Answer { .. } => None,
        }
    }
}
