//! Writes a raw image file into a new snapshot, and says what it took.
//!
//! `write_snapshot ACCOUNT REGION FILE [REQUESTS_PER_SECOND]`
//!
//! Credentials and endpoint come as the AWS tools take them (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, …). Without a
//! rate it stays just below AWS's quota. What the file has holes for stays a hole.

mod common;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::Context as _;
use snapferry_aws::{EbsSnapshotTarget, NewSnapshot, QuotaSettings, start_snapshot};
use snapferry_transfer::{
    BlockSource as _, BlockTarget, ByteBudget, FileSource, TransferProgress, copy_blocks,
};
use snapferry_types::block::blocks_in_gib;
use snapferry_types::{BLOCK_SIZE, ByteCount};
use tokio_util::sync::CancellationToken;

/// See docs/decisions/0009.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Memory for blocks in flight.
const BUDGET_BYTES: u64 = 96 << 20;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [account, region, file, rest @ ..] = arguments.as_slice() else {
        anyhow::bail!("usage: write_snapshot ACCOUNT REGION FILE [REQUESTS_PER_SECOND]");
    };
    let mut quotas = QuotaSettings::default();
    if let Some(rate) = rest.first() {
        quotas.put_per_second = rate.parse().context("REQUESTS_PER_SECOND")?;
    }
    let account = common::sign_in(account, region, "write-snapshot", quotas).await?;

    let started = Instant::now();
    let source = Arc::new(FileSource::open(file)?);
    let size_gib = source.n_blocks().div_ceil(blocks_in_gib(1));
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let new = NewSnapshot {
        size_gib,
        encrypted: false,
        kms_key_id: None,
        description: format!("Snapferry: {file}"),
        tags: Vec::new(),
        client_token: format!("write-snapshot-{}", since.as_nanos()),
    };
    let snapshot = start_snapshot(&account, &new).await?;
    let target = Arc::new(EbsSnapshotTarget::new(&account, &snapshot, size_gib));
    let writer: Arc<dyn BlockTarget> = Arc::clone(&target) as Arc<dyn BlockTarget>;
    let budget = ByteBudget::new(BUDGET_BYTES);
    let progress = Arc::new(TransferProgress::default());
    let done = copy_blocks(source, writer, budget, progress, CancellationToken::new()).await?;
    let took = started.elapsed().as_secs_f64();

    let bytes = u64::from(done.n_written) * BLOCK_SIZE as u64;
    let rate = f64::from(done.n_written) / took;
    println!(
        "{snapshot}: {} blocks, {} in {took:.2} s: {rate:.0} blocks/s",
        done.n_written,
        ByteCount(bytes)
    );
    println!("{:?}, writes wanted at the end: {}", target.figures(), target.wanted_writes());
    println!("{:?}", account.calls().figures());
    Ok(())
}
