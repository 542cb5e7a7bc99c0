//! What every implementation of a seam must do, as suites that its tests call. They panic with the promise that
//! is broken.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use snapferry_types::{BLOCK_SIZE, BlockIndex, ChunkId, LEAF_BLOCKS};

use crate::block::{Block, BlockState, Leaf};
use crate::budget::{BudgetPermit, ByteBudget};
use crate::open::sha256;
use crate::scratch::Scratch;
use crate::seal::Sealer;
use crate::sink::{BlockTarget, ChunkSink, SealedChunk};
use crate::source::{BlockSource, ChunkSource};
use crate::twin::seeded_block;
use crate::zero::zero_block;

/// A source with at least one block that can be read. `from_block` splits its listing somewhere inside.
///
/// # Panics
/// A promise is broken.
pub async fn check_block_source(source: Arc<dyn BlockSource>, from_block: u32) {
    let listed: Vec<_> = source.list(0).try_collect().await.expect("the listing succeeds");
    assert!(!listed.is_empty(), "the volume has blocks");
    assert!(listed.is_sorted_by(|a, b| a.index < b.index), "the listing ascends without repeats");
    assert!(listed.iter().all(|l| l.index.0 < source.n_blocks()), "no block lies past the volume");
    let tail: Vec<_> = source.list(from_block).try_collect().await.expect("the tail's listing succeeds");
    let indexes = |all: &[crate::block::ListedBlock]| all.iter().map(|l| l.index).collect::<Vec<_>>();
    let expected: Vec<_> = listed.iter().filter(|l| l.index.0 >= from_block).cloned().collect();
    assert_eq!(indexes(&tail), indexes(&expected), "a listing from a block is the whole one's tail");
    let past = source.list(source.n_blocks()).count().await;
    assert_eq!(past, 0, "a listing past the end is empty");
    assert!(source.wanted_reads() > 0, "a source wants at least one read");

    let budget = ByteBudget::new(64 * BLOCK_SIZE as u64);
    let readable: Vec<_> = listed.iter().filter(|l| l.token.is_some()).take(8).collect();
    let reads = readable.iter().map(|listed| async {
        let permit = budget.take(BLOCK_SIZE as u64).await;
        source.read(listed, permit).await.expect("a listed block is read")
    });
    let blocks = futures::future::join_all(reads).await;
    assert_eq!(
        budget.available(),
        budget.total() - blocks.len() as u64 * BLOCK_SIZE as u64,
        "the permit travels with the block"
    );
    for (block, listed) in blocks.iter().zip(&readable) {
        assert_eq!(block.index, listed.index, "the block is the one that was asked for");
        assert_eq!(block.data.len(), BLOCK_SIZE, "a block is whole");
        assert_eq!(block.sha256, sha256(&block.data), "the digest is that of the bytes");
    }
    drop(blocks);
    assert_eq!(budget.available(), budget.total(), "a dropped block gives its memory back");
}

/// A fresh target of at least 16 blocks. Its content is to be compared by the caller: data in block 3, zeroes in
/// block 5, both written twice; and where it needs holes, zeroes in blocks 8 to 15.
///
/// # Panics
/// A promise is broken.
pub async fn check_block_target(target: Arc<dyn BlockTarget>) {
    assert!(target.n_blocks() >= 16, "the suite needs 16 blocks");
    assert!(target.wanted_writes() > 0, "a target wants at least one write");
    let block = |index, data: Bytes| Block {
        index: BlockIndex(index),
        sha256: sha256(&data),
        data,
        permit: BudgetPermit::free(),
    };
    let (data, zero) = (block(3, seeded_block(3)), block(5, zero_block()));
    for _ in 0..2 {
        let (a, b) = tokio::join!(target.write(&zero), target.write(&data));
        a.expect("a zero block is written, also twice");
        b.expect("a block is written, also twice");
    }
    let past = block(target.n_blocks(), seeded_block(1));
    assert!(target.write(&past).await.is_err(), "a block past the end is refused");
    let needs = target.needs();
    assert_eq!(needs, target.needs(), "what a target needs does not change");
    if needs.holes {
        for _ in 0..2 {
            target.write_hole_range(BlockIndex(8), 8).await.expect("holes are written, also twice");
        }
        let last = BlockIndex(target.n_blocks() - 1);
        assert!(target.write_hole_range(last, 2).await.is_err(), "holes past the end are refused");
    }
    if needs.persist {
        target.persist().await.expect("what was written is made to last");
    }
    let digests = [data.sha256.0, zero.sha256.0].concat();
    target.complete(2, sha256(&digests)).await.expect("the target completes");
}

/// A fresh session of a volume of at least 3 leaves, and what reads the volume once `seal` (called after the
/// flush) has made it readable; `sealer` has the tenant's keys.
///
/// # Panics
/// A promise is broken.
pub async fn check_chunk_store<F>(sink: Arc<dyn ChunkSink>, sealer: Arc<Sealer>, seal: F)
where
    F: AsyncFnOnce() -> Arc<dyn ChunkSource>,
{
    assert_eq!(sink.durable_leaves().await.expect("the durable leaves"), Vec::<u32>::new());
    let mut scratch = Scratch::new().expect("zstd's memory");
    let blocks: Vec<Bytes> = (100..105).map(seeded_block).collect();
    let mut chunks = BTreeMap::new();
    let mut leaves = [Leaf::empty(0), Leaf::empty(2)];
    for (n, data) in blocks.iter().enumerate() {
        let digest = sha256(data);
        let id = sealer.chunk_id(&digest);
        chunks.insert(id, sealer.seal_chunk(id, data, &mut scratch).expect("a chunk is sealed"));
        if let Some(entry) = leaves.get_mut(n % 2).and_then(|leaf| leaf.entries.get_mut(n * 7)) {
            *entry = BlockState::Data(digest);
        }
    }
    if let Some(entry) = leaves.get_mut(1).and_then(|leaf| leaf.entries.get_mut(LEAF_BLOCKS as usize - 1)) {
        *entry = BlockState::Zero;
    }
    let ids: Vec<ChunkId> = chunks.keys().copied().collect();
    assert_eq!(
        sink.missing(&ids).await.expect("the question"),
        vec![true; ids.len()],
        "all is missing at first"
    );
    assert_eq!(sink.missing(&[]).await.expect("the empty question"), Vec::<bool>::new());
    assert!(sink.put_leaf(&leaves[0]).await.is_err(), "a leaf without its chunks is refused");
    let handed: Vec<SealedChunk> = chunks.values().cloned().collect();
    sink.put_chunks(handed.clone()).await.expect("chunks are taken");
    sink.put_chunks(handed).await.expect("chunks are taken twice");
    assert_eq!(
        sink.missing(&ids).await.expect("the question"),
        vec![false; ids.len()],
        "nothing is missing now"
    );
    for leaf in leaves.iter().chain(&leaves) {
        sink.put_leaf(leaf).await.expect("a leaf is taken, also twice");
    }
    sink.flush().await.expect("a flush");
    assert_eq!(
        sink.durable_leaves().await.expect("the durable leaves"),
        vec![0, 2],
        "flushed leaves are durable"
    );

    let source = seal().await;
    let read: Vec<Leaf> = Arc::clone(&source).leaves(0).try_collect().await.expect("the leaves");
    assert_eq!(read, leaves, "leaves come back, ascending, holes left out");
    let tail: Vec<Leaf> = Arc::clone(&source).leaves(1).try_collect().await.expect("the leaves");
    assert_eq!(tail.as_slice(), leaves.get(1..).unwrap_or_default(), "leaves come from the one asked for");
    let mut found: Vec<SealedChunk> =
        Arc::clone(&source).chunks(ids).try_collect().await.expect("the chunks");
    found.sort_unstable_by_key(|chunk| chunk.id);
    assert_eq!(found.len(), chunks.len(), "each chunk comes once");
    for (chunk, data) in found.iter().map(|chunk| (chunk, &blocks)) {
        let opened = data.iter().any(|plain| {
            let digest = sha256(plain);
            sealer.chunk_id(&digest) == chunk.id
                && sealer
                    .open_chunk(chunk.id, &chunk.sealed, digest, &mut scratch)
                    .is_ok_and(|out| out == plain)
        });
        assert!(opened, "chunk {} opens to its block", chunk.id);
    }
    let absent: Result<Vec<SealedChunk>, _> = source.chunks(vec![ChunkId([9; 32])]).try_collect().await;
    assert!(absent.is_err() || absent.is_ok_and(|found| found.is_empty()), "an absent chunk does not come");
}

#[cfg(test)]
mod tests {
    use snapferry_types::tenancy::TenantKeys;

    use super::*;
    use crate::twin::{MemoryStore, MemoryVolume};

    #[tokio::test]
    async fn the_twins_keep_the_promises() {
        let volume = Arc::new(MemoryVolume::new(64, 4));
        check_block_target(volume.clone()).await;
        volume.put(60, seeded_block(60));
        check_block_source(volume, 4).await;
        let sealer = Arc::new(Sealer::new(&TenantKeys::new([1; 32], [2; 32])));
        let store = Arc::new(MemoryStore::new(3_072, Arc::clone(&sealer)));
        check_chunk_store(store.clone(), sealer, async || store as Arc<dyn ChunkSource>).await;
    }
}
