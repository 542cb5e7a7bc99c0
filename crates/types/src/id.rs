//! Typed ids: a ULID with a prefix that says what it names, so that an id pasted into the wrong command is
//! refused with a sentence instead of being looked up in vain.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use ulid::Ulid;

/// An id that does not parse.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{value:?} is not a {kind} id: expected {prefix}-<26 characters>, as the list command prints it")]
pub struct ParseIdError {
    /// What the id should have named.
    pub kind: &'static str,
    /// The prefix such ids carry.
    pub prefix: &'static str,
    /// What was given, cut to 64 characters.
    pub value: String,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident, $prefix:literal, $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Ulid);

        impl $name {
            /// The text before the dash.
            pub const PREFIX: &'static str = $prefix;

            /// An id from its 128 bits.
            #[must_use]
            pub const fn from_u128(bits: u128) -> Self {
                Self(Ulid(bits))
            }

            /// The 128 bits of the id: 48 of milliseconds, 80 of chance.
            #[must_use]
            pub const fn as_u128(self) -> u128 {
                self.0.0
            }

            /// A new id of now.
            #[must_use]
            #[allow(clippy::new_without_default)]
            pub fn generate() -> Self {
                Self(ulid::Ulid::generate())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "-{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                text.strip_prefix(concat!($prefix, "-"))
                    .and_then(|rest| Ulid::from_string(rest).ok())
                    .map(Self)
                    .ok_or_else(|| ParseIdError {
                        kind: $kind,
                        prefix: $prefix,
                        value: text.chars().take(64).collect(),
                    })
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseIdError;

            fn try_from(text: String) -> Result<Self, ParseIdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    )*};
}

ids! {
    /// A registered AWS account.
    HypervisorId, "hv", "hypervisor";
    /// What was asked for.
    JobId, "job", "job";
    /// One operation on one instance: the unit on the queue.
    TaskId, "task", "task";
    /// One offer of a task.
    DispatchId, "dsp", "dispatch";
    /// A machine that runs an agent.
    AccessNodeId, "node", "access node";
    /// One run of an agent process: two processes under one access-node id differ in it.
    IncarnationId, "inc", "incarnation";
    /// A storage daemon.
    MediaAgentId, "ma", "MediaAgent";
    /// A sealed upload.
    RecoveryPointId, "rp", "recovery point";
    /// An upload that will be sealed or abandoned.
    SessionId, "ses", "session";
    /// An AWS object in the ledger.
    LedgerId, "led", "ledger entry";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text_and_refuses_another_kind() {
        let id = TaskId::generate();
        assert_eq!(id.to_string().parse::<TaskId>().unwrap(), id);
        let wrong = id.to_string().parse::<JobId>().unwrap_err();
        assert!(wrong.to_string().contains("is not a job id"), "{wrong}");
    }
}
