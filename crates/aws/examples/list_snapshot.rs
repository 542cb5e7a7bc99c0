//! Lists all blocks of a snapshot and counts them.
//!
//! `list_snapshot ACCOUNT REGION SNAPSHOT`
//!
//! Credentials and endpoint come as the AWS tools take them. Listings are streamed: memory does not grow with the
//! number of blocks.

mod common;

use futures::StreamExt as _;
use snapferry_aws::{EbsSnapshotSource, QuotaSettings};
use snapferry_transfer::BlockSource as _;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [account, region, snapshot] = arguments.as_slice() else {
        anyhow::bail!("usage: list_snapshot ACCOUNT REGION SNAPSHOT");
    };
    let account = common::sign_in(account, region, "list-snapshot", QuotaSettings::default()).await?;
    let source = EbsSnapshotSource::open(&account, &snapshot.parse()?).await?;
    let mut listing = source.list(0);
    let mut n_blocks = 0_u64;
    while let Some(block) = listing.next().await {
        block?;
        n_blocks += 1;
    }
    println!("{n_blocks} of {} blocks are written", source.n_blocks());
    Ok(())
}
