//! One subscription on one connection: what a consumer has while all is well, and throws away as a whole when not.

use std::num::NonZeroU16;
use std::sync::Arc;

use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::name::QueueName;
use crate::rabbit::connect::{ConnectError, Connector};
use crate::rabbit::topology;

/// Dropped in the order of its fields: subscription, channel, connection.
pub(crate) struct Session {
    pub(crate) deliveries: lapin::Consumer,
    /// Cancelled when the session goes: a settlement after that is stale.
    pub(crate) ended: CancellationToken,
    _ends: DropGuard,
    _channel: lapin::Channel,
    _connection: lapin::Connection,
}

impl Session {
    pub(crate) async fn open(
        connector: Arc<Connector>,
        queue: QueueName,
        prefetch: NonZeroU16,
    ) -> Result<Self, ConnectError> {
        let connection = connector.open().await?;
        let bound = connector.timeout();
        let subscribe = async {
            let channel = connection.create_channel().await?;
            topology::declare(&channel, &queue).await?;
            // The limit holds for consumers that are made after it.
            channel.basic_qos(prefetch.get(), BasicQosOptions::default()).await?;
            let options = BasicConsumeOptions::default();
            let deliveries = channel
                .basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default())
                .await?;
            Ok::<_, lapin::Error>((channel, deliveries))
        };
        let (channel, deliveries) = timeout(bound, subscribe)
            .await
            .map_err(|_| ConnectError::Timeout { what: "subscribing", bound })??;
        let ended = CancellationToken::new();
        let ends = ended.clone().drop_guard();
        Ok(Self { deliveries, ended, _ends: ends, _channel: channel, _connection: connection })
    }
}
