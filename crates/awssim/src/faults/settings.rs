//! Delays, and how the EBS direct APIs use the freedom that their contract leaves them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Call;

/// Time added to calls.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    /// `ebs`, `ec2`, `sts`, `s3`, `vmie` (the work of an import); all when not given.
    #[serde(default)]
    pub service: Option<String>,
    /// An action; all when not given.
    #[serde(default)]
    pub action: Option<String>,
    /// Milliseconds added to each call.
    pub millis: f64,
    /// Up to so many milliseconds more, evenly spread.
    #[serde(default)]
    pub jitter_millis: f64,
}

impl Latency {
    /// The same time for every call of a service.
    #[must_use]
    pub fn of(service: &str, millis: f64) -> Self {
        Self { service: Some(service.to_owned()), millis, ..Self::default() }
    }

    pub(super) fn delay(&self, call: &Call<'_>, draw: f64) -> Duration {
        let is = |wanted: &Option<String>, given: &str| wanted.as_deref().is_none_or(|w| w == given);
        if !is(&self.service, call.service) || !is(&self.action, call.action) {
            return Duration::ZERO;
        }
        let seconds = (self.millis + self.jitter_millis * draw) / 1000.0;
        Duration::try_from_secs_f64(seconds).unwrap_or_default()
    }
}

/// What AWS may do and a client must bear.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// Chance of a page with fewer blocks than there are.
    pub short_page: f64,
    /// Chance of a page with no blocks and a NextToken.
    pub empty_page: f64,
    /// Milliseconds after StartSnapshot for which PutSnapshotBlock does not find the snapshot.
    pub start_visible_after_millis: u64,
    /// Milliseconds for which a copy of a snapshot is pending.
    pub copy_millis: u64,
    /// Seconds that a block's body may take to arrive.
    pub write_timeout_seconds: u64,
    /// Lifetime of a NextToken in seconds.
    pub page_token_seconds: u64,
    /// Lifetime of a block token in seconds.
    pub block_token_seconds: u64,
    /// Credentials from AssumeRole live no longer than so many seconds, whatever was asked for.
    pub session_seconds: Option<u64>,
    /// Seed of the pages' chances.
    pub seed: u64,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            short_page: 0.0,
            empty_page: 0.0,
            start_visible_after_millis: 0,
            copy_millis: 5,
            write_timeout_seconds: 60,
            page_token_seconds: 3600,
            block_token_seconds: 7 * 24 * 3600,
            session_seconds: None,
            seed: 0,
        }
    }
}
