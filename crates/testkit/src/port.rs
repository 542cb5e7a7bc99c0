//! Free ports on the loopback interface.

use std::net::TcpListener;
use std::ops::Range;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};
use rand::RngExt as _;

/// Low enough for RabbitMQ to add 20,000; the end is lowered to where the ports of outgoing connections begin.
const RANGE: Range<u16> = 12_000..32_000;

/// First and last port that the kernel gives to outgoing connections.
const OUTGOING: &str = "/proc/sys/net/ipv4/ip_local_port_range";

const MAX_TRIES: usize = 200;

/// Marks of the ports that this process was given; the kernel takes them back when it ends.
static MINE: Mutex<Vec<UnixDatagram>> = Mutex::new(Vec::new());

/// A port that nobody listens on and that no other test is given before this process ends.
///
/// Between the look and the use lie seconds, in which another test could draw the same number. So each number is marked
/// by an abstract Unix socket of that name: like the port it belongs to the network namespace, and it needs no tidying.
///
/// # Errors
/// When 200 ports drawn at random are all taken.
pub fn free_port() -> Result<u16> {
    let range = range();
    for _ in 0..MAX_TRIES {
        let port = rand::rng().random_range(range.clone());
        let name = SocketAddr::from_abstract_name(format!("snapferry-test-port-{port}"))?;
        let Ok(mark) = UnixDatagram::bind_addr(&name) else { continue };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            MINE.lock().unwrap_or_else(PoisonError::into_inner).push(mark);
            return Ok(port);
        }
    }
    bail!("no free port among {MAX_TRIES} drawn from {range:?}")
}

fn range() -> Range<u16> {
    let text = std::fs::read_to_string(OUTGOING).unwrap_or_default();
    let first = text.split_whitespace().next().and_then(|word| word.parse().ok());
    let end = first.filter(|first| *first > RANGE.start + 1_000).unwrap_or(RANGE.end);
    RANGE.start..end.min(RANGE.end)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_port_is_given_twice() {
        let drawn: Vec<u16> = (0..500).map(|_| free_port().unwrap()).collect();
        let different: HashSet<u16> = drawn.iter().copied().collect();
        assert_eq!(different.len(), drawn.len());
    }
}
