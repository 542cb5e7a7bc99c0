//! The upload side of the data plane's seams.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{BufMut as _, Bytes, BytesMut};
use snapferry_transfer::{ChunkSink, Leaf, SealedChunk, Sealer, TransferError};
use snapferry_types::ChunkId;
use snapferry_wire::v1;
use snapferry_wire::v1::media_client::MediaClient as Stub;
use tonic::transport::Channel;

use super::MediaClient;
use super::call::{LONG, SHORT, Tries};
use super::error::{broken_answer, from_seal, is_lost};
use super::page;
use crate::server::MAX_ASK;

/// Bytes of chunks after which a message is closed; with the largest chunk on top it stays below the limit.
const MESSAGE_BYTES: usize = 1_024 * 1_024;

/// One volume of an open session.
#[derive(Debug, Clone)]
pub struct VolumeSink {
    client: MediaClient,
    session: v1::SessionRef,
    volume: String,
    n_blocks: u32,
    sealer: Arc<Sealer>,
}

impl VolumeSink {
    pub(super) fn new(
        client: MediaClient,
        session: v1::SessionRef,
        volume: &str,
        n_blocks: u32,
        sealer: Arc<Sealer>,
    ) -> Self {
        Self { client, session, volume: volume.to_owned(), n_blocks, sealer }
    }
}

/// Names as the contract has them.
pub(super) fn concatenated(ids: &[ChunkId]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(ids.len() * 32);
    for id in ids {
        bytes.put_slice(&id.0);
    }
    bytes.freeze()
}

/// Chunks as messages, none of which is too large; the sealed bytes are shared, not copied.
fn messages(session: &v1::SessionRef, chunks: Vec<SealedChunk>) -> Vec<v1::PutChunksRequest> {
    let mut messages = vec![v1::PutChunksRequest { session: Some(session.clone()), chunks: Vec::new() }];
    let mut bytes = 0;
    for chunk in chunks {
        if bytes >= MESSAGE_BYTES {
            messages.push(v1::PutChunksRequest::default());
            bytes = 0;
        }
        bytes += chunk.sealed.len();
        if let Some(last) = messages.last_mut() {
            last.chunks
                .push(v1::Chunk { chunk_id: Bytes::copy_from_slice(&chunk.id.0), sealed: chunk.sealed });
        }
    }
    messages
}

#[async_trait]
impl ChunkSink for VolumeSink {
    async fn durable_leaves(&self) -> Result<Vec<u32>, TransferError> {
        const DOING: &str = "list durable leaves";
        let request =
            v1::SealedLeavesRequest { session: Some(self.session.clone()), volume: self.volume.clone() };
        let mut tries = Tries::new();
        loop {
            let list = |mut stub: Stub<Channel>, request| async move { stub.sealed_leaves(request).await };
            let mut pages = self.client.call(DOING, SHORT, request.clone(), list).await?;
            let mut leaves = Vec::new();
            let failed = loop {
                match tokio::time::timeout(SHORT, pages.message()).await {
                    Ok(Ok(Some(page))) => leaves.extend(page.leaf_index),
                    Ok(Ok(None)) => return Ok(leaves),
                    Ok(Err(status)) if !is_lost(&status) => return Err(self.client.error(DOING, &status)),
                    Ok(Err(status)) => break self.client.error(DOING, &status),
                    Err(_) => break self.client.overdue(DOING, SHORT),
                }
            };
            if !tries.again().await {
                return Err(failed);
            }
        }
    }

    async fn missing(&self, ids: &[ChunkId]) -> Result<Vec<bool>, TransferError> {
        const DOING: &str = "ask for missing chunks";
        let mut answer = Vec::with_capacity(ids.len());
        for ids in ids.chunks(MAX_ASK) {
            let request = v1::MissingChunksRequest {
                session: Some(self.session.clone()),
                chunk_ids: concatenated(ids),
            };
            let ask = |mut stub: Stub<Channel>, request| async move { stub.missing_chunks(request).await };
            let reply = self.client.call(DOING, SHORT, request, ask).await?;
            if reply.missing.len() != ids.len() {
                let why = format!("{} answers to {} questions", reply.missing.len(), ids.len());
                return Err(broken_answer(DOING, why));
            }
            answer.extend(reply.missing.iter().map(|byte| *byte != 0));
        }
        Ok(answer)
    }

    async fn put_chunks(&self, chunks: Vec<SealedChunk>) -> Result<(), TransferError> {
        if chunks.is_empty() {
            return Ok(());
        }
        let messages = messages(&self.session, chunks);
        let put = |mut stub: Stub<Channel>, messages: Vec<v1::PutChunksRequest>| async move {
            stub.put_chunks(futures::stream::iter(messages)).await
        };
        self.client.call("put chunks", LONG, messages, put).await.map(|_| ())
    }

    async fn put_leaf(&self, leaf: &Leaf) -> Result<(), TransferError> {
        let sealed = self.sealer.seal_leaf(leaf).map_err(|error| from_seal(&error))?;
        let request = v1::PutLeafRequest {
            session: Some(self.session.clone()),
            volume: self.volume.clone(),
            leaf_index: leaf.index,
            page_id: Bytes::copy_from_slice(&sealed.page_id.0),
            page: page::encode(sealed, self.n_blocks)?,
        };
        let put = |mut stub: Stub<Channel>, request| async move { stub.put_leaf(request).await };
        let doing = format!("put leaf {} of {}", leaf.index, self.volume);
        self.client.call(&doing, LONG, request, put).await.map(|_| ())
    }

    async fn flush(&self) -> Result<(), TransferError> {
        let flush = |mut stub: Stub<Channel>, request| async move { stub.flush(request).await };
        self.client.call("flush the session", LONG, self.session.clone(), flush).await.map(|_| ())
    }
}
