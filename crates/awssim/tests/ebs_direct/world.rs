//! A server of the EBS direct APIs with a world in which everybody may do everything, over real HTTP.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use awssim::admin::{self, NewSynthetic, Operations};
use awssim::ebs::{self, Backend, EbsSnapshot, SnapshotState, Start, Started};
use awssim::faults::{Faults, Refusal};
use awssim::store::BlockStore;
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// The account that everybody belongs to.
pub(crate) const ACCOUNT: &str = "111122223333";

/// The world: snapshots and client tokens.
#[derive(Default)]
struct Registry {
    snapshots: HashMap<String, EbsSnapshot>,
    tokens: HashMap<String, (Start, Started)>,
}

/// The simulator without signatures and permissions.
pub(crate) struct OpenWorld {
    pub(crate) store: BlockStore,
    pub(crate) faults: Faults,
    registry: Mutex<Registry>,
}

impl OpenWorld {
    pub(crate) fn open(dir: &Path) -> Arc<Self> {
        let (store, faults) = (BlockStore::open(dir).unwrap(), Faults::new());
        Arc::new(Self { store, faults, registry: Mutex::default() })
    }

    /// Makes a snapshot of the store known as completed.
    pub(crate) fn register(&self, id: &str, volume_size_gib: u64) {
        let (state, start_time) = (SnapshotState::Completed, self.faults.clock().now());
        let snapshot = EbsSnapshot { volume_size_gib, state, start_time };
        self.registry.lock().unwrap().snapshots.insert(id.to_owned(), snapshot);
    }

    pub(crate) fn state(&self, id: &str) -> Option<SnapshotState> {
        self.registry.lock().unwrap().snapshots.get(id).map(|snapshot| snapshot.state)
    }

    fn set_state(&self, id: &str, state: SnapshotState) {
        if let Some(snapshot) = self.registry.lock().unwrap().snapshots.get_mut(id) {
            snapshot.state = state;
        }
    }
}

impl Backend for OpenWorld {
    type Caller = String;

    fn store(&self) -> &BlockStore {
        &self.store
    }

    fn faults(&self) -> &Faults {
        &self.faults
    }

    fn account<'a>(&self, caller: &'a String) -> &'a str {
        caller
    }

    fn snapshot(&self, _: &String, _: &str, id: &str, _: &str) -> Result<EbsSnapshot, Refusal> {
        self.registry.lock().unwrap().snapshots.get(id).cloned().ok_or_else(|| {
            Refusal::new(404, "ResourceNotFoundException", Some("SNAPSHOT_NOT_FOUND"), "no such snapshot")
        })
    }

    fn start(&self, caller: &String, _: &str, start: &Start) -> Result<Started, Refusal> {
        let mut registry = self.registry.lock().unwrap();
        if let Some((before, started)) = start.client_token.as_ref().and_then(|t| registry.tokens.get(t)) {
            if before == start {
                return Ok(started.clone());
            }
            return Err(Refusal::new(
                409,
                "ConflictException",
                None,
                "the token was used with other parameters",
            ));
        }
        let id = format!("snap-{:017x}", registry.snapshots.len() + 1);
        let start_time = self.faults.clock().now();
        let snapshot =
            EbsSnapshot { volume_size_gib: start.volume_size, state: SnapshotState::Pending, start_time };
        registry.snapshots.insert(id.clone(), snapshot);
        let started = Started { id, owner: caller.clone(), start_time, kms_key_arn: None };
        if let Some(token) = &start.client_token {
            registry.tokens.insert(token.clone(), (start.clone(), started.clone()));
        }
        Ok(started)
    }

    fn complete(&self, _: &String, _: &str, id: &str) -> Result<(), Refusal> {
        self.set_state(id, SnapshotState::Completed);
        Ok(())
    }

    fn fail(&self, id: &str) {
        self.set_state(id, SnapshotState::Error);
    }
}

impl Operations for OpenWorld {
    fn create_account(&self, _: Value) -> Result<Value, String> {
        Err("this world has one account".to_owned())
    }

    fn create_user(&self, _: Value) -> Result<Value, String> {
        Err("this world has no users".to_owned())
    }

    fn create_role(&self, _: Value) -> Result<Value, String> {
        Err("this world has no roles".to_owned())
    }

    fn create_key(&self, _: Value) -> Result<Value, String> {
        Err("this world has no keys".to_owned())
    }

    fn change_key(&self, _: Value) -> Result<(), String> {
        Err("this world has no keys".to_owned())
    }

    fn register_snapshot(&self, new: &NewSynthetic) -> Result<String, String> {
        let id = new.snapshot_id.clone().ok_or("this world makes no ids")?;
        self.register(&id, new.content.volume_size_gib);
        Ok(id)
    }

    fn forget_snapshot(&self, id: &str) {
        self.registry.lock().unwrap().snapshots.remove(id);
    }

    fn inventory(&self, _: &str) -> Result<Value, String> {
        let registry = self.registry.lock().unwrap();
        Ok(json!({ "snapshots": registry.snapshots.keys().collect::<Vec<_>>() }))
    }
}

/// A running server; it stops when dropped.
pub(crate) struct Server {
    pub(crate) world: Arc<OpenWorld>,
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Server {
    /// Listens on a free port.
    pub(crate) async fn start(world: Arc<OpenWorld>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let (accepting, served) = (stop.clone(), Arc::clone(&world));
        tokio::spawn(async move {
            while let Some(Ok((stream, _))) = accepting.run_until_cancelled(listener.accept()).await {
                stream.set_nodelay(true).unwrap();
                let (world, stop) = (Arc::clone(&served), accepting.clone());
                tokio::spawn(async move {
                    let service = service_fn(|request| {
                        let world = Arc::clone(&world);
                        async move {
                            let caller = ACCOUNT.to_owned();
                            let answer = if request.uri().path().starts_with("/_awssim/") {
                                admin::handle(world, request).await
                            } else {
                                ebs::serve(&*world, &caller, "us-east-1", request.map(BodyExt::boxed)).await
                            };
                            Ok::<_, std::convert::Infallible>(answer)
                        }
                    });
                    let connection = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service);
                    // A connection broken by a fault is no failure of the server.
                    let _ = stop.run_until_cancelled(connection).await;
                });
            }
        });
        Self { world, address, stop }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// Waits for a condition, at most ten seconds.
pub(crate) async fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let limit = SystemTime::now() + Duration::from_secs(10);
    while !condition() {
        assert!(SystemTime::now() < limit, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
