//! Prometheus metrics of a process: a registry, and an HTTP listener with `/metrics` and `/healthz`.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Encoder as _, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A registry; on Linux with the figures of the process itself (CPU, memory, file descriptors).
///
/// # Panics
/// Never: the collector of a fresh registry is registered once.
#[must_use]
pub fn registry() -> Registry {
    let registry = Registry::new();
    #[cfg(target_os = "linux")]
    {
        let process = prometheus::process_collector::ProcessCollector::for_self();
        registry.register(Box::new(process)).expect("a fresh registry has no collector yet");
    }
    registry
}

/// The routes `/metrics` and `/healthz`, to serve alone or to merge into another router.
pub fn router(registry: Registry) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .with_state(registry)
}

async fn metrics(State(registry): State<Registry>) -> Response {
    let mut text = Vec::new();
    match TextEncoder::new().encode(&registry.gather(), &mut text) {
        Ok(()) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// A bound listener for [`router`].
#[derive(Debug)]
pub struct MetricsServer {
    listener: TcpListener,
    registry: Registry,
}

impl MetricsServer {
    /// Binds the address.
    ///
    /// # Errors
    /// The system's, when the address is taken or not ours.
    pub async fn bind(address: SocketAddr, registry: Registry) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        tracing::info!(address = %listener.local_addr()?, "metrics listen");
        Ok(Self { listener, registry })
    }

    /// Serves until `stop`.
    ///
    /// # Errors
    /// The system's.
    pub async fn run(self, stop: CancellationToken) -> std::io::Result<()> {
        axum::serve(self.listener, router(self.registry)).with_graceful_shutdown(stop.cancelled_owned()).await
    }
}
