//! Configuration: plain data, read from TOML or made in code. It opens nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use snapferry_queue::RabbitConfig;
use snapferry_service::{SecretRef, TlsFiles};
use thiserror::Error;

use crate::store::Limits;

/// A scheduler's configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the deployment, for the tags of AWS objects: 1 to 64 letters, digits, `-`, `_`.
    pub deployment: String,
    /// `sqlite:PATH` or `postgres://…`.
    pub database: DatabaseUrl,
    /// File of the master key, made on the first start; or [`Config::master_key`].
    #[serde(default)]
    pub master_key_file: Option<PathBuf>,
    /// The master key itself (64 hexadecimal digits) by file or variable.
    #[serde(default)]
    pub master_key: Option<SecretRef>,
    /// The public API.
    #[serde(default)]
    pub http: HttpConfig,
    /// The listener for agents and MediaAgents.
    #[serde(default)]
    pub lease: LeaseConfig,
    /// How work is offered.
    #[serde(default)]
    pub dispatch: DispatchConfig,
    /// How what nobody owns is removed from AWS.
    #[serde(default)]
    pub reaper: ReaperConfig,
    /// How recovery points are let go.
    #[serde(default)]
    pub retention: RetentionConfig,
    /// How kept snapshots are looked for.
    #[serde(default)]
    pub reconcile: ReconcileConfig,
    /// Who may call the API; without any, everyone who reaches the loopback listener is an operator.
    #[serde(default)]
    pub tokens: Vec<TokenConfig>,
    /// Where offers go.
    #[serde(default)]
    pub queue: QueueConfig,
    /// Shape of the log.
    #[serde(default)]
    pub log: snapferry_service::telemetry::LogFormat,
}

/// A database's URL: in the text, or (it may hold a password) by file or variable.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum DatabaseUrl {
    /// In the text.
    Text(String),
    /// Somewhere else.
    Secret(SecretRef),
}

/// The public API.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Address; port 0 takes a free one.
    pub listen: SocketAddr,
}

/// The listener for agents and MediaAgents, and how leases live.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LeaseConfig {
    /// Address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Mutual TLS; needed for any address that is not loopback.
    pub tls: Option<TlsFiles>,
    /// How long a claim or a renewal is good for.
    pub lease_ms: u64,
    /// How much longer the scheduler waits than it said.
    pub grace_ms: u64,
    /// How long a silent agent may come back before its task is given to another.
    pub suspect_ms: u64,
    /// After this without a hello, a node or a MediaAgent is offline. They say hello three times as often.
    pub node_timeout_ms: u64,
    /// Attempts before a task is given up.
    pub max_attempts: u32,
    /// Agents lost before a task is quarantined.
    pub max_crashes: u32,
    /// First wait before another attempt, at most.
    pub retry_base_ms: u64,
    /// Any wait, at most.
    pub retry_max_ms: u64,
}

/// How work is offered.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DispatchConfig {
    /// An offer that nobody took for this long is withdrawn and made again.
    pub deadline_ms: u64,
    /// Longest time between two rounds.
    pub tick_ms: u64,
    /// Waiting this long lifts a task into the next band.
    pub ageing_ms: u64,
    /// Share of a tenant by hypervisor id; 1 when absent.
    pub weights: BTreeMap<String, u32>,
}

/// How what nobody owns is removed from AWS.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReaperConfig {
    /// False: nothing is removed; `GET /v1/ledger?reapable=true` lists what would be.
    pub enabled: bool,
    /// Time between two rounds.
    pub interval_ms: u64,
    /// An object is left alone until its line has not changed for this long.
    pub delay_ms: u64,
    /// How long one object may take to go; then it waits for a later round.
    pub removal_ms: u64,
}

/// How recovery points are let go.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// False: nothing is deleted by its retention.
    pub enabled: bool,
    /// Time between two rounds.
    pub interval_ms: u64,
}

/// How kept snapshots are looked for.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReconcileConfig {
    /// False: only when asked for.
    pub enabled: bool,
    /// Time between two rounds over all tenants.
    pub interval_ms: u64,
}

/// Who may call the API.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// For logs and idempotency keys.
    pub name: String,
    /// What it may do.
    pub role: TokenRole,
    /// The tenant's hypervisor, by id or name; for `role = "tenant"`.
    #[serde(default)]
    pub hypervisor: Option<String>,
    /// The token itself: at least 16 characters.
    pub secret: SecretRef,
}

/// Roles of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenRole {
    /// Everything.
    Operator,
    /// One hypervisor's instances, jobs and recovery points.
    Tenant,
    /// Looking only.
    Viewer,
}

/// Where offers go.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum QueueConfig {
    /// Within this process; agents must run in it, too.
    #[default]
    Embedded,
    /// A broker.
    Rabbitmq {
        /// `amqp[s]://user:password@host:port/vhost`, by file or variable.
        url: SecretRef,
        /// The rest.
        #[serde(default)]
        client: RabbitConfig,
    },
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 7480)) }
    }
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7481)),
            tls: None,
            lease_ms: 90_000,
            grace_ms: 10_000,
            suspect_ms: 30_000,
            node_timeout_ms: 60_000,
            max_attempts: 12,
            max_crashes: 3,
            retry_base_ms: 10_000,
            retry_max_ms: 600_000,
        }
    }
}

impl Default for DispatchConfig {
    fn default() -> Self {
        Self { deadline_ms: 120_000, tick_ms: 1_000, ageing_ms: 600_000, weights: BTreeMap::new() }
    }
}

impl Default for ReaperConfig {
    fn default() -> Self {
        Self { enabled: true, interval_ms: 60_000, delay_ms: 120_000, removal_ms: 60_000 }
    }
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self { enabled: true, interval_ms: 300_000 }
    }
}

impl Default for ReconcileConfig {
    fn default() -> Self {
        Self { enabled: true, interval_ms: 3_600_000 }
    }
}

impl LeaseConfig {
    /// Attempts and waits.
    #[must_use]
    pub const fn limits(&self) -> Limits {
        Limits {
            max_attempts: self.max_attempts,
            max_crashes: self.max_crashes,
            retry_base: Duration::from_millis(self.retry_base_ms),
            retry_max: Duration::from_millis(self.retry_max_ms),
        }
    }
}

/// A configuration that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("configuration key {key}: {reason}")]
pub struct InvalidConfig {
    /// Which key.
    pub key: &'static str,
    /// What is wrong, and the way out.
    pub reason: String,
}

impl Config {
    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// [`InvalidConfig`], naming the key.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        let refuse = |key, reason: &str| Err(InvalidConfig { key, reason: reason.to_owned() });
        let named = (1..=64).contains(&self.deployment.len())
            && self
                .deployment
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        if !named {
            return refuse("deployment", "use 1 to 64 letters, digits, '-' and '_'");
        }
        if self.master_key_file.is_some() == self.master_key.is_some() {
            return refuse("master_key_file", "give either master_key_file or master_key");
        }
        if !self.lease.listen.ip().is_loopback() && self.lease.tls.is_none() {
            return refuse(
                "lease.tls",
                "grants carry secrets: an address that is not loopback needs lease.tls {cert, key, ca}",
            );
        }
        if !self.http.listen.ip().is_loopback() && self.tokens.is_empty() {
            return refuse("tokens", "an API address that is not loopback needs tokens");
        }
        if self.lease.lease_ms < 100 {
            return refuse("lease.lease_ms", "at least 100; agents renew in a quarter of it");
        }
        if self.lease.node_timeout_ms < 3_000 {
            return refuse("lease.node_timeout_ms", "at least 3000; nodes say hello in a third of it");
        }
        if self.lease.max_attempts == 0 || self.lease.max_crashes == 0 {
            return refuse("lease.max_attempts", "attempts and crashes are counted from 1");
        }
        if self.dispatch.tick_ms == 0 || self.dispatch.ageing_ms == 0 || self.reaper.interval_ms == 0 {
            return refuse("dispatch.tick_ms", "times between rounds are at least 1 ms");
        }
        if self.retention.interval_ms == 0 || self.reconcile.interval_ms == 0 {
            return refuse("retention.interval_ms", "times between rounds are at least 1 ms");
        }
        let tenants = self.tokens.iter().all(|token| {
            (token.role == TokenRole::Tenant) == token.hypervisor.is_some() && !token.name.is_empty()
        });
        if !tenants {
            return refuse("tokens", "every token has a name; tenants, and only tenants, name a hypervisor");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(extra: &str) -> Config {
        toml::from_str(&format!("deployment = 'd'\ndatabase = 'sqlite:x'\nmaster_key_file = 'k'\n{extra}"))
            .unwrap()
    }

    #[test]
    fn secrets_do_not_leave_the_machine_in_the_clear() {
        config("").check().unwrap();
        let error = config("[lease]\nlisten = '0.0.0.0:7481'").check().unwrap_err();
        assert_eq!(error.key, "lease.tls");
        let error = config("[http]\nlisten = '0.0.0.0:7480'").check().unwrap_err();
        assert_eq!(error.key, "tokens");
        config("[lease]\nlisten = '0.0.0.0:7481'\ntls = {cert = 'a', key = 'b', ca = 'c'}").check().unwrap();
    }

    #[test]
    fn the_samples_can_be_used_and_show_the_defaults() {
        let sample = include_str!("../../../deploy/sample/scheduler.toml");
        let compose = include_str!("../../../deploy/compose/scheduler.toml");
        for text in [sample, compose] {
            let read: Config = toml::from_str(text).unwrap();
            read.check().unwrap();
            let defaults = config("");
            assert_eq!(format!("{:?}", read.reaper), format!("{:?}", defaults.reaper));
            assert_eq!(format!("{:?}", read.retention), format!("{:?}", defaults.retention));
            assert_eq!(format!("{:?}", read.reconcile), format!("{:?}", defaults.reconcile));
        }
    }

    #[test]
    fn a_broker_is_named_by_a_secret() {
        let config =
            config("[queue]\nkind = 'rabbitmq'\nurl = { env = 'AMQP' }\nclient = { heartbeat_seconds = 20 }");
        assert!(
            matches!(config.queue, QueueConfig::Rabbitmq { client, .. } if client.heartbeat_seconds == 20)
        );
    }
}
