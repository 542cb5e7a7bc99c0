//! Writing snapshots: what is put is what is there, and completing checks it.

use aws_lc_rs::digest;
use std::sync::Arc;

use awssim::faults::{Behaviour, Effect, Quotas};
use bytes::Bytes;
use futures::StreamExt;
use snapferry_aws::ec2::{self, SnapshotPhase};
use snapferry_aws::{Account, EbsSnapshotSource, EbsSnapshotTarget, NewSnapshot, start_snapshot};
use snapferry_transfer::{Block, BlockSource, BlockTarget, BudgetPermit, ErrorClass, conformance};
use snapferry_types::ledger::{ObjectKind, Purpose};
use snapferry_types::{BLOCK_SIZE, BlockIndex, LedgerId, Sha256Digest, SnapshotId};
use tokio_util::sync::CancellationToken;

use crate::world::{TestWorld, our_tags};

fn sha256(bytes: &[u8]) -> Sha256Digest {
    Sha256Digest::try_from(digest::digest(&digest::SHA256, bytes).as_ref()).unwrap()
}

fn block(index: u32) -> Block {
    let byte = u8::try_from(index % 251).unwrap();
    let data = Bytes::from(vec![byte; BLOCK_SIZE]);
    Block { index: BlockIndex(index), sha256: sha256(&data), data, permit: BudgetPermit::free() }
}

fn aggregate(blocks: &[Block]) -> Sha256Digest {
    let all: Vec<u8> = blocks.iter().flat_map(|block| block.sha256.0).collect();
    sha256(&all)
}

async fn started(account: &Account) -> (SnapshotId, LedgerId) {
    let (entry, tags) = our_tags(Purpose::RestoreStaging);
    let new = NewSnapshot {
        size_gib: 1,
        encrypted: false,
        kms_key_id: None,
        description: "restore".to_owned(),
        tags,
        client_token: entry.to_string(),
    };
    let id = start_snapshot(account, &new).await.unwrap();
    assert_eq!(start_snapshot(account, &new).await.unwrap(), id, "the same token is the same snapshot");
    (id, entry)
}

#[tokio::test]
async fn what_is_written_is_read_back_and_holes_stay() {
    let world = TestWorld::start().await;
    world.quotas(Quotas::off());
    let account = world.tenant().await;
    let (id, entry) = started(&account).await;
    let target = EbsSnapshotTarget::new(&account, &id, 1);
    let internal = Effect::Error {
        status: 500,
        code: "InternalServerException".to_owned(),
        message: None,
        reason: None,
    };
    world.hurt("PutSnapshotBlock", internal, Some(5), 0.3);
    world.hurt("PutSnapshotBlock", Effect::LoseReply, Some(5), 0.3);
    world.hurt("CompleteSnapshot", Effect::LoseReply, Some(1), 1.0);
    let blocks: Vec<Block> = [0, 1, 5, 700, 2_047].into_iter().chain(1_000..1_040).map(block).collect();
    let writes = futures::stream::iter(&blocks).map(|block| target.write(block)).buffer_unordered(16);
    writes.for_each(|written| async { written.unwrap() }).await;
    assert!(world.fired("error") > 0 && world.fired("lose_reply") > 0);
    let mut blocks = blocks;
    blocks.sort_by_key(|block| block.index);
    target.complete(u32::try_from(blocks.len()).unwrap(), aggregate(&blocks)).await.unwrap();

    let found = ec2::find_by_ledger_tag(&account, ObjectKind::Snapshot, entry).await.unwrap();
    assert_eq!(found, [id.to_string()]);
    let stop = CancellationToken::new();
    let states =
        ec2::wait_snapshots_completed(&account, std::slice::from_ref(&id), |_| (), &stop).await.unwrap();
    assert_eq!(states[0].phase, SnapshotPhase::Completed);
    let source = EbsSnapshotSource::open(&account, &id).await.unwrap();
    let mut listing = source.list(0);
    let mut read = Vec::new();
    while let Some(listed) = listing.next().await {
        let block = source.read(&listed.unwrap(), BudgetPermit::free()).await.unwrap();
        read.push((block.index, block.sha256));
    }
    let written: Vec<_> = blocks.iter().map(|block| (block.index, block.sha256)).collect();
    assert_eq!(read, written);
}

#[tokio::test]
async fn a_wrong_aggregate_or_count_is_refused() {
    let world = TestWorld::start().await;
    let account = world.tenant().await;
    let (id, _) = started(&account).await;
    let target = EbsSnapshotTarget::new(&account, &id, 1);
    let blocks = [block(3), block(9)];
    for block in &blocks {
        target.write(block).await.unwrap();
    }
    let error = target.complete(2, sha256(b"something else")).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Invalid, "{error}");
    assert!(error.message.contains(id.as_str()), "{error}");
    target.complete(2, aggregate(&blocks)).await.unwrap();
}

#[tokio::test]
async fn a_snapshot_that_is_not_known_everywhere_yet_is_waited_for() {
    let world = TestWorld::start().await;
    let account = world.tenant().await;
    let behaviour = Behaviour { start_visible_after_millis: 1_500, ..Behaviour::default() };
    world.server.context().faults.set_behaviour(behaviour);
    let (id, _) = started(&account).await;
    let target = EbsSnapshotTarget::new(&account, &id, 1);
    let block = block(3);
    target.write(&block).await.unwrap();
    assert!(target.figures().retries >= 1, "{:?}", target.figures());
    target.complete(1, aggregate(&[block])).await.unwrap();
}

#[tokio::test]
async fn blocks_beyond_the_volume_and_bad_checksums_are_refused() {
    let world = TestWorld::start().await;
    let account = world.tenant().await;
    let (id, _) = started(&account).await;
    let target = EbsSnapshotTarget::new(&account, &id, 1);
    let error = target.write(&block(2_048)).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Invalid);
    let mut wrong = block(3);
    wrong.sha256 = sha256(b"of other bytes");
    let error = target.write(&wrong).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Invalid, "{error}");
}

#[tokio::test]
async fn the_limit_of_pending_snapshots_is_waited_for() {
    let world = TestWorld::start().await;
    world.quotas(Quotas::off());
    let account = world.tenant().await;
    let many = Effect::Error {
        status: 400,
        code: "ConcurrentLimitExceededException".to_owned(),
        message: Some("You have reached the limit of 100 pending snapshots".to_owned()),
        reason: None,
    };
    world.hurt("StartSnapshot", many, Some(3), 1.0);
    started(&account).await;
    assert_eq!(world.fired("error"), 3);
}

#[tokio::test]
async fn source_and_target_keep_the_promises_of_their_seams() {
    let world = TestWorld::start().await;
    let account = world.tenant().await;
    let (id, _) = started(&account).await;
    let target = Arc::new(EbsSnapshotTarget::new(&account, &id, 1));
    conformance::check_block_target(target).await;
    let stop = CancellationToken::new();
    ec2::wait_snapshots_completed(&account, std::slice::from_ref(&id), |_| (), &stop).await.unwrap();
    let written = EbsSnapshotSource::open(&account, &id).await.unwrap();
    let indexes: Vec<u32> = written.list(0).map(|block| block.unwrap().index.0).collect().await;
    assert_eq!(indexes, [3, 5]);
    conformance::check_block_source(Arc::new(written), 4).await;
    let snapshot = world.synthetic("snap-0c", 16, None);
    let source = EbsSnapshotSource::open(&account, &snapshot).await.unwrap();
    conformance::check_block_source(Arc::new(source), 20_000).await;
}
