//! Names of objects: safe as a path below a folder and as a key of an object store.

use std::fmt;

use super::BackendError;

const MAX_NAME_BYTES: usize = 200;

/// A checked object name: lower-case letters, digits, `-`, `_`, `.` in parts joined by `/`; no part is empty or
/// starts with a dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName(String);

impl ObjectName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`BackendError::InvalidName`].
    pub fn new(name: impl Into<String>) -> Result<Self, BackendError> {
        let name = name.into();
        let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
        let good = name.len() <= MAX_NAME_BYTES
            && name
                .split('/')
                .all(|part| !part.is_empty() && !part.starts_with('.') && part.bytes().all(allowed));
        if good {
            Ok(Self(name))
        } else {
            Err(BackendError::InvalidName { name: name.chars().take(64).collect() })
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
