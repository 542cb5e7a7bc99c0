//! The one error of the seams. What lies behind a seam has errors of its own and puts their whole chain here, with
//! the class that decides what happens next.

use thiserror::Error;

/// What kind of trouble: decides on retry, and is the stable word in jobs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The job was cancelled, suspended, or the process stops.
    Cancelled,
    /// The lease is lost: another attempt owns the task.
    StaleFence,
    /// A thing that was named does not exist.
    NotFound,
    /// Permission is missing.
    AccessDenied,
    /// What was asked cannot be done.
    Invalid,
    /// A quota is used up.
    Throttled,
    /// The far side cannot be reached, hung, or answered with an error of its own.
    Unavailable,
    /// The storage is full.
    StorageFull,
    /// Bytes are not what their checksum says, after reading again.
    Corrupt,
    /// None of the above.
    Internal,
}

impl ErrorClass {
    /// The word in jobs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::StaleFence => "stale_fence",
            Self::NotFound => "not_found",
            Self::AccessDenied => "access_denied",
            Self::Invalid => "invalid",
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
            Self::StorageFull => "storage_full",
            Self::Corrupt => "corrupt",
            Self::Internal => "internal",
        }
    }

    /// Whether a later attempt may succeed without anybody changing anything.
    #[must_use]
    pub const fn retryable(self) -> bool {
        match self {
            Self::Throttled | Self::Unavailable | Self::StorageFull | Self::Internal => true,
            Self::Cancelled
            | Self::StaleFence
            | Self::NotFound
            | Self::AccessDenied
            | Self::Invalid
            | Self::Corrupt => false,
        }
    }
}

/// A transfer that failed: read it after "failed to".
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct TransferError {
    /// Decides what happens next.
    pub class: ErrorClass,
    /// The thing, the cause, and the way out.
    pub message: String,
}

impl TransferError {
    /// An error of a class.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into() }
    }

    /// The work was told to stop.
    #[must_use]
    pub fn cancelled() -> Self {
        Self::new(ErrorClass::Cancelled, "the work was told to stop")
    }

    /// See [`ErrorClass::retryable`].
    #[must_use]
    pub const fn retryable(&self) -> bool {
        self.class.retryable()
    }

    /// The same error with what was being done in front.
    #[must_use]
    pub fn context(mut self, doing: impl std::fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }
}

impl From<crate::record::SealError> for TransferError {
    fn from(error: crate::record::SealError) -> Self {
        use crate::record::SealError;
        let class = match &error {
            SealError::Malformed { .. } | SealError::NotAuthentic { .. } | SealError::WrongContent { .. } => {
                ErrorClass::Corrupt
            }
            SealError::Unsealable { .. } => ErrorClass::Invalid,
            SealError::Engine { .. } => ErrorClass::Internal,
        };
        Self::new(class, error.to_string())
    }
}
