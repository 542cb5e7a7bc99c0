//! TLS files of a process. Between processes both sides show a certificate (mutual TLS).

use std::path::PathBuf;

use serde::Deserialize;
use thiserror::Error;

/// Paths of PEM files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// Our certificate chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authority that signed the other side's certificate.
    pub ca: PathBuf,
}

/// Contents of PEM files. `Debug` shows none of them.
#[derive(Clone)]
pub struct TlsMaterial {
    /// Our certificate chain.
    pub cert: Vec<u8>,
    /// Its private key.
    pub key: Vec<u8>,
    /// The authority of the other side.
    pub ca: Vec<u8>,
}

impl std::fmt::Debug for TlsMaterial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsMaterial")
    }
}

/// A TLS file that cannot be read.
#[derive(Debug, Error)]
#[error("read the TLS file {path}: {source}")]
pub struct TlsError {
    /// Which file.
    pub path: PathBuf,
    /// Why.
    pub source: std::io::Error,
}

impl TlsFiles {
    /// Reads the files. The process's TLS is aws-lc's from then on, unless something else was chosen before: rustls
    /// refuses to choose where two providers are linked, and the broker's client brings the other one.
    ///
    /// # Errors
    /// [`TlsError`], naming the file.
    pub fn read(&self) -> Result<TlsMaterial, TlsError> {
        let _chosen_before = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let read =
            |path: &PathBuf| std::fs::read(path).map_err(|source| TlsError { path: path.clone(), source });
        Ok(TlsMaterial { cert: read(&self.cert)?, key: read(&self.key)?, ca: read(&self.ca)? })
    }
}
