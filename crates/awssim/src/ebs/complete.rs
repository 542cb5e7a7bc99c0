//! CompleteSnapshot.
//!
//! A repeat after a lost reply finds the snapshot completed and gets the same answer.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Response;
use serde_json::json;

use super::error::EbsError;
use super::{Backend, Request, SnapshotState, header, json_response};
use crate::faults::body::ReplyBody;
use crate::store::StoreError;

pub(super) fn snapshot(request: &Request<'_, impl Backend>) -> Result<Response<ReplyBody>, EbsError> {
    let id = &request.route.snapshot_id;
    let invalid = |message: String| EbsError::validation("INVALID_PARAMETER_VALUE", message);
    let count =
        header(&request.headers, "x-amz-changedblockscount").and_then(|text| text.parse::<u64>().ok());
    let count = count.ok_or_else(|| invalid("ChangedBlocksCount must be a number from 0.".to_owned()))?;
    let checksum = aggregate(request)?;
    request.completable(id)?;
    let summary = match request.store().put_summary(id) {
        // The blocks were finished by an earlier request that went no further.
        Err(StoreError::NotPending(_)) => None,
        other => Some(other?),
    };
    if let Some((put, linear)) = summary {
        if put != count {
            return Err(invalid(format!("ChangedBlocksCount is {count}, but {put} blocks were written.")));
        }
        if let Some(claimed) = checksum
            && claimed != STANDARD.encode(linear)
        {
            let linear = STANDARD.encode(linear);
            return Err(invalid(format!("The aggregate checksum of the blocks is {linear}, not {claimed}.")));
        }
        request.store().finish_snapshot(id)?;
    }
    request.backend.complete(request.caller, request.region, id)?;
    // The world may take a while to show the snapshot as completed, as AWS does.
    let status = match request.snapshot(id)?.state {
        SnapshotState::Pending => "pending",
        SnapshotState::Completed => "completed",
        SnapshotState::Error => "error",
    };
    json_response(request, 202, Bytes::from(json!({ "Status": status }).to_string()))
}

/// The aggregate checksum, which is given with its algorithm and method or not at all.
fn aggregate<'a>(request: &'a Request<'_, impl Backend>) -> Result<Option<&'a str>, EbsError> {
    let headers = &request.headers;
    let checksum = header(headers, "x-amz-checksum");
    let algorithm = header(headers, "x-amz-checksum-algorithm");
    let method = header(headers, "x-amz-checksum-aggregation-method");
    match (checksum, algorithm, method) {
        (None, None, None) => Ok(None),
        (Some(checksum), Some("SHA256"), Some("LINEAR")) => Ok(Some(checksum)),
        _ => Err(EbsError::validation(
            "INVALID_PARAMETER_VALUE",
            "Checksum, ChecksumAlgorithm SHA256 and ChecksumAggregationMethod LINEAR go together.",
        )),
    }
}
