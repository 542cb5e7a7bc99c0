//! Reads a snapshot into a raw image file or onto a block device, and says what it took.
//!
//! `read_snapshot ACCOUNT REGION SNAPSHOT FILE [REQUESTS_PER_SECOND]`
//!
//! Credentials and endpoint come as the AWS tools take them (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, …). Without a
//! rate it stays just below AWS's quota. A file is not synchronised to the disk: the reading is what is measured. A
//! device is overwritten whole, also where the snapshot has holes.

mod common;

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use snapferry_aws::{EbsSnapshotSource, QuotaSettings};
use snapferry_transfer::{
    BlockSource, BlockTarget, ByteBudget, DeviceTarget, FileTarget, Overwrite, TransferProgress, copy_blocks,
};
use snapferry_types::{BLOCK_SIZE, ByteCount, SnapshotId};
use tokio_util::sync::CancellationToken;

/// Buffers of half a MiB come and go with every block; this allocator hands them out again without asking the kernel
/// for fresh pages each time. See docs/decisions/0009.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Memory for blocks in flight.
const BUDGET_BYTES: u64 = 96 << 20;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [account, region, snapshot, file, rest @ ..] = arguments.as_slice() else {
        anyhow::bail!("usage: read_snapshot ACCOUNT REGION SNAPSHOT FILE [REQUESTS_PER_SECOND]");
    };
    let mut quotas = QuotaSettings::default();
    if let Some(rate) = rest.first() {
        quotas.get_per_second = rate.parse().context("REQUESTS_PER_SECOND")?;
    }
    let account = common::sign_in(account, region, "read-snapshot", quotas).await?;
    let snapshot: SnapshotId = snapshot.parse()?;

    let started = Instant::now();
    let source = Arc::new(EbsSnapshotSource::open(&account, &snapshot).await?);
    let n_blocks = source.n_blocks();
    let target: Arc<dyn BlockTarget> = if is_device(file) {
        Arc::new(DeviceTarget::open(file, n_blocks, Overwrite::Used)?)
    } else {
        Arc::new(FileTarget::create(file, n_blocks)?.without_sync())
    };
    let reader: Arc<dyn BlockSource> = Arc::clone(&source) as Arc<dyn BlockSource>;
    let budget = ByteBudget::new(BUDGET_BYTES);
    let progress = Arc::new(TransferProgress::default());
    let done = copy_blocks(reader, target, budget, progress, CancellationToken::new()).await?;
    let took = started.elapsed().as_secs_f64();

    let bytes = u64::from(done.n_written) * BLOCK_SIZE as u64;
    let rate = f64::from(done.n_written) / took;
    println!("{} blocks, {} in {took:.2} s: {rate:.0} blocks/s", done.n_written, ByteCount(bytes));
    println!("{:?}, reads wanted at the end: {}", source.figures(), source.wanted_reads());
    println!("{:?}", account.calls().figures());
    Ok(())
}

/// What exists and is neither a file nor a folder.
fn is_device(path: &str) -> bool {
    std::fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}
