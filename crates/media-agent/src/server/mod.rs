//! The gRPC service. Every call of it is safe to repeat, because the library's are; what a call that died had done
//! is either durable or garbage. Nothing here blocks an async thread: the library is called in a bounded [`pool`].

mod figures;
mod maintain;
pub(crate) mod pool;
mod read;
mod request;
mod status;
mod upload;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::stream::BoxStream;
use snapferry_library::{Backend, Library};
use snapferry_types::SessionId;
use snapferry_wire::v1;
use snapferry_wire::v1::media_server::{Media, MediaServer};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

pub(crate) use figures::Figures;
use pool::Pool;

/// Largest message in either direction.
pub const MAX_MESSAGE_BYTES: usize = 8 * 1_024 * 1_024;

/// Most chunk ids that one question may have.
pub const MAX_ASK: usize = 4_096;

/// Most chunks that one read may ask for.
pub const MAX_READ: usize = 1_024;

/// Most recovery points in one page of a list.
pub const MAX_LIST: usize = 1_000;

/// Uploads of chunks at a time over all connections; each holds at most one message in memory.
const MAX_UPLOADS: usize = 16;

/// An upload that brings nothing for so long gives its place to others.
pub(crate) const UPLOAD_IDLE: Duration = Duration::from_secs(30);

/// A library behind gRPC.
#[derive(Clone)]
pub(crate) struct Service {
    pool: Pool,
    backend: Arc<dyn Backend>,
    figures: Arc<Figures>,
    uploads: Arc<Semaphore>,
    /// Bytes that open sessions added since this process started; for the answer to a seal.
    added: Arc<Mutex<HashMap<SessionId, u64>>>,
    stop: CancellationToken,
}

impl Service {
    pub(crate) fn new(
        library: Arc<Library>,
        backend: Arc<dyn Backend>,
        workers: u16,
        figures: Arc<Figures>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            pool: Pool::new(library, workers),
            backend,
            figures,
            uploads: Arc::new(Semaphore::new(MAX_UPLOADS)),
            added: Arc::default(),
            stop,
        }
    }

    /// The service with its limits, ready for a server.
    pub(crate) fn into_server(self) -> MediaServer<Self> {
        MediaServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    fn add_bytes(&self, session: SessionId, bytes: u64) {
        let mut added = self.added.lock().unwrap_or_else(PoisonError::into_inner);
        *added.entry(session).or_default() += bytes;
    }

    fn take_bytes(&self, session: SessionId) -> u64 {
        self.added.lock().unwrap_or_else(PoisonError::into_inner).remove(&session).unwrap_or_default()
    }

    /// Forgets the figures of sessions that ended without a call.
    pub(crate) fn forget(&self, sessions: &[SessionId]) {
        let mut added = self.added.lock().unwrap_or_else(PoisonError::into_inner);
        for session in sessions {
            added.remove(session);
        }
    }

    async fn observed<T>(
        &self,
        method: &'static str,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<Response<T>, Status> {
        let answer = call.await;
        self.figures.request(method, answer.as_ref().err().map_or(tonic::Code::Ok, Status::code));
        if let Err(status) = &answer {
            tracing::debug!(method, code = ?status.code(), message = status.message(), "call refused");
        }
        answer.map(Response::new)
    }
}

#[tonic::async_trait]
impl Media for Service {
    type SealedLeavesStream = BoxStream<'static, Result<v1::SealedLeavesPage, Status>>;
    type ReadLeavesStream = BoxStream<'static, Result<v1::Leaf, Status>>;
    type ReadChunksStream = BoxStream<'static, Result<v1::Chunk, Status>>;

    async fn open_session(
        &self,
        request: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionReply>, Status> {
        self.observed("open_session", self.on_open_session(request.into_inner())).await
    }

    async fn sealed_leaves(
        &self,
        request: Request<v1::SealedLeavesRequest>,
    ) -> Result<Response<Self::SealedLeavesStream>, Status> {
        self.observed("sealed_leaves", self.on_sealed_leaves(request.into_inner())).await
    }

    async fn missing_chunks(
        &self,
        request: Request<v1::MissingChunksRequest>,
    ) -> Result<Response<v1::MissingChunksReply>, Status> {
        self.observed("missing_chunks", self.on_missing_chunks(request.into_inner())).await
    }

    async fn put_chunks(
        &self,
        request: Request<Streaming<v1::PutChunksRequest>>,
    ) -> Result<Response<v1::PutChunksReply>, Status> {
        self.observed("put_chunks", self.on_put_chunks(request.into_inner())).await
    }

    async fn put_leaf(
        &self,
        request: Request<v1::PutLeafRequest>,
    ) -> Result<Response<v1::PutLeafReply>, Status> {
        self.observed("put_leaf", self.on_put_leaf(request.into_inner())).await
    }

    async fn flush(&self, request: Request<v1::SessionRef>) -> Result<Response<v1::FlushReply>, Status> {
        self.observed("flush", self.on_flush(request.into_inner())).await
    }

    async fn seal(&self, request: Request<v1::SealRequest>) -> Result<Response<v1::SealReply>, Status> {
        self.observed("seal", self.on_seal(request.into_inner())).await
    }

    async fn abandon(&self, request: Request<v1::SessionRef>) -> Result<Response<v1::AbandonReply>, Status> {
        self.observed("abandon", self.on_abandon(request.into_inner())).await
    }

    async fn get_recovery_point(
        &self,
        request: Request<v1::GetRecoveryPointRequest>,
    ) -> Result<Response<v1::RecoveryPoint>, Status> {
        self.observed("get_recovery_point", self.on_get_recovery_point(request.into_inner())).await
    }

    async fn list_recovery_points(
        &self,
        request: Request<v1::ListRecoveryPointsRequest>,
    ) -> Result<Response<v1::ListRecoveryPointsReply>, Status> {
        self.observed("list_recovery_points", self.on_list_recovery_points(request.into_inner())).await
    }

    async fn read_leaves(
        &self,
        request: Request<v1::ReadLeavesRequest>,
    ) -> Result<Response<Self::ReadLeavesStream>, Status> {
        self.observed("read_leaves", self.on_read_leaves(request.into_inner())).await
    }

    async fn read_chunks(
        &self,
        request: Request<v1::ReadChunksRequest>,
    ) -> Result<Response<Self::ReadChunksStream>, Status> {
        self.observed("read_chunks", self.on_read_chunks(request.into_inner())).await
    }

    async fn delete_recovery_point(
        &self,
        request: Request<v1::DeleteRecoveryPointRequest>,
    ) -> Result<Response<v1::DeleteRecoveryPointReply>, Status> {
        self.observed("delete_recovery_point", self.on_delete_recovery_point(request.into_inner())).await
    }

    async fn collect_garbage(
        &self,
        request: Request<v1::CollectGarbageRequest>,
    ) -> Result<Response<v1::CollectGarbageReply>, Status> {
        self.observed("collect_garbage", self.on_collect_garbage(request.into_inner())).await
    }

    async fn scrub(&self, request: Request<v1::ScrubRequest>) -> Result<Response<v1::ScrubReply>, Status> {
        self.observed("scrub", self.on_scrub(request.into_inner())).await
    }

    async fn stats(&self, _request: Request<v1::StatsRequest>) -> Result<Response<v1::StatsReply>, Status> {
        self.observed("stats", self.on_stats()).await
    }
}
