//! PutSnapshotBlock.

use std::time::Duration;

use crate::server::RequestBody;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response};
use http_body_util::BodyExt;

use super::error::EbsError;
use super::{Backend, Request, header};
use crate::faults::body::ReplyBody;
use crate::store::{BLOCK_LEN, Sha256, sha256};

pub(super) async fn snapshot_block(
    request: &Request<'_, impl Backend>,
    body: RequestBody,
) -> Result<Response<ReplyBody>, EbsError> {
    let id = &request.route.snapshot_id;
    let index = request.route.block_index.unwrap_or_default();
    let patience = Duration::from_secs(request.faults().behaviour().write_timeout_seconds);
    if let Err(refusal) = request.writable(id) {
        // Who still sends the block would see the connection break, and not this answer.
        let _thrown_away = tokio::time::timeout(patience, receive(body)).await;
        return Err(refusal);
    }
    let claimed = claimed_checksum(&request.headers)?;
    let length = header(&request.headers, "x-amz-data-length").unwrap_or_default();
    if length != BLOCK_LEN.to_string() {
        let message = format!("DataLength must be {BLOCK_LEN}, not '{length}'.");
        return Err(EbsError::validation("INVALID_PARAMETER_VALUE", message));
    }
    if let Some(progress) = header(&request.headers, "x-amz-progress")
        && !progress.parse::<u8>().is_ok_and(|percent| percent <= 100)
    {
        return Err(EbsError::validation("INVALID_PARAMETER_VALUE", "Progress must be between 0 and 100."));
    }
    if let Some(encoding) = header(&request.headers, "content-encoding") {
        let message = format!("The content encoding {encoding} is not supported.");
        return Err(EbsError::validation("INVALID_CONTENT_ENCODING", message));
    }
    let data = tokio::time::timeout(patience, receive(body)).await.map_err(|_| {
        EbsError::validation("WRITE_REQUEST_TIMEOUT", "The block's data did not arrive in time.")
    })??;
    let found = sha256(&data);
    if found != claimed {
        let (found, claimed) = (STANDARD.encode(found), STANDARD.encode(claimed));
        let message = format!("The checksum of the data is {found}, not {claimed} as the request says.");
        return Err(EbsError::validation("INVALID_BLOCK", message));
    }
    request.store().put_block(id, index, &data, claimed)?;
    request.store().note_put(id, request.faults().clock().now())?;
    request.plan.count_bytes(data.len(), 0);
    let mut answered = claimed;
    if request.plan.wrong_checksum()
        && let Some(byte) = answered.first_mut()
    {
        *byte ^= 1;
    }
    let response = Response::builder()
        .status(201)
        .header("x-amz-checksum", STANDARD.encode(answered))
        .header("x-amz-checksum-algorithm", "SHA256")
        .body(request.plan.body(Vec::new()));
    response.map_err(|error| EbsError::internal(error.to_string()))
}

fn claimed_checksum(headers: &HeaderMap) -> Result<Sha256, EbsError> {
    let invalid = |message: &str| EbsError::validation("INVALID_PARAMETER_VALUE", message);
    let algorithm = header(headers, "x-amz-checksum-algorithm");
    if algorithm != Some("SHA256") {
        return Err(invalid("ChecksumAlgorithm must be SHA256."));
    }
    let text = header(headers, "x-amz-checksum").ok_or_else(|| invalid("Checksum must be given."))?;
    let bytes = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| invalid("Checksum must be a SHA-256 in base64."))
}

/// The body into one buffer, never more than a block.
async fn receive(mut body: RequestBody) -> Result<Bytes, EbsError> {
    let wrong = |len: usize| {
        EbsError::validation("INVALID_BLOCK", format!("The block's data has {len} bytes, not {BLOCK_LEN}."))
    };
    let mut data = BytesMut::with_capacity(BLOCK_LEN);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            EbsError::validation("INVALID_BLOCK", format!("The block's data broke off: {error}."))
        })?;
        if let Some(piece) = frame.data_ref() {
            if data.len() + piece.len() > BLOCK_LEN {
                return Err(wrong(data.len() + piece.len()));
            }
            data.extend_from_slice(piece);
        }
    }
    if data.len() == BLOCK_LEN { Ok(data.freeze()) } else { Err(wrong(data.len())) }
}
