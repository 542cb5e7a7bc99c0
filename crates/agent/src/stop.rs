//! Why a task has to stop. The token tells the data plane; the reason decides how the attempt ends.

use std::sync::{Arc, OnceLock};

use snapferry_transfer::TransferError;
use tokio_util::sync::CancellationToken;

use crate::lease::Desired;

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// The user cancelled: clean up, then say so.
    Cancel,
    /// The user suspended: keep the progress.
    Suspend,
    /// The process ends: keep the progress, offer the task again.
    Shutdown,
    /// The lease is lost: touch nothing, say nothing.
    LeaseLost,
}

/// A token with a reason. The first reason stays, except that a lost lease outdoes all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop {
    token: CancellationToken,
    reason: Arc<OnceLock<StopReason>>,
    lost: CancellationToken,
}

impl Stop {
    /// Not stopped.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Stops, with a reason.
    pub(crate) fn stop(&self, reason: StopReason) {
        if reason == StopReason::LeaseLost {
            self.lost.cancel();
        }
        let _earlier_reason_stays = self.reason.set(reason);
        self.token.cancel();
    }

    /// Stops where the scheduler wants it.
    pub(crate) fn heed(&self, desired: Desired) {
        match desired {
            Desired::Run => {}
            Desired::Suspend => self.stop(StopReason::Suspend),
            Desired::Cancel => self.stop(StopReason::Cancel),
        }
    }

    /// The reason, once stopped.
    #[must_use]
    pub(crate) fn reason(&self) -> Option<StopReason> {
        if self.lost.is_cancelled() { Some(StopReason::LeaseLost) } else { self.reason.get().copied() }
    }

    /// Nothing unless stopped: for the moments before a step that is not broken off.
    ///
    /// # Errors
    /// `Cancelled`, once stopped.
    pub(crate) fn check(&self) -> Result<(), TransferError> {
        if self.token.is_cancelled() { Err(TransferError::cancelled()) } else { Ok(()) }
    }

    /// The token for the data plane.
    #[must_use]
    pub(crate) const fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Cancelled when the lease is lost: ends even a clean-up.
    #[must_use]
    pub(crate) const fn lost(&self) -> &CancellationToken {
        &self.lost
    }
}
