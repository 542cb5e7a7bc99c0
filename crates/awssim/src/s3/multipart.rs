//! CreateMultipartUpload, UploadPart, CompleteMultipartUpload, AbortMultipartUpload. A part that is sent twice takes
//! the place of the first; what is not completed stays until it is aborted.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Response;
use hyper::body::Incoming;
use serde::Deserialize;

use super::error::S3Error;
use super::object::store;
use super::{Answer, Call, body, quoted};
use crate::world::{Object, Part, Piece, State, Upload};

/// Parts are numbered from 1 to this.
const MOST_PARTS: u32 = 10_000;

/// Smallest part but for the last, in bytes: 5 MiB.
const LEAST_PART_BYTES: u64 = 5 << 20;

pub(super) fn create(call: &Call<'_>) -> Answer {
    call.permit_object("PutObject")?;
    let headers = call.kept_headers()?;
    // The parts are opened again when they are put together.
    call.permit_key(&headers, &["GenerateDataKey", "Decrypt"])?;
    let id = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
    let upload = Upload {
        bucket: call.target.bucket.clone(),
        key: call.target.key.clone(),
        account: call.caller.account.clone(),
        started_ms: call.context.world.now_ms(),
        headers,
        parts: BTreeMap::new(),
    };
    call.change(|state| Ok(state.uploads.insert(id.clone(), upload)))?;
    call.document("InitiateMultipartUploadResult", |xml| {
        xml.text("Bucket", &call.target.bucket);
        xml.text("Key", &call.target.key);
        xml.text("UploadId", &id);
    })
}

/// The upload that the request names, if it is of this bucket and key.
pub(super) fn find<'s>(call: &Call<'_>, state: &'s State) -> Result<(&'s String, &'s Upload), S3Error> {
    let id = call.target.text("uploadId").unwrap_or_default();
    let found = state.uploads.get_key_value(id);
    found
        .filter(|(_, one)| one.bucket == call.target.bucket && one.key == call.target.key)
        .ok_or_else(S3Error::no_such_upload)
}

pub(super) async fn upload_part(call: &Call<'_>, body: Incoming) -> Answer {
    call.permit_object("PutObject")?;
    let number = call.target.text("partNumber").and_then(|text| text.parse::<u32>().ok());
    let number = number.filter(|number| (1..=MOST_PARTS).contains(number)).ok_or_else(|| {
        S3Error::invalid_argument(format!(
            "Part number must be an integer between 1 and {MOST_PARTS}, inclusive"
        ))
    })?;
    find(call, &call.context.world.read())?;
    let received = body::to_file(call, body).await?;
    let part = Part {
        piece: received.draft.piece(received.size_bytes),
        etag: received.etag.clone(),
        modified_ms: call.context.world.now_ms(),
    };
    // The upload may have been ended meanwhile; then the part's file goes with its draft.
    let replaced = call.change(|state| {
        let id = find(call, state)?.0.clone();
        let upload = state.uploads.get_mut(&id).ok_or_else(S3Error::no_such_upload)?;
        Ok(upload.parts.insert(number, part))
    })?;
    received.draft.keep();
    call.context.objects.remove(replaced.iter().map(|part| &part.piece));
    call.plan.count_bytes(usize::try_from(received.size_bytes).unwrap_or(0), 0);
    let mut response = Response::builder().header("etag", quoted(&received.etag));
    if let Some((name, value)) = &received.checksum {
        response = response.header(name, value);
    }
    call.reply(response, Bytes::new())
}

#[derive(Debug, Deserialize)]
struct Wanted {
    #[serde(rename = "Part", default)]
    parts: Vec<WantedPart>,
}

#[derive(Debug, Deserialize)]
struct WantedPart {
    #[serde(rename = "PartNumber")]
    number: u32,
    #[serde(rename = "ETag")]
    etag: String,
}

pub(super) async fn complete(call: &Call<'_>, body: Incoming) -> Answer {
    call.permit_object("PutObject")?;
    let document = body::document(call, body).await?;
    let wanted: Wanted = quick_xml::de::from_reader(document.as_ref()).map_err(S3Error::malformed_xml)?;
    let (etag, gone) = call.change(|state| {
        let (id, upload) = find(call, state)?;
        let (id, object) = (id.clone(), assemble(call, upload, &wanted.parts)?);
        let etag = object.etag.clone();
        let used: Vec<String> = object.pieces.iter().map(|piece| piece.file.clone()).collect();
        let mut gone = store(call, state, object)?;
        let upload = state.uploads.remove(&id);
        let parts = upload.into_iter().flat_map(|upload| upload.parts.into_values());
        gone.extend(parts.map(|part| part.piece).filter(|piece| !used.contains(&piece.file)));
        Ok((etag, gone))
    })?;
    call.context.objects.remove(&gone);
    call.document("CompleteMultipartUploadResult", |xml| {
        xml.text("Location", format!("/{}/{}", call.target.bucket, call.target.key));
        xml.text("Bucket", &call.target.bucket);
        xml.text("Key", &call.target.key);
        xml.text("ETag", quoted(&etag));
    })
}

/// The object that these parts make.
fn assemble(call: &Call<'_>, upload: &Upload, wanted: &[WantedPart]) -> Result<Object, S3Error> {
    if wanted.is_empty() {
        return Err(S3Error::malformed_xml("no part is named"));
    }
    if !wanted.is_sorted_by(|one, next| one.number < next.number) {
        let message = "The list of parts was not in ascending order. The parts list must be specified in order by part number.";
        return Err(S3Error::new(400, "InvalidPartOrder", message));
    }
    let mut pieces: Vec<Piece> = Vec::with_capacity(wanted.len());
    let mut etags = String::new();
    for one in wanted {
        let part = upload.parts.get(&one.number).filter(|part| part.etag == one.etag.trim_matches('"'));
        let part = part.ok_or_else(|| {
            let message = format!(
                "One or more of the specified parts could not be found. The part may not have been uploaded, or the specified entity tag may not match the part's entity tag: part {}.",
                one.number
            );
            S3Error::new(400, "InvalidPart", message)
        })?;
        if pieces.last().is_some_and(|piece| piece.size_bytes < LEAST_PART_BYTES) {
            let message = "Your proposed upload is smaller than the minimum allowed size";
            return Err(S3Error::new(400, "EntityTooSmall", message));
        }
        etags.push_str(&part.etag);
        pieces.push(part.piece.clone());
    }
    let hash = crate::store::sha256(etags.as_bytes());
    Ok(Object {
        etag: format!("{}-{}", hex::encode(hash.get(..16).unwrap_or_default()), pieces.len()),
        pieces,
        modified_ms: call.context.world.now_ms(),
        headers: upload.headers.clone(),
    })
}

pub(super) fn abort(call: &Call<'_>) -> Answer {
    call.permit_object("AbortMultipartUpload")?;
    let gone = call.change(|state| {
        let id = find(call, state)?.0.clone();
        Ok(state.uploads.remove(&id))
    })?;
    let parts = gone.iter().flat_map(|upload| upload.parts.values());
    call.context.objects.remove(parts.map(|part| &part.piece));
    call.done(204)
}
