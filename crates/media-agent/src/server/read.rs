//! Reading: recovery points, leaf pages, chunks. What belongs to another tenant is answered as if it did not exist.

use futures::stream::BoxStream;
use futures::{StreamExt as _, stream};
use snapferry_library::limits::{MAX_READ_CHUNKS, MAX_READ_LEAVES};
use snapferry_library::{Error, LeafBytes, Library, RecoveryPoint};
use snapferry_types::{ChunkId, RecoveryPointId};
use snapferry_wire::v1;
use tonic::Status;

use super::pool::{Pool, PoolError};
use super::status::{from_pool, from_read};
use super::{MAX_LIST, MAX_READ, Service, request};

/// Chunks read from the library at a time: 16 MiB at most.
const CHUNKS_A_READ: usize = if MAX_READ_CHUNKS < 32 { MAX_READ_CHUNKS } else { 32 };

/// Reads of one call that run at a time, so that the next is ready when one is sent.
const READS_AHEAD: usize = 2;

/// The recovery point, if it is the tenant's.
fn of_tenant(library: &Library, id: RecoveryPointId, tenant: &str) -> Result<RecoveryPoint, Error> {
    let point = library.recovery_point(id)?;
    if point.tenant == tenant { Ok(point) } else { Err(Error::UnknownRecoveryPoint(id)) }
}

impl Service {
    pub(super) async fn on_get_recovery_point(
        &self,
        request: v1::GetRecoveryPointRequest,
    ) -> Result<v1::RecoveryPoint, Status> {
        let id = request::recovery_point(&request.recovery_point_id)?;
        let tenant = request::tenant(request.tenant)?;
        let point = self.pool.quick(move |library| of_tenant(library, id, &tenant)).await;
        point.map(request::shown).map_err(|error| from_pool(&error))
    }

    pub(super) async fn on_list_recovery_points(
        &self,
        request: v1::ListRecoveryPointsRequest,
    ) -> Result<v1::ListRecoveryPointsReply, Status> {
        let after = request::after(&request.after)?;
        let limit = match usize::try_from(request.limit).unwrap_or(MAX_LIST) {
            0 => MAX_LIST,
            asked => asked.min(MAX_LIST),
        };
        let points = self.pool.quick(move |library| library.recovery_points(after, limit)).await;
        let points = points.map_err(|error| from_pool(&error))?;
        let next = match points.last() {
            Some(last) if points.len() >= limit => last.id.to_string(),
            _ => String::new(),
        };
        let recovery_points = points.into_iter().map(request::shown).collect();
        Ok(v1::ListRecoveryPointsReply { recovery_points, next })
    }

    pub(super) async fn on_read_leaves(
        &self,
        request: v1::ReadLeavesRequest,
    ) -> Result<BoxStream<'static, Result<v1::Leaf, Status>>, Status> {
        let id = request::recovery_point(&request.recovery_point_id)?;
        let tenant = request::tenant(request.tenant)?;
        let volume = request.volume.clone();
        let check = move |library: &Library| {
            let point = of_tenant(library, id, &tenant)?;
            point.volume(&volume).map(|_| ()).ok_or(Error::UnknownVolume(volume))
        };
        self.pool.quick(check).await.map_err(|error| from_pool(&error))?;
        let left = match request.max_leaves {
            0 => usize::MAX,
            max => usize::try_from(max).unwrap_or(usize::MAX),
        };
        let start = LeafCursor {
            pool: self.pool.clone(),
            id,
            volume: request.volume,
            next: Some(request.from_leaf),
            left,
        };
        let pages = stream::unfold(start, |mut cursor| async move {
            let leaves = cursor.advance().await?;
            Some((leaves, cursor))
        });
        Ok(pages.flat_map(|page| stream::iter(split(page))).boxed())
    }

    pub(super) async fn on_read_chunks(
        &self,
        request: v1::ReadChunksRequest,
    ) -> Result<BoxStream<'static, Result<v1::Chunk, Status>>, Status> {
        let id = request::recovery_point(&request.recovery_point_id)?;
        let tenant = request::tenant(request.tenant)?;
        let ids = request::chunk_ids(&request.chunk_ids, MAX_READ)?;
        let check = move |library: &Library| of_tenant(library, id, &tenant).map(|_| ());
        self.pool.quick(check).await.map_err(|error| from_pool(&error))?;
        let groups: Vec<Vec<ChunkId>> = ids.chunks(CHUNKS_A_READ).map(<[ChunkId]>::to_vec).collect();
        let service = self.clone();
        let read = move |group: Vec<ChunkId>| {
            let service = service.clone();
            async move { service.read_group(group).await }
        };
        Ok(stream::iter(groups).map(read).buffered(READS_AHEAD).flat_map(stream::iter).boxed())
    }

    /// Every chunk of a group, up to the first that does not read.
    async fn read_group(&self, ids: Vec<ChunkId>) -> Vec<Result<v1::Chunk, Status>> {
        let asked = ids.clone();
        let answers = match self.pool.quick(move |library| library.read_chunks(&asked)).await {
            Ok(answers) => answers,
            Err(error) => return vec![Err(from_pool(&error))],
        };
        let mut chunks = Vec::with_capacity(ids.len());
        let mut bytes = 0_u64;
        for (id, answer) in ids.into_iter().zip(answers) {
            match answer {
                Ok(sealed) => {
                    bytes += sealed.len() as u64;
                    let chunk_id = bytes::Bytes::copy_from_slice(&id.0);
                    chunks.push(Ok(v1::Chunk { chunk_id, sealed: sealed.into() }));
                }
                Err(error) => {
                    chunks.push(Err(from_read(&self.pool, PoolError::Library(error)).await));
                    break;
                }
            }
        }
        self.figures.sent(chunks.len() as u64, bytes);
        chunks
    }
}

/// Where a read of leaves is.
struct LeafCursor {
    pool: Pool,
    id: RecoveryPointId,
    volume: String,
    /// `None` after the last page or an error.
    next: Option<u32>,
    left: usize,
}

impl LeafCursor {
    async fn advance(&mut self) -> Option<Result<Vec<LeafBytes>, Status>> {
        let from = self.next.take()?;
        let max = self.left.min(MAX_READ_LEAVES);
        if max == 0 {
            return None;
        }
        let (id, volume) = (self.id, self.volume.clone());
        match self.pool.quick(move |library| library.read_leaves(id, &volume, from, max)).await {
            Ok(leaves) => {
                self.left = self.left.saturating_sub(leaves.len());
                self.next = leaves.last().and_then(|last| last.leaf_index.checked_add(1));
                (!leaves.is_empty()).then_some(Ok(leaves))
            }
            Err(error) => Some(Err(from_read(&self.pool, error).await)),
        }
    }
}

fn split(page: Result<Vec<LeafBytes>, Status>) -> Vec<Result<v1::Leaf, Status>> {
    match page {
        Ok(leaves) => leaves
            .into_iter()
            .map(|leaf| {
                Ok(v1::Leaf {
                    leaf_index: leaf.leaf_index,
                    page_id: bytes::Bytes::copy_from_slice(&leaf.page.0),
                    page: leaf.bytes.into(),
                })
            })
            .collect(),
        Err(status) => vec![Err(status)],
    }
}
