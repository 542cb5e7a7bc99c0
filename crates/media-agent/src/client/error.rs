//! Statuses as errors of the data plane.

use std::fmt::Write as _;
use std::str::FromStr;

use snapferry_transfer::{ErrorClass, SealError, TransferError};
use tonic::{Code, Status};

use crate::wire_error::{BUSY, CLASS_KEY, MISSING_CHUNKS, REWOUND};

const CLASSES: [ErrorClass; 10] = [
    ErrorClass::Cancelled,
    ErrorClass::StaleFence,
    ErrorClass::NotFound,
    ErrorClass::AccessDenied,
    ErrorClass::Invalid,
    ErrorClass::Throttled,
    ErrorClass::Unavailable,
    ErrorClass::StorageFull,
    ErrorClass::Corrupt,
    ErrorClass::Internal,
];

/// What the daemon said, or, where it said nothing, what the code means.
pub(super) fn class_of(status: &Status) -> ErrorClass {
    match status.metadata().get(CLASS_KEY).and_then(|word| word.to_str().ok()) {
        // A next attempt opens the session again and goes on from its durable leaves: that heals both.
        Some(REWOUND | MISSING_CHUNKS | BUSY) => ErrorClass::Unavailable,
        Some(word) => CLASSES
            .into_iter()
            .find(|class| class.as_str() == word)
            .unwrap_or_else(|| class_of_code(status.code())),
        None => class_of_code(status.code()),
    }
}

fn class_of_code(code: Code) -> ErrorClass {
    match code {
        Code::NotFound => ErrorClass::NotFound,
        Code::InvalidArgument | Code::OutOfRange | Code::AlreadyExists | Code::Unimplemented => {
            ErrorClass::Invalid
        }
        Code::PermissionDenied | Code::Unauthenticated => ErrorClass::AccessDenied,
        Code::DataLoss => ErrorClass::Corrupt,
        Code::ResourceExhausted => ErrorClass::Throttled,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted | Code::Unknown => {
            ErrorClass::Unavailable
        }
        Code::Ok | Code::FailedPrecondition | Code::Internal => ErrorClass::Internal,
    }
}

/// Whether the call may be repeated at once: the transport lost it, or the daemon asks for it.
pub(super) fn is_lost(status: &Status) -> bool {
    let ours = status.metadata().contains_key(CLASS_KEY);
    match status.code() {
        Code::Unavailable => true,
        // Made by the transport, not by the daemon: a connection that broke under the call.
        Code::Unknown | Code::Cancelled => !ours,
        Code::Internal => !ours && std::error::Error::source(status).is_some(),
        _ => false,
    }
}

/// The error, with what was being done and where.
pub(super) fn from_status(endpoint: &str, doing: &str, status: &Status) -> TransferError {
    let mut message = format!("{doing} at the MediaAgent {endpoint}: {}", status.message());
    if !status.metadata().contains_key(CLASS_KEY)
        && let Some(source) = std::error::Error::source(status)
    {
        let _always_fits = write!(message, ": {}", chain(source));
    }
    TransferError::new(class_of(status), message)
}

pub(super) fn from_seal(error: &SealError) -> TransferError {
    let class = if error.retryable() { ErrorClass::Internal } else { ErrorClass::Corrupt };
    TransferError::new(class, error.to_string())
}

pub(super) fn broken_answer(doing: &str, why: impl std::fmt::Display) -> TransferError {
    TransferError::new(
        ErrorClass::Internal,
        format!("{doing}: the MediaAgent's answer is not to be used: {why}"),
    )
}

/// An id in an answer.
pub(super) fn parsed<T: FromStr<Err: std::fmt::Display>>(
    doing: &str,
    text: &str,
) -> Result<T, TransferError> {
    text.parse().map_err(|error| broken_answer(doing, error))
}

/// An error with its causes.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            let _always_fits = write!(text, ": {cause_text}");
        }
        next = cause.source();
    }
    text
}
