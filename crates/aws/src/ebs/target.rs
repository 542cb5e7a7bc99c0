//! A snapshot being written. What is never written stays a hole; a repeated write is harmless; completing checks
//! the number of blocks and the hash of their hashes on AWS's side.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_ebs::types::{ChecksumAggregationMethod, ChecksumAlgorithm, Tag as EbsTag};
use aws_smithy_types::byte_stream::ByteStream;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use snapferry_transfer::{Block, BlockTarget, TransferError};
use snapferry_types::aws::Tag;
use snapferry_types::block::blocks_in_gib;
use snapferry_types::{BLOCK_SIZE, Sha256Digest, SnapshotId};
use tokio::time::Instant;

use crate::ebs::attempts::{Attempts, Outcome, ReadFigures};
use crate::ebs::reason;
use crate::error::{Asked, AwsError};
use crate::quota::{BlockPace, Direction};
use crate::session::Account;

/// AWS may not know a new snapshot for up to two minutes.
const NEWBORN: Duration = Duration::from_secs(120);
/// Minutes without a block after which AWS gives the snapshot up: the longest there is, for restores that pause.
const IDLE_MINUTES: i32 = 4_320;

/// A snapshot to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSnapshot {
    /// Size of the volume.
    pub size_gib: u32,
    /// Whether it is encrypted. Absent parts follow the account's default.
    pub encrypted: bool,
    /// Key of an encrypted snapshot; the account's default when absent.
    pub kms_key_id: Option<String>,
    /// Description in the console.
    pub description: String,
    /// Tags from the start, so that it is found after a lost reply.
    pub tags: Vec<Tag>,
    /// The same token gives the same snapshot again: derive it from the ledger entry.
    pub client_token: String,
}

/// Starts a snapshot, or finds the one that the same token started.
///
/// # Errors
/// [`AwsError`]; `QuotaExceeded` when 100 snapshots are pending.
pub async fn start_snapshot(account: &Account, new: &NewSnapshot) -> Result<SnapshotId, AwsError> {
    let asked = Asked::new("ebs:StartSnapshot", "snapshot", "(new)");
    let pace = account.clients().governor().account(account.account(), account.region(), Direction::Start);
    let tags: Vec<EbsTag> = new
        .tags
        .iter()
        .filter(|tag| tag.is_settable())
        .map(|tag| EbsTag::builder().key(&tag.key).value(&tag.value).build())
        .collect();
    let send = || async {
        let call = account.ebs().start_snapshot().volume_size(i64::from(new.size_gib));
        let call = call.client_token(&new.client_token).description(&new.description);
        let call = call.set_tags((!tags.is_empty()).then(|| tags.clone())).timeout(IDLE_MINUTES);
        let call = call.set_encrypted(new.encrypted.then_some(true));
        let call = call.set_kms_key_arn(new.kms_key_id.clone().filter(|_| new.encrypted));
        call.send().await.map_err(|error| reason::sort(&asked, None, &error))
    };
    let attempt = || async { Outcome::of(account.call(send).await) };
    let reply = Attempts::new().run(account, pace.as_ref(), asked, attempt).await?;
    let id = reply.snapshot_id.ok_or_else(|| asked.lacks("SnapshotId"))?;
    id.parse().map_err(|error| asked.lacks(format!("a SnapshotId of the known shape: {error}")))
}

/// A snapshot that was started and takes blocks.
#[derive(Debug)]
pub struct EbsSnapshotTarget {
    account: Account,
    snapshot: SnapshotId,
    n_blocks: u32,
    pace: BlockPace,
    attempts: Attempts,
    opened: Instant,
}

impl EbsSnapshotTarget {
    /// A target over a started snapshot; no call is made.
    #[must_use]
    pub fn new(account: &Account, snapshot: &SnapshotId, size_gib: u32) -> Self {
        let governor = account.clients().governor();
        Self {
            pace: governor.block_pace(account.account(), account.region(), snapshot, Direction::Put),
            account: account.clone(),
            snapshot: snapshot.clone(),
            n_blocks: blocks_in_gib(size_gib),
            attempts: Attempts::new(),
            opened: Instant::now(),
        }
    }

    /// The snapshot.
    #[must_use]
    pub fn snapshot(&self) -> &SnapshotId {
        &self.snapshot
    }

    /// What writing took so far.
    #[must_use]
    pub fn figures(&self) -> ReadFigures {
        self.attempts.figures()
    }

    /// A snapshot that is not found may only be too young.
    fn outcome<T>(&self, result: Result<T, AwsError>) -> Outcome<T> {
        match result {
            Err(AwsError::NotFound { .. }) if self.opened.elapsed() < NEWBORN => Outcome::NotYet,
            other => Outcome::of(other),
        }
    }

    async fn put(&self, block: &Block) -> Result<(), AwsError> {
        let asked = Asked::new("ebs:PutSnapshotBlock", "snapshot", self.snapshot.as_str());
        let length = BLOCK_SIZE;
        if block.data.len() != length || block.index.0 >= self.n_blocks {
            let message = format!(
                "block {} of {} bytes does not fit {} blocks of {length} bytes",
                block.index,
                block.data.len(),
                self.n_blocks
            );
            return Err(asked.invalid("INVALID_BLOCK", message));
        }
        let index = i32::try_from(block.index.0).map_err(|_| asked.invalid("INVALID_BLOCK", "index"))?;
        let length = i32::try_from(length).map_err(|_| asked.invalid("INVALID_BLOCK", "length"))?;
        let checksum = BASE64.encode(block.sha256.0);
        let send = || async {
            let call = self.account.ebs().put_snapshot_block();
            let call = call.snapshot_id(self.snapshot.as_str()).block_index(index).data_length(length);
            let call =
                call.checksum(&checksum).checksum_algorithm(ChecksumAlgorithm::ChecksumAlgorithmSha256);
            let call = call.block_data(ByteStream::from(block.data.clone()));
            call.send().await.map_err(|error| reason::sort(&asked, None, &error))
        };
        let attempt = || async { self.outcome(self.account.call(send).await) };
        self.attempts.run(&self.account, &self.pace, asked, attempt).await?;
        self.attempts.count_block();
        Ok(())
    }

    async fn finish(&self, n_written: u32, aggregate: Sha256Digest) -> Result<(), AwsError> {
        let asked = Asked::new("ebs:CompleteSnapshot", "snapshot", self.snapshot.as_str());
        let pace = self.account.clients().governor().account(
            self.account.account(),
            self.account.region(),
            Direction::Start,
        );
        let n_written =
            i32::try_from(n_written).map_err(|_| asked.invalid("INVALID_PARAMETER_VALUE", "count"))?;
        let checksum = (n_written > 0).then(|| BASE64.encode(aggregate.0));
        let send = || async {
            let call = self.account.ebs().complete_snapshot();
            let call = call.snapshot_id(self.snapshot.as_str()).changed_blocks_count(n_written);
            let call = match &checksum {
                Some(checksum) => call
                    .checksum(checksum)
                    .checksum_algorithm(ChecksumAlgorithm::ChecksumAlgorithmSha256)
                    .checksum_aggregation_method(ChecksumAggregationMethod::ChecksumAggregationLinear),
                None => call,
            };
            call.send().await.map_err(|error| reason::sort(&asked, None, &error))
        };
        let attempt = || async { self.outcome(self.account.call(send).await) };
        self.attempts.run(&self.account, pace.as_ref(), asked, attempt).await.map(|_| ())
    }
}

#[async_trait]
impl BlockTarget for EbsSnapshotTarget {
    fn n_blocks(&self) -> u32 {
        self.n_blocks
    }

    fn wanted_writes(&self) -> usize {
        self.pace.wanted_in_flight()
    }

    async fn write(&self, block: &Block) -> Result<(), TransferError> {
        self.put(block).await.map_err(TransferError::from)
    }

    async fn complete(&self, n_written: u32, aggregate: Sha256Digest) -> Result<(), TransferError> {
        self.finish(n_written, aggregate).await.map_err(TransferError::from)
    }
}
