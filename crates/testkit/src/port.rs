//! Free ports on the loopback interface.

use std::net::TcpListener;

use anyhow::{Result, bail};
use rand::RngExt as _;

/// Below the range from which Linux takes the ports of outgoing connections (32,768 to 60,999), so that a port stays
/// free between here and its use, and low enough for RabbitMQ to add 20,000.
const RANGE: std::ops::Range<u16> = 12_000..32_000;

const MAX_TRIES: usize = 200;

/// A port that nobody listens on.
///
/// # Errors
/// When 200 ports drawn at random are all taken.
pub fn free_port() -> Result<u16> {
    for _ in 0..MAX_TRIES {
        let port = rand::rng().random_range(RANGE);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port among {MAX_TRIES} drawn from {RANGE:?}")
}
