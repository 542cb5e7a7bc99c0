//! A daemon of this process on a free port, volumes, and the data plane around them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use snapferry_library::Backend;
use snapferry_media_agent::client::{MediaClient, OpenVolume, Opened, Session};
use snapferry_media_agent::{
    App, BackendConfig, JobsConfig, LibrarySection, MediaAgent, MediaAgentConfig, RunError,
};
use snapferry_transfer::twin::MemoryVolume;
use snapferry_transfer::{
    BaseLeaves, BlockState, ByteBudget, ChunkSink, HighWater, Leaf, Scratch, SealedChunk, Sealer,
    TransferError, TransferProgress, VolumeSummary, WorkPool, back_up_volume, restore_volume, sha256,
};
use snapferry_types::tenancy::TenantKeys;
use snapferry_types::{BLOCK_SIZE, Fence, RecoveryPointId};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const TENANT: &str = "tenant-a";
pub(crate) const VOLUME: &str = "vol-1";

pub(crate) fn fence(epoch: u64) -> Fence {
    Fence { generation: 1, epoch }
}

pub(crate) fn sealer() -> Arc<Sealer> {
    Arc::new(Sealer::new(&TenantKeys::new([7; 32], [9; 32])))
}

pub(crate) fn config(dir: &Path) -> MediaAgentConfig {
    MediaAgentConfig {
        name: "test".to_owned(),
        id: None,
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        advertise: None,
        library: LibrarySection {
            dir: dir.to_owned(),
            backend: BackendConfig::Disk,
            pack_bytes: Some(4 << 20),
            reserve_bytes: Some(0),
        },
        scheduler: None,
        metrics: None,
        tls: None,
        jobs: JobsConfig::default(),
        workers: 4,
        log: snapferry_service::telemetry::LogFormat::Text,
    }
}

/// A daemon that serves.
pub(crate) struct Daemon {
    pub(crate) address: SocketAddr,
    pub(crate) endpoint: String,
    stop: CancellationToken,
    running: JoinHandle<Result<(), RunError>>,
}

impl Daemon {
    pub(crate) async fn start(dir: &Path) -> Self {
        Self::run(MediaAgent::build(config(dir)).await.unwrap())
    }

    pub(crate) async fn start_on(dir: &Path, backend: Arc<dyn Backend>) -> Self {
        Self::run(MediaAgent::build_on(config(dir), backend).await.unwrap())
    }

    pub(crate) fn run(app: App) -> Self {
        let stop = CancellationToken::new();
        let (address, endpoint) = (app.address(), app.endpoint().to_owned());
        let running = tokio::spawn(app.run(stop.clone()));
        Self { address, endpoint, stop, running }
    }

    pub(crate) async fn client(&self) -> MediaClient {
        MediaClient::connect(&self.endpoint, None).await.unwrap()
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(30), self.running).await;
        ended.expect("the daemon stops in its grace time").unwrap().unwrap();
    }
}

/// 512 KiB of which nothing repeats, so that it stays large when it is compressed.
pub(crate) fn noise(seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut block = Vec::with_capacity(BLOCK_SIZE);
    while block.len() < BLOCK_SIZE {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block.extend_from_slice(&state.to_le_bytes());
    }
    Bytes::from(block)
}

pub(crate) fn text(seed: u64) -> Bytes {
    let line = format!("line {seed} of a file that compresses well\n");
    Bytes::from(line.as_bytes().iter().copied().cycle().take(BLOCK_SIZE).collect::<Vec<_>>())
}

pub(crate) fn open_volume(n_blocks: u32, base: Option<RecoveryPointId>) -> Vec<OpenVolume> {
    vec![OpenVolume { name: VOLUME.to_owned(), n_blocks, base: base.map(|id| (id, VOLUME.to_owned())) }]
}

pub(crate) async fn open(client: &MediaClient, key: &str, epoch: u64, n_blocks: u32) -> Session {
    match client.open_session(key, fence(epoch), TENANT, open_volume(n_blocks, None)).await.unwrap() {
        Opened::Session(session) => *session,
        Opened::AlreadySealed(id) => panic!("{key} is sealed as {id}"),
    }
}

pub(crate) async fn back_up(
    client: &MediaClient,
    session: &Session,
    volume: Arc<MemoryVolume>,
    base: Option<RecoveryPointId>,
) -> Result<VolumeSummary, TransferError> {
    let base =
        base.map(|id| -> Arc<dyn BaseLeaves> { Arc::new(client.base_leaves(id, TENANT, VOLUME, sealer())) });
    back_up_volume(
        volume,
        Arc::new(session.volume(VOLUME, sealer())),
        base,
        sealer(),
        ByteBudget::new(32 << 20),
        &WorkPool::new(2),
        Arc::new(TransferProgress::new()),
        CancellationToken::new(),
    )
    .await
}

pub(crate) async fn restore(
    client: &MediaClient,
    id: RecoveryPointId,
    n_blocks: u32,
) -> Result<Arc<MemoryVolume>, TransferError> {
    let target = Arc::new(MemoryVolume::new(n_blocks, 8));
    restore_volume(
        Arc::new(client.volume_source(id, TENANT, VOLUME, n_blocks, sealer())),
        Arc::clone(&target) as Arc<dyn snapferry_transfer::BlockTarget>,
        sealer(),
        ByteBudget::new(32 << 20),
        &WorkPool::new(2),
        HighWater::new(0, &mut |_| {}),
        Arc::new(TransferProgress::new()),
        CancellationToken::new(),
    )
    .await?;
    Ok(target)
}

/// A whole backup; gives the recovery point.
pub(crate) async fn stored(
    client: &MediaClient,
    key: &str,
    volume: Arc<MemoryVolume>,
    n_blocks: u32,
) -> RecoveryPointId {
    let session = open(client, key, 1, n_blocks).await;
    back_up(client, &session, volume, None).await.unwrap();
    session.seal(key.to_owned()).await.unwrap().0
}

/// Puts one block of noise as the first of a leaf; the leaf only when asked.
pub(crate) async fn put_block(
    sink: &impl ChunkSink,
    seed: u64,
    leaf: Option<u32>,
) -> Result<(), TransferError> {
    let (sealer, data) = (sealer(), noise(seed));
    let digest = sha256(&data);
    let id = sealer.chunk_id(&digest);
    if sink.missing(&[id]).await? == [true] {
        sink.put_chunks(vec![chunk(&sealer, &data)]).await?;
    }
    match leaf {
        Some(index) => {
            let mut leaf = Leaf::empty(index);
            leaf.entries[0] = BlockState::Data(digest);
            sink.put_leaf(&leaf).await
        }
        None => Ok(()),
    }
}

pub(crate) fn chunk(sealer: &Sealer, data: &[u8]) -> SealedChunk {
    sealer.seal_chunk(sealer.chunk_id(&sha256(data)), data, &mut Scratch::new().unwrap()).unwrap()
}
