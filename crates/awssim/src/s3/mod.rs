//! S3, as much as bringing a disk image to VM import needs: buckets, objects, listings, uploads in parts. Addresses are
//! path-style. The bytes are files ([`files`]), what is known of them is the world's; an object is replaced or removed
//! in the world first and its file after that, so that a death between the two leaves a file and no broken object.

mod body;
mod bucket;
mod chunked;
mod error;
mod files;
mod list;
mod multipart;
mod object;
mod parts;
mod route;
mod sending;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Response, response};
use hyper::body::Incoming;

use crate::faults::body::{self as reply_body, ReplyBody};
use crate::faults::{self, FaultPlan, Refusal};
use crate::server::Context;
use crate::server::sigv4::{ChunkSigner, Signed};
use crate::server::xml::Xml;
use crate::world::{Asked, Caller, KeyRefusal, State, Via};
use error::S3Error;
pub(crate) use files::{ObjectFiles, ObjectReader};
use route::{Operation, Target};

const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

type Answer = Result<Response<ReplyBody>, S3Error>;

/// One call with all that its answer depends on.
struct Call<'a> {
    context: &'a Arc<Context>,
    caller: &'a Caller,
    signed: &'a Signed,
    signer: ChunkSigner,
    parts: &'a Parts,
    target: &'a Target,
    plan: FaultPlan,
}

/// Answers a request that is signed for S3.
pub(crate) async fn serve(
    context: &Arc<Context>,
    signed: &Signed,
    parts: &Parts,
    body: Incoming,
) -> Response<ReplyBody> {
    answer(context, signed, parts, body).await.unwrap_or_else(S3Error::response)
}

/// A refusal in S3's shape.
pub(crate) fn refuse(refusal: Refusal) -> Response<ReplyBody> {
    S3Error::from(refusal).response()
}

async fn answer(context: &Arc<Context>, signed: &Signed, parts: &Parts, body: Incoming) -> Answer {
    if signed.content().is_empty() {
        let message = "Missing required header for this request: x-amz-content-sha256";
        return Err(S3Error::new(400, "InvalidRequest", message));
    }
    let (caller, signer) = context.authenticate_chunks(signed)?;
    let target = Target::of(parts)?;
    let plan = context
        .faults
        .before_call(faults::Call::new("s3", target.operation.name(), &caller.account, &signed.region))
        .await?;
    let call = Call { context, caller: &caller, signed, signer, parts, target: &target, plan };
    match target.operation {
        Operation::ListBuckets => bucket::list(&call),
        Operation::CreateBucket => bucket::create(&call, body).await,
        Operation::HeadBucket => bucket::head(&call),
        Operation::GetBucketLocation => bucket::location(&call),
        Operation::DeleteBucket => bucket::delete(&call),
        Operation::ListObjectsV2 => list::objects(&call),
        Operation::DeleteObjects => object::delete_many(&call, body).await,
        Operation::PutObject => object::put(&call, body).await,
        Operation::GetObject => sending::get(&call),
        Operation::HeadObject => sending::head(&call),
        Operation::DeleteObject => object::delete(&call),
        Operation::CreateMultipartUpload => multipart::create(&call),
        Operation::UploadPart => multipart::upload_part(&call, body).await,
        Operation::CompleteMultipartUpload => multipart::complete(&call, body).await,
        Operation::AbortMultipartUpload => multipart::abort(&call),
        Operation::ListMultipartUploads => parts::uploads(&call),
        Operation::ListParts => parts::list(&call),
    }
}

impl Call<'_> {
    /// Demands that the bucket is there, in the region that the request was signed for, and the caller's.
    fn bucket(&self) -> Result<(), S3Error> {
        let state = self.context.world.read();
        let bucket = state.buckets.get(&self.target.bucket).ok_or_else(S3Error::no_such_bucket)?;
        if bucket.region != self.signed.region {
            return Err(S3Error::other_region(&bucket.region));
        }
        if bucket.account != self.caller.account {
            return Err(S3Error::access_denied("Access Denied"));
        }
        Ok(())
    }

    fn asked(&self, action: &str, key: Option<&str>) -> Asked {
        let slash_key = key.map(|key| format!("/{key}")).unwrap_or_default();
        Asked::new(format!("s3:{action}"), format!("arn:aws:s3:::{}{slash_key}", self.target.bucket))
    }

    fn demand(&self, asked: &Asked) -> Result<(), S3Error> {
        if self.caller.may(asked) {
            return Ok(());
        }
        Err(S3Error::access_denied(format!(
            "User: {} is not authorized to perform: {} on resource: \"{}\" because no identity-based policy allows the {} action",
            self.caller.arn, asked.action, asked.resource, asked.action
        )))
    }

    /// Demands the bucket and the permission for the bucket itself.
    fn permit_bucket(&self, action: &str) -> Result<(), S3Error> {
        self.bucket()?;
        self.demand(&self.asked(action, None))
    }

    /// Demands the bucket and the permission for the object.
    fn permit_object(&self, action: &str) -> Result<(), S3Error> {
        self.bucket()?;
        self.demand(&self.asked(action, Some(&self.target.key)))
    }

    /// Changes the world; the bucket, which was there before the body came, may be gone.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> Result<T, S3Error>) -> Result<T, S3Error> {
        self.context.world.change(|state| {
            if !state.buckets.contains_key(&self.target.bucket) {
                return Err(S3Error::no_such_bucket());
            }
            change(state)
        })
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.parts.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The headers that are kept with an object and given back with it.
    fn kept_headers(&self) -> Result<BTreeMap<String, String>, S3Error> {
        const KEPT: [&str; 7] = [
            "content-type",
            "content-disposition",
            "content-language",
            "cache-control",
            "expires",
            "x-amz-storage-class",
            "x-amz-server-side-encryption",
        ];
        if self.parts.headers.contains_key("x-amz-tagging") {
            return Err(S3Error::not_implemented("tags of objects"));
        }
        let headers = self.parts.headers.iter().filter_map(|(name, value)| {
            let name = name.as_str();
            let is_kept = KEPT.contains(&name)
                || name.starts_with("x-amz-meta-")
                || name.starts_with("x-amz-server-side-encryption-aws-kms-");
            is_kept.then(|| Some((name.to_owned(), value.to_str().ok()?.to_owned()))).flatten()
        });
        let mut headers: BTreeMap<String, String> = headers.collect();
        // How the body travelled is no part of the object.
        let encodings = self.header("content-encoding").unwrap_or_default().split(',').map(str::trim);
        let own: Vec<&str> = encodings.filter(|one| !one.is_empty() && *one != "aws-chunked").collect();
        if !own.is_empty() {
            headers.insert("content-encoding".to_owned(), own.join(","));
        }
        Ok(headers)
    }

    /// Demands the key that the headers say the object is to be encrypted with; S3 uses it for the caller.
    fn permit_key(&self, headers: &BTreeMap<String, String>, actions: &[&str]) -> Result<(), S3Error> {
        let Some(named) = headers.get("x-amz-server-side-encryption-aws-kms-key-id") else { return Ok(()) };
        let (account, region, now) = (&self.caller.account, &self.signed.region, self.context.world.now_ms());
        let used = self.context.world.change(|state| {
            let arn = state.find_key(account, region, named, now);
            let arn = arn.ok_or_else(|| KeyRefusal::NotFound { key: named.clone() })?;
            state.use_key(self.caller, &arn, actions, Via::S3, now)
        });
        used.map_err(|refusal| match refusal {
            KeyRefusal::Denied { .. } => S3Error::access_denied(refusal.to_string()),
            KeyRefusal::NotFound { .. } => S3Error::new(400, "KMS.NotFoundException", refusal.to_string()),
            KeyRefusal::Disabled { .. } => S3Error::new(400, "KMS.DisabledException", refusal.to_string()),
            KeyRefusal::PendingDeletion { .. } => {
                S3Error::new(400, "KMS.KMSInvalidStateException", refusal.to_string())
            }
        })
    }

    /// An answer with a document.
    fn document(&self, root: &str, fill: impl FnOnce(&mut Xml)) -> Answer {
        let text = Xml::document(root, NAMESPACE, fill);
        self.reply(Response::builder().header("content-type", "application/xml"), Bytes::from(text))
    }

    /// An answer without a body.
    fn done(&self, status: u16) -> Answer {
        self.reply(Response::builder().status(status), Bytes::new())
    }

    /// An answer as the fault plan lets it through.
    fn reply(&self, response: response::Builder, body: Bytes) -> Answer {
        if self.plan.loses_reply() {
            // A status that has no body would get through.
            return Ok(Response::new(reply_body::lost()));
        }
        let response = response.header("x-amz-request-id", format!("{:032x}", rand::random::<u128>()));
        response.body(self.plan.body(vec![body])).map_err(|error| std::io::Error::other(error).into())
    }
}

/// A time as S3's documents have it.
fn time(ms: u64) -> String {
    formatted(ms, "%Y-%m-%dT%H:%M:%S.000Z")
}

/// A time as HTTP's headers have it.
fn http_time(ms: u64) -> String {
    formatted(ms, "%a, %d %b %Y %H:%M:%S GMT")
}

fn formatted(ms: u64, format: &str) -> String {
    let at = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map(|at| at.strftime(format).to_string()).unwrap_or_default()
}

/// An ETag as it is sent.
fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}
