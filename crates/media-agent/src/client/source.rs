//! The reading side of the data plane's seams. A stream that breaks is opened again where it broke.

use std::collections::HashSet;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::{BoxStream, try_unfold};
use snapferry_transfer::{ChunkSource, ErrorClass, Leaf, SealedChunk, Sealer, TransferError};
use snapferry_types::{ChunkId, RecoveryPointId};
use snapferry_wire::convert::array32;
use snapferry_wire::v1;
use snapferry_wire::v1::media_client::MediaClient as Stub;
use tonic::Streaming;
use tonic::transport::Channel;

use super::MediaClient;
use super::call::{SHORT, Tries};
use super::error::{broken_answer, is_lost};
use super::page;
use super::sink::concatenated;
use crate::server::MAX_READ;

/// A stored volume.
#[derive(Debug, Clone)]
pub struct VolumeSource {
    client: MediaClient,
    id: RecoveryPointId,
    tenant: String,
    volume: String,
    n_blocks: u32,
    sealer: Arc<Sealer>,
}

impl VolumeSource {
    pub(super) fn new(
        client: MediaClient,
        id: RecoveryPointId,
        tenant: &str,
        volume: &str,
        n_blocks: u32,
        sealer: Arc<Sealer>,
    ) -> Self {
        Self { client, id, tenant: tenant.to_owned(), volume: volume.to_owned(), n_blocks, sealer }
    }
}

/// One message, or what became of the stream.
enum Next<T> {
    Message(T),
    End,
    Lost(TransferError),
}

async fn next<T>(
    client: &MediaClient,
    doing: &str,
    stream: &mut Streaming<T>,
) -> Result<Next<T>, TransferError> {
    match tokio::time::timeout(SHORT, stream.message()).await {
        Ok(Ok(Some(message))) => Ok(Next::Message(message)),
        Ok(Ok(None)) => Ok(Next::End),
        Ok(Err(status)) if is_lost(&status) => Ok(Next::Lost(client.error(doing, &status))),
        Ok(Err(status)) => Err(client.error(doing, &status)),
        Err(_) => Ok(Next::Lost(client.overdue(doing, SHORT))),
    }
}

impl MediaClient {
    /// Opens a stream of leaves; `max_leaves` 0 is to the end.
    pub(super) async fn open_leaves(
        &self,
        doing: &str,
        (id, tenant, volume): (RecoveryPointId, &str, &str),
        from_leaf: u32,
        max_leaves: u32,
    ) -> Result<Streaming<v1::Leaf>, TransferError> {
        let request = v1::ReadLeavesRequest {
            recovery_point_id: id.to_string(),
            tenant: tenant.to_owned(),
            volume: volume.to_owned(),
            from_leaf,
            max_leaves,
        };
        let read = |mut stub: Stub<Channel>, request| async move { stub.read_leaves(request).await };
        self.call(doing, SHORT, request, read).await
    }
}

/// A stream of leaves under way.
struct LeafStream {
    source: Arc<VolumeSource>,
    doing: String,
    stream: Option<Streaming<v1::Leaf>>,
    from: u32,
    tries: Tries,
}

impl LeafStream {
    async fn advance(&mut self) -> Result<Option<Leaf>, TransferError> {
        let source = &self.source;
        loop {
            let mut stream = match self.stream.take() {
                Some(stream) => stream,
                None => {
                    let what = (source.id, source.tenant.as_str(), source.volume.as_str());
                    source.client.open_leaves(&self.doing, what, self.from, 0).await?
                }
            };
            match next(&source.client, &self.doing, &mut stream).await? {
                Next::Message(answer) => {
                    if answer.leaf_index < self.from {
                        return Err(broken_answer(&self.doing, "its leaves do not ascend"));
                    }
                    let leaf = page::decode(&answer, &source.sealer)?;
                    self.from = answer.leaf_index.saturating_add(1);
                    self.stream = Some(stream);
                    self.tries.reset();
                    return Ok(Some(leaf));
                }
                Next::End => return Ok(None),
                Next::Lost(error) => {
                    if !self.tries.again().await {
                        return Err(error);
                    }
                }
            }
        }
    }
}

/// A stream of chunks under way.
struct ChunkStream {
    source: Arc<VolumeSource>,
    doing: String,
    stream: Option<Streaming<v1::Chunk>>,
    /// In the order they were asked; only a break looks at it again.
    asked: Vec<ChunkId>,
    left: HashSet<ChunkId>,
    tries: Tries,
}

impl ChunkStream {
    async fn open(&self) -> Result<Streaming<v1::Chunk>, TransferError> {
        let source = &self.source;
        let ids: Vec<ChunkId> = self.asked.iter().filter(|id| self.left.contains(id)).copied().collect();
        let request = v1::ReadChunksRequest {
            recovery_point_id: source.id.to_string(),
            tenant: source.tenant.clone(),
            chunk_ids: concatenated(&ids),
        };
        let read = |mut stub: Stub<Channel>, request| async move { stub.read_chunks(request).await };
        source.client.call(&self.doing, SHORT, request, read).await
    }

    async fn advance(&mut self) -> Result<Option<SealedChunk>, TransferError> {
        while !self.left.is_empty() {
            let mut stream = match self.stream.take() {
                Some(stream) => stream,
                None => self.open().await?,
            };
            match next(&self.source.client, &self.doing, &mut stream).await? {
                Next::Message(chunk) => {
                    let id = array32("chunk_id", &chunk.chunk_id)
                        .map_err(|error| broken_answer(&self.doing, error))?;
                    let id = ChunkId(id);
                    if !self.left.remove(&id) {
                        return Err(broken_answer(
                            &self.doing,
                            format!("chunk {id} was not asked for, or came twice"),
                        ));
                    }
                    self.stream = Some(stream);
                    self.tries.reset();
                    return Ok(Some(SealedChunk { id, sealed: chunk.sealed }));
                }
                Next::End => {
                    let why = format!("{} chunks did not come", self.left.len());
                    return Err(broken_answer(&self.doing, why));
                }
                Next::Lost(error) => {
                    if !self.tries.again().await {
                        return Err(error);
                    }
                }
            }
        }
        Ok(None)
    }
}

impl ChunkSource for VolumeSource {
    fn n_blocks(&self) -> u32 {
        self.n_blocks
    }

    fn leaves(self: Arc<Self>, from_leaf: u32) -> BoxStream<'static, Result<Leaf, TransferError>> {
        let doing = format!("read leaves of {} in {}", self.volume, self.id);
        let start = LeafStream { source: self, doing, stream: None, from: from_leaf, tries: Tries::new() };
        try_unfold(start, |mut leaves| async move { Ok(leaves.advance().await?.map(|leaf| (leaf, leaves))) })
            .boxed()
    }

    fn chunks(self: Arc<Self>, ids: Vec<ChunkId>) -> BoxStream<'static, Result<SealedChunk, TransferError>> {
        let doing = format!("read chunks of {} in {}", self.volume, self.id);
        if ids.len() > MAX_READ {
            let message = format!("{doing}: {} chunks where at most {MAX_READ} are allowed", ids.len());
            let error = TransferError::new(ErrorClass::Invalid, message);
            return futures::stream::once(std::future::ready(Err(error))).boxed();
        }
        let left = ids.iter().copied().collect();
        let start = ChunkStream { source: self, doing, stream: None, asked: ids, left, tries: Tries::new() };
        try_unfold(
            start,
            |mut chunks| async move { Ok(chunks.advance().await?.map(|chunk| (chunk, chunks))) },
        )
        .boxed()
    }
}
