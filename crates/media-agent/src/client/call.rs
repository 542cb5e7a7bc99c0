//! One call: deadline, a few tries, the error's class.

use std::time::Duration;

use snapferry_service::Backoff;
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_wire::v1::media_client::MediaClient as Stub;
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::MediaClient;
use super::error::{from_status, is_lost};

/// Deadline of calls that take milliseconds.
pub(super) const SHORT: Duration = Duration::from_secs(30);
/// Deadline of calls that write much: flush, seal.
pub(super) const LONG: Duration = Duration::from_secs(600);
/// Deadline of collection and scrub.
pub(super) const HOURS: Duration = Duration::from_secs(24 * 3_600);

/// Tries of a call that the transport lost; with the waits between them some five seconds, enough for a daemon that
/// is restarted. After that the task is retried, which waits longer.
const TRIES: u32 = 6;

/// The tries of one call.
pub(super) struct Tries {
    left: u32,
    backoff: Backoff,
}

impl Tries {
    pub(super) fn new() -> Self {
        Self { left: TRIES, backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(4)) }
    }

    /// Waits for the next try, or says that there is none.
    pub(super) async fn again(&mut self) -> bool {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            return false;
        }
        tokio::time::sleep(self.backoff.next_delay()).await;
        true
    }

    /// Starts over, after progress.
    pub(super) fn reset(&mut self) {
        *self = Self::new();
    }
}

impl MediaClient {
    /// Makes a call, and repeats it while the transport loses it. A request that holds `Bytes` is cheap to clone.
    pub(super) async fn call<Q, A, F>(
        &self,
        doing: &str,
        deadline: Duration,
        request: Q,
        call: impl Fn(Stub<Channel>, Q) -> F,
    ) -> Result<A, TransferError>
    where
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let mut tries = Tries::new();
        loop {
            let failed = match tokio::time::timeout(deadline, call(self.stub.clone(), request.clone())).await
            {
                Ok(Ok(reply)) => return Ok(reply.into_inner()),
                Ok(Err(status)) if !is_lost(&status) => return Err(self.error(doing, &status)),
                Ok(Err(status)) => self.error(doing, &status),
                Err(_) => return Err(self.overdue(doing, deadline)),
            };
            if !tries.again().await {
                return Err(failed);
            }
            tracing::debug!(doing, error = %failed, "calling the MediaAgent again");
        }
    }

    pub(super) fn error(&self, doing: &str, status: &Status) -> TransferError {
        from_status(&self.endpoint, doing, status)
    }

    pub(super) fn overdue(&self, doing: &str, deadline: Duration) -> TransferError {
        let message = format!(
            "{doing} at the MediaAgent {}: no answer in {} seconds",
            self.endpoint,
            deadline.as_secs()
        );
        TransferError::new(ErrorClass::Unavailable, message)
    }
}
