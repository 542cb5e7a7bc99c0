//! Uploads: sessions, chunks, leaves, sealing.

use futures::StreamExt as _;
use futures::stream::BoxStream;
use snapferry_library::limits::MAX_LIST as LEAVES_A_PAGE;
use snapferry_library::{PutOutcome, SessionState};
use snapferry_transfer::ErrorClass;
use snapferry_types::{ChunkId, Fence, PageId, SessionId};
use snapferry_wire::convert::array32;
use snapferry_wire::v1;
use tonic::{Code, Status, Streaming};

use super::status::{from_pool, from_read, invalid, status};
use super::{MAX_ASK, Service, UPLOAD_IDLE, request};
use crate::wire_error::BUSY;

impl Service {
    pub(super) async fn on_open_session(
        &self,
        request: v1::OpenSessionRequest,
    ) -> Result<v1::OpenSessionReply, Status> {
        let request = request::open_session(request)?;
        let asked = request.volumes.iter().any(|volume| volume.base.is_some());
        let (key, fence) = (request.key.clone(), request.fence);
        let state = self.pool.slow(move |library| library.open_session(&request)).await;
        match state.map_err(|error| from_pool(&error))? {
            SessionState::AlreadySealed(id) => {
                Ok(v1::OpenSessionReply { session_id: String::new(), recovery_point_id: id.to_string() })
            }
            SessionState::Open(opened) => {
                // An incremental that lost its base would seal holes where the base had data: the caller plans again.
                if asked && let Some((volume, why)) = opened.without_base.first() {
                    let (id, message) = (
                        opened.id,
                        format!(
                            "the base of volume {volume} in session {key} cannot be used: {why}; try again, and read in full where the base is gone"
                        ),
                    );
                    let abandoned = self.pool.slow(move |library| library.abandon(id, fence)).await;
                    abandoned.map_err(|error| from_pool(&error))?;
                    return Err(status(Code::Aborted, ErrorClass::Unavailable.as_str(), message));
                }
                Ok(v1::OpenSessionReply {
                    session_id: opened.id.to_string(),
                    recovery_point_id: String::new(),
                })
            }
        }
    }

    pub(super) async fn on_sealed_leaves(
        &self,
        request: v1::SealedLeavesRequest,
    ) -> Result<BoxStream<'static, Result<v1::SealedLeavesPage, Status>>, Status> {
        let (session, _) = request::session_ref(request.session)?;
        let first = self.sealed_page(session, request.volume.clone(), 0).await?;
        let service = self.clone();
        let volume = request.volume;
        let pages = futures::stream::unfold(Some(first), move |page| {
            let (service, volume) = (service.clone(), volume.clone());
            async move {
                let page = page?;
                let next = match page.last() {
                    Some(last) if page.len() >= LEAVES_A_PAGE => {
                        service.sealed_page(session, volume, last.saturating_add(1)).await.map(Some)
                    }
                    _ => Ok(None),
                };
                let answer = v1::SealedLeavesPage { leaf_index: page };
                Some(match next {
                    Ok(next) => (Ok(answer), next),
                    Err(status) => (Err(status), None),
                })
            }
        });
        Ok(pages.boxed())
    }

    async fn sealed_page(&self, session: SessionId, volume: String, from: u32) -> Result<Vec<u32>, Status> {
        let leaves = move |library: &snapferry_library::Library| {
            let leaves = library.sealed_leaves(session, &volume, from)?;
            leaves.take(LEAVES_A_PAGE).map(|leaf| leaf.map(|leaf| leaf.leaf_index)).collect()
        };
        self.pool.quick(leaves).await.map_err(|error| from_pool(&error))
    }

    pub(super) async fn on_missing_chunks(
        &self,
        request: v1::MissingChunksRequest,
    ) -> Result<v1::MissingChunksReply, Status> {
        let (session, fence) = request::session_ref(request.session)?;
        let ids = request::chunk_ids(&request.chunk_ids, MAX_ASK)?;
        let answer = self.pool.quick(move |library| library.missing_chunks(session, fence, &ids)).await;
        let missing = answer.map_err(|error| from_pool(&error))?;
        Ok(v1::MissingChunksReply { missing: missing.into_iter().map(u8::from).collect() })
    }

    pub(super) async fn on_put_chunks(
        &self,
        mut messages: Streaming<v1::PutChunksRequest>,
    ) -> Result<v1::PutChunksReply, Status> {
        let _place = self.uploads.acquire().await.expect("the semaphore of uploads is never closed");
        let mut session = None;
        let mut reply = v1::PutChunksReply { stored_bytes: 0, n_new: 0 };
        loop {
            let message = tokio::time::timeout(UPLOAD_IDLE, messages.message()).await.map_err(|_| {
                let seconds = UPLOAD_IDLE.as_secs();
                status(Code::Unavailable, BUSY, format!("no chunks came for {seconds} seconds: upload again"))
            })?;
            let Some(message) = message? else { break };
            if message.session.is_some() {
                session = Some(request::session_ref(message.session)?);
            }
            let Some((id, fence)) = session else {
                return Err(invalid("the first message of an upload names no session"));
            };
            let added = self.put_message(id, fence, message.chunks).await?;
            reply.stored_bytes += added.stored_bytes;
            reply.n_new = reply.n_new.saturating_add(added.n_new);
        }
        Ok(reply)
    }

    async fn put_message(
        &self,
        session: SessionId,
        fence: Fence,
        chunks: Vec<v1::Chunk>,
    ) -> Result<v1::PutChunksReply, Status> {
        let named: Vec<_> = chunks
            .into_iter()
            .map(|chunk| Ok((ChunkId(array32("chunk_id", &chunk.chunk_id)?), chunk.sealed)))
            .collect::<Result<_, snapferry_wire::ConvertError>>()
            .map_err(|error| invalid(error.to_string()))?;
        let (n_chunks, bytes) = (named.len(), named.iter().map(|(_, sealed)| sealed.len() as u64).sum());
        let put = move |library: &snapferry_library::Library| {
            let mut reply = v1::PutChunksReply { stored_bytes: 0, n_new: 0 };
            for (id, sealed) in named {
                match library.put_chunk(session, fence, id, &sealed)? {
                    PutOutcome::Stored => {
                        reply.stored_bytes += sealed.len() as u64;
                        reply.n_new += 1;
                    }
                    PutOutcome::AlreadyThere => {}
                }
            }
            Ok(reply)
        };
        let reply = self.pool.quick(put).await.map_err(|error| from_pool(&error))?;
        self.figures.received(n_chunks as u64, bytes, reply.n_new.into(), reply.stored_bytes);
        self.add_bytes(session, reply.stored_bytes);
        Ok(reply)
    }

    pub(super) async fn on_put_leaf(&self, request: v1::PutLeafRequest) -> Result<v1::PutLeafReply, Status> {
        let (session, fence) = request::session_ref(request.session)?;
        let page = array32("page_id", &request.page_id).map_err(|error| invalid(error.to_string()))?;
        let (volume, leaf, bytes) = (request.volume, request.leaf_index, request.page);
        let put = move |library: &snapferry_library::Library| {
            library.put_leaf(session, fence, &volume, leaf, PageId(page), &bytes)
        };
        self.pool.quick(put).await.map_err(|error| from_pool(&error))?;
        Ok(v1::PutLeafReply {})
    }

    pub(super) async fn on_flush(&self, request: v1::SessionRef) -> Result<v1::FlushReply, Status> {
        let (session, fence) = request::session_ref(Some(request))?;
        let answer = self.pool.quick(move |library| library.flush(session, fence)).await;
        answer.map_err(|error| from_pool(&error))?;
        Ok(v1::FlushReply {})
    }

    pub(super) async fn on_seal(&self, request: v1::SealRequest) -> Result<v1::SealReply, Status> {
        let (session, fence) = request::session_ref(request.session)?;
        let metadata = request.metadata.to_vec();
        match self.pool.slow(move |library| library.seal(session, fence, metadata)).await {
            Ok(id) => Ok(v1::SealReply {
                recovery_point_id: id.to_string(),
                stored_bytes: self.take_bytes(session),
            }),
            Err(error) => Err(from_read(&self.pool, error).await),
        }
    }

    pub(super) async fn on_abandon(&self, request: v1::SessionRef) -> Result<v1::AbandonReply, Status> {
        let (session, fence) = request::session_ref(Some(request))?;
        let answer = self.pool.slow(move |library| library.abandon(session, fence)).await;
        answer.map_err(|error| from_pool(&error))?;
        self.take_bytes(session);
        Ok(v1::AbandonReply {})
    }
}
