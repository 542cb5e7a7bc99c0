//! Who an agent is: an id that outlives restarts, kept in a file, and an incarnation that does not.

use std::path::Path;

use snapferry_types::{AccessNodeId, IncarnationId};
use thiserror::Error;

/// The identity file cannot be used.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// It cannot be read or written.
    #[error("keep the access node's id in {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Something else is in it.
    #[error("{path} holds no access-node id ({reason}); remove the file to be registered as a new node")]
    Invalid {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

/// The identity of this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity {
    /// The machine's.
    pub(crate) node: AccessNodeId,
    /// This process's.
    pub(crate) incarnation: IncarnationId,
}

impl Identity {
    /// Reads `node-id` in the folder, or makes it.
    ///
    /// # Errors
    /// [`IdentityError`], naming the file.
    pub(crate) fn load(data_dir: &Path) -> Result<Self, IdentityError> {
        let path = data_dir.join("node-id");
        let shown = path.display().to_string();
        let io = |source| IdentityError::Io { path: shown.clone(), source };
        std::fs::create_dir_all(data_dir).map_err(io)?;
        let node = match std::fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|error: snapferry_types::ParseIdError| {
                IdentityError::Invalid { path: shown.clone(), reason: error.to_string() }
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let node = AccessNodeId::generate();
                std::fs::write(&path, format!("{node}\n")).map_err(io)?;
                node
            }
            Err(error) => return Err(io(error)),
        };
        Ok(Self { node, incarnation: IncarnationId::generate() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_stays_and_the_incarnation_changes() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::load(dir.path()).unwrap();
        let second = Identity::load(dir.path()).unwrap();
        assert_eq!(first.node, second.node);
        assert_ne!(first.incarnation, second.incarnation);
        std::fs::write(dir.path().join("node-id"), "job-1").unwrap();
        assert!(matches!(Identity::load(dir.path()), Err(IdentityError::Invalid { .. })));
    }
}
