//! Errors of the library as gRPC statuses, each with the class word that the client goes by.

use snapferry_library::{BackendError, Error, RecordKey, Suspect};
use snapferry_transfer::ErrorClass;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use super::pool::{Pool, PoolError};
use crate::wire_error::{BUSY, CLASS_KEY, MISSING_CHUNKS, REWOUND, TOUCHED_KEY};

/// Recovery points that a message names; the others are counted.
const MAX_NAMED: usize = 100;

/// A status with its class word.
pub(crate) fn status(code: Code, class: &'static str, message: impl Into<String>) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert(CLASS_KEY, MetadataValue::from_static(class));
    Status::with_metadata(code, message, metadata)
}

/// A request that is outside the contract.
pub(crate) fn invalid(message: impl Into<String>) -> Status {
    status(Code::InvalidArgument, ErrorClass::Invalid.as_str(), message)
}

/// The status of a call that failed.
pub(crate) fn from_pool(error: &PoolError) -> Status {
    match error {
        PoolError::Library(error) => from_library(error),
        PoolError::Panicked => status(Code::Internal, ErrorClass::Internal.as_str(), error.to_string()),
    }
}

/// As [`from_pool`]; damage also names the recovery points it touches, which takes a walk over the manifests.
pub(crate) async fn from_read(pool: &Pool, error: PoolError) -> Status {
    let plain = from_pool(&error);
    match error {
        PoolError::Library(Error::Damaged { key, .. }) => name_touched(pool, key, true, plain).await,
        PoolError::Library(Error::NotStored(key)) => name_touched(pool, key, false, plain).await,
        PoolError::Library(_) | PoolError::Panicked => plain,
    }
}

/// What was never stored (`was_stored` is false) and is referred to by nothing is no damage: it does not exist.
async fn name_touched(pool: &Pool, key: RecordKey, was_stored: bool, plain: Status) -> Status {
    let touched = match pool.slow(move |library| library.affected_by(&Suspect::Records(vec![key]))).await {
        Ok(touched) => touched,
        Err(error) => {
            tracing::error!(%key, %error, "cannot tell which recovery points a damage touches");
            return plain;
        }
    };
    if touched.is_empty() && !was_stored {
        return status(Code::NotFound, ErrorClass::NotFound.as_str(), plain.message());
    }
    let named: Vec<String> = touched.iter().take(MAX_NAMED).map(ToString::to_string).collect();
    let more = touched.len() - named.len();
    let mut message = format!("{}; recovery points touched: {}", plain.message(), named.join(", "));
    if more > 0 {
        message.push_str(&format!(" and {more} more"));
    }
    let mut metadata = plain.metadata().clone();
    if let Ok(ids) = named.join(",").parse() {
        metadata.insert(TOUCHED_KEY, ids);
    }
    Status::with_metadata(Code::DataLoss, message, metadata)
}

fn from_library(error: &Error) -> Status {
    let (code, class) = code_and_class(error);
    status(code, class, error.to_string())
}

fn code_and_class(error: &Error) -> (Code, &'static str) {
    let internal = (Code::Internal, ErrorClass::Internal.as_str());
    match error {
        Error::NoSpace { .. } | Error::Backend(BackendError::NoSpace { .. }) => {
            (Code::ResourceExhausted, ErrorClass::StorageFull.as_str())
        }
        Error::Backend(cause) if cause.retryable() => (Code::Unavailable, ErrorClass::Unavailable.as_str()),
        Error::StaleFence { .. } => (Code::FailedPrecondition, ErrorClass::StaleFence.as_str()),
        Error::Rewound(_) => (Code::FailedPrecondition, REWOUND),
        Error::MissingChunks { .. } => (Code::FailedPrecondition, MISSING_CHUNKS),
        Error::UnknownSession(_) | Error::UnknownVolume(_) | Error::UnknownRecoveryPoint(_) => {
            (Code::NotFound, ErrorClass::NotFound.as_str())
        }
        Error::NotStored(_) | Error::Damaged { .. } | Error::CannotMark { .. } | Error::Malformed(_) => {
            (Code::DataLoss, ErrorClass::Corrupt.as_str())
        }
        Error::InvalidLeaf { .. } | Error::InvalidRequest { .. } => {
            (Code::InvalidArgument, ErrorClass::Invalid.as_str())
        }
        Error::SessionMismatch { .. } => (Code::AlreadyExists, ErrorClass::Invalid.as_str()),
        Error::TooMany { .. } => (Code::ResourceExhausted, ErrorClass::Throttled.as_str()),
        Error::Busy(_) | Error::Cancelled => (Code::Unavailable, BUSY),
        Error::Backend(_)
        | Error::Index { .. }
        | Error::Locked { .. }
        | Error::Folder { .. }
        | Error::Config { .. }
        | Error::WrongLibrary { .. } => internal,
    }
}
