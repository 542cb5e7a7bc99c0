//! Keeps a subscription alive for ever: builds connection → channel → subscription, and after any end of it builds
//! all of it again, after a pause that doubles up to a limit and has jitter. An end is an error of the connection or
//! the channel (406, 404, 403 included) and also a stream that stops, which is how a broker cancels a consumer.

use std::num::NonZeroU16;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use futures::StreamExt as _;
use lapin::message::Delivery as Message;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::name::QueueName;
use crate::rabbit::connect::{ConnectError, Connector};
use crate::rabbit::session::Session;
use crate::stats::QueueStats;

const FIRST_BACKOFF: Duration = Duration::from_millis(200);

type Building = Pin<Box<dyn Future<Output = Result<Session, ConnectError>> + Send>>;

/// The state lives here and not in a future, so that a caller may stop waiting at any time and come back.
enum State {
    Pausing(Instant),
    Building(Building),
    Live(Box<Session>),
}

pub(crate) struct Supervisor {
    connector: Arc<Connector>,
    queue: QueueName,
    prefetch: NonZeroU16,
    stop: CancellationToken,
    stats: Arc<QueueStats>,
    backoff: ExponentialBackoff,
    state: State,
}

impl Supervisor {
    pub(crate) fn new(
        connector: Arc<Connector>,
        queue: QueueName,
        prefetch: NonZeroU16,
        stop: CancellationToken,
        stats: Arc<QueueStats>,
    ) -> Self {
        let backoff = fresh_backoff(connector.max_backoff());
        Self { connector, queue, prefetch, stop, stats, backoff, state: State::Pausing(Instant::now()) }
    }

    /// The next message and the token that ends with its session; `None` once stopped.
    pub(crate) async fn next(&mut self) -> Option<(Message, CancellationToken)> {
        loop {
            if self.stop.is_cancelled() {
                return None;
            }
            match &mut self.state {
                State::Pausing(until) => {
                    tokio::select! {
                        () = sleep_until(*until) => {}
                        () = self.stop.cancelled() => return None,
                    }
                    self.state = State::Building(Box::pin(Session::open(
                        Arc::clone(&self.connector),
                        self.queue.clone(),
                        self.prefetch,
                    )));
                }
                State::Building(building) => {
                    let built = tokio::select! {
                        built = building => built,
                        () = self.stop.cancelled() => return None,
                    };
                    match built {
                        Ok(session) => {
                            tracing::info!(queue = %self.queue, prefetch = self.prefetch, "consuming");
                            self.state = State::Live(Box::new(session));
                        }
                        Err(error) => self.pause(&error.to_string()),
                    }
                }
                State::Live(session) => {
                    let item = tokio::select! {
                        item = session.deliveries.next() => item,
                        () = self.stop.cancelled() => return None,
                    };
                    match item {
                        Some(Ok(message)) => {
                            let ended = session.ended.clone();
                            self.backoff = fresh_backoff(self.connector.max_backoff());
                            return Some((message, ended));
                        }
                        Some(Err(error)) => self.pause(&error.to_string()),
                        None => self.pause("the broker cancelled the consumer, as when its queue is deleted"),
                    }
                }
            }
        }
    }

    fn pause(&mut self, cause: &str) {
        self.stats.add_reconnect();
        let pause = self.backoff.next().unwrap_or(self.connector.max_backoff());
        tracing::warn!(queue = %self.queue, cause, pause_ms = pause.as_millis(), "subscription lost; rebuilding");
        self.state = State::Pausing(Instant::now() + pause);
    }
}

fn fresh_backoff(max: Duration) -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(FIRST_BACKOFF)
        .with_max_delay(max)
        .without_max_times()
        .with_jitter()
        .build()
}
