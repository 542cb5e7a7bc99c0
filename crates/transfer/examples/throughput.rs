//! Measures the stages of a backup one by one on one thread, then the whole pipelines between the in-memory twins:
//! `cargo run --release -p snapferry-transfer --example throughput`. The volume is seeded: of 10 blocks, 4 are
//! holes or zeroes, 1 repeats, 3 compress to half, 2 are noise. With a number as its argument it backs up that many
//! blocks of zeroes instead, which costs nothing but the pipeline itself, and shows the peak of memory.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt;
use snapferry_transfer::twin::{MemoryStore, MemoryVolume, seeded_block};
use snapferry_transfer::zero_block;
use snapferry_transfer::{
    Block, BlockListing, BlockSource, BudgetPermit, ByteBudget, HighWater, ListedBlock, Scratch, Sealer,
    TransferError, WorkPool, back_up_volume, copy_blocks, restore_volume, sha256,
};
use snapferry_types::tenancy::TenantKeys;
use snapferry_types::{BLOCK_SIZE, BlockIndex, ZERO_BLOCK_SHA256};
use tokio_util::sync::CancellationToken;

const N_BLOCKS: u32 = 4_096;
const ROUNDS: u32 = 400;

fn noise(seed: u64) -> Bytes {
    let mut data = vec![0; BLOCK_SIZE];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut data);
    Bytes::from(data)
}

fn volume() -> MemoryVolume {
    let volume = MemoryVolume::new(N_BLOCKS, 32);
    for index in 0..N_BLOCKS {
        match index % 10 {
            0 | 1 => {}
            2 | 3 => volume.put(index, zero_block()),
            4 => volume.put(index, seeded_block(1)),
            5..8 => volume.put(index, seeded_block(u64::from(index))),
            _ => volume.put(index, noise(u64::from(index))),
        }
    }
    volume
}

#[allow(clippy::cast_precision_loss, reason = "a rate for people")]
fn report(what: &str, n_bytes: u64, since: Instant) {
    let seconds = since.elapsed().as_secs_f64();
    println!("{what:<44} {:>8.0} MB/s", n_bytes as f64 / 1e6 / seconds);
}

fn stages() -> Result<(), TransferError> {
    let sealer = Sealer::new(&TenantKeys::new([1; 32], [2; 32]));
    let failed = |cause: std::io::Error| {
        TransferError::new(snapferry_transfer::ErrorClass::Internal, cause.to_string())
    };
    let mut scratch = Scratch::new().map_err(failed)?;
    let n_bytes = u64::from(ROUNDS) * BLOCK_SIZE as u64;
    for (what, data) in [("half compressible", seeded_block(9)), ("noise", noise(9))] {
        let start = Instant::now();
        for _ in 0..ROUNDS {
            black_box(sha256(black_box(&data)));
        }
        report(&format!("sha256, {what}"), n_bytes, start);

        let mut compressor = zstd::bulk::Compressor::new(1).map_err(failed)?;
        let mut out = vec![0; BLOCK_SIZE + 4_096];
        let start = Instant::now();
        for _ in 0..ROUNDS {
            black_box(compressor.compress_to_buffer(black_box(&data[..]), &mut out[..]).map_err(failed)?);
        }
        report(&format!("zstd 1, {what}"), n_bytes, start);

        let digest = sha256(&data);
        let id = sealer.chunk_id(&digest);
        let start = Instant::now();
        for _ in 0..ROUNDS {
            black_box(sealer.seal_chunk(id, black_box(&data), &mut scratch)?);
        }
        report(&format!("seal_chunk (zstd, aes-256-gcm), {what}"), n_bytes, start);

        let chunk = sealer.seal_chunk(id, &data, &mut scratch)?;
        let start = Instant::now();
        for _ in 0..ROUNDS {
            black_box(sealer.open_chunk(id, black_box(&chunk.sealed), digest, &mut scratch)?);
        }
        report(&format!("open_chunk (aes, zstd, sha256), {what}"), n_bytes, start);
    }

    use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
    if let Ok(key) = UnboundKey::new(&AES_256_GCM, &[7; 32]).map(LessSafeKey::new) {
        let mut data = noise(9).to_vec();
        let start = Instant::now();
        for _ in 0..ROUNDS {
            let nonce = Nonce::assume_unique_for_key([0; 12]);
            black_box(key.seal_in_place_separate_tag(nonce, Aad::empty(), black_box(&mut data)).is_ok());
        }
        report("aes-256-gcm", n_bytes, start);
    }
    Ok(())
}

async fn pipelines() -> Result<(), TransferError> {
    let sealer = Arc::new(Sealer::new(&TenantKeys::new([1; 32], [2; 32])));
    let (budget, workers) = (ByteBudget::new(96 << 20), WorkPool::of_all_cpus());
    let stop = CancellationToken::new();
    let source = Arc::new(volume());
    let n_bytes = source.blocks().len() as u64 * BLOCK_SIZE as u64;
    let store = Arc::new(MemoryStore::new(N_BLOCKS, Arc::clone(&sealer)));

    let (src, key, mem) = (source.clone(), Arc::clone(&sealer), budget.clone());
    let start = Instant::now();
    let done =
        back_up_volume(src, store.clone(), None, key, mem, &workers, Arc::default(), stop.clone()).await?;
    report("backup, written bytes", n_bytes, start);
    println!("    {done:?}");

    let (src, key, mem) = (source.clone(), Arc::clone(&sealer), budget.clone());
    let next = Arc::new(store.next_session());
    let start = Instant::now();
    back_up_volume(src, next, None, key, mem, &workers, Arc::default(), stop.clone()).await?;
    report("backup, all known already", n_bytes, start);

    let target = Arc::new(MemoryVolume::new(N_BLOCKS, 32));
    let mem = budget.clone();
    let start = Instant::now();
    let mut nobody = |_| {};
    let mark = HighWater::new(0, &mut nobody);
    let done =
        restore_volume(store, target, sealer, mem, &workers, mark, Arc::default(), stop.clone()).await?;
    report("restore, written bytes", n_bytes, start);
    println!("    {done:?}");

    let target = Arc::new(MemoryVolume::new(N_BLOCKS, 32));
    let start = Instant::now();
    copy_blocks(source, target, budget, Arc::default(), stop).await?;
    report("copy (hashed by both twins)", n_bytes, start);
    Ok(())
}

/// A volume of zeroes that takes no memory.
struct Zeroes {
    n_blocks: u32,
    data: Bytes,
}

#[async_trait::async_trait]
impl BlockSource for Zeroes {
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
        Ok(Block { index: block.index, data: self.data.clone(), sha256: ZERO_BLOCK_SHA256, permit })
    }
}

async fn zeroes(n_blocks: u32) -> Result<(), TransferError> {
    let sealer = Arc::new(Sealer::new(&TenantKeys::new([1; 32], [2; 32])));
    let source = Arc::new(Zeroes { n_blocks, data: zero_block() });
    let store = Arc::new(MemoryStore::new(n_blocks, Arc::clone(&sealer)));
    let (budget, workers) = (ByteBudget::new(96 << 20), WorkPool::of_all_cpus());
    let start = Instant::now();
    let stop = CancellationToken::new();
    let done = back_up_volume(source, store, None, sealer, budget, &workers, Arc::default(), stop).await?;
    println!("{:?} in {:.1} s", done, start.elapsed().as_secs_f64());
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    println!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("VmHWM unknown"));
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), TransferError> {
    if let Some(n_blocks) = std::env::args().nth(1).and_then(|n| n.parse().ok()) {
        return zeroes(n_blocks).await;
    }
    stages()?;
    pipelines().await
}
