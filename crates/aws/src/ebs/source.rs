//! A snapshot as a source of blocks. Every block is checked against the SHA-256 that EBS sends with it; one that
//! does not match is read again, and then given up. Nothing here writes.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::digest;
use aws_smithy_types::byte_stream::ByteStream;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::stream::StreamExt;
use snapferry_transfer::{
    Block, BlockBuffer, BlockListing, BlockSource, BudgetPermit, ErrorClass, ListedBlock, TransferError,
    is_zero, zero_block,
};
use snapferry_types::block::blocks_in_gib;
use snapferry_types::{BLOCK_SIZE, Sha256Digest, SnapshotId, ZERO_BLOCK_SHA256};
use tokio::time::Instant;

use crate::ebs::attempts::{Attempts, Outcome, ReadFigures};
use crate::ebs::listing::{Listed, Lister, Page};
use crate::ebs::reason;
use crate::error::{Asked, AwsError};
use crate::quota::{BlockPace, Direction};
use crate::session::Account;

/// The first page is used again only while its page token is certainly good (AWS: 60 minutes).
const FIRST_PAGE_LIFE: Duration = Duration::from_secs(30 * 60);

/// A snapshot, or its difference to a base.
#[derive(Debug)]
pub struct EbsSnapshotSource {
    account: Account,
    snapshot: SnapshotId,
    n_blocks: u32,
    lister: Arc<Lister>,
    first: Mutex<Option<(Instant, Page)>>,
    pace: BlockPace,
    attempts: Attempts,
    permanent: RwLock<Option<AwsError>>,
}

impl EbsSnapshotSource {
    /// Opens a completed snapshot for reading all its written blocks; one listing call.
    ///
    /// # Errors
    /// [`AwsError::NotFound`], [`AwsError::AccessDenied`], …
    pub async fn open(account: &Account, snapshot: &SnapshotId) -> Result<Self, AwsError> {
        Self::open_maybe_against(account, snapshot, None).await
    }

    /// Opens a snapshot for reading what changed since `base`, an older snapshot of the same volume.
    ///
    /// # Errors
    /// [`AwsError::Unrelated`] and [`AwsError::BaseGone`] mean that [`EbsSnapshotSource::open`] has to be used,
    /// see [`AwsError::needs_full_read`].
    pub async fn open_against(
        account: &Account,
        snapshot: &SnapshotId,
        base: &SnapshotId,
    ) -> Result<Self, AwsError> {
        Self::open_maybe_against(account, snapshot, Some(base.clone())).await
    }

    async fn open_maybe_against(
        account: &Account,
        snapshot: &SnapshotId,
        base: Option<SnapshotId>,
    ) -> Result<Self, AwsError> {
        let governor = account.clients().governor();
        let lister = Arc::new(Lister {
            account: account.clone(),
            snapshot: snapshot.clone(),
            base,
            pace: governor.account(account.account(), account.region(), Direction::List),
            attempts: Attempts::new(),
        });
        let first = lister.first_page(0).await?;
        Ok(Self {
            n_blocks: blocks_in_gib(first.volume_gib),
            pace: governor.block_pace(account.account(), account.region(), snapshot, Direction::Get),
            account: account.clone(),
            snapshot: snapshot.clone(),
            lister,
            first: Mutex::new(Some((Instant::now(), first))),
            attempts: Attempts::new(),
            permanent: RwLock::new(None),
        })
    }

    /// The snapshot.
    #[must_use]
    pub fn snapshot(&self) -> &SnapshotId {
        &self.snapshot
    }

    /// About how many blocks are listed. A listing of one page is counted; of a longer one eight parts are looked at, a
    /// call each.
    ///
    /// # Errors
    /// [`AwsError`] of a listing.
    pub async fn expected_blocks(&self) -> Result<u64, AwsError> {
        let listed = match self.first_listed() {
            Some(listed) => listed,
            None => self.lister.first_page(0).await?.listed(),
        };
        self.lister.expected_blocks(listed, self.n_blocks).await
    }

    fn first_listed(&self) -> Option<Listed> {
        let held = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        held.as_ref().map(|(_, page)| page.listed())
    }

    /// What reading took so far.
    #[must_use]
    pub fn figures(&self) -> ReadFigures {
        self.attempts.figures()
    }

    async fn read_checked(&self, block: &ListedBlock) -> Result<(Bytes, Sha256Digest), AwsError> {
        if let Some(error) = self.permanent.read().unwrap_or_else(PoisonError::into_inner).clone() {
            return Err(error);
        }
        let asked = Asked::new("ebs:GetSnapshotBlock", "snapshot", self.snapshot.as_str());
        let mut token = block.token.clone().ok_or_else(|| {
            asked.invalid("INVALID_BLOCK_TOKEN", format!("block {} is not in the snapshot", block.index))
        })?;
        let (mut n_mismatches, mut n_relisted) = (0, 0);
        loop {
            let attempt = || async { self.try_once(&asked, block, &token, n_mismatches > 0).await };
            match self.attempts.run(&self.account, &self.pace, asked, attempt).await {
                Ok(read) => {
                    self.attempts.count_block();
                    return Ok(read);
                }
                Err(AwsError::Corrupt { .. }) if n_mismatches == 0 => {
                    n_mismatches += 1;
                    self.attempts.count_mismatch();
                    self.account.calls().count_retry();
                }
                Err(AwsError::TokenExpired { .. }) if n_relisted < 2 => {
                    n_relisted += 1;
                    token = self.lister.token_of(block.index).await?;
                }
                Err(error) => {
                    self.remember_permanent(&error);
                    return Err(error);
                }
            }
        }
    }

    /// A denial or a missing snapshot holds for every block: the others need not ask.
    fn remember_permanent(&self, error: &AwsError) {
        if matches!(error, AwsError::NotFound { .. } | AwsError::AccessDenied { .. }) {
            *self.permanent.write().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
        }
    }

    async fn try_once(
        &self,
        asked: &Asked<'_>,
        block: &ListedBlock,
        token: &str,
        is_second_look: bool,
    ) -> Outcome<(Bytes, Sha256Digest)> {
        let index = match i32::try_from(block.index.0) {
            Ok(index) => index,
            Err(_) => return Outcome::Permanent(asked.invalid("INVALID_BLOCK", block.index.to_string())),
        };
        let send = || async {
            let call = self.account.ebs().get_snapshot_block();
            let call = call.snapshot_id(self.snapshot.as_str()).block_index(index).block_token(token);
            call.send().await.map_err(|error| reason::sort(asked, None, &error))
        };
        let reply = match self.account.call(send).await {
            Ok(reply) => reply,
            Err(error @ AwsError::TokenExpired { .. }) => return Outcome::Permanent(error),
            Err(error) => return Outcome::of(Err(error)),
        };
        let named = match checksum_of(asked, reply.checksum.as_deref()) {
            Ok(named) => named,
            Err(error) => return Outcome::Permanent(error),
        };
        let read = if named == ZERO_BLOCK_SHA256 {
            collect_zeroes(reply.block_data).await
        } else {
            collect(reply.block_data).await
        };
        let detail = match read {
            Ok(Read::Bytes(data, found)) if found == named => return Outcome::Done((data, found)),
            Ok(Read::Bytes(_, found)) => format!("its bytes hash to {found}, EBS named {named}"),
            Ok(Read::NotZero) => {
                "it has bytes that are not zero, EBS named the checksum of zeroes".to_owned()
            }
            Err(cause) => return Outcome::Again(asked.unavailable(cause)),
        };
        if is_second_look {
            tracing::warn!(snapshot = %self.snapshot, block = block.index.0, %detail, "a block does not match again");
        }
        Outcome::Permanent(AwsError::Corrupt {
            snapshot: self.snapshot.to_string(),
            index: block.index.0,
            detail,
        })
    }
}

#[async_trait]
impl BlockSource for EbsSnapshotSource {
    fn n_blocks(&self) -> u32 {
        self.n_blocks
    }

    fn wanted_reads(&self) -> usize {
        self.pace.wanted_in_flight()
    }

    fn list(&self, from_block: u32) -> BlockListing {
        if from_block >= self.n_blocks {
            return futures::stream::empty().boxed();
        }
        let held = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let first =
            held.filter(|(at, _)| from_block == 0 && at.elapsed() < FIRST_PAGE_LIFE).map(|(_, page)| page);
        let blocks = Arc::clone(&self.lister).blocks(from_block, first);
        blocks.map(|block| block.map_err(TransferError::from)).boxed()
    }

    async fn read(&self, block: &ListedBlock, permit: BudgetPermit) -> Result<Block, TransferError> {
        if block.index.0 >= self.n_blocks {
            let message =
                format!("snapshot {} has {} blocks, no block {}", self.snapshot, self.n_blocks, block.index);
            return Err(TransferError::new(ErrorClass::Invalid, message));
        }
        let (data, sha256) = self.read_checked(block).await?;
        Ok(Block { index: block.index, data, sha256, permit })
    }
}

fn checksum_of(asked: &Asked<'_>, text: Option<&str>) -> Result<Sha256Digest, AwsError> {
    let text = text.ok_or_else(|| asked.lacks("the header x-amz-Checksum"))?;
    let bytes = BASE64.decode(text).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    bytes.map(Sha256Digest).ok_or_else(|| asked.lacks("an x-amz-Checksum that is 32 bytes in base64"))
}

/// What came as a block's body.
enum Read {
    /// Its bytes and their hash.
    Bytes(Bytes, Sha256Digest),
    /// Other bytes than zeroes, though EBS named the checksum of those.
    NotZero,
}

/// The body in one piece, and its hash, computed piece by piece while it is in the cache. It lies in a buffer that
/// is used again: half a MiB from the allocator is faulted in and zeroed anew each time.
async fn collect(mut body: ByteStream) -> Result<Read, String> {
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut buffer = BlockBuffer::take(BLOCK_SIZE);
    let mut filled = 0;
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|error| format!("the body broke off: {error}"))?;
        let end = filled + piece.len();
        let Some(room) = buffer.as_mut_slice().get_mut(filled..end) else {
            return Err(format!("the body is longer than {BLOCK_SIZE} bytes"));
        };
        room.copy_from_slice(&piece);
        hash.update(&piece);
        filled = end;
    }
    if filled != BLOCK_SIZE {
        return Err(format!("the body ended after {filled} of {BLOCK_SIZE} bytes"));
    }
    let found = Sha256Digest::try_from(hash.finish().as_ref()).map_err(|error| error.to_string())?;
    Ok(Read::Bytes(buffer.freeze(), found))
}

/// A body that shall be zeroes needs neither memory of its own nor a hash.
async fn collect_zeroes(mut body: ByteStream) -> Result<Read, String> {
    let (mut filled, mut all_zero) = (0, true);
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|error| format!("the body broke off: {error}"))?;
        filled += piece.len();
        if filled > BLOCK_SIZE {
            return Err(format!("the body is longer than {BLOCK_SIZE} bytes"));
        }
        all_zero = all_zero && is_zero(&piece);
    }
    if filled != BLOCK_SIZE {
        return Err(format!("the body ended after {filled} of {BLOCK_SIZE} bytes"));
    }
    Ok(if all_zero { Read::Bytes(zero_block(), ZERO_BLOCK_SHA256) } else { Read::NotZero })
}
