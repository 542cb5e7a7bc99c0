//! Reading snapshots: complete, right, and in spite of every fault.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use awssim::faults::{Behaviour, Effect, Latency, Quotas, Rule};
use futures::StreamExt;
use snapferry_aws::{Account, AwsError, Clients, EbsSnapshotSource, QuotaSettings};
use snapferry_transfer::{BlockSource, BudgetPermit, ErrorClass, ListedBlock, TransferError, zero_block};
use snapferry_types::block::BLOCKS_PER_GIB;
use snapferry_types::{BLOCK_SIZE, Sha256Digest, ZERO_BLOCK_SHA256};

use crate::world::{EXTERNAL_ID, SOON, TestWorld, purpose};

async fn listing(source: &EbsSnapshotSource, from_block: u32) -> Vec<ListedBlock> {
    source.list(from_block).map(|block| block.unwrap()).collect().await
}

/// Reads blocks with as many in flight as the source wants, and their hashes by index.
async fn read(
    source: &EbsSnapshotSource,
    blocks: &[ListedBlock],
) -> Result<BTreeMap<u32, Sha256Digest>, TransferError> {
    let reads = futures::stream::iter(blocks)
        .map(|block| source.read(block, BudgetPermit::free()))
        .buffer_unordered(source.wanted_reads());
    let mut hashes = BTreeMap::new();
    tokio::pin!(reads);
    while let Some(block) = reads.next().await {
        let block = block?;
        assert_eq!(block.data.len(), BLOCK_SIZE);
        hashes.insert(block.index.0, block.sha256);
    }
    Ok(hashes)
}

/// The hashes as the simulator's store has them.
fn truth(world: &TestWorld, snapshot: &str, blocks: &[ListedBlock]) -> BTreeMap<u32, Sha256Digest> {
    let store = &world.server.context().store;
    let hash = |index| Sha256Digest(store.read_block(snapshot, index).unwrap().unwrap().1);
    blocks.iter().map(|block| (block.index.0, hash(block.index.0))).collect()
}

#[tokio::test]
async fn a_snapshot_is_listed_once_and_read_right() {
    let world = TestWorld::start().await;
    world.quotas(Quotas::off());
    let account = world.tenant().await;
    let id = world.synthetic("snap-0c", 1, None);
    let source = EbsSnapshotSource::open(&account, &id).await.unwrap();
    assert_eq!(source.n_blocks(), BLOCKS_PER_GIB);
    let blocks = listing(&source, 0).await;
    assert!(blocks.windows(2).all(|pair| pair[0].index < pair[1].index));
    assert!((1_000..1_500).contains(&blocks.len()), "{}", blocks.len());
    let some = &blocks[..300];
    assert_eq!(read(&source, some).await.unwrap(), truth(&world, "snap-0c", some));
    assert_eq!(source.figures().blocks, 300);
    assert_eq!(account.calls().calls_of("ListSnapshotBlocks"), 1, "opening and listing are one call");
    assert_eq!(account.calls().calls_of("GetSnapshotBlock"), 300);

    let tail = listing(&source, 1_000).await;
    assert_eq!(
        tail,
        blocks
            .iter()
            .filter(|block| block.index.0 >= 1_000)
            .cloned()
            .map(|mut block| {
                block.token = tail
                    .iter()
                    .find(|other| other.index == block.index)
                    .and_then(|other| other.token.clone());
                block
            })
            .collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn short_and_empty_pages_and_expired_page_tokens_lose_nothing() {
    let world = TestWorld::start().await;
    world.quotas(Quotas::off());
    let account = world.tenant().await;
    let id = world.synthetic("snap-0c", 64, None);
    let whole = listing(&EbsSnapshotSource::open(&account, &id).await.unwrap(), 0).await;
    let indexes: Vec<u32> = whole.iter().map(|block| block.index.0).collect();
    assert!(indexes.len() > 70_000);

    let faults = &world.server.context().faults;
    faults.set_behaviour(Behaviour { short_page: 0.3, empty_page: 0.3, seed: 3, ..Behaviour::default() });
    let before = account.calls().calls_of("ListSnapshotBlocks");
    let again = listing(&EbsSnapshotSource::open(&account, &id).await.unwrap(), 0).await;
    assert_eq!(again.iter().map(|block| block.index.0).collect::<Vec<_>>(), indexes);
    assert!(account.calls().calls_of("ListSnapshotBlocks") - before > 10, "pages really were short");

    faults.set_behaviour(Behaviour { page_token_seconds: 0, ..Behaviour::default() });
    let resumed = listing(&EbsSnapshotSource::open(&account, &id).await.unwrap(), 0).await;
    assert_eq!(resumed.iter().map(|block| block.index.0).collect::<Vec<_>>(), indexes);
}

#[tokio::test]
async fn a_listing_is_counted_or_told_by_nine_calls() {
    let world = TestWorld::start().await;
    world.quotas(Quotas::off());
    let account = world.tenant().await;
    let calls = |of| account.calls().calls_of(of);
    let (small, large) = (world.synthetic("snap-0a", 1, None), world.synthetic("snap-0c", 64, None));
    let source = EbsSnapshotSource::open(&account, &small).await.unwrap();
    let expected = source.expected_blocks().await.unwrap();
    assert_eq!(expected, listing(&source, 0).await.len() as u64, "one page is counted");
    assert_eq!(calls("ListSnapshotBlocks"), 1, "by opening it");

    let source = EbsSnapshotSource::open(&account, &large).await.unwrap();
    let expected = source.expected_blocks().await.unwrap();
    assert_eq!(calls("ListSnapshotBlocks"), 1 + 9);
    let n_listed = listing(&source, 0).await.len() as u64;
    assert!(n_listed > 70_000 && expected.abs_diff(n_listed) < n_listed / 20, "{expected} of {n_listed}");

    // So is a difference; one that has no first page any more asks for it again.
    let next = world.synthetic("snap-0d", 64, Some(("snap-0c", 300.0)));
    let source = EbsSnapshotSource::open_against(&account, &next, &large).await.unwrap();
    let n_listed = listing(&source, 0).await.len() as u64;
    let before = calls("ListChangedBlocks");
    let expected = source.expected_blocks().await.unwrap();
    assert_eq!(calls("ListChangedBlocks") - before, 9);
    assert!(n_listed > 20_000 && expected.abs_diff(n_listed) < n_listed / 10, "{expected} of {n_listed}");
}

#[tokio::test]
async fn an_expired_block_token_is_fetched_anew() {
    let world = TestWorld::start().await;
    world.quotas(Quotas::off());
    let account = world.tenant().await;
    let id = world.synthetic("snap-0c", 1, None);
    let source = EbsSnapshotSource::open(&account, &id).await.unwrap();
    let blocks = listing(&source, 0).await;
    let stale: Vec<ListedBlock> = blocks[..20]
        .iter()
        .map(|block| ListedBlock { index: block.index, token: Some("AAABATUAYf8AJQ".to_owned()) })
        .collect();
    assert_eq!(read(&source, &stale).await.unwrap(), truth(&world, "snap-0c", &stale));
}

#[tokio::test]
async fn only_what_changed_is_listed_against_a_base() {
    let world = TestWorld::start().await;
    world.quotas(Quotas::off());
    let account = world.tenant().await;
    let base = world.synthetic("snap-0c", 8, None);
    let next = world.synthetic("snap-0d", 8, Some(("snap-0c", 10.0)));
    let source = EbsSnapshotSource::open_against(&account, &next, &base).await.unwrap();
    let changed = listing(&source, 0).await;
    assert!((80..300).contains(&changed.len()), "{} of 16,384", changed.len());
    let there: Vec<ListedBlock> = changed.iter().filter(|block| block.token.is_some()).cloned().collect();
    assert_eq!(read(&source, &there).await.unwrap(), truth(&world, "snap-0d", &there));
    let store = &world.server.context().store;
    for gone in changed.iter().filter(|block| block.token.is_none()) {
        assert!(store.read_block("snap-0d", gone.index.0).unwrap().is_none());
    }
    assert_eq!(account.calls().calls_of("ListChangedBlocks"), 1);
    assert_eq!(account.calls().calls_of("ListSnapshotBlocks"), 0);
}

#[tokio::test]
async fn a_foreign_or_missing_base_asks_for_a_full_read() {
    let world = TestWorld::start().await;
    let account = world.tenant().await;
    let one = world.synthetic("snap-0c", 1, None);
    let other = world.synthetic("snap-0d", 1, None);
    let error = EbsSnapshotSource::open_against(&account, &one, &other).await.unwrap_err();
    assert!(matches!(error, AwsError::Unrelated { .. }) && error.needs_full_read(), "{error}");
    let gone = "snap-0123456789abcdef0".parse().unwrap();
    let error = EbsSnapshotSource::open_against(&account, &one, &gone).await.unwrap_err();
    assert_eq!(error, AwsError::BaseGone { base: gone.to_string() });
    let error = EbsSnapshotSource::open(&account, &gone).await.unwrap_err();
    assert!(error.is_not_found() && !error.needs_full_read(), "{error}");
}

#[tokio::test]
async fn errors_truncation_and_flipped_bits_do_not_come_through() {
    let world = TestWorld::start().await;
    world.quotas(Quotas::off());
    let account = world.tenant().await;
    let id = world.synthetic("snap-0c", 1, None);
    let source = EbsSnapshotSource::open(&account, &id).await.unwrap();
    let blocks = listing(&source, 0).await;
    let internal = Effect::Error {
        status: 500,
        code: "InternalServerException".to_owned(),
        message: None,
        reason: None,
    };
    world.hurt("GetSnapshotBlock", internal, None, 0.03);
    world.hurt("GetSnapshotBlock", Effect::TruncateBody { keep_bytes: None }, None, 0.03);
    let some = &blocks[..400];
    // Each of these once: a block that is flipped twice is given up.
    for block in some.iter().step_by(90) {
        let once = Rule::new(Effect::FlipBit).on("ebs", "GetSnapshotBlock").times(1);
        world.server.context().faults.add_rule(Rule { block: Some(block.index.0), ..once });
    }
    assert_eq!(read(&source, some).await.unwrap(), truth(&world, "snap-0c", some));
    for effect in ["error", "truncate_body", "flip_bit"] {
        assert!(world.fired(effect) > 0, "{effect} did not happen");
    }
    let figures = source.figures();
    assert_eq!(figures.mismatches, world.fired("flip_bit"));
    assert!(figures.retries > 10, "{figures:?}");
}

#[tokio::test]
async fn a_block_that_never_matches_is_corrupt_and_read_twice() {
    let world = TestWorld::start().await;
    let account = world.tenant().await;
    let id = world.synthetic("snap-0c", 1, None);
    let source = EbsSnapshotSource::open(&account, &id).await.unwrap();
    let blocks = listing(&source, 0).await;
    world.hurt("GetSnapshotBlock", Effect::WrongChecksum, None, 1.0);
    let error = source.read(&blocks[0], BudgetPermit::free()).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Corrupt);
    assert!(error.message.contains("snap-0c"), "{error}");
    assert_eq!(account.calls().calls_of("GetSnapshotBlock"), 2);
}

#[tokio::test]
async fn a_bit_in_a_block_of_zeroes_is_seen() {
    let world = TestWorld::start().await;
    let account = world.tenant().await;
    let id = world.synthetic("snap-0c", 1, None);
    let source = EbsSnapshotSource::open(&account, &id).await.unwrap();
    let blocks = listing(&source, 0).await;
    let hashes = truth(&world, "snap-0c", &blocks[..50]);
    let zero = blocks.iter().find(|block| hashes[&block.index.0] == ZERO_BLOCK_SHA256).unwrap();
    let whole = source.read(zero, BudgetPermit::free()).await.unwrap();
    assert_eq!(whole.data.as_ptr(), zero_block().as_ptr(), "it has no memory of its own");
    assert_eq!((whole.data, whole.sha256), (zero_block(), ZERO_BLOCK_SHA256));
    world.hurt("GetSnapshotBlock", Effect::FlipBit, Some(1), 1.0);
    assert_eq!(source.read(zero, BudgetPermit::free()).await.unwrap().data, zero_block());
    assert_eq!((world.fired("flip_bit"), source.figures().mismatches), (1, 1));
    world.hurt("GetSnapshotBlock", Effect::FlipBit, Some(2), 1.0);
    let error = source.read(zero, BudgetPermit::free()).await.unwrap_err();
    assert_eq!((error.class, world.fired("flip_bit")), (ErrorClass::Corrupt, 3), "{error}");
    world.hurt("GetSnapshotBlock", Effect::TruncateBody { keep_bytes: None }, Some(1), 1.0);
    assert_eq!(source.read(zero, BudgetPermit::free()).await.unwrap().data, zero_block());
    assert_eq!(world.fired("truncate_body"), 1);
}

#[tokio::test]
async fn a_hung_block_is_cut_off_and_read_again() {
    let world = TestWorld::start().await;
    let account = world.tenant().await;
    let id = world.synthetic("snap-0c", 1, None);
    let source = EbsSnapshotSource::open(&account, &id).await.unwrap();
    let blocks = listing(&source, 0).await;
    world.hurt("GetSnapshotBlock", Effect::Hang { seconds: None }, Some(2), 1.0);
    let some = &blocks[..10];
    let read = tokio::time::timeout(SOON, read(&source, some)).await.unwrap().unwrap();
    assert_eq!(read, truth(&world, "snap-0c", some));
    assert_eq!((world.fired("hang"), source.figures().hung), (2, 2));
}

#[tokio::test]
async fn a_denial_is_permanent_and_asked_for_once() {
    let world = TestWorld::start().await;
    let account = world.tenant().await;
    let id = world.synthetic("snap-0c", 1, None);
    let source = EbsSnapshotSource::open(&account, &id).await.unwrap();
    let blocks = listing(&source, 0).await;
    let denied =
        Effect::Error { status: 403, code: "AccessDeniedException".to_owned(), message: None, reason: None };
    world.hurt("GetSnapshotBlock", denied, None, 1.0);
    for block in &blocks[..50] {
        let error = source.read(block, BudgetPermit::free()).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::AccessDenied);
        assert!(error.message.contains("ebs:GetSnapshotBlock"), "{error}");
    }
    assert_eq!(account.calls().calls_of("GetSnapshotBlock"), 1);
}

#[tokio::test]
async fn credentials_that_expire_in_the_middle_are_renewed() {
    let world = TestWorld::start().await;
    world.quotas(Quotas::off());
    let access = world.tenant_by_roles(Some(EXTERNAL_ID));
    let scope = snapferry_aws::SessionScope::Backup;
    let account = Account::open_with(&world.clients, &access, purpose(scope)).await.unwrap();
    let id = world.synthetic("snap-0c", 1, None);
    let source = EbsSnapshotSource::open(&account, &id).await.unwrap();
    let blocks = listing(&source, 0).await;
    let mut hashes = read(&source, &blocks[..100]).await.unwrap();
    world.server.context().world.expire_sessions();
    hashes.extend(read(&source, &blocks[100..200]).await.unwrap());
    assert_eq!(hashes, truth(&world, "snap-0c", &blocks[..200]));
    assert_eq!(account.calls().calls_of("AssumeRole"), 4);
}

#[tokio::test]
async fn throttles_of_account_and_snapshot_slow_down_and_lose_nothing() {
    let world = TestWorld::start().await;
    world.quotas(Quotas::off());
    let account = world.tenant().await;
    let id = world.synthetic("snap-0c", 1, None);
    let source = EbsSnapshotSource::open(&account, &id).await.unwrap();
    let blocks = listing(&source, 0).await;
    world.hurt("GetSnapshotBlock", Effect::Throttle { snapshot_level: false }, Some(20), 0.5);
    let some = &blocks[..100];
    assert_eq!(read(&source, some).await.unwrap(), truth(&world, "snap-0c", some));
    let governor = world.clients.governor();
    let rate =
        || governor.account_rate(account.account(), account.region(), snapferry_aws::Direction::Get).unwrap();
    assert!(rate() < 960.0, "{}", rate());
    assert_eq!(source.figures().throttles, 20);
    world.hurt("GetSnapshotBlock", Effect::Throttle { snapshot_level: true }, Some(20), 0.5);
    let before = rate();
    let more = &blocks[100..200];
    assert_eq!(read(&source, more).await.unwrap(), truth(&world, "snap-0c", more));
    assert!(rate() >= before, "the account's pace is not the snapshot's");
    assert_eq!(source.figures().throttles, 40);
}

#[tokio::test]
async fn the_simulated_quota_is_kept_at_latency() {
    let world = TestWorld::start().await;
    // A tenth of AWS's quota, so that a debug build on a busy machine is not what limits.
    let quotas = Quotas { get_per_account: 100.0, get_per_snapshot: 100.0, ..Quotas::default() };
    world.quotas(quotas);
    world.server.context().faults.set_latency(vec![Latency::of("ebs", 60.0)]);
    let clients = Clients::new(QuotaSettings { get_per_second: 99.0, ..QuotaSettings::default() });
    let account = Account::open_with(
        &clients,
        &world.tenant_access(),
        purpose(snapferry_aws::SessionScope::Unrestricted),
    )
    .await
    .unwrap();
    let id = world.synthetic("snap-0c", 1, None);
    let source = EbsSnapshotSource::open(&account, &id).await.unwrap();
    let blocks = listing(&source, 0).await;
    let started = Instant::now();
    read(&source, &blocks[..300]).await.unwrap();
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(2_900), "the pace was kept: {took:?}");
    assert!(source.figures().throttles <= 3, "{:?}", source.figures());
}
