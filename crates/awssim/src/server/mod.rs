//! The HTTP server: finds the service in the signature's scope, checks the signature, asks the fault rules, and hands
//! the call on. It keeps nothing of its own.

pub(crate) mod form;
mod reply;
pub(crate) mod sigv4;
pub(crate) mod xml;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::device::Devices;
use crate::faults::body::{self, ReplyBody};
use crate::faults::{Call, Faults, Refusal};
use crate::import::{self, Imports};
use crate::s3::ObjectFiles;
use crate::store::{BlockStore, StoreError};
use crate::world::{Caller, REGIONS, World};
use crate::{admin, ebs, ec2, kms, s3, sts};
use form::Form;
use sigv4::{ChunkSigner, KeyCache, Signed};

/// What the name of an EC2 call has behind it when rules and counters look at a dry run.
const DRY_RUN: &str = ":DryRun";

/// Longest body of a query-protocol call, in bytes.
const MOST_FORM: usize = 1 << 20;

/// A request's body, read already or not.
pub type RequestBody = BoxBody<Bytes, hyper::Error>;

/// Where to listen and where to keep everything.
#[derive(Debug, Clone)]
pub struct Config {
    /// Port 0 picks a free one.
    pub listen: SocketAddr,
    /// Volumes, snapshots, objects, and what the world knows; reloaded at the next start.
    pub data_dir: PathBuf,
}

/// All of one simulated AWS.
#[derive(Debug)]
pub struct Context {
    /// Accounts and their resources.
    pub world: Arc<World>,
    /// Blocks.
    pub store: Arc<BlockStore>,
    /// Switches and counters.
    pub faults: Arc<Faults>,
    /// Block devices of access nodes.
    pub(crate) devices: Devices,
    pub(crate) objects: ObjectFiles,
    pub(crate) imports: Imports,
    keys: KeyCache,
}

/// A server that does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder is no use.
    #[error("open the block store: failed to {0}")]
    Store(#[from] StoreError),
    /// The folder of S3's objects is no use.
    #[error("open the folder of objects {path}: {source}")]
    Objects {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The world's file is no use.
    #[error("read {path}: {reason}")]
    World {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The address is taken.
    #[error("listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// A server that runs until it is stopped or dropped.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    context: Arc<Context>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Running {
    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The endpoint for AWS clients.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The simulated AWS, for set-up and inspection in the same process.
    #[must_use]
    pub const fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Stops listening, ends all connections and writes the world down.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        if let Err(error) = self.context.devices.clear() {
            tracing::debug!(%error, "loop devices are not looked at");
        }
        self.context.world.save();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The simulator.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Opens the data folder, listens, and serves on the current runtime.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: Config) -> Result<Running, StartError> {
        let store = Arc::new(BlockStore::open(&config.data_dir.join("blocks"))?);
        let faults = Arc::new(Faults::new());
        let path = config.data_dir.join("world.json");
        let world = World::open(path.clone(), Arc::clone(&faults))
            .map_err(|reason| StartError::World { path, reason })?;
        let path = config.data_dir.join("objects");
        let objects = ObjectFiles::open(path.clone(), world.read().object_files())
            .map_err(|source| StartError::Objects { path, source })?;
        let context = Arc::new(Context {
            world: Arc::new(world),
            store,
            faults,
            devices: Devices::open(&config.data_dir.join("blocks/volumes")),
            objects,
            imports: Imports::default(),
            keys: KeyCache::default(),
        });
        ec2::resume_devices(&context);
        let listen = |source| StartError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        tracing::info!(%address, "awssim listens");
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(accept(listener, Arc::clone(&context), stop.clone(), tasks.clone()));
        tasks.spawn(keep(Arc::clone(&context), stop.clone()));
        tasks.spawn(import::work(Arc::clone(&context), stop.clone()));
        Ok(Running { address, context, stop, tasks })
    }
}

/// Writes the world down when it has changed.
async fn keep(context: Arc<Context>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(200));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {
                let world = Arc::clone(&context.world);
                let _saved = tokio::task::spawn_blocking(move || world.save_if_changed()).await;
            }
        }
    }
}

async fn accept(listener: TcpListener, context: Arc<Context>, stop: CancellationToken, tasks: TaskTracker) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        let _best_effort = stream.set_nodelay(true);
        let (context, stop) = (Arc::clone(&context), stop.clone());
        tasks.spawn(async move {
            let service = service_fn(move |request| {
                let context = Arc::clone(&context);
                async move { Ok::<_, std::convert::Infallible>(serve(context, request).await) }
            });
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder.http1().max_buf_size(1 << 20);
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                () = stop.cancelled() => {}
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended");
                }
            }
        });
    }
}

async fn serve(context: Arc<Context>, request: Request<Incoming>) -> Response<ReplyBody> {
    if request.uri().path().starts_with("/_awssim") {
        return admin::handle(context, request).await;
    }
    let (parts, body) = request.into_parts();
    let service = Signed::of(&parts);
    match service {
        Err(refusal) => match guess_service(&parts) {
            "s3" => s3::refuse(refusal),
            service => reply::error(service, &refusal),
        },
        // A region that there is not has no address: nobody answers.
        Ok(signed) if !REGIONS.contains(&signed.region.as_str()) => {
            tracing::warn!(region = signed.region, regions = ?REGIONS, "a call to a region that is not simulated");
            Response::new(body::lost())
        }
        Ok(signed) if signed.service == "s3" => s3::serve(&context, &signed, &parts, body).await,
        Ok(signed) if signed.service == "ebs" => serve_ebs(&context, signed, parts, body)
            .await
            .unwrap_or_else(|refusal| reply::error("ebs", &refusal)),
        Ok(signed) if signed.service == "kms" => serve_kms(&context, signed, parts, body)
            .await
            .unwrap_or_else(|refusal| reply::error("kms", &refusal)),
        Ok(signed) => {
            let name = signed.service.clone();
            serve_query(&context, signed, parts, body)
                .await
                .unwrap_or_else(|refusal| reply::error(&name, &refusal))
        }
    }
}

fn guess_service(parts: &http::request::Parts) -> &'static str {
    match parts.uri.path() {
        path if path.starts_with("/snapshots") => "ebs",
        "/" if kms_action(parts).is_some() => "kms",
        "/" => "ec2",
        _ => "s3",
    }
}

async fn serve_ebs(
    context: &Arc<Context>,
    mut signed: Signed,
    parts: http::request::Parts,
    body: Incoming,
) -> Result<Response<ReplyBody>, Refusal> {
    // A block's body is not signed and streams on; everything else is small.
    let body = if parts.method == Method::PUT {
        signed.with_body(b"");
        body.boxed()
    } else {
        let body = read_body(&mut signed, body).await?;
        Full::new(body).map_err(|never| match never {}).boxed()
    };
    let caller = context.authenticate(&signed)?;
    Ok(ebs::serve(context.as_ref(), &caller, &signed.region, Request::from_parts(parts, body)).await)
}

/// Reads a small body and checks it against its signed hash.
async fn read_body(signed: &mut Signed, body: Incoming) -> Result<Bytes, Refusal> {
    let body = Limited::new(body, MOST_FORM).collect().await.map_err(|error| {
        Refusal::new(400, "InvalidRequest", None, format!("The body cannot be read: {error}"))
    })?;
    let body = body.to_bytes();
    signed.with_body(&body);
    signed.check_body(&body)?;
    Ok(body)
}

async fn serve_query(
    context: &Arc<Context>,
    mut signed: Signed,
    parts: http::request::Parts,
    body: Incoming,
) -> Result<Response<ReplyBody>, Refusal> {
    let body = read_body(&mut signed, body).await?;
    let caller = context.authenticate(&signed)?;
    let has_form_in_query = parts.method == Method::GET;
    let form = if has_form_in_query {
        Form::parse(parts.uri.query().unwrap_or_default().as_bytes())
    } else {
        Form::parse(&body)
    };
    let action = form
        .text("Action")
        .ok_or_else(|| Refusal::new(400, "MissingAction", None, "The request must contain an Action"))?
        .to_owned();
    // Whoever hurts a call means the one that does something.
    let counted = if form.flag("DryRun") { format!("{action}{DRY_RUN}") } else { action.clone() };
    let call = Call::new(&signed.service, &counted, &caller.account, &signed.region);
    let plan = context.faults.before_call(call).await?;
    let (service, region) = (signed.service.clone(), signed.region.clone());
    let worker = Arc::clone(context);
    // The calls touch files.
    let done = tokio::task::spawn_blocking(move || match service.as_str() {
        "ec2" => ec2::call(&worker, &caller, &region, &action, &form),
        "sts" => sts::call(&worker, &caller, &action, &form),
        other => {
            Err(Refusal::new(400, "InvalidAction", None, format!("The service {other} is not simulated")))
        }
    })
    .await
    .unwrap_or_else(|error| Err(Refusal::new(500, "InternalError", None, error.to_string())))?;
    Ok(reply::document(done, &plan))
}

/// The action that the header of KMS's JSON protocol names.
fn kms_action(parts: &http::request::Parts) -> Option<&str> {
    parts.headers.get("x-amz-target")?.to_str().ok()?.strip_prefix("TrentService.")
}

async fn serve_kms(
    context: &Arc<Context>,
    mut signed: Signed,
    parts: http::request::Parts,
    body: Incoming,
) -> Result<Response<ReplyBody>, Refusal> {
    let body = read_body(&mut signed, body).await?;
    let caller = context.authenticate(&signed)?;
    let action = kms_action(&parts).ok_or_else(|| kms::unknown_operation(""))?;
    let plan = context.faults.before_call(Call::new("kms", action, &caller.account, &signed.region)).await?;
    let text = kms::call(context, &caller, &signed.region, action, &body)?;
    Ok(reply::json(text, &plan))
}

impl Context {
    /// Whose the signature is; the check of the signature itself.
    fn authenticate(&self, signed: &Signed) -> Result<Caller, Refusal> {
        Ok(self.authenticate_chunks(signed)?.0)
    }

    /// The same, with what checks the chunks of the body.
    pub(crate) fn authenticate_chunks(&self, signed: &Signed) -> Result<(Caller, ChunkSigner), Refusal> {
        let key = self.world.access_key(&signed.access_key, signed.token.as_deref())?;
        signed.verify(&key.secret, self.faults.clock().epoch_seconds(), &self.keys)?;
        let signer = signed.chunk_signer(&key.secret, &self.keys);
        Ok((key.caller, signer))
    }
}
