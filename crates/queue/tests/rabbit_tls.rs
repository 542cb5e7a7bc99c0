//! A broker behind TLS with a private certificate authority.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper's failure is its test's"
)]

#[allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]
mod conformance;
#[allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]
mod rig;

use std::path::Path;
use std::process::Command;

use conformance::{consume, next, queue_name, ticket};
use snapferry_queue::{PublishError, RabbitConfig, RabbitQueue, TaskQueue as _};
use snapferry_testkit::{Broker, BrokerOptions, Tool, free_port, require};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_authority_is_trusted_when_named_and_only_then() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let port = free_port().unwrap();
    let place = |name: &str| folder.path().join(name).display().to_string();
    let config = format!(
        "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\n\
         ssl_options.keyfile = {}\n",
        place("ca.pem"),
        place("server.pem"),
        place("server.key")
    );
    let _broker = Broker::start_with(BrokerOptions { config, ..BrokerOptions::default() }).await.unwrap();
    let url = format!("amqps://guest:guest@localhost:{port}/%2f").parse().unwrap();
    let name = queue_name("tls");

    let stranger = RabbitQueue::new(&url, &rig::config()).unwrap();
    let error = stranger.publisher().declare(&name).await.unwrap_err();
    assert!(
        matches!(&error, PublishError::Unavailable { cause, .. } if cause.contains("certificate")),
        "{error}"
    );

    let trusting = RabbitConfig { ca_file: Some(folder.path().join("ca.pem")), ..rig::config() };
    let queue = RabbitQueue::new(&url, &trusting).unwrap();
    let publisher = queue.publisher();
    publisher.declare(&name).await.unwrap();
    publisher.publish(&name, &ticket(1)).await.unwrap();
    assert_eq!(next(&mut consume(&queue, &name, 1)).await.ticket, ticket(1));
}

#[tokio::test]
async fn an_authority_that_cannot_be_read_is_named() {
    let url = "amqps://guest:guest@localhost:5671/%2f".parse().unwrap();
    let config = RabbitConfig { ca_file: Some("/no/such/ca.pem".into()), ..rig::config() };
    let Err(error) = RabbitQueue::new(&url, &config) else { panic!("made without its authority") };
    assert!(error.to_string().starts_with("read the broker's CA file /no/such/ca.pem"), "{error}");
}

/// An authority, and a server's certificate for `localhost` signed by it.
fn certificates(folder: &Path) {
    let openssl = |arguments: &[&str]| {
        let output = Command::new(require(Tool::Openssl).unwrap())
            .args(arguments)
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let request = |rest: &[&str]| openssl(&[&["req"], &new_key[..], rest].concat());
    request(&["-x509", "-days", "2", "-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem"]);
    request(&["-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr"]);
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
    let sign = ["x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
    openssl(&[&sign[..], &["-days", "2", "-extfile", "names", "-out", "server.pem"]].concat());
}
