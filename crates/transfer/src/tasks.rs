//! What the pipelines' loops share: the end of a task, and the next item of a stream that may have ended.

use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::task::JoinError;

use crate::error::{ErrorClass, TransferError};

/// A task's result; its panic is the transfer's error.
pub(crate) fn joined<T>(task: Result<Result<T, TransferError>, JoinError>) -> Result<T, TransferError> {
    task.unwrap_or_else(|died| {
        Err(TransferError::new(ErrorClass::Internal, format!("a task of the transfer died: {died}")))
    })
}

/// The next item; dropping the future loses nothing.
pub(crate) async fn next<T>(stream: &mut Option<BoxStream<'static, T>>) -> Option<T> {
    match stream {
        Some(stream) => stream.next().await,
        None => None,
    }
}
