//! Request bodies: objects and parts go to a file piece by piece and are checked against every hash that the client
//! gave; documents are small and come into memory.

use std::io::{self, Write as _};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use flate2::Crc;
use http::HeaderMap;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;

use super::Call;
use super::chunked::Chunks;
use super::error::S3Error;
use super::files::Draft;

/// Largest object or part that one request may bring: 5 GiB, as at AWS.
const MOST_BYTES: u64 = 5 << 30;

/// Largest document, in bytes: 10,000 parts to complete need most.
const MOST_DOCUMENT_BYTES: usize = 4 << 20;

/// Bytes collected before they are hashed and written.
const PIECE: usize = 1 << 20;

/// Checksums that are told and not checked here would be a lie; these two are checked.
const CHECKED: [&str; 2] = ["x-amz-checksum-crc32", "x-amz-checksum-sha256"];

/// A body that is on disk, and was what the client said.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) draft: Draft,
    pub(super) size_bytes: u64,
    /// Of the bytes, without quotes: 32 hexadecimal digits and no MD5, which the hyphen after it says to clients.
    pub(super) etag: String,
    /// The client's own checksum with its header's name, to be answered.
    pub(super) checksum: Option<(String, String)>,
}

/// Where the bytes go.
struct Sink {
    draft: Draft,
    sha256: digest::Context,
    crc32: Crc,
    size_bytes: u64,
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sha256.update(bytes);
        self.crc32.update(bytes);
        self.size_bytes += u64::try_from(bytes.len()).unwrap_or(0);
        self.draft.file.write_all(bytes)
    }
}

/// Receives an object or a part.
pub(super) async fn to_file(call: &Call<'_>, body: Incoming) -> Result<Received, S3Error> {
    let headers = &call.parts.headers;
    let announced = announced(headers)?;
    if announced > MOST_BYTES {
        let message = "Your proposed upload exceeds the maximum allowed size";
        return Err(S3Error::new(400, "EntityTooLarge", message));
    }
    let mut chunks = chunks(call)?;
    let mut sink = Sink {
        draft: call.context.objects.draft()?,
        sha256: digest::Context::new(&digest::SHA256),
        crc32: Crc::new(),
        size_bytes: 0,
    };
    let mut body = body;
    let mut piece = BytesMut::with_capacity(PIECE);
    let mut received: u64 = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| incomplete(error.to_string()))?;
        let Some(data) = frame.data_ref() else { continue };
        let before = piece.len();
        match &mut chunks {
            Some(chunks) => chunks.push(data, |data| piece.extend_from_slice(&data))?,
            None => piece.extend_from_slice(data),
        }
        received += u64::try_from(piece.len() - before).unwrap_or(0);
        if received > announced {
            return Err(incomplete(format!("more than the {announced} bytes that were announced")));
        }
        if piece.len() >= PIECE {
            sink = write(sink, piece.split().freeze()).await?;
        }
    }
    if received != announced {
        return Err(incomplete(format!("{received} of {announced} bytes arrived")));
    }
    let sink = write(sink, piece.freeze()).await?;
    let trailers = chunks.map(Chunks::finish).transpose()?.unwrap_or_default();
    check(call, sink, &trailers)
}

async fn write(mut sink: Sink, bytes: Bytes) -> Result<Sink, S3Error> {
    let written = tokio::task::spawn_blocking(move || {
        sink.write(&bytes)?;
        Ok::<_, io::Error>(sink)
    });
    Ok(written.await.map_err(io::Error::other)??)
}

/// Compares with the hash that was signed, and with the client's checksums in headers and trailer.
fn check(call: &Call<'_>, sink: Sink, trailers: &[(String, String)]) -> Result<Received, S3Error> {
    let sha256 = sink.sha256.finish();
    if call.signed.content().len() == 64 {
        call.signed.check_hash(sha256.as_ref())?;
    }
    let headers = call.parts.headers.iter();
    let in_headers = headers.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    let in_trailer = trailers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let mut checksum = None;
    for (name, given) in in_headers.chain(in_trailer).filter(|(name, _)| CHECKED.contains(name)) {
        let found = if name == "x-amz-checksum-crc32" {
            STANDARD.encode(sink.crc32.sum().to_be_bytes())
        } else {
            STANDARD.encode(sha256.as_ref())
        };
        if found != given {
            let message = format!("The {name} you specified did not match what we received: it is {found}.");
            return Err(S3Error::new(400, "BadDigest", message));
        }
        checksum = Some((name.to_owned(), found));
    }
    let etag = hex::encode(sha256.as_ref().get(..16).unwrap_or_default());
    Ok(Received { draft: sink.draft, size_bytes: sink.size_bytes, etag: format!("{etag}-1"), checksum })
}

/// How many bytes the object or part will have.
fn announced(headers: &HeaderMap) -> Result<u64, S3Error> {
    let number = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()?.parse().ok());
    let is_chunked =
        headers.get("x-amz-content-sha256").is_some_and(|value| value.as_bytes().starts_with(b"STREAMING-"));
    let name = if is_chunked { "x-amz-decoded-content-length" } else { "content-length" };
    number(name).ok_or_else(|| {
        let message = format!("You must provide the {name} HTTP header.");
        S3Error::new(411, "MissingContentLength", message)
    })
}

/// How the body is to be decoded; refuses checksums that nobody would check.
fn chunks(call: &Call<'_>) -> Result<Option<Chunks>, S3Error> {
    let headers = &call.parts.headers;
    let is_unchecked = |name: &str| {
        let is_checksum = name.starts_with("x-amz-checksum-") && !is_about_checksums(name);
        (is_checksum && !CHECKED.contains(&name)) || name == "content-md5"
    };
    let promised = headers.get("x-amz-trailer").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let promised = promised.split(',').map(|name| name.trim().to_lowercase());
    let names = headers.keys().map(|name| name.as_str().to_owned()).chain(promised);
    for name in names {
        if is_unchecked(&name) {
            return Err(S3Error::not_implemented(&format!("{name} (use CRC32 or SHA256)")));
        }
    }
    let signer = || Some(call.signer.clone());
    match call.signed.content() {
        "UNSIGNED-PAYLOAD" => Ok(None),
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => Ok(Some(Chunks::new(None, true))),
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" => Ok(Some(Chunks::new(signer(), false))),
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => Ok(Some(Chunks::new(signer(), true))),
        hash if hash.len() == 64 => Ok(None),
        other => Err(S3Error::invalid_argument(format!("x-amz-content-sha256 must not be {other}"))),
    }
}

fn is_about_checksums(name: &str) -> bool {
    matches!(name, "x-amz-checksum-type" | "x-amz-checksum-algorithm" | "x-amz-checksum-mode")
}

fn incomplete(what: String) -> S3Error {
    S3Error::new(400, "IncompleteBody", format!("The request body is not what its headers say: {what}."))
}

/// Receives a document, whose hash is signed.
pub(super) async fn document(call: &Call<'_>, body: Incoming) -> Result<Bytes, S3Error> {
    let body = Limited::new(body, MOST_DOCUMENT_BYTES).collect().await;
    let body = body.map_err(|error| S3Error::malformed_xml(error.to_string()))?.to_bytes();
    let body = match chunks_of_document(call) {
        None => body,
        Some(mut chunks) => {
            let mut decoded = BytesMut::new();
            chunks.push(&body, |data| decoded.extend_from_slice(&data))?;
            chunks.finish()?;
            decoded.freeze()
        }
    };
    call.signed.check_body(&body)?;
    Ok(body)
}

fn chunks_of_document(call: &Call<'_>) -> Option<Chunks> {
    match call.signed.content() {
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => Some(Chunks::new(None, true)),
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" => Some(Chunks::new(Some(call.signer.clone()), false)),
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => Some(Chunks::new(Some(call.signer.clone()), true)),
        _ => None,
    }
}
