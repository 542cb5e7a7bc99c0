//! Runs a broker for a run of tests: prints what `SNAPFERRY_TEST_BROKER` is to be, and ends when its standard input does.

use std::io::Read as _;

use anyhow::{Result, bail};
use snapferry_testkit::SharedBroker;

#[tokio::main]
async fn main() -> Result<()> {
    let mut broker = SharedBroker::start().await?;
    #[allow(clippy::print_stdout, reason = "this is what it is for")]
    {
        println!("{}", broker.addresses());
    }
    let until_closed = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    tokio::select! {
        closed = until_closed => drop(closed?),
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        log = broker.ended() => bail!("the broker that the tests share ended by itself:\n{}", log?),
    }
    drop(broker);
    // What may still read the input must not be waited for.
    std::process::exit(0);
}
