//! StartSnapshot.
//!
//! A repeat with the same ClientToken and the same parameters gets the same snapshot; with others, a conflict.

use std::time::{Duration, SystemTime};

use crate::server::RequestBody;
use bytes::{Bytes, BytesMut};
use http::Response;
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use serde_json::json;

use super::error::EbsError;
use super::route::check_snapshot_id;
use super::{Backend, Request, json_response};
use crate::faults::body::ReplyBody;
use crate::store::BLOCK_BYTES;

/// Longest request body accepted, in bytes; fifty tags of the longest kind stay far below.
const MOST_JSON: usize = 128 * 1024;
const GIB: u64 = 1 << 30;

/// The request's JSON, checked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Start {
    /// In GiB, from 1 to 65,536.
    pub volume_size: u64,
    /// The snapshot that this one builds on.
    pub parent_snapshot_id: Option<String>,
    /// Checked: at most 50, no repeats.
    #[serde(default)]
    pub tags: Vec<Tag>,
    /// 255 characters at most.
    pub description: Option<String>,
    /// Makes a repeat harmless.
    pub client_token: Option<String>,
    /// As asked; the account's default decides when absent.
    pub encrypted: Option<bool>,
    /// As asked; comes with `encrypted` true only.
    pub kms_key_arn: Option<String>,
    /// Minutes without a block until the snapshot fails; 10 to 4,320, 60 when not given.
    pub timeout: Option<u64>,
}

/// A tag.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Tag {
    /// 1 to 127 characters.
    #[serde(default)]
    pub key: String,
    /// 255 characters at most.
    #[serde(default)]
    pub value: String,
}

/// A snapshot that the world has registered.
#[derive(Clone, Debug)]
pub struct Started {
    /// Its id.
    pub id: String,
    /// The account it belongs to.
    pub owner: String,
    /// When it was first started.
    pub start_time: SystemTime,
    /// The key it is encrypted with, if it is.
    pub kms_key_arn: Option<String>,
}

pub(super) async fn snapshot(
    request: &Request<'_, impl Backend>,
    body: RequestBody,
) -> Result<Response<ReplyBody>, EbsError> {
    let body = Limited::new(body, MOST_JSON).collect().await;
    let body = body.map_err(|error| invalid(format!("The request body cannot be read: {error}.")))?;
    let start: Start = serde_json::from_slice(&BytesMut::from(body.to_bytes()))
        .map_err(|error| invalid(format!("The request body is not as it should be: {error}.")))?;
    check(&start)?;
    if let Some(parent) = &start.parent_snapshot_id {
        let parent = request.completed(parent)?;
        if parent.volume_size_gib > start.volume_size {
            let message =
                format!("VolumeSize must not be below the parent's {} GiB.", parent.volume_size_gib);
            return Err(EbsError::validation("INVALID_VOLUME_SIZE", message));
        }
    }
    let started = request.backend.start(request.caller, request.region, &start)?;
    if !request.store().has_snapshot(&started.id) {
        let timeout = Duration::from_secs(60 * start.timeout.unwrap_or(60));
        let parent = start.parent_snapshot_id.as_deref();
        let begun = request.store().begin_snapshot_with_timeout(
            &started.id,
            parent,
            start.volume_size * GIB,
            timeout,
        );
        if let Err(error) = begun {
            request.backend.fail(&started.id);
            return Err(error.into());
        }
        request.store().note_put(&started.id, request.faults().clock().now())?;
    }
    reply(request, &start, &started)
}

fn reply(
    request: &Request<'_, impl Backend>,
    start: &Start,
    started: &Started,
) -> Result<Response<ReplyBody>, EbsError> {
    let since = started.start_time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let tags: Vec<_> = start.tags.iter().map(|tag| json!({ "Key": tag.key, "Value": tag.value })).collect();
    let mut answer = json!({
        "SnapshotId": started.id,
        "OwnerId": started.owner,
        "Status": "pending",
        "StartTime": since.as_secs_f64(),
        "VolumeSize": start.volume_size,
        "BlockSize": BLOCK_BYTES,
        "SseType": if started.kms_key_arn.is_some() { "sse-kms" } else { "sse-ebs" },
    });
    if let Some(fields) = answer.as_object_mut() {
        let optional = [
            ("Description", &start.description),
            ("ParentSnapshotId", &start.parent_snapshot_id),
            ("KmsKeyArn", &started.kms_key_arn),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                fields.insert(name.to_owned(), json!(value));
            }
        }
        if !tags.is_empty() {
            fields.insert("Tags".to_owned(), json!(tags));
        }
    }
    json_response(request, 201, Bytes::from(answer.to_string()))
}

fn invalid(message: String) -> EbsError {
    EbsError::validation("INVALID_PARAMETER_VALUE", message)
}

fn check(start: &Start) -> Result<(), EbsError> {
    if !(1..=65_536).contains(&start.volume_size) {
        let message = format!("VolumeSize must be between 1 and 65536 GiB, not {}.", start.volume_size);
        return Err(EbsError::validation("INVALID_VOLUME_SIZE", message));
    }
    if let Some(timeout) = start.timeout.filter(|minutes| !(10..=4320).contains(minutes)) {
        return Err(invalid(format!("Timeout must be between 10 and 4320 minutes, not {timeout}.")));
    }
    if let Some(parent) = &start.parent_snapshot_id {
        check_snapshot_id(parent)?;
        if start.encrypted.is_some() || start.kms_key_arn.is_some() {
            let message = "Encrypted and KmsKeyArn cannot be given with ParentSnapshotId.";
            return Err(invalid(message.to_owned()));
        }
    }
    if start.kms_key_arn.is_some() && start.encrypted != Some(true) {
        return Err(invalid("KmsKeyArn needs Encrypted to be true.".to_owned()));
    }
    if start.description.as_ref().is_some_and(|text| text.chars().count() > 255) {
        return Err(invalid("Description must have 255 characters at most.".to_owned()));
    }
    let token_is_bad =
        |token: &String| token.is_empty() || token.len() > 255 || token.contains(char::is_whitespace);
    if start.client_token.as_ref().is_some_and(token_is_bad) {
        return Err(invalid("ClientToken must have 1 to 255 characters and no space.".to_owned()));
    }
    let tag_is_bad = |tag: &&Tag| {
        let key = tag.key.chars().count();
        !(1..=127).contains(&key) || tag.key.starts_with("aws:") || tag.value.chars().count() > 255
    };
    let mut keys: Vec<_> = start.tags.iter().map(|tag| tag.key.as_str()).collect();
    keys.sort_unstable();
    keys.dedup();
    if start.tags.len() > 50
        || keys.len() != start.tags.len()
        || start.tags.iter().any(|tag| tag_is_bad(&tag))
    {
        let message = "Tags: at most 50, keys of 1 to 127 characters without repeats and not starting with aws:, \
                       values of 255 characters at most.";
        return Err(EbsError::validation("INVALID_TAG", message));
    }
    Ok(())
}
