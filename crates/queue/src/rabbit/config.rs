//! How to reach the broker and how long to wait for it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use lapin::tcp::OwnedTLSConfig;
use lapin::uri::{AMQPScheme, AMQPUri};
use serde::Deserialize;
use thiserror::Error;

/// Interval of AMQP heartbeats, in seconds. A connection that is silent for twice as long is given up; below five
/// seconds a busy broker gives false alarms.
pub const DEFAULT_HEARTBEAT_SECONDS: u16 = 15;

/// A broker's address with its credentials, `amqp[s]://user:password@host:port/vhost`. It shows itself without the
/// password.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    uri: AMQPUri,
}

/// A configuration that cannot be used.
#[derive(Debug, Error)]
pub enum RabbitConfigError {
    /// The address is no AMQP address. It is not repeated, for it may hold a password.
    #[error("the broker address is not of the form amqp[s]://user:password@host:port/vhost")]
    Url,
    /// The CA file cannot be read.
    #[error("read the broker's CA file {path}: {source}")]
    CaFile {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A number out of its range.
    #[error("{key} is {value}; it must be {range}")]
    Range {
        /// Which key.
        key: &'static str,
        /// What it was.
        value: u64,
        /// What it may be.
        range: &'static str,
    },
    /// Made outside a tokio runtime.
    #[error("the RabbitMQ client needs a tokio runtime: {0}")]
    Runtime(String),
}

/// Settings of the client. The address is given apart, because it is a secret and comes from a file or the
/// environment.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RabbitConfig {
    /// PEM file of the authorities that `amqps` trusts; the platform's when absent.
    pub ca_file: Option<PathBuf>,
    /// Heartbeat interval asked of the broker, in seconds; 5 to 600.
    pub heartbeat_seconds: u16,
    /// Longest time for connecting and opening a channel, in seconds; 1 to 120.
    pub connect_timeout_seconds: u64,
    /// Longest wait for the confirmation of one message, in seconds; 1 to 300. After it the message is unknown.
    pub confirm_timeout_seconds: u64,
    /// Connections that publish; 1 to 16.
    pub publish_connections: usize,
    /// Channels that publish, each with one message under way; 1 to 256.
    pub publish_channels: usize,
    /// Longest pause between two attempts to rebuild a subscription, in seconds; 1 to 300. Jitter may double it.
    pub max_backoff_seconds: u64,
}

impl Default for RabbitConfig {
    fn default() -> Self {
        Self {
            ca_file: None,
            heartbeat_seconds: DEFAULT_HEARTBEAT_SECONDS,
            connect_timeout_seconds: 10,
            confirm_timeout_seconds: 10,
            publish_connections: 2,
            publish_channels: 16,
            max_backoff_seconds: 10,
        }
    }
}

impl RabbitConfig {
    pub(crate) fn check(&self) -> Result<(), RabbitConfigError> {
        let as_u64 = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let ranges = [
            ("heartbeat_seconds", u64::from(self.heartbeat_seconds), 5..=600, "5 to 600"),
            ("connect_timeout_seconds", self.connect_timeout_seconds, 1..=120, "1 to 120"),
            ("confirm_timeout_seconds", self.confirm_timeout_seconds, 1..=300, "1 to 300"),
            ("publish_connections", as_u64(self.publish_connections), 1..=16, "1 to 16"),
            ("publish_channels", as_u64(self.publish_channels), 1..=256, "1 to 256"),
            ("max_backoff_seconds", self.max_backoff_seconds, 1..=300, "1 to 300"),
        ];
        for (key, value, range, text) in ranges {
            if !range.contains(&value) {
                return Err(RabbitConfigError::Range { key, value, range: text });
            }
        }
        Ok(())
    }

    pub(crate) fn tls(&self) -> Result<OwnedTLSConfig, RabbitConfigError> {
        let cert_chain = match &self.ca_file {
            None => None,
            Some(path) => Some(
                std::fs::read_to_string(path)
                    .map_err(|source| RabbitConfigError::CaFile { path: path.clone(), source })?,
            ),
        };
        Ok(OwnedTLSConfig { identity: None, cert_chain })
    }

    pub(crate) const fn connect_timeout(&self) -> Duration {
        Duration::from_secs(self.connect_timeout_seconds)
    }

    pub(crate) const fn confirm_timeout(&self) -> Duration {
        Duration::from_secs(self.confirm_timeout_seconds)
    }

    pub(crate) const fn max_backoff(&self) -> Duration {
        Duration::from_secs(self.max_backoff_seconds)
    }
}

impl BrokerUrl {
    /// The address with a heartbeat, unless it names one itself.
    pub(crate) fn uri(&self, heartbeat_seconds: u16) -> AMQPUri {
        let mut uri = self.uri.clone();
        uri.query.heartbeat.get_or_insert(heartbeat_seconds);
        uri
    }
}

impl FromStr for BrokerUrl {
    type Err = RabbitConfigError;

    fn from_str(text: &str) -> Result<Self, RabbitConfigError> {
        text.parse().map(|uri| Self { uri }).map_err(|_: String| RabbitConfigError::Url)
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.uri.scheme {
            AMQPScheme::AMQP => "amqp",
            AMQPScheme::AMQPS => "amqps",
        };
        let authority = &self.uri.authority;
        let AMQPUri { vhost, .. } = &self.uri;
        write!(f, "{scheme}://{}@{}:{}/{vhost}", authority.userinfo.username, authority.host, authority.port)
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_never_shows_its_password() {
        let url: BrokerUrl = "amqps://ferry:hunter2@broker.example:5671/%2f".parse().unwrap();
        assert_eq!(format!("{url}"), "amqps://ferry@broker.example:5671//");
        assert!(!format!("{url:?}").contains("hunter2"));
        assert_eq!(url.uri(15).query.heartbeat, Some(15));
        for text in ["hunter2", "http://ferry:hunter2@broker", "amqp://ferry:hunter2@broker:port"] {
            let error = text.parse::<BrokerUrl>().unwrap_err();
            assert!(!format!("{error:?} {error}").contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_number_out_of_range_is_named() {
        let config = RabbitConfig { publish_channels: 0, ..RabbitConfig::default() };
        let error = config.check().unwrap_err().to_string();
        assert_eq!(error, "publish_channels is 0; it must be 1 to 256");
        RabbitConfig::default().check().unwrap();
    }
}
