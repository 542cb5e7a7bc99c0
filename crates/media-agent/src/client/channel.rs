//! The channel: windows, keep-alive, TLS, and the wait for a daemon that is just starting.

use std::time::Duration;

use snapferry_service::{Backoff, TlsMaterial};
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_wire::v1::media_client::MediaClient as Stub;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::error::chain;
use crate::server::MAX_MESSAGE_BYTES;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Tries to connect; with the waits between them about five seconds for a daemon that is refusing connections.
const CONNECT_TRIES: u32 = 5;

/// An endpoint with our settings. Opens nothing.
pub(crate) fn endpoint(uri: &str, tls: Option<&TlsMaterial>) -> Result<Endpoint, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(uri.to_owned())?
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_connection_window_size(16 * 1_024 * 1_024)
        .initial_stream_window_size(4 * 1_024 * 1_024)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20))
        .tcp_nodelay(true)
        .user_agent(concat!("snapferry/", env!("CARGO_PKG_VERSION")))?;
    match tls {
        Some(tls) => endpoint.tls_config(
            ClientTlsConfig::new()
                .ca_certificate(Certificate::from_pem(&tls.ca))
                .identity(Identity::from_pem(&tls.cert, &tls.key)),
        ),
        None => Ok(endpoint),
    }
}

/// Connects, and waits for a daemon that is starting.
pub(super) async fn connect(uri: &str, tls: Option<&TlsMaterial>) -> Result<Channel, TransferError> {
    let endpoint = endpoint(uri, tls).map_err(|error| {
        let message = format!("use the MediaAgent endpoint {uri:?}: {}", chain(&error));
        TransferError::new(ErrorClass::Invalid, message)
    })?;
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(3));
    let mut tries = 1;
    loop {
        match endpoint.connect().await {
            Ok(channel) => return Ok(channel),
            Err(error) if tries >= CONNECT_TRIES => {
                let message = format!(
                    "connect to the MediaAgent at {uri}: {}; check that it is running",
                    chain(&error)
                );
                return Err(TransferError::new(ErrorClass::Unavailable, message));
            }
            Err(_) => tokio::time::sleep(backoff.next_delay()).await,
        }
        tries += 1;
    }
}

/// A stub with the message limits of both sides.
pub(super) fn stub(channel: Channel) -> Stub<Channel> {
    Stub::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}
