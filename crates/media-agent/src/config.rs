//! Configuration of the daemon. Plain data: it opens nothing.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use snapferry_service::telemetry::LogFormat;
use snapferry_service::{SecretRef, TlsFiles};
use snapferry_types::MediaAgentId;

/// Everything that the daemon is told.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MediaAgentConfig {
    /// Name for people.
    pub name: String,
    /// Its id; without one, the id kept in the library's folder, made at the first start.
    #[serde(default)]
    pub id: Option<MediaAgentId>,
    /// Where gRPC listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What agents connect to, such as `http://media-1:7480`; without it, made of the bound address.
    #[serde(default)]
    pub advertise: Option<String>,
    /// The store.
    pub library: LibrarySection,
    /// Lease endpoint of the scheduler, such as `http://scheduler:7470`; without it nobody is told of this daemon.
    #[serde(default)]
    pub scheduler: Option<String>,
    /// Where `/metrics` and `/healthz` listen; without it they do not.
    #[serde(default)]
    pub metrics: Option<SocketAddr>,
    /// Mutual TLS, for the own listener and towards the scheduler; without it, plain text.
    #[serde(default)]
    pub tls: Option<TlsFiles>,
    /// Periodic work.
    #[serde(default)]
    pub jobs: JobsConfig,
    /// Calls to the library at a time; each holds a thread. 1 to 256.
    #[serde(default = "default_workers")]
    pub workers: u16,
    /// Shape of the log lines.
    #[serde(default)]
    pub log: LogFormat,
}

/// The store.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LibrarySection {
    /// Folder of index, lock and identity, on a local disk; with the disk backend also of the objects.
    pub dir: PathBuf,
    /// Where packs and recovery points live.
    #[serde(default)]
    pub backend: BackendConfig,
    /// A pack ends past this many bytes; without it, 64 MiB.
    #[serde(default)]
    pub pack_bytes: Option<u64>,
    /// New data is refused while less than this many bytes are free; without it, 256 MiB.
    #[serde(default)]
    pub reserve_bytes: Option<u64>,
}

/// Where packs and recovery points live.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum BackendConfig {
    /// In the library's folder.
    #[default]
    Disk,
    /// In a bucket.
    S3(S3Config),
}

/// A bucket.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Config {
    /// Its name.
    pub bucket: String,
    /// Put in front of every key, without slashes at its ends.
    #[serde(default)]
    pub prefix: String,
    /// Endpoint of a store that is not AWS's; `http://` is taken as it is.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Region.
    #[serde(default = "default_region")]
    pub region: String,
    /// Access key; without one, the machine's own credentials.
    #[serde(default)]
    pub access_key_id: Option<SecretRef>,
    /// Its secret.
    #[serde(default)]
    pub secret_access_key: Option<SecretRef>,
}

/// Periodic work. An interval of 0 switches its job off.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JobsConfig {
    /// A session that nothing was done with for so long is ended.
    pub session_idle_hours: u64,
    /// Between two collections of garbage.
    pub gc_every_hours: u64,
    /// Between two scrubs.
    pub scrub_every_hours: u64,
    /// Pace of a periodic scrub; 0: as fast as it goes.
    pub scrub_bytes_per_second: u64,
}

impl Default for JobsConfig {
    fn default() -> Self {
        Self {
            session_idle_hours: 7 * 24,
            gc_every_hours: 24,
            scrub_every_hours: 7 * 24,
            scrub_bytes_per_second: 16 * 1_024 * 1_024,
        }
    }
}

const fn default_workers() -> u16 {
    16
}

fn default_region() -> String {
    "us-east-1".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<MediaAgentConfig, snapferry_service::ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        snapferry_service::config::load_from(Some(file.path()), "SNAPFERRY_", Vec::new())
    }

    const SMALL: &str = "name = 'm'\nlisten = '127.0.0.1:0'\n";

    #[test]
    fn the_samples_can_be_read() {
        for text in [
            include_str!("../../../deploy/sample/media-agent.toml"),
            include_str!("../../../deploy/compose/media-agent.toml"),
        ] {
            parse(text).unwrap();
        }
    }

    #[test]
    fn a_small_file_has_defaults_and_a_bucket_is_read() {
        let small = parse(&format!("{SMALL}[library]\ndir = '/x'")).unwrap();
        assert!(matches!(small.library.backend, BackendConfig::Disk));
        assert_eq!(small.jobs.session_idle_hours, 168);
        let s3 = parse(&format!(
            "{SMALL}[library]\ndir = '/x'\n[library.backend.s3]\nbucket = 'b'\nsecret_access_key = {{ env = 'K' }}"
        ))
        .unwrap();
        assert!(matches!(s3.library.backend, BackendConfig::S3(S3Config { bucket, .. }) if bucket == "b"));
    }

    #[test]
    fn an_unknown_key_is_named_wherever_it_is() {
        for text in [
            "[library]\ndir = '/x'\nbakcend = 'disk'",
            "[library]\ndir = '/x'\n[library.backend.s3]\nbucket = 'b'\nbakcend = 1",
        ] {
            let error = parse(&format!("{SMALL}{text}")).unwrap_err().to_string();
            assert!(error.contains("bakcend"), "{error}");
        }
    }
}
