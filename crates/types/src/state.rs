//! The life of a task as a pure function: [`TaskState::after`] says which state follows which event, and refuses
//! everything else. The scheduler's store applies it inside its transactions; nobody else decides.
//!
//! ```text
//! PENDING → READY → DISPATCHED → RUNNING → SUCCEEDED | FAILED | CANCELLED
//!             ^          |           ├→ RETRY_WAIT → READY | DEAD
//!             └─deadline─┘           ├→ SUSPENDED → READY
//!                                    └→ SUSPECT (lease ran out) → RUNNING (same epoch back) | RETRY_WAIT | DEAD
//! ```

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Kinds of tasks; the number is on the wire and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum TaskKind {
    /// Snapshot, read, store.
    StreamingBackup = 1,
    /// Write back.
    Restore = 2,
    /// Remove a recovery point.
    DeleteRecoveryPoint = 3,
    /// Snapshots that are the recovery point.
    IntelliSnap = 4,
    /// Read an IntelliSnap recovery point into a library.
    BackupCopy = 5,
    /// Keep an instance up to date in another place. See [`crate::rules`].
    Replication = 6,
    /// Make an EC2 instance of another vendor's machine. See [`crate::rules`].
    Conversion = 7,
}

impl TaskKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::StreamingBackup,
        Self::Restore,
        Self::DeleteRecoveryPoint,
        Self::IntelliSnap,
        Self::BackupCopy,
        Self::Replication,
        Self::Conversion,
    ];

    /// The word in the database, in JSON and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::StreamingBackup => "streaming_backup",
            Self::Restore => "restore",
            Self::DeleteRecoveryPoint => "delete_recovery_point",
            Self::IntelliSnap => "intelli_snap",
            Self::BackupCopy => "backup_copy",
            Self::Replication => "replication",
            Self::Conversion => "conversion",
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The kind of a number on the wire; `None` for one of a newer version.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// The kind of a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// The right to work: goes with every step that commits. Ordered: a higher fence supersedes a lower one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Fence {
    /// Generation of the scheduler's database; grows when committed work was lost (failover, restore).
    pub generation: u64,
    /// Grows with every claim of the task.
    pub epoch: u64,
}

/// States of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Waits for something that must come first.
    Pending,
    /// May be offered.
    Ready,
    /// Is being offered.
    Dispatched,
    /// An agent has the lease.
    Running,
    /// The lease ran out; the agent may yet come back with the same epoch.
    Suspect,
    /// Waits before the next attempt.
    RetryWait,
    /// Stopped by a person, with its progress kept.
    Suspended,
    /// Done.
    Succeeded,
    /// Ended by a permanent error.
    Failed,
    /// Ended by a person.
    Cancelled,
    /// Ended because attempts or crashes ran out.
    Dead,
}

impl TaskState {
    /// Every state.
    pub const ALL: [Self; 11] = [
        Self::Pending,
        Self::Ready,
        Self::Dispatched,
        Self::Running,
        Self::Suspect,
        Self::RetryWait,
        Self::Suspended,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Dead,
    ];

    /// The word in the database and in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ready => "ready",
            Self::Dispatched => "dispatched",
            Self::Running => "running",
            Self::Suspect => "suspect",
            Self::RetryWait => "retry_wait",
            Self::Suspended => "suspended",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Dead => "dead",
        }
    }

    /// The state of a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// Whether nothing follows.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Dead)
    }

    /// Whether an agent may be at work under the current epoch.
    #[must_use]
    pub const fn is_leased(self) -> bool {
        matches!(self, Self::Running | Self::Suspect)
    }

    /// The state after `event`.
    ///
    /// # Errors
    /// [`Refused`] when the event has no meaning in this state; the caller changes nothing then.
    pub fn after(self, event: TaskEvent) -> Result<Self, Refused> {
        use TaskEvent as E;
        use TaskState as S;
        let next = match (self, event) {
            (S::Pending, E::Released) => S::Ready,
            (S::Ready, E::Offered) => S::Dispatched,
            (S::Dispatched, E::OfferExpired) => S::Ready,
            (S::Dispatched, E::Claimed) => S::Running,
            (S::Running, E::LeaseExpired) => S::Suspect,
            (S::Suspect, E::Renewed) | (S::Running, E::Renewed) => S::Running,
            (S::Running | S::Suspect, E::Succeeded) => S::Succeeded,
            (S::Running | S::Suspect, E::FailedForGood) => S::Failed,
            (S::Running | S::Suspect, E::FailedForNow) => S::RetryWait,
            (S::Suspect, E::GivenUp) => S::RetryWait,
            (S::RetryWait, E::WaitOver) => S::Ready,
            (S::Running | S::Suspect | S::RetryWait, E::OutOfAttempts) => S::Dead,
            (S::Running | S::Suspect, E::Yielded) => S::Suspended,
            (S::Pending | S::Ready | S::Dispatched | S::RetryWait, E::SuspendedByUser) => S::Suspended,
            (S::Suspended, E::ResumedByUser) => S::Ready,
            (S::Pending | S::Ready | S::Dispatched | S::RetryWait | S::Suspended, E::CancelledByUser) => {
                S::Cancelled
            }
            (S::Running | S::Suspect, E::CancelConfirmed) => S::Cancelled,
            (state, event) => return Err(Refused { state, event }),
        };
        Ok(next)
    }
}

/// What happens to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TaskEvent {
    /// What had to come first is done.
    Released,
    /// A dispatch was written.
    Offered,
    /// Nobody claimed the dispatch by its deadline.
    OfferExpired,
    /// An agent claimed the dispatch.
    Claimed,
    /// The lease ran out.
    LeaseExpired,
    /// The agent renewed with the current epoch.
    Renewed,
    /// The agent reports success.
    Succeeded,
    /// The agent reports an error that a retry cannot mend.
    FailedForGood,
    /// The agent reports an error that a retry may mend.
    FailedForNow,
    /// A suspect did not come back in time.
    GivenUp,
    /// The back-off is over.
    WaitOver,
    /// Attempts or crashes reached their limit.
    OutOfAttempts,
    /// The agent stopped at a safe point because it was asked to suspend.
    Yielded,
    /// A person suspends a task that nobody works on.
    SuspendedByUser,
    /// A person resumes.
    ResumedByUser,
    /// A person cancels a task that nobody works on.
    CancelledByUser,
    /// The agent stopped and cleaned up because it was asked to cancel.
    CancelConfirmed,
}

/// An event that has no meaning in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a task that is {} cannot take the event {event:?}", state.as_str())]
pub struct Refused {
    /// The state, which stays.
    pub state: TaskState,
    /// The event.
    pub event: TaskEvent,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_follows_a_terminal_state() {
        let events =
            [TaskEvent::Claimed, TaskEvent::Renewed, TaskEvent::Succeeded, TaskEvent::CancelledByUser];
        for state in TaskState::ALL.into_iter().filter(|state| state.is_terminal()) {
            for event in events {
                assert_eq!(state.after(event), Err(Refused { state, event }));
            }
        }
    }

    #[test]
    fn a_suspect_comes_back_or_is_given_up() {
        assert_eq!(TaskState::Suspect.after(TaskEvent::Renewed), Ok(TaskState::Running));
        assert_eq!(TaskState::Suspect.after(TaskEvent::GivenUp), Ok(TaskState::RetryWait));
        assert!(TaskState::Suspect.after(TaskEvent::Claimed).is_err());
    }

    #[test]
    fn words_and_codes_are_read_back() {
        for state in TaskState::ALL {
            assert_eq!(TaskState::from_word(state.as_str()), Some(state));
        }
        for kind in TaskKind::ALL {
            assert_eq!(TaskKind::from_code(kind.code()), Some(kind));
            assert_eq!(TaskKind::from_word(kind.as_str()), Some(kind));
        }
    }
}
