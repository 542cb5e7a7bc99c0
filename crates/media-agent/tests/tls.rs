//! The daemon over mutual TLS: who shows a certificate of the right authority gets in, nobody else does. The
//! certificates in `tls/` are for 127.0.0.1 and good until 2126; `stranger` is signed by another authority.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use snapferry_media_agent::client::{MediaClient, OpenVolume, Opened};
use snapferry_media_agent::{
    BackendConfig, JobsConfig, LibrarySection, MediaAgent, MediaAgentConfig, RunError,
};
use snapferry_service::{TlsFiles, TlsMaterial};
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_types::{Fence, RecoveryPointId};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

const TENANT: &str = "tenant-a";

fn pem(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

fn files(who: &str, ca: &str) -> TlsFiles {
    TlsFiles { cert: pem(&format!("{who}.pem")), key: pem(&format!("{who}.key")), ca: pem(ca) }
}

fn material(who: &str, ca: &str) -> TlsMaterial {
    files(who, ca).read().unwrap()
}

struct Daemon {
    endpoint: String,
    stop: CancellationToken,
    running: JoinHandle<Result<(), RunError>>,
}

impl Daemon {
    async fn start(dir: &Path) -> Self {
        let app = MediaAgent::build(MediaAgentConfig {
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
            tls: Some(files("server", "ca.pem")),
            jobs: JobsConfig::default(),
            workers: 2,
            log: snapferry_service::telemetry::LogFormat::Text,
        });
        let app = app.await.unwrap();
        let stop = CancellationToken::new();
        let endpoint = app.endpoint().to_owned();
        Self { endpoint, running: tokio::spawn(app.run(stop.clone())), stop }
    }

    async fn stop(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(30), self.running).await;
        ended.expect("the daemon stops in its grace time").unwrap().unwrap();
    }
}

/// Asks for something that is not there: who gets in is told so.
async fn ask(endpoint: &str, tls: Option<&TlsMaterial>) -> TransferError {
    match MediaClient::connect(endpoint, tls).await {
        Ok(client) => client.recovery_point(RecoveryPointId::generate(), TENANT).await.unwrap_err(),
        Err(error) => error,
    }
}

#[tokio::test]
async fn the_right_certificate_gets_in_and_works() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path()).await;
    assert!(daemon.endpoint.starts_with("https://"), "{}", daemon.endpoint);
    let client = MediaClient::connect(&daemon.endpoint, Some(&material("client", "ca.pem"))).await.unwrap();
    let volume = OpenVolume { name: "vol-1".to_owned(), n_blocks: 64, base: None };
    let fence = Fence { generation: 1, epoch: 1 };
    let opened = client.open_session("key", fence, TENANT, vec![volume]).await.unwrap();
    let Opened::Session(session) = opened else { panic!("the session is new: {opened:?}") };
    let (id, _) = session.seal("metadata".to_owned()).await.unwrap();
    assert_eq!(client.recovery_point(id, TENANT).await.unwrap().metadata, "metadata");
    daemon.stop().await;
}

#[tokio::test]
async fn nobody_else_gets_in() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path()).await;
    // The one that gets in is told what there is not, so the refusals below are about certificates.
    let told = ask(&daemon.endpoint, Some(&material("client", "ca.pem"))).await;
    assert_eq!(told.class, ErrorClass::NotFound, "{told}");

    // Our own client, with a certificate of another authority; and one that trusts only that other authority.
    let stranger = material("stranger", "ca.pem");
    let distrustful = material("client", "other-ca.pem");
    let plain = daemon.endpoint.replace("https://", "http://");
    let (a, b, c) = tokio::join!(
        ask(&daemon.endpoint, Some(&stranger)),
        ask(&daemon.endpoint, Some(&distrustful)),
        ask(&plain, None)
    );
    for error in [&a, &b, &c] {
        assert_eq!(error.class, ErrorClass::Unavailable, "{error}");
        assert!(error.message.contains("127.0.0.1"), "{error}");
    }
    assert!(b.message.contains("certificate"), "{b}");

    // A client without a certificate, which ours cannot be.
    let ca = Certificate::from_pem(std::fs::read(pem("ca.pem")).unwrap());
    let endpoint = Endpoint::from_shared(daemon.endpoint.clone()).unwrap();
    let endpoint = endpoint.tls_config(ClientTlsConfig::new().ca_certificate(ca)).unwrap();
    let refused = match endpoint.connect().await {
        Err(_) => true,
        Ok(channel) => {
            let mut stub = snapferry_wire::v1::media_client::MediaClient::new(channel);
            let request = snapferry_wire::v1::ListRecoveryPointsRequest { after: String::new(), limit: 1 };
            stub.list_recovery_points(request).await.is_err()
        }
    };
    assert!(refused, "a client without a certificate was served");
    daemon.stop().await;
}
