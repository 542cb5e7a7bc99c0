//! One broker for a whole run of tests, each of which has a virtual host of its own: starting a broker costs a test some
//! seconds and half a core for as long. Tests that stop, starve or configure a broker have one of their own.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::broker::{Broker, BrokerOptions};
use crate::port::free_port;
use crate::wait::eventually;

/// Variable with the addresses of the broker that a run of tests shares, as [`SharedBroker::addresses`] shows them.
pub const SHARED_BROKER: &str = "SNAPFERRY_TEST_BROKER";

const START_BOUND: Duration = Duration::from_secs(60);
const CALL_BOUND: Duration = Duration::from_secs(30);
const MAX_ANSWER_BYTES: u64 = 1 << 20;
/// `guest:guest`, which RabbitMQ knows from the start.
const SIGN_IN: &str = "Z3Vlc3Q6Z3Vlc3Q=";

/// A broker with its management API, by which virtual hosts are made.
#[derive(Debug)]
pub struct SharedBroker {
    broker: Broker,
    api: SocketAddr,
}

impl SharedBroker {
    /// Starts it.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub async fn start() -> Result<Self> {
        let port = free_port()?;
        let config = format!(
            "management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {port}\nmanagement_agent.disable_metrics_collector = true\n"
        );
        let plugins = vec!["rabbitmq_management".to_owned()];
        let broker =
            Broker::start_with(BrokerOptions { config, plugins, ..BrokerOptions::default() }).await?;
        let api = SocketAddr::from(([127, 0, 0, 1], port));
        let answers = || async { call(api, "GET", "/api/vhosts", "").is_ok() };
        eventually(START_BOUND, "RabbitMQ's management API answers", answers).await?;
        Ok(Self { broker, api })
    }

    /// Waits until it has ended, which it does not while all is well; answers the end of its log.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn ended(&mut self) -> Result<String> {
        self.broker.ended().await
    }

    /// Where it listens, for [`SHARED_BROKER`]: `<AMQP address>,<API address>`.
    #[must_use]
    pub fn addresses(&self) -> String {
        format!("{},{}", self.broker.address(), self.api)
    }
}

/// A virtual host of a shared broker; gone, with all its queues, when dropped.
#[derive(Debug)]
pub struct VirtualHost {
    amqp: SocketAddr,
    api: SocketAddr,
    name: String,
}

impl VirtualHost {
    /// Makes one in the broker that this run shares; nothing when there is none.
    ///
    /// # Errors
    /// The variable is not as it should be; the broker does not answer.
    pub fn make() -> Result<Option<Self>> {
        #[allow(clippy::disallowed_methods, reason = "a test is told by its environment, as by nextest")]
        let told = std::env::var(SHARED_BROKER);
        let Ok(addresses) = told else { return Ok(None) };
        let (amqp, api) =
            addresses.split_once(',').with_context(|| format!("{SHARED_BROKER}={addresses}"))?;
        // A process id may come again, and what a killed test had is still there.
        let name = format!("test-{}-{:016x}", process::id(), rand::random::<u64>());
        let host = Self { amqp: amqp.parse()?, api: api.parse()?, name };
        let name = &host.name;
        call(host.api, "PUT", &format!("/api/vhosts/{name}"), "{}")?;
        let rights = r#"{"configure":".*","write":".*","read":".*"}"#;
        call(host.api, "PUT", &format!("/api/permissions/{name}/guest"), rights)?;
        Ok(Some(host))
    }

    /// `amqp://guest:guest@127.0.0.1:<port>/<name>`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@{}/{}", self.amqp, self.name)
    }
}

impl Drop for VirtualHost {
    fn drop(&mut self) {
        // What stays costs the broker some memory until the run is over.
        if let Err(error) = call(self.api, "DELETE", &format!("/api/vhosts/{}", self.name), "") {
            tracing::warn!(host = self.name, %error, "the virtual host stays");
        }
    }
}

/// A call of the management API that must succeed. It blocks, as a rule for some milliseconds.
fn call(api: SocketAddr, method: &str, path: &str, body: &str) -> Result<()> {
    let what = || format!("{method} {path} at {api}");
    let ask = || -> Result<String> {
        let mut stream = TcpStream::connect_timeout(&api, CALL_BOUND)?;
        stream.set_read_timeout(Some(CALL_BOUND))?;
        stream.set_write_timeout(Some(CALL_BOUND))?;
        let question = format!(
            "{method} {path} HTTP/1.1\r\nHost: {api}\r\nAuthorization: Basic {SIGN_IN}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(question.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = ask().with_context(what)?;
    let status: Vec<&str> = answer.lines().next().unwrap_or_default().split(' ').collect();
    let [_, code, ..] = status.as_slice() else { bail!("{}: no HTTP: {answer:?}", what()) };
    ensure!(code.starts_with('2'), "{}: {answer}", what());
    Ok(())
}
