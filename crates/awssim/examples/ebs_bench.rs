//! How fast one client gets blocks from the simulator over loopback: one server thread, one client thread.
//!
//! `cargo run --release -p awssim --example ebs_bench -- [connections] [seconds]`
//!
//! Signatures are not checked here, quotas are off, the client throws the bytes away. The cases: blocks computed
//! (synthetic), blocks stored in a volume's snapshot (in the page cache), and pages of listings.

#[path = "../tests/ebs_direct/world.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "made for tests, of which this uses a part")]
mod world;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use awssim::faults::Quotas;
use awssim::store::{BLOCK_BYTES, BLOCK_LEN, SyntheticSpec, sha256};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use world::{OpenWorld, Server};

const STORED_BLOCKS: u32 = 512;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let connections = usize::try_from(arguments.next().transpose()?.unwrap_or(16))?;
    let seconds = Duration::from_secs(arguments.next().transpose()?.unwrap_or(5));
    let dir = tempfile::tempdir()?;
    let world = OpenWorld::open(dir.path());
    world.faults.set_quotas(Quotas::off());
    world.store.create_synthetic(
        "snap-0a",
        &SyntheticSpec {
            volume_size_gib: 16_384,
            seed: 1,
            fraction_hole: 0.0,
            fraction_zero: 0.0,
            fraction_duplicate: 0.0,
            fraction_compressible: 0.5,
            fraction_random: 0.5,
            changed_from: None,
        },
    )?;
    world.register("snap-0a", 16_384);
    world.store.create_volume("vol-1", u64::from(STORED_BLOCKS) * BLOCK_BYTES)?;
    for index in 0..STORED_BLOCKS {
        let block = world.store.read_block("snap-0a", index)?.map(|(data, _)| data).unwrap_or_default();
        world.store.write_volume("vol-1", u64::from(index) * BLOCK_BYTES, &block)?;
    }
    world.store.snapshot_volume("vol-1", "snap-0b")?;
    world.register("snap-0b", 1);
    world.store.begin_snapshot("snap-0c", None, 1 << 30)?;

    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let (server_runtime, client_runtime) = (runtime()?, runtime()?);
    let server = server_runtime.block_on(server_runtime.spawn(Server::start(world)))?;
    let address = server.address;
    for (name, id) in [("computed", "snap-0a"), ("stored", "snap-0b")] {
        let paths = client_runtime.block_on(paths(address, id))?;
        let (requests, bytes, took) = client_runtime.block_on(run(address, paths, connections, seconds))?;
        report(&format!("GetSnapshotBlock, {name}"), requests, bytes, took);
    }
    let since = Instant::now();
    let (pages, blocks, bytes) = client_runtime.block_on(list(address, "snap-0a", 200))?;
    println!("ListSnapshotBlocks: {blocks} blocks in {pages} pages");
    report("ListSnapshotBlocks", pages, bytes, since.elapsed());
    let since = Instant::now();
    let hashed =
        (0..2000_u32).map(|_| sha256(&[7; BLOCK_LEN])).filter(|hash| hash.first() != Some(&0)).count();
    report(
        "SHA-256 of a block, for scale",
        u64::try_from(hashed)?,
        u64::try_from(hashed * BLOCK_LEN)?,
        since.elapsed(),
    );
    let status = std::fs::read_to_string("/proc/self/status")?;
    status.lines().filter(|line| line.starts_with("VmHWM")).for_each(|line| println!("{line}"));
    Ok(())
}

fn report(name: &str, requests: u64, bytes: u64, took: Duration) {
    let to_float = |n: u64| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
    let (rate, mb) =
        (to_float(requests) / took.as_secs_f64(), to_float(bytes >> 10) / 1024.0 / took.as_secs_f64());
    println!("{name}: {rate:.0} requests/s, {mb:.0} MiB/s");
}

async fn connect<B>(address: SocketAddr) -> anyhow::Result<SendRequest<B>>
where
    B: hyper::body::Body<Data = Bytes, Error = std::convert::Infallible> + Send + 'static,
{
    let stream = tokio::net::TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn get(sender: &mut SendRequest<Full<Bytes>>, path: &str) -> anyhow::Result<Bytes> {
    sender.ready().await?;
    let request = hyper::Request::get(path).header("host", "localhost").body(Full::default())?;
    let response = sender.send_request(request).await?;
    anyhow::ensure!(response.status() == 200, "{path} answered {}", response.status());
    Ok(response.into_body().collect().await?.to_bytes())
}

fn escape(token: &str) -> String {
    token.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D")
}

async fn paths(address: SocketAddr, id: &str) -> anyhow::Result<Vec<String>> {
    let mut sender = connect(address).await?;
    let page: Value = serde_json::from_slice(&get(&mut sender, &format!("/snapshots/{id}/blocks")).await?)?;
    let blocks = page.get("Blocks").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    Ok(blocks
        .iter()
        .map(|block| {
            let token = escape(block.get("BlockToken").and_then(Value::as_str).unwrap_or_default());
            let index = block.get("BlockIndex").and_then(Value::as_u64).unwrap_or_default();
            format!("/snapshots/{id}/blocks/{index}?blockToken={token}")
        })
        .collect())
}

async fn run(
    address: SocketAddr,
    paths: Vec<String>,
    connections: usize,
    seconds: Duration,
) -> anyhow::Result<(u64, u64, Duration)> {
    let (paths, since) = (std::sync::Arc::new(paths), Instant::now());
    let callers: Vec<_> = (0..connections)
        .map(|first| {
            let paths = std::sync::Arc::clone(&paths);
            tokio::spawn(async move {
                let mut sender = connect::<Empty<Bytes>>(address).await?;
                let (mut requests, mut bytes) = (0_u64, 0_u64);
                for path in paths.iter().cycle().skip(first).step_by(connections) {
                    if since.elapsed() > seconds {
                        break;
                    }
                    sender.ready().await?;
                    let request = hyper::Request::get(path).header("host", "localhost").body(Empty::new())?;
                    let mut response = sender.send_request(request).await?;
                    anyhow::ensure!(response.status() == 200, "{path} answered {}", response.status());
                    while let Some(frame) = response.frame().await {
                        bytes += u64::try_from(frame?.data_ref().map_or(0, Bytes::len))?;
                    }
                    requests += 1;
                }
                Ok::<_, anyhow::Error>((requests, bytes))
            })
        })
        .collect();
    let (mut requests, mut bytes) = (0, 0);
    for caller in callers {
        let (some, more) = caller.await??;
        requests += some;
        bytes += more;
    }
    Ok((requests, bytes, since.elapsed()))
}

async fn list(address: SocketAddr, id: &str, most_pages: u64) -> anyhow::Result<(u64, usize, u64)> {
    let mut sender = connect(address).await?;
    let (mut pages, mut blocks, mut bytes, mut token) = (0, 0, 0, String::new());
    while pages < most_pages {
        let page = get(&mut sender, &format!("/snapshots/{id}/blocks?pageToken={token}")).await?;
        pages += 1;
        bytes += u64::try_from(page.len())?;
        blocks += page.windows(12).filter(|w| *w == b"\"BlockIndex\"").count();
        let tail = page.get(page.len().saturating_sub(200)..).unwrap_or_default();
        let tail = String::from_utf8_lossy(tail).into_owned();
        let Some((_, next)) = tail.split_once("\"NextToken\":\"") else { break };
        token = escape(next.split('"').next().unwrap_or_default());
    }
    Ok((pages, blocks, bytes))
}
