//! GetSnapshotBlock.
//!
//! The path that a backup takes millions of times: one check of the token, one read into the buffer that is then
//! sent, the stored checksum. Block data comes from the page cache, so the read is done where the request is.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Response;

use super::error::EbsError;
use super::token::{Kind, Refused, Tokens};
use super::{Backend, Request};
use crate::faults::body::ReplyBody;

pub(super) fn snapshot_block(request: &Request<'_, impl Backend>) -> Result<Response<ReplyBody>, EbsError> {
    let id = &request.route.snapshot_id;
    let index = request.route.block_index.unwrap_or_default();
    request.completed(id)?;
    let token = request.route.query("blockToken").unwrap_or_default();
    let tokens = Tokens::new(request.store().secret(), Kind::Block, &[id]);
    let refused =
        |what: &str| EbsError::validation("INVALID_BLOCK_TOKEN", format!("The block token {what}."));
    match tokens.check(token, request.now()) {
        Ok(of) if of == index => {}
        Ok(_) => return Err(refused("is of another block")),
        Err(Refused::Invalid) => return Err(refused("is not valid")),
        Err(Refused::Expired) => return Err(refused("has expired")),
    }
    let block = request.store().read_block_parts(id, index)?;
    let block = block.ok_or_else(|| {
        EbsError::validation("INVALID_BLOCK", format!("The snapshot has no block {index}."))
    })?;
    let mut sha256 = block.sha256;
    if request.plan.wrong_checksum()
        && let Some(byte) = sha256.first_mut()
    {
        *byte ^= 1;
    }
    let len = block.body.len() + block.tail.len();
    request.plan.count_bytes(0, len);
    let response = Response::builder()
        .header("content-type", "application/octet-stream")
        .header("x-amz-data-length", len)
        .header("x-amz-checksum", STANDARD.encode(sha256))
        .header("x-amz-checksum-algorithm", "SHA256")
        .body(request.plan.body(vec![block.body, block.tail]));
    response.map_err(|error| EbsError::internal(error.to_string()))
}
