//! What agents use of a MediaAgent: [`MediaClient`] over one HTTP/2 channel, which connects again by itself.
//! [`Session`] is an upload; [`VolumeSink`], [`VolumeSource`] and [`VolumeBase`] are the data plane's seams over it.
//!
//! A call that the transport lost is repeated a few times; every call is safe to repeat. What comes out as an error
//! of the class `Unavailable` has used up its tries: the task is tried again later, and its session is kept.

mod base;
mod call;
mod channel;
mod error;
mod page;
mod session;
mod sink;
mod source;

use std::sync::Arc;

use bytes::Bytes;
use snapferry_service::TlsMaterial;
use snapferry_transfer::{Sealer, TransferError};
use snapferry_types::{Fence, RecoveryPointId};
use snapferry_wire::v1;
use snapferry_wire::v1::media_client::MediaClient as Stub;
use tonic::transport::Channel;

pub use base::VolumeBase;
pub(crate) use channel::endpoint;
pub use session::{OpenVolume, Opened, Session};
pub use sink::VolumeSink;
pub use source::VolumeSource;

use call::{LONG, SHORT};
use error::parsed;

/// A connection to a MediaAgent; clones share it.
#[derive(Debug, Clone)]
pub struct MediaClient {
    stub: Stub<Channel>,
    endpoint: Arc<str>,
}

/// What a library knows of a recovery point.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredPoint {
    /// Its id.
    pub id: RecoveryPointId,
    /// When it was sealed, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// As it was sealed.
    pub metadata: Bytes,
    /// Its volumes.
    pub volumes: Vec<StoredVolume>,
}

/// A volume of a recovery point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredVolume {
    /// Its name.
    pub name: String,
    /// Its length in blocks.
    pub n_blocks: u32,
    /// Blocks with data.
    pub n_data: u64,
    /// Blocks of zeroes.
    pub n_zero: u64,
}

impl MediaClient {
    /// Connects to `endpoint`, such as `http://media-1:7480`; with TLS, `https://…`.
    ///
    /// # Errors
    /// [`TransferError`] that names the endpoint: `Invalid` when it is none, `Unavailable` when nothing answers.
    pub async fn connect(endpoint: &str, tls: Option<&TlsMaterial>) -> Result<Self, TransferError> {
        let channel = channel::connect(endpoint, tls).await?;
        Ok(Self { stub: channel::stub(channel), endpoint: endpoint.into() })
    }

    /// Opens an upload by its key, or goes on with it. A base that cannot be used is an error of the class
    /// `Unavailable`: plan again.
    ///
    /// # Errors
    /// [`TransferError`]: `StaleFence` when a newer attempt has it.
    pub async fn open_session(
        &self,
        key: &str,
        fence: Fence,
        tenant: &str,
        volumes: Vec<OpenVolume>,
    ) -> Result<Opened, TransferError> {
        let n_blocks = volumes.iter().map(|volume| (volume.name.clone(), volume.n_blocks)).collect();
        let request = v1::OpenSessionRequest {
            key: key.to_owned(),
            fence: Some(fence.into()),
            tenant: tenant.to_owned(),
            volumes: volumes.into_iter().map(Into::into).collect(),
        };
        let open = |mut stub: Stub<Channel>, request| async move { stub.open_session(request).await };
        let reply = self.call("open a session", LONG, request, open).await?;
        if reply.recovery_point_id.is_empty() {
            Ok(Opened::Session(Box::new(Session::new(self.clone(), reply.session_id, fence, n_blocks))))
        } else {
            Ok(Opened::AlreadySealed(parsed("open a session", &reply.recovery_point_id)?))
        }
    }

    /// A recovery point of the tenant.
    ///
    /// # Errors
    /// [`TransferError`]: `NotFound` also when it is another tenant's.
    pub async fn recovery_point(
        &self,
        id: RecoveryPointId,
        tenant: &str,
    ) -> Result<StoredPoint, TransferError> {
        let request =
            v1::GetRecoveryPointRequest { recovery_point_id: id.to_string(), tenant: tenant.to_owned() };
        let get = |mut stub: Stub<Channel>, request| async move { stub.get_recovery_point(request).await };
        let point = self.call("get a recovery point", SHORT, request, get).await?;
        let volumes = point.volumes.into_iter().map(|volume| StoredVolume {
            name: volume.name,
            n_blocks: volume.n_blocks,
            n_data: volume.n_data,
            n_zero: volume.n_zero,
        });
        Ok(StoredPoint {
            id,
            created_unix_ms: point.created_unix_ms,
            metadata: point.metadata,
            volumes: volumes.collect(),
        })
    }

    /// Recovery points after `after` (empty: from the first), without their metadata, and where to go on (empty: at
    /// the end). At most 1,000.
    ///
    /// # Errors
    /// [`TransferError`].
    pub async fn list_recovery_points(
        &self,
        after: &str,
        limit: u32,
    ) -> Result<v1::ListRecoveryPointsReply, TransferError> {
        let request = v1::ListRecoveryPointsRequest { after: after.to_owned(), limit };
        let list = |mut stub: Stub<Channel>, request| async move { stub.list_recovery_points(request).await };
        self.call("list recovery points", SHORT, request, list).await
    }

    /// A stored volume to read. Nothing is asked yet.
    #[must_use]
    pub fn volume_source(
        &self,
        id: RecoveryPointId,
        tenant: &str,
        volume: &str,
        n_blocks: u32,
        sealer: Arc<Sealer>,
    ) -> VolumeSource {
        VolumeSource::new(self.clone(), id, tenant, volume, n_blocks, sealer)
    }

    /// The leaves of a base. Nothing is asked yet.
    #[must_use]
    pub fn base_leaves(
        &self,
        id: RecoveryPointId,
        tenant: &str,
        volume: &str,
        sealer: Arc<Sealer>,
    ) -> VolumeBase {
        VolumeBase::new(self.clone(), id, tenant, volume, sealer)
    }

    /// Deletes a recovery point; false when there is none.
    ///
    /// # Errors
    /// [`TransferError`]: `NotFound` when it is another tenant's.
    pub async fn delete_recovery_point(
        &self,
        id: RecoveryPointId,
        tenant: &str,
    ) -> Result<bool, TransferError> {
        let request =
            v1::DeleteRecoveryPointRequest { recovery_point_id: id.to_string(), tenant: tenant.to_owned() };
        let delete =
            |mut stub: Stub<Channel>, request| async move { stub.delete_recovery_point(request).await };
        let reply = self.call("delete a recovery point", LONG, request, delete).await?;
        Ok(reply.existed)
    }

    /// Collects garbage, or tells what would be collected.
    ///
    /// # Errors
    /// [`TransferError`]: `Unavailable` while a collection or scrub is running.
    pub async fn collect_garbage(&self, dry_run: bool) -> Result<v1::CollectGarbageReply, TransferError> {
        let request = v1::CollectGarbageRequest { dry_run };
        let collect = |mut stub: Stub<Channel>, request| async move { stub.collect_garbage(request).await };
        self.call("collect garbage", call::HOURS, request, collect).await
    }

    /// Reads everything that is stored and checks it; 0 bytes a second is as fast as it goes.
    ///
    /// # Errors
    /// [`TransferError`]: `Unavailable` while a collection or scrub is running. Damage is in the answer.
    pub async fn scrub(&self, bytes_per_second: u64) -> Result<v1::ScrubReply, TransferError> {
        let request = v1::ScrubRequest { bytes_per_second };
        let scrub = |mut stub: Stub<Channel>, request| async move { stub.scrub(request).await };
        self.call("scrub", call::HOURS, request, scrub).await
    }

    /// The library's figures.
    ///
    /// # Errors
    /// [`TransferError`].
    pub async fn stats(&self) -> Result<v1::StatsReply, TransferError> {
        let stats = |mut stub: Stub<Channel>, request| async move { stub.stats(request).await };
        self.call("read the figures", SHORT, v1::StatsRequest {}, stats).await
    }
}
