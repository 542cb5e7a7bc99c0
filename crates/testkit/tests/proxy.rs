//! The proxy's faults do what they say.

#![allow(clippy::unwrap_used, reason = "a helper's failure is its test's")]

use std::time::Duration;

use snapferry_testkit::{Direction, TcpProxy};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

const BOUND: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_millis(200);

/// A server that sends back what it gets, and a proxy before it.
async fn echo() -> (TcpProxy, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = TcpProxy::start(listener.local_addr().unwrap()).await.unwrap();
    #[allow(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    let server = tokio::spawn(async move {
        let mut echoes = tokio::task::JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            echoes.spawn(async move {
                let (mut read, mut write) = stream.split();
                drop(tokio::io::copy(&mut read, &mut write).await);
            });
        }
    });
    (proxy, server)
}

async fn connect(proxy: &TcpProxy) -> TcpStream {
    TcpStream::connect(proxy.address()).await.unwrap()
}

async fn ask(stream: &mut TcpStream, text: &[u8]) -> Vec<u8> {
    stream.write_all(text).await.unwrap();
    answer(stream, text.len()).await
}

async fn answer(stream: &mut TcpStream, n_bytes: usize) -> Vec<u8> {
    let mut answer = vec![0; n_bytes];
    timeout(BOUND, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn a_cut_ends_connections_and_lets_new_ones_through() {
    let (proxy, _server) = echo().await;
    let mut stream = connect(&proxy).await;
    assert_eq!(ask(&mut stream, b"hello").await, b"hello");
    proxy.cut();
    let end = timeout(BOUND, stream.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "still open: {end:?}");
    assert_eq!(ask(&mut connect(&proxy).await, b"again").await, b"again");
    assert_eq!(proxy.n_connections(), 2);
}

#[tokio::test]
async fn refused_connections_carry_nothing_until_healed() {
    let (proxy, _server) = echo().await;
    proxy.refuse();
    let end = timeout(BOUND, connect(&proxy).await.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "open: {end:?}");
    proxy.heal();
    assert_eq!(ask(&mut connect(&proxy).await, b"hello").await, b"hello");
}

#[tokio::test]
async fn a_black_hole_is_silent_and_gives_back_when_healed() {
    let (proxy, _server) = echo().await;
    for direction in [Direction::ToServer, Direction::ToClient, Direction::Both] {
        let mut stream = connect(&proxy).await;
        assert_eq!(ask(&mut stream, b"before").await, b"before");
        proxy.black_hole(direction);
        stream.write_all(b"during").await.unwrap();
        assert!(timeout(SILENCE, stream.read(&mut [0; 1])).await.is_err(), "{direction:?} leaks");
        proxy.heal();
        assert_eq!(answer(&mut stream, 6).await, b"during");
    }
}

#[tokio::test]
async fn a_delay_delays_both_ways() {
    let (proxy, _server) = echo().await;
    let mut stream = connect(&proxy).await;
    assert_eq!(ask(&mut stream, b"fast").await, b"fast");
    proxy.delay(SILENCE);
    let start = Instant::now();
    assert_eq!(ask(&mut stream, b"slow").await, b"slow");
    assert!(start.elapsed() >= SILENCE * 2);
}
