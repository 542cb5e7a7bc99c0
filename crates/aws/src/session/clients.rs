//! What all sessions of a process share: connections, and the governor of the quotas.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_smithy_http_client::Connector;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{self, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

use crate::quota::{Governor, QuotaSettings};

/// Idle connections kept for each host.
const MAX_IDLE_CONNECTIONS: usize = 320;
/// AWS closes an idle connection after about a minute; ours goes before, and its buffers with it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Shared by all accounts of a process.
#[derive(Debug, Clone)]
pub struct Clients {
    http: SharedHttpClient,
    http_without_proxy: SharedHttpClient,
    pub(crate) governor: Arc<Governor>,
}

impl Clients {
    /// New connections and a governor of these settings.
    #[must_use]
    pub fn new(settings: QuotaSettings) -> Self {
        Self {
            http: http_client(ProxyConfig::from_env()),
            http_without_proxy: http_client(ProxyConfig::disabled()),
            governor: Arc::new(Governor::new(settings)),
        }
    }

    /// The ones of this process, with AWS's default quotas.
    #[must_use]
    pub fn of_process() -> &'static Self {
        static CLIENTS: LazyLock<Clients> = LazyLock::new(|| Clients::new(QuotaSettings::default()));
        &CLIENTS
    }

    /// Connections to an endpoint: through the proxy of the environment (`HTTPS_PROXY`, `NO_PROXY`, …), which is
    /// never asked for this machine itself.
    pub(crate) fn http_for(&self, endpoint_url: Option<&str>) -> SharedHttpClient {
        if endpoint_url.is_some_and(is_this_machine) {
            self.http_without_proxy.clone()
        } else {
            self.http.clone()
        }
    }

    /// The governor.
    #[must_use]
    pub fn governor(&self) -> &Arc<Governor> {
        &self.governor
    }
}

fn http_client(proxy: ProxyConfig) -> SharedHttpClient {
    aws_smithy_http_client::Builder::new().build_with_connector_fn(move |settings, components| {
        let mut builder = Connector::builder();
        builder.set_connector_settings(settings.cloned());
        builder.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        builder
            .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .proxy_config(proxy.clone())
            .tls_provider(tls::Provider::Rustls(CryptoMode::AwsLc))
            .build()
    })
}

/// Whether an endpoint is this machine, which no proxy is asked for.
pub(crate) fn is_this_machine(endpoint_url: &str) -> bool {
    let rest = endpoint_url.split_once("://").map_or(endpoint_url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    authority == "localhost"
        || authority.starts_with("localhost:")
        || authority.starts_with("127.")
        || authority.starts_with("[::1]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulator_on_this_machine_is_reached_without_a_proxy() {
        assert!(is_this_machine("http://127.0.0.1:9000"));
        assert!(is_this_machine("http://localhost/x") && is_this_machine("http://[::1]:80"));
        assert!(!is_this_machine("https://ebs.eu-central-1.amazonaws.com/127.0.0.1"));
        assert!(!is_this_machine("http://localhost.example.com"));
    }
}
