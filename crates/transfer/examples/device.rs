//! Measures a device or file through the pipeline: `cargo run --release -p snapferry-transfer --example device -- read PATH
//! [GiB]` or `… write PATH [GiB]`, which overwrites it. Reading takes each block's SHA-256; writing sends blocks of noise.
//! `… back-up PATH [GiB]` is the whole of a backup up to what goes to the MediaAgent: hashed, named, compressed where that
//! helps, sealed; `… seal PATH [GiB]` is the same without compression. A fourth word is how many reads are in flight.
//! `… restore FROM TO` backs FROM up into memory, without compression, and measures the restore from there: fetched, opened,
//! checked, written over whatever TO holds. Compare with `dd bs=4M` and direct I/O.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt;
use snapferry_transfer::twin::MemoryStore;
use snapferry_transfer::{
    Block, BlockListing, BlockSource, BlockTarget, BudgetPermit, ByteBudget, ChunkSink, DeviceSource,
    DeviceTarget, ErrorClass, FileSource, HighWater, Leaf, ListedBlock, Overwrite, SealedChunk, Sealer,
    TransferError, TransferProgress, WorkPool, back_up_volume, copy_blocks, restore_volume, sha256,
};
use snapferry_types::tenancy::TenantKeys;
use snapferry_types::{BLOCK_SIZE, BlockIndex, ChunkId, Sha256Digest};
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

#[async_trait::async_trait]
impl ChunkSink for Nowhere {
    async fn durable_leaves(&self) -> Result<Vec<u32>, TransferError> {
        Ok(Vec::new())
    }

    async fn missing(&self, ids: &[ChunkId]) -> Result<Vec<bool>, TransferError> {
        Ok(vec![true; ids.len()])
    }

    async fn put_chunks(&self, _chunks: Vec<SealedChunk>) -> Result<(), TransferError> {
        Ok(())
    }

    async fn put_leaf(&self, _leaf: &Leaf) -> Result<(), TransferError> {
        Ok(())
    }

    async fn flush(&self) -> Result<(), TransferError> {
        Ok(())
    }
}

fn sealer(compresses: bool) -> Arc<Sealer> {
    Arc::new(Sealer::new(&TenantKeys::new([1; 32], [2; 32])).compressing(compresses))
}

fn budget() -> ByteBudget {
    ByteBudget::new(96 << 20)
}

/// Backs `source` up; answers how many bytes were sent.
async fn back_up(
    source: Arc<dyn BlockSource>,
    sink: Arc<dyn ChunkSink>,
    sealer: Arc<Sealer>,
) -> Result<u64, TransferError> {
    let (workers, progress) = (WorkPool::of_all_cpus(), Arc::new(TransferProgress::default()));
    let (told, stop) = (Arc::clone(&progress), CancellationToken::new());
    back_up_volume(source, sink, None, sealer, budget(), &workers, told, stop).await?;
    Ok(progress.snapshot().bytes_sent)
}

/// Restores what is in memory of `from` onto a device; only the restore is measured.
async fn restore(from: &str, to: &str) -> Result<(), TransferError> {
    let source = FileSource::open(from)?;
    let (n_blocks, sealer) = (source.n_blocks(), sealer(false));
    let store = Arc::new(MemoryStore::new(n_blocks, Arc::clone(&sealer)));
    back_up(Arc::new(source), store.clone(), Arc::clone(&sealer)).await?;
    let target = Arc::new(DeviceTarget::open(to, n_blocks, Overwrite::Used)?);
    let (mut forget, start) = (|_block| (), Instant::now());
    let (mark, stop) = (HighWater::new(0, &mut forget), CancellationToken::new());
    let workers = WorkPool::of_all_cpus();
    restore_volume(store, target, sealer, budget(), &workers, mark, Arc::default(), stop).await?;
    say("restore", n_blocks, start);
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "a rate for people")]
fn say(what: &str, n_blocks: u32, start: Instant) {
    let n_bytes = u64::from(n_blocks) * BLOCK_SIZE as u64;
    let rate = n_bytes as f64 / 1e6 / start.elapsed().as_secs_f64();
    println!("{what} {n_bytes} bytes: {rate:.0} MB/s");
}

#[tokio::main]
async fn main() -> Result<(), TransferError> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (Some(doing), Some(path)) = (args.first(), args.get(1)) else {
        let usage = "run: device read|write|back-up|seal PATH [GiB [READS]], or device restore FROM TO";
        return Err(TransferError::new(ErrorClass::Invalid, usage));
    };
    if doing == "restore" {
        let to =
            args.get(2).ok_or_else(|| TransferError::new(ErrorClass::Invalid, "restore: name what TO is"))?;
        return restore(path, to).await;
    }
    let whole = FileSource::open(path)?.n_blocks();
    let wanted = args.get(2).and_then(|gib| gib.parse::<u32>().ok());
    let n_blocks = wanted.map_or(whole, |gib| gib.saturating_mul(2_048).min(whole));
    let in_flight = args.get(3).and_then(|n| n.parse().ok());
    let open = || -> Result<DeviceSource, TransferError> {
        let source = DeviceSource::open(path, n_blocks, None)?;
        Ok(match in_flight {
            Some(in_flight) => source.with_in_flight(in_flight),
            None => source,
        })
    };
    if doing == "back-up" || doing == "seal" {
        let (source, start) = (open()?, Instant::now());
        let n_sent =
            back_up(Arc::new(source), Arc::new(Nowhere(n_blocks)), sealer(doing == "back-up")).await?;
        say(&format!("{n_sent} bytes are sent of"), n_blocks, start);
        return Ok(());
    }
    let (source, target): (Arc<dyn BlockSource>, Arc<dyn BlockTarget>) = match doing.as_str() {
        "read" => (Arc::new(open()?), Arc::new(Nowhere(n_blocks))),
        "write" => {
            let target = DeviceTarget::open(path, n_blocks, Overwrite::Blank)?;
            (Arc::new(Noise::new(n_blocks)), Arc::new(target))
        }
        other => {
            let message = format!("{other} is not read, write, back-up, seal or restore");
            return Err(TransferError::new(ErrorClass::Invalid, message));
        }
    };
    let start = Instant::now();
    copy_blocks(source, target, budget(), Arc::default(), CancellationToken::new()).await?;
    say(doing, n_blocks, start);
    Ok(())
}
