//! What every Snapferry process has: configuration from TOML and the environment, logs, an orderly end,
//! back-off, metrics over HTTP, exit codes. It knows nothing of what the process does.

pub mod backoff;
pub mod config;
pub mod excerpt;
pub mod exit;
pub mod metrics;
mod one_line;
pub mod secret;
pub mod shutdown;
pub mod telemetry;
pub mod tls;

pub use backoff::Backoff;
pub use config::ConfigError;
pub use exit::Exit;
pub use one_line::in_one_line;
pub use secret::SecretRef;
pub use tls::{TlsFiles, TlsMaterial};
