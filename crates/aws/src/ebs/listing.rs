//! Pages of a listing: of all written blocks, or of the blocks that changed since a base. The next page is fetched
//! while this one is used; an expired page token resumes by block index, so a listing may take as long as the
//! reading does. One page and its follower are in memory, never more.

use std::ops::Range;
use std::sync::Arc;

use futures::future::try_join_all;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use snapferry_transfer::ListedBlock;
use snapferry_types::{BlockIndex, SnapshotId};
use tokio_util::task::AbortOnDropHandle;

use crate::ebs::attempts::{Attempts, Outcome};
use crate::ebs::reason;
use crate::error::{Asked, AwsError};
use crate::quota::AccountPace;
use crate::session::Account;

/// The most that AWS gives in a page.
const PAGE_BLOCKS: i32 = 10_000;
/// The fewest that AWS takes; enough to find one block.
const FIND_BLOCKS: i32 = 100;
/// Parts of a volume that are looked at to tell how many blocks are listed.
const N_SAMPLES: u32 = 8;
/// Blocks that are looked at in each.
const SAMPLE_BLOCKS: i32 = 1_000;
/// Empty pages in a row that are believed.
const MAX_EMPTY_PAGES: u32 = 10_000;

/// What lists the blocks of a snapshot.
#[derive(Debug)]
pub(super) struct Lister {
    pub(super) account: Account,
    pub(super) snapshot: SnapshotId,
    pub(super) base: Option<SnapshotId>,
    pub(super) pace: Arc<AccountPace>,
    pub(super) attempts: Attempts,
}

/// A page as it came.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) blocks: Vec<ListedBlock>,
    pub(super) next_token: Option<String>,
    pub(super) volume_gib: u32,
}

/// How far a page that begins at the first block goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listed {
    /// Blocks in it.
    n_blocks: u64,
    /// The block after its last.
    end: u32,
    /// Whether there are others.
    has_more: bool,
}

impl Page {
    /// What it says as the first page.
    pub(super) fn listed(&self) -> Listed {
        Listed {
            n_blocks: self.blocks.len() as u64,
            end: self.blocks.last().map_or(0, |block| block.index.0.saturating_add(1)),
            has_more: self.next_token.is_some(),
        }
    }

    /// About how many blocks are listed in a part of the volume at whose start the page begins: those in it, or, where it
    /// ends before the part does, as many as go on as dense as they are.
    fn stands_for(&self, part: Range<u32>) -> u64 {
        let n_within = self.blocks.iter().filter(|block| part.contains(&block.index.0)).count();
        let seen_to = self.blocks.last().map_or(part.start, |block| block.index.0.saturating_add(1));
        let goes_on = self.next_token.is_some() && seen_to < part.end;
        let n_within = n_within as u64;
        if !goes_on || seen_to <= part.start {
            return n_within;
        }
        n_within * u64::from(part.end - part.start) / u64::from(seen_to - part.start)
    }
}

/// Where a page begins.
#[derive(Debug, Clone)]
enum From {
    Block(u32),
    Token { token: String, or_block: u32 },
}

struct Walk {
    lister: Arc<Lister>,
    next: Option<AbortOnDropHandle<Result<Page, AwsError>>>,
    from_block: u32,
    n_empty: u32,
}

impl Lister {
    /// The first page at or after a block.
    pub(super) async fn first_page(&self, from_block: u32) -> Result<Page, AwsError> {
        self.page(&From::Block(from_block)).await
    }

    /// About how many blocks of `n_blocks` are listed; `first` is what the first page says. Where that is not all, a page
    /// is looked at in each of [`N_SAMPLES`] equal parts of the rest.
    pub(super) async fn expected_blocks(&self, first: Listed, n_blocks: u32) -> Result<u64, AwsError> {
        if !first.has_more {
            return Ok(first.n_blocks);
        }
        let rest = n_blocks.saturating_sub(first.end);
        let width = rest.div_ceil(N_SAMPLES).max(1);
        let starts = (0..N_SAMPLES).map(|part| first.end.saturating_add(part.saturating_mul(width)));
        let parts = starts.filter(|start| *start < n_blocks).map(|start| async move {
            let page = self.page_of(&From::Block(start), SAMPLE_BLOCKS).await?;
            Ok::<u64, AwsError>(page.stands_for(start..start.saturating_add(width).min(n_blocks)))
        });
        let parts = try_join_all(parts).await?;
        Ok(first.n_blocks + parts.iter().sum::<u64>())
    }

    /// All listed blocks at or after `from_block`, ascending; `first` is a page that was fetched from there.
    pub(super) fn blocks(
        self: Arc<Self>,
        from_block: u32,
        first: Option<Page>,
    ) -> BoxStream<'static, Result<ListedBlock, AwsError>> {
        let next = match first {
            Some(page) => AbortOnDropHandle::new(tokio::spawn(async move { Ok(page) })),
            None => Arc::clone(&self).fetch(From::Block(from_block)),
        };
        let walk = Walk { lister: self, next: Some(next), from_block, n_empty: 0 };
        stream::try_unfold(walk, Walk::step)
            .map_ok(|blocks| stream::iter(blocks.into_iter().map(Ok)))
            .try_flatten()
            .boxed()
    }

    /// A new token for one block, after its old one expired.
    pub(super) async fn token_of(&self, index: BlockIndex) -> Result<String, AwsError> {
        let page = self.page_of(&From::Block(index.0), FIND_BLOCKS).await?;
        let found = page.blocks.into_iter().find(|block| block.index == index);
        found.and_then(|block| block.token).ok_or_else(|| {
            Asked::new("ebs:ListSnapshotBlocks", "snapshot", self.snapshot.as_str())
                .lacks(format!("block {index}, which it listed before"))
        })
    }

    fn fetch(self: Arc<Self>, from: From) -> AbortOnDropHandle<Result<Page, AwsError>> {
        AbortOnDropHandle::new(tokio::spawn(async move { self.page(&from).await }))
    }

    async fn page(&self, from: &From) -> Result<Page, AwsError> {
        match (self.page_of(from, PAGE_BLOCKS).await, from) {
            (Err(AwsError::TokenExpired { .. }), From::Token { or_block, .. }) => {
                self.page_of(&From::Block(*or_block), PAGE_BLOCKS).await
            }
            (result, _) => result,
        }
    }

    async fn page_of(&self, from: &From, max: i32) -> Result<Page, AwsError> {
        match &self.base {
            None => self.all_page(from, max).await,
            Some(base) => match self.changed_page(base, from, max).await {
                // AWS does not say which of the two is missing; the one that can still be listed is not.
                Err(AwsError::NotFound { .. }) => {
                    self.all_page(&From::Block(0), FIND_BLOCKS).await?;
                    Err(AwsError::BaseGone { base: base.to_string() })
                }
                other => other,
            },
        }
    }

    async fn all_page(&self, from: &From, max: i32) -> Result<Page, AwsError> {
        let asked = Asked::new("ebs:ListSnapshotBlocks", "snapshot", self.snapshot.as_str());
        let send = || async {
            let call = self.account.ebs().list_snapshot_blocks().snapshot_id(self.snapshot.as_str());
            let (token, block) = from.parts(&asked)?;
            let call = call.set_next_token(token).set_starting_block_index(block).max_results(max);
            call.send().await.map_err(|error| reason::sort(&asked, None, &error))
        };
        let attempt = || async { Outcome::of(self.account.call(send).await) };
        let reply = self.attempts.run(&self.account, self.pace.as_ref(), asked, attempt).await?;
        let blocks = reply.blocks.unwrap_or_default().into_iter();
        Ok(Page {
            blocks: blocks
                .map(|block| listed(&asked, block.block_index, block.block_token))
                .collect::<Result<_, _>>()?,
            next_token: reply.next_token.filter(|token| !token.is_empty()),
            volume_gib: gib_of(&asked, reply.volume_size)?,
        })
    }

    async fn changed_page(&self, base: &SnapshotId, from: &From, max: i32) -> Result<Page, AwsError> {
        let asked = Asked::new("ebs:ListChangedBlocks", "snapshot", self.snapshot.as_str());
        let send = || async {
            let call = self.account.ebs().list_changed_blocks();
            let call = call.first_snapshot_id(base.as_str()).second_snapshot_id(self.snapshot.as_str());
            let (token, block) = from.parts(&asked)?;
            let call = call.set_next_token(token).set_starting_block_index(block).max_results(max);
            call.send().await.map_err(|error| reason::sort(&asked, Some(base.as_str()), &error))
        };
        let attempt = || async { Outcome::of(self.account.call(send).await) };
        let reply = self.attempts.run(&self.account, self.pace.as_ref(), asked, attempt).await?;
        let blocks = reply.changed_blocks.unwrap_or_default().into_iter();
        Ok(Page {
            blocks: blocks
                .map(|block| listed(&asked, block.block_index, block.second_block_token))
                .collect::<Result<_, _>>()?,
            next_token: reply.next_token.filter(|token| !token.is_empty()),
            volume_gib: gib_of(&asked, reply.volume_size)?,
        })
    }
}

impl From {
    fn parts(&self, asked: &Asked<'_>) -> Result<(Option<String>, Option<i32>), AwsError> {
        match self {
            Self::Token { token, .. } => Ok((Some(token.clone()), None)),
            Self::Block(0) => Ok((None, None)),
            Self::Block(index) => {
                let index = i32::try_from(*index)
                    .map_err(|_| asked.invalid("INVALID_BLOCK", format!("no block has the index {index}")))?;
                Ok((None, Some(index)))
            }
        }
    }
}

impl Walk {
    async fn step(mut self) -> Result<Option<(Vec<ListedBlock>, Self)>, AwsError> {
        let Some(handle) = self.next.take() else {
            return Ok(None);
        };
        let page = handle.await.map_err(|error| {
            Asked::new("ebs:ListSnapshotBlocks", "snapshot", self.lister.snapshot.as_str())
                .unavailable(format!("the listing's own task ended: {error}"))
        })??;
        // Indexes ascend without repeats; whatever comes again after a resume is left out.
        let mut blocks = page.blocks;
        let mut from_block = self.from_block;
        blocks.retain(|block| {
            let is_new = block.index.0 >= from_block;
            if is_new {
                from_block = block.index.0.saturating_add(1);
            }
            is_new
        });
        self.from_block = from_block;
        self.n_empty = if blocks.is_empty() { self.n_empty + 1 } else { 0 };
        if let Some(token) = page.next_token {
            if self.n_empty > MAX_EMPTY_PAGES {
                return Err(Asked::new("ebs:ListSnapshotBlocks", "snapshot", self.lister.snapshot.as_str())
                    .lacks(format!("an end after {MAX_EMPTY_PAGES} empty pages")));
            }
            self.next = Some(Arc::clone(&self.lister).fetch(From::Token { token, or_block: from_block }));
        }
        Ok(Some((blocks, self)))
    }
}

fn listed(asked: &Asked<'_>, index: Option<i32>, token: Option<String>) -> Result<ListedBlock, AwsError> {
    let index = index.and_then(|index| u32::try_from(index).ok());
    let index = index.ok_or_else(|| asked.lacks("a block's index"))?;
    Ok(ListedBlock { index: BlockIndex(index), token })
}

fn gib_of(asked: &Asked<'_>, size: Option<i64>) -> Result<u32, AwsError> {
    size.and_then(|gib| u32::try_from(gib).ok())
        .filter(|gib| (1..=65_536).contains(gib))
        .ok_or_else(|| asked.lacks("a VolumeSize from 1 to 65,536 GiB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(blocks: impl IntoIterator<Item = u32>, has_more: bool) -> Page {
        let blocks = blocks.into_iter().map(|index| ListedBlock { index: BlockIndex(index), token: None });
        Page { blocks: blocks.collect(), next_token: has_more.then(|| "next".to_owned()), volume_gib: 1 }
    }

    #[test]
    fn a_page_stands_for_the_part_of_the_volume_in_which_it_begins() {
        // It reaches beyond the part, or there is nothing behind it: its blocks are counted.
        assert_eq!(page([100, 150, 250], true).stands_for(100..200), 2);
        assert_eq!(page([100, 110], false).stands_for(100..200), 2);
        assert_eq!(page([250], true).stands_for(100..200), 0);
        // One block in two up to 119: the other 80 blocks of the part have 40.
        assert_eq!(page((101..120).step_by(2), true).stands_for(100..200), 50);
        // Nothing was found out.
        assert_eq!(page([], true).stands_for(100..200), 0);
    }
}
