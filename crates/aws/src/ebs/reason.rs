//! The `Reason` that EBS puts beside its error codes, and what the codes mean with it.

use aws_sdk_ebs::operation::complete_snapshot::CompleteSnapshotError;
use aws_sdk_ebs::operation::get_snapshot_block::GetSnapshotBlockError;
use aws_sdk_ebs::operation::list_changed_blocks::ListChangedBlocksError;
use aws_sdk_ebs::operation::list_snapshot_blocks::ListSnapshotBlocksError;
use aws_sdk_ebs::operation::put_snapshot_block::PutSnapshotBlockError;
use aws_sdk_ebs::operation::start_snapshot::StartSnapshotError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::error::{Asked, AwsError};

/// The reason of a validation error.
pub(super) trait Reason {
    fn reason(&self) -> Option<&str>;
}

macro_rules! reasons {
    ($($error:ident),*) => {$(
        impl Reason for $error {
            fn reason(&self) -> Option<&str> {
                match self {
                    Self::ValidationException(error) => error.reason.as_ref().map(|reason| reason.as_str()),
                    Self::ResourceNotFoundException(error) => error.reason.as_ref().map(|reason| reason.as_str()),
                    _ => None,
                }
            }
        }
    )*};
}

reasons!(
    GetSnapshotBlockError,
    ListSnapshotBlocksError,
    ListChangedBlocksError,
    PutSnapshotBlockError,
    StartSnapshotError,
    CompleteSnapshotError
);

/// Sorts an error of EBS by code and reason. `base` is the older snapshot of a listing of changes.
pub(super) fn sort<E>(asked: &Asked<'_>, base: Option<&str>, error: &SdkError<E, HttpResponse>) -> AwsError
where
    E: ProvideErrorMetadata + Reason + std::error::Error + 'static,
{
    let SdkError::ServiceError(context) = error else {
        return asked.sort(error);
    };
    let message = context.err().message().unwrap_or("no message");
    match (context.err().reason(), base) {
        (Some("INVALID_PAGE_TOKEN" | "INVALID_BLOCK_TOKEN"), _) => {
            AwsError::TokenExpired { snapshot: asked.id.to_owned() }
        }
        (Some("UNRELATED_SNAPSHOTS"), Some(base)) => {
            AwsError::Unrelated { base: base.to_owned(), snapshot: asked.id.to_owned() }
        }
        (Some("WRITE_REQUEST_TIMEOUT" | "CONFLICTING_BLOCK_UPDATE"), _) => {
            asked.unavailable(format!("{}: {message}", context.err().reason().unwrap_or_default()))
        }
        (Some("SNAPSHOT_NOT_FOUND"), Some(base)) if message.contains(base) => {
            AwsError::BaseGone { base: base.to_owned() }
        }
        (Some(reason), _) if context.err().code() == Some("ValidationException") => {
            asked.invalid(reason, message)
        }
        _ => asked.sort(error),
    }
}
