//! How the store fails.

use snapferry_types::state::Refused;
use thiserror::Error;

use crate::vault::VaultError;

/// A store operation that failed; nothing of it is in the database then, except after [`StoreError::Database`] in a
/// commit, whose outcome is unknown: every operation may be repeated.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The database refused or does not answer.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The database's URL is unusable.
    #[error("the database URL {url:?} is unusable: {reason}; give sqlite:PATH or postgres://…")]
    Url {
        /// What was given, without the password.
        url: String,
        /// Why not.
        reason: String,
    },
    /// The database was made by a newer version.
    #[error("the database has schema {found}, this build knows {known}; start the newer version")]
    NewerSchema {
        /// In the database.
        found: i64,
        /// Newest that this build knows.
        known: i64,
    },
    /// Another process serves the database now.
    #[error("another scheduler has opened this database; this one stops")]
    Superseded,
    /// A value in the database does not read.
    #[error("column {column} of the database does not read: {reason}")]
    Corrupt {
        /// Which.
        column: &'static str,
        /// Why.
        reason: String,
    },
    /// There is no such thing, or not one that this caller may see.
    #[error("there is no {kind} {id}")]
    NotFound {
        /// What kind of thing.
        kind: &'static str,
        /// Its id or name.
        id: String,
    },
    /// The present state does not allow it.
    #[error("{0}")]
    Conflict(String),
    /// The request says something impossible.
    #[error("{0}")]
    Invalid(String),
    /// The idempotency key belongs to another request.
    #[error("the idempotency key {0:?} was used for another request; use a new key for new work")]
    IdempotencyMismatch(String),
    /// The fence is not the task's current one.
    #[error("the fence is stale: {0}")]
    Stale(String),
    /// The event has no meaning in the task's state.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A sealed value does not open.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl StoreError {
    /// Whether the same call may work later.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        matches!(self, Self::Database(_))
    }

    pub(crate) fn not_found(kind: &'static str, id: impl ToString) -> Self {
        Self::NotFound { kind, id: id.to_string() }
    }
}
