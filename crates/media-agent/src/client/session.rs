//! An upload: open until it is sealed or abandoned. Dropped, it stays open in the library, and is gone on with by
//! its key or expires.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use snapferry_transfer::{Sealer, TransferError};
use snapferry_types::{Fence, RecoveryPointId};
use snapferry_wire::v1;
use snapferry_wire::v1::media_client::MediaClient as Stub;
use tonic::transport::Channel;

use super::call::{LONG, SHORT};
use super::error::parsed;
use super::{MediaClient, VolumeSink};

/// A volume to upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenVolume {
    /// Its name, unique in the session.
    pub name: String,
    /// Its length in blocks.
    pub n_blocks: u32,
    /// Recovery point and volume whose leaves hold where this session puts none.
    pub base: Option<(RecoveryPointId, String)>,
}

impl From<OpenVolume> for v1::SessionVolume {
    fn from(volume: OpenVolume) -> Self {
        let (base_recovery_point_id, base_volume) =
            volume.base.map(|(id, name)| (id.to_string(), name)).unwrap_or_default();
        Self { name: volume.name, n_blocks: volume.n_blocks, base_recovery_point_id, base_volume }
    }
}

/// What became of a key.
#[derive(Debug, Clone)]
pub enum Opened {
    /// It is open.
    Session(Box<Session>),
    /// It was sealed before: nothing is left to do.
    AlreadySealed(RecoveryPointId),
}

/// An open upload.
#[derive(Debug, Clone)]
#[must_use = "a session is sealed or abandoned"]
pub struct Session {
    client: MediaClient,
    id: String,
    fence: Fence,
    n_blocks: Arc<BTreeMap<String, u32>>,
}

impl Session {
    pub(super) fn new(
        client: MediaClient,
        id: String,
        fence: Fence,
        n_blocks: BTreeMap<String, u32>,
    ) -> Self {
        Self { client, id, fence, n_blocks: Arc::new(n_blocks) }
    }

    /// Its id, for logs.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    fn reference(&self) -> v1::SessionRef {
        v1::SessionRef { session_id: self.id.clone(), fence: Some(self.fence.into()) }
    }

    /// One of its volumes; calls on one that the session was not opened with are refused.
    #[must_use]
    pub fn volume(&self, name: &str, sealer: Arc<Sealer>) -> VolumeSink {
        let n_blocks = self.n_blocks.get(name).copied().unwrap_or(0);
        VolumeSink::new(self.client.clone(), self.reference(), name, n_blocks, sealer)
    }

    /// Makes a recovery point of it, durable when this returns; `metadata` is at most 4 MiB. Answers its id and the
    /// sealed bytes that the session added to the library (since the MediaAgent's last start). Repeating it finds
    /// the same recovery point.
    ///
    /// # Errors
    /// [`TransferError`]: `StaleFence`, `StorageFull` and `Unavailable` keep the session.
    pub async fn seal(&self, metadata: impl Into<Bytes>) -> Result<(RecoveryPointId, u64), TransferError> {
        let request = v1::SealRequest { session: Some(self.reference()), metadata: metadata.into() };
        let seal = |mut stub: Stub<Channel>, request| async move { stub.seal(request).await };
        let reply = self.client.call("seal the session", LONG, request, seal).await?;
        Ok((parsed("seal the session", &reply.recovery_point_id)?, reply.stored_bytes))
    }

    /// Ends it; what only it refers to becomes garbage.
    ///
    /// # Errors
    /// [`TransferError`]: `Invalid` when it is sealed.
    pub async fn abandon(&self) -> Result<(), TransferError> {
        let abandon = |mut stub: Stub<Channel>, request| async move { stub.abandon(request).await };
        self.client.call("abandon the session", SHORT, self.reference(), abandon).await.map(|_| ())
    }
}
