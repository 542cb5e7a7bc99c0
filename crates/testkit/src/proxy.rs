//! A network between a client and a server on this machine: a proxy that can cut its connections, refuse new ones,
//! delay what passes, or let it vanish. What a black hole holds back arrives when it heals, as TCP's retransmissions
//! would; a cut loses it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

/// Bytes that one direction of one connection moves at a time.
const BUFFER_LEN: usize = 16 * 1024;

/// Which way bytes vanish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// What the client sends.
    ToServer,
    /// What the server sends.
    ToClient,
    /// All of it.
    Both,
}

#[derive(Debug, Clone, Default)]
struct Weather {
    hole_to_server: bool,
    hole_to_client: bool,
    refuses: bool,
    delay: Duration,
    /// Connections of an earlier generation are cut.
    generation: u64,
}

/// A proxy on a loopback port, gone when dropped.
#[derive(Debug)]
pub struct TcpProxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    n_connections: watch::Receiver<usize>,
    _task: AbortOnDropHandle<()>,
}

impl TcpProxy {
    /// Listens on a free loopback port and forwards to `server`.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("bind a proxy")?;
        let address = listener.local_addr().context("ask for the proxy's address")?;
        let (weather, seen) = watch::channel(Weather::default());
        let (count, n_connections) = watch::channel(0);
        #[allow(clippy::disallowed_methods, reason = "owned by the proxy, which aborts it when dropped")]
        let task = tokio::spawn(accept(listener, server, seen, count));
        Ok(Self { address, weather, n_connections, _task: AbortOnDropHandle::new(task) })
    }

    /// Where clients connect.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.address.port()
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn n_connections(&self) -> usize {
        *self.n_connections.borrow()
    }

    /// Cuts every connection; new ones are let through.
    pub fn cut(&self) {
        self.weather.send_modify(|weather| weather.generation += 1);
    }

    /// Cuts every connection and, until healed, every new one at once.
    pub fn refuse(&self) {
        self.weather.send_modify(|weather| {
            weather.generation += 1;
            weather.refuses = true;
        });
    }

    /// Nothing arrives any more in this direction, and nobody is told.
    pub fn black_hole(&self, direction: Direction) {
        self.weather.send_modify(|weather| {
            weather.hole_to_server |= direction != Direction::ToClient;
            weather.hole_to_client |= direction != Direction::ToServer;
        });
    }

    /// Each piece of data arrives this much later.
    pub fn delay(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }

    /// All faults off.
    pub fn heal(&self) {
        self.weather.send_modify(|weather| {
            *weather = Weather { generation: weather.generation, ..Weather::default() };
        });
    }
}

async fn accept(
    listener: TcpListener,
    server: SocketAddr,
    weather: watch::Receiver<Weather>,
    count: watch::Sender<usize>,
) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((client, _)) = listener.accept().await else { continue };
        count.send_modify(|n_connections| *n_connections += 1);
        if !weather.borrow().refuses {
            connections.spawn(carry(client, server, weather.clone()));
        }
    }
}

/// Carries one connection until either side ends it or it is cut.
async fn carry(client: TcpStream, server: SocketAddr, mut weather: watch::Receiver<Weather>) {
    let generation = weather.borrow().generation;
    let Ok(server) = TcpStream::connect(server).await else { return };
    for stream in [&client, &server] {
        if stream.set_nodelay(true).is_err() {
            return;
        }
    }
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let up = pump(client_read, server_write, weather.clone(), |weather| weather.hole_to_server);
    let down = pump(server_read, client_write, weather.clone(), |weather| weather.hole_to_client);
    tokio::select! {
        () = async { tokio::join!(up, down); } => {}
        _ = weather.wait_for(|weather| weather.generation != generation) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    vanishes: fn(&Weather) -> bool,
) {
    let mut buffer = vec![0; BUFFER_LEN];
    loop {
        let n_bytes = from.read(&mut buffer).await.unwrap_or(0);
        let delay = weather.borrow().delay;
        if !delay.is_zero() {
            sleep(delay).await;
        }
        if weather.wait_for(|weather| !vanishes(weather)).await.is_err() {
            return;
        }
        let piece = buffer.get(..n_bytes).unwrap_or_default();
        if piece.is_empty() {
            // A failed hang-up means that the other side has hung up before.
            drop(to.shutdown().await);
            return;
        }
        if to.write_all(piece).await.is_err() {
            return;
        }
    }
}
