//! Measures a device or file through the pipeline, without compression: `cargo run --release -p snapferry-transfer
//! --example device -- read PATH [GiB]` or `… write PATH [GiB]`, which overwrites it. Reading takes each block's
//! SHA-256; writing sends blocks of noise. Compare with `dd bs=4M` and direct I/O.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt;
use snapferry_transfer::{
    Block, BlockListing, BlockSource, BlockTarget, BudgetPermit, ByteBudget, DeviceSource, DeviceTarget,
    ErrorClass, FileSource, ListedBlock, Overwrite, TransferError, copy_blocks, sha256,
};
use snapferry_types::{BLOCK_SIZE, BlockIndex, Sha256Digest};
use tokio_util::sync::CancellationToken;

/// Blocks of noise that take no time to make.
struct Noise {
    n_blocks: u32,
    blocks: Vec<(Bytes, Sha256Digest)>,
}

impl Noise {
    fn new(n_blocks: u32) -> Self {
        let block = |seed: u8| {
            let mut data = vec![0; BLOCK_SIZE];
            blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut data);
            let sha256 = sha256(&data);
            (Bytes::from(data), sha256)
        };
        Self { n_blocks, blocks: (0..16).map(block).collect() }
    }
}

#[async_trait::async_trait]
impl BlockSource for Noise {
    fn n_blocks(&self) -> u32 {
        self.n_blocks
    }

    fn wanted_reads(&self) -> usize {
        64
    }

    fn list(&self, from_block: u32) -> BlockListing {
        let listed = |index| Ok(ListedBlock { index: BlockIndex(index), token: Some(String::new()) });
        futures::stream::iter((from_block..self.n_blocks).map(listed)).boxed()
    }

    async fn read(&self, block: &ListedBlock, permit: BudgetPermit) -> Result<Block, TransferError> {
        let n = block.index.0 as usize % self.blocks.len().max(1);
        let found = self.blocks.get(n).cloned();
        let (data, sha256) = found.ok_or_else(|| TransferError::new(ErrorClass::Internal, "no noise"))?;
        Ok(Block { index: block.index, data, sha256, permit })
    }
}

/// Takes blocks and forgets them.
struct Nowhere(u32);

#[async_trait::async_trait]
impl BlockTarget for Nowhere {
    fn n_blocks(&self) -> u32 {
        self.0
    }

    fn wanted_writes(&self) -> usize {
        64
    }

    async fn write(&self, _block: &Block) -> Result<(), TransferError> {
        Ok(())
    }

    async fn complete(&self, _n_written: u32, _aggregate: Sha256Digest) -> Result<(), TransferError> {
        Ok(())
    }
}

#[allow(clippy::cast_precision_loss, reason = "a rate for people")]
#[tokio::main]
async fn main() -> Result<(), TransferError> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (Some(doing), Some(path)) = (args.first(), args.get(1)) else {
        let usage = "run: device read|write PATH [GiB]";
        return Err(TransferError::new(ErrorClass::Invalid, usage));
    };
    let whole = FileSource::open(path)?.n_blocks();
    let wanted = args.get(2).and_then(|gib| gib.parse::<u32>().ok());
    let n_blocks = wanted.map_or(whole, |gib| gib.saturating_mul(2_048).min(whole));
    let (source, target): (Arc<dyn BlockSource>, Arc<dyn BlockTarget>) = match doing.as_str() {
        "read" => (Arc::new(DeviceSource::open(path, n_blocks, None)?), Arc::new(Nowhere(n_blocks))),
        "write" => {
            let target = DeviceTarget::open(path, n_blocks, Overwrite::Blank)?;
            (Arc::new(Noise::new(n_blocks)), Arc::new(target))
        }
        other => {
            return Err(TransferError::new(ErrorClass::Invalid, format!("{other} is not read or write")));
        }
    };
    let start = Instant::now();
    let budget = ByteBudget::new(96 << 20);
    copy_blocks(source, target, budget, Arc::default(), CancellationToken::new()).await?;
    let n_bytes = u64::from(n_blocks) * BLOCK_SIZE as u64;
    let rate = n_bytes as f64 / 1e6 / start.elapsed().as_secs_f64();
    println!("{doing} {n_bytes} bytes: {rate:.0} MB/s");
    Ok(())
}
