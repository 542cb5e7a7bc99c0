//! Secrets in configuration: by file or by a variable of the environment, never in the text of the configuration.

use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;
use thiserror::Error;

/// Where a secret is: `{ file = "/run/secrets/x" }` or `{ env = "X" }`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SecretRef {
    /// In a file, without the newline at its end.
    File(PathBuf),
    /// In a variable of the environment.
    Env(String),
}

/// A secret that is not there.
#[derive(Debug, Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("read the secret in {path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The variable is not set.
    #[error("the secret's variable {0} is not set")]
    Env(String),
}

impl SecretRef {
    /// The secret.
    ///
    /// # Errors
    /// [`SecretError`], which names the place and never the secret.
    pub fn read(&self) -> Result<SecretString, SecretError> {
        match self {
            Self::File(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| SecretError::File { path: path.clone(), source })?;
                Ok(SecretString::from(text.trim_end_matches(['\r', '\n']).to_owned()))
            }
            #[allow(clippy::disallowed_methods, reason = "this is the configuration's own read")]
            Self::Env(name) => {
                std::env::var(name).map(SecretString::from).map_err(|_| SecretError::Env(name.clone()))
            }
        }
    }
}
