//! The daemon's id outlives it: it is in a file of the library's folder, so that it moves with the library.

use std::io::{ErrorKind, Write as _};
use std::path::Path;

use snapferry_types::MediaAgentId;

use super::BuildError;

const FILE: &str = "media-agent-id";

/// The id that was given, or the kept one, or a new one that is kept from now on. Called with the library locked.
pub(super) fn keep(dir: &Path, given: Option<MediaAgentId>) -> Result<MediaAgentId, BuildError> {
    if let Some(id) = given {
        return Ok(id);
    }
    let path = dir.join(FILE);
    let fail = |reason: String| BuildError::Identity { path: path.clone(), reason };
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            text.trim().parse().map_err(|error: snapferry_types::ParseIdError| fail(error.to_string()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let id = MediaAgentId::generate();
            let unfinished = dir.join("media-agent-id.new");
            let write = || {
                let mut file = std::fs::File::create(&unfinished)?;
                writeln!(file, "{id}")?;
                file.sync_all()?;
                std::fs::rename(&unfinished, &path)
            };
            write().map_err(|error| fail(error.to_string()))?;
            Ok(id)
        }
        Err(error) => Err(fail(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_made_once_and_a_damaged_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let first = keep(dir.path(), None).unwrap();
        assert_eq!(keep(dir.path(), None).unwrap(), first);
        let given = MediaAgentId::generate();
        assert_eq!(keep(dir.path(), Some(given)).unwrap(), given);
        std::fs::write(dir.path().join(FILE), "rubbish").unwrap();
        let error = keep(dir.path(), None).unwrap_err().to_string();
        assert!(error.contains(FILE) && error.contains("rubbish"), "{error}");
    }
}
