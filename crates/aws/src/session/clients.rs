//! What all sessions of a process share: connections, and the governor of the quotas.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_smithy_http_client::tls::{self, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::http::SharedHttpClient;

use snapferry_transfer::BlockBuffers;

use crate::quota::{Governor, QuotaSettings};

/// Idle connections kept for each host: as many as the largest number of blocks in flight, and some.
const MAX_IDLE_CONNECTIONS: usize = 320;
/// AWS closes an idle connection after about a minute; ours goes before.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// Block buffers kept for their next use: 32 MiB.
const MAX_IDLE_BUFFERS: usize = 64;

/// Shared by all accounts of a process.
#[derive(Debug, Clone)]
pub struct Clients {
    pub(crate) http: SharedHttpClient,
    pub(crate) governor: Arc<Governor>,
    pub(crate) buffers: BlockBuffers,
}

impl Clients {
    /// New connections and a governor of these settings.
    #[must_use]
    pub fn new(settings: QuotaSettings) -> Self {
        let http = aws_smithy_http_client::Builder::new()
            .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .tls_provider(tls::Provider::Rustls(CryptoMode::AwsLc))
            .build_https();
        Self {
            http,
            governor: Arc::new(Governor::new(settings)),
            buffers: BlockBuffers::new(MAX_IDLE_BUFFERS),
        }
    }

    /// The ones of this process, with AWS's default quotas.
    #[must_use]
    pub fn of_process() -> &'static Self {
        static CLIENTS: LazyLock<Clients> = LazyLock::new(|| Clients::new(QuotaSettings::default()));
        &CLIENTS
    }

    /// The governor.
    #[must_use]
    pub fn governor(&self) -> &Arc<Governor> {
        &self.governor
    }
}
