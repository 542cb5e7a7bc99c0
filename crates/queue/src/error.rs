//! How a publish fails, and what each failure says about where the message is.

use thiserror::Error;

use crate::name::QueueName;

/// A ticket that was not confirmed. The dispatch stays in the outbox in every case; what differs is what must
/// happen before it is published again.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PublishError {
    /// There is no such queue: the broker handed the message back. Declare the queue, then publish again.
    #[error(
        "publish to {queue}: the broker has no such queue; declare it or start an access node of that group"
    )]
    Unroutable {
        /// Where it should have gone.
        queue: QueueName,
    },
    /// The broker refused the message: the queue is full, or it could not be stored. Publish again, later.
    #[error("publish to {queue}: the broker refused the message, as a full queue does")]
    Nacked {
        /// Where it should have gone.
        queue: QueueName,
    },
    /// No answer came: the message may have arrived. Publishing again may deliver twice, which a claim sorts out.
    #[error("publish to {queue}: no confirmation ({cause}); the message may have arrived")]
    Unknown {
        /// Where it should have gone.
        queue: QueueName,
        /// What happened instead of a confirmation.
        cause: String,
    },
    /// The message was not sent. Publish again after a pause.
    #[error(
        "publish to {queue}: not sent ({cause}); check the broker's address, credentials, permissions and health"
    )]
    Unavailable {
        /// Where it should have gone.
        queue: QueueName,
        /// Why not.
        cause: String,
    },
}

impl PublishError {
    /// Whether publishing the same ticket again can succeed without anyone changing the topology.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        match self {
            Self::Unroutable { .. } => false,
            Self::Nacked { .. } | Self::Unknown { .. } | Self::Unavailable { .. } => true,
        }
    }

    /// Whether the message may be in the queue in spite of the error.
    #[must_use]
    pub const fn may_have_arrived(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }
}
