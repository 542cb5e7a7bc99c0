//! The private PostgreSQL server comes up, takes databases, survives its faults and goes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use snapferry_testkit::{Postgres, eventually};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_server_starts_makes_databases_restarts_and_goes() {
    let mut postgres = Postgres::start().await.unwrap();
    assert!(postgres.url().ends_with("/snapferry"));
    let first = postgres.new_database().unwrap();
    let second = postgres.new_database().unwrap();
    assert_ne!(first, second);
    postgres.stop().await.unwrap();
    assert!(TcpStream::connect(("127.0.0.1", postgres.port())).await.is_err(), "stopped, yet it listens");
    postgres.launch().await.unwrap();
    postgres.kill9().await.unwrap();
    assert!(TcpStream::connect(("127.0.0.1", postgres.port())).await.is_err(), "killed, yet it listens");
    postgres.launch().await.unwrap();
    postgres.new_database().unwrap();
    let port = postgres.port();
    drop(postgres);
    // A worker that was being forked notices a moment later.
    eventually(Duration::from_secs(10), "dropped, nobody listens", || async {
        TcpStream::connect(("127.0.0.1", port)).await.is_err()
    })
    .await
    .unwrap();
}
