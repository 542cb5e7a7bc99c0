//! The heartbeat, the figures over HTTP, the id that stays.

use std::time::Duration;

use snapferry_media_agent::MediaAgent;
use snapferry_wire::v1;
use snapferry_wire::v1::lease_server::{Lease, LeaseServer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::harness::*;

/// A scheduler that only hears heartbeats.
struct Heard(mpsc::Sender<v1::MediaAgentHelloRequest>);

#[tonic::async_trait]
impl Lease for Heard {
    async fn node_hello(
        &self,
        _: Request<v1::NodeHelloRequest>,
    ) -> Result<Response<v1::NodeHelloReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn media_agent_hello(
        &self,
        request: Request<v1::MediaAgentHelloRequest>,
    ) -> Result<Response<v1::MediaAgentHelloReply>, Status> {
        self.0.try_send(request.into_inner()).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(v1::MediaAgentHelloReply { scrub_asked: 1, collect_asked: 0, next_hello_ms: 200 }))
    }

    async fn claim(&self, _: Request<v1::ClaimRequest>) -> Result<Response<v1::ClaimReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn renew(&self, _: Request<v1::RenewRequest>) -> Result<Response<v1::RenewReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn record(&self, _: Request<v1::RecordRequest>) -> Result<Response<v1::RecordReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn finish(&self, _: Request<v1::FinishRequest>) -> Result<Response<v1::FinishReply>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tokio::test]
async fn the_scheduler_hears_of_a_daemon_even_when_it_starts_later_and_the_id_stays() {
    let dir = tempfile::tempdir().unwrap();
    // Bound and not yet serving: the daemon's first announcement waits or fails, a later one arrives.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(dir.path());
    config.scheduler = Some(format!("http://{}", listener.local_addr().unwrap()));
    config.advertise = Some("http://media.example:7480".to_owned());
    let app = MediaAgent::build(config.clone()).await.unwrap();
    let id = app.id();
    let daemon = Daemon::run(app);
    let client = MediaClientAt(&daemon).stats().await;
    assert_eq!(client.recovery_points, 0);

    let (heard, mut hellos) = mpsc::channel(8);
    let stop = CancellationToken::new();
    let scheduler = tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(LeaseServer::new(Heard(heard)))
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.clone().cancelled_owned()),
    );
    let hello = tokio::time::timeout(Duration::from_secs(60), hellos.recv()).await.unwrap().unwrap();
    assert_eq!((hello.media_agent_id, hello.name), (id.to_string(), "test".to_owned()));
    assert_eq!(hello.endpoint, "http://media.example:7480");
    assert!(hello.free_bytes > 0 && !hello.version.is_empty());
    assert_eq!(hello.scrub_done, 0);
    // The answer asked for a scrub: a later hello says that it is done, and what it found.
    let scrubbed = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            let hello = hellos.recv().await.unwrap();
            if hello.scrub_done == 1 {
                return hello.last_scrub.unwrap();
            }
        }
    });
    assert_eq!(scrubbed.await.unwrap().damaged, 0);
    daemon.stop().await;
    stop.cancel();
    scheduler.await.unwrap().unwrap();

    config.scheduler = None;
    assert_eq!(MediaAgent::build(config).await.unwrap().id(), id);
}

struct MediaClientAt<'a>(&'a Daemon);

impl MediaClientAt<'_> {
    /// Over the bound address, whatever is advertised.
    async fn stats(&self) -> v1::StatsReply {
        let endpoint = format!("http://{}", self.0.address);
        snapferry_media_agent::client::MediaClient::connect(&endpoint, None)
            .await
            .unwrap()
            .stats()
            .await
            .unwrap()
    }
}

async fn get(address: std::net::SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_figures_are_served_over_http() {
    let dir = tempfile::tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let mut config = config(dir.path());
    config.metrics = Some(address);
    let daemon = Daemon::run(MediaAgent::build(config).await.unwrap());
    let client = daemon.client().await;
    let session = open(&client, "task", 1, 1_024).await;
    put_block(&session.volume(VOLUME, sealer()), 1, Some(0)).await.unwrap();
    session.seal("").await.unwrap();
    client.stats().await.unwrap();
    let text = get(address, "/metrics").await;
    for line in [
        "snapferry_media_agent_received_chunks_total 1",
        "snapferry_media_agent_new_chunks_total 1",
        "snapferry_media_agent_recovery_points 1",
        "snapferry_media_agent_sessions 0",
        "snapferry_media_agent_requests_total{code=\"ok\",method=\"seal\"} 1",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    assert!(get(address, "/healthz").await.ends_with("ok\n"));
    daemon.stop().await;
}
