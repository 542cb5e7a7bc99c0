//! Whether anyone answers at the broker's address. A handshake with a peer that accepts and then stays silent cannot
//! be taken back from lapin: it keeps a thread until the peer speaks or hangs up. So after one attempt that timed out,
//! the next ones ask first, with a socket that we own and can close.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// An AMQP 0-9-1 client's first bytes. A broker answers them with `connection.start`, a TLS listener with an alert or
/// by hanging up; a stopped process does neither.
const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\x00\x00\x09\x01";

pub(crate) async fn answers(host: &str, port: u16, bound: Duration) -> std::io::Result<()> {
    let silent = || {
        std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            format!("{host}:{port} gave no answer within {} s", bound.as_secs()),
        )
    };
    let ask = async {
        let mut stream = TcpStream::connect((host, port)).await?;
        stream.write_all(&PROTOCOL_HEADER).await?;
        // Any byte and a hang-up alike show that the peer runs.
        stream.read(&mut [0; 1]).await.map(drop)
    };
    timeout(bound, ask).await.map_err(|_| silent())?
}
