//! Logs: to standard error, as text for people or as JSON for collectors. `SNAPFERRY_LOG` filters
//! (`info`, `snapferry_agent=debug`, …). Whatever it filters, the last lines of each attempt are kept for its report.

use serde::Deserialize;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt};

use crate::excerpt;

/// Shape of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging; a second call in the same process changes nothing.
pub fn init(format: LogFormat, default_filter: &str) {
    let filter = EnvFilter::try_from_env("SNAPFERRY_LOG").unwrap_or_else(|_| EnvFilter::new(default_filter));
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let logger = Registry::default().with(lines.with_filter(filter)).with(excerpt::layer());
    let _already_started = logger.try_init();
}
