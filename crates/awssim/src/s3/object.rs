//! PutObject, DeleteObject, DeleteObjects.

use bytes::Bytes;
use http::Response;
use hyper::body::Incoming;
use serde::Deserialize;

use super::error::S3Error;
use super::{Answer, Call, body, quoted};
use crate::world::{Object, Piece, State};

/// Objects that one DeleteObjects may name.
const MOST_DELETED: usize = 1_000;

pub(super) async fn put(call: &Call<'_>, body: Incoming) -> Answer {
    call.permit_object("PutObject")?;
    let headers = call.kept_headers()?;
    call.permit_key(&headers, &["GenerateDataKey"])?;
    let received = body::to_file(call, body).await?;
    let object = Object {
        pieces: vec![received.draft.piece(received.size_bytes)],
        etag: received.etag.clone(),
        modified_ms: call.context.world.now_ms(),
        headers,
    };
    let replaced = call.change(|state| store(call, state, object))?;
    received.draft.keep();
    call.context.objects.remove(&replaced);
    call.plan.count_bytes(usize::try_from(received.size_bytes).unwrap_or(0), 0);
    let mut response = Response::builder().header("etag", quoted(&received.etag));
    if let Some((name, value)) = &received.checksum {
        response = response.header(name, value);
    }
    call.reply(response, Bytes::new())
}

/// Puts an object into the bucket, if the conditions of the request hold; answers what it replaces.
pub(super) fn store(call: &Call<'_>, state: &mut State, object: Object) -> Result<Vec<Piece>, S3Error> {
    let bucket = state.buckets.get_mut(&call.target.bucket).ok_or_else(S3Error::no_such_bucket)?;
    let have = bucket.objects.get(&call.target.key);
    if let Some(wanted) = call.header("if-none-match") {
        if wanted != "*" {
            return Err(S3Error::not_implemented("If-None-Match with anything but * on a write"));
        }
        if have.is_some() {
            return Err(S3Error::precondition_failed());
        }
    }
    if let Some(wanted) = call.header("if-match") {
        let have = have.ok_or_else(S3Error::no_such_key)?;
        if wanted.trim_matches('"') != have.etag {
            return Err(S3Error::precondition_failed());
        }
    }
    let replaced = bucket.objects.insert(call.target.key.clone(), object);
    Ok(replaced.map(|object| object.pieces).unwrap_or_default())
}

pub(super) fn delete(call: &Call<'_>) -> Answer {
    call.permit_object("DeleteObject")?;
    remove(call, &call.target.key)?;
    // Deleting what is not there is no error.
    call.done(204)
}

fn remove(call: &Call<'_>, key: &str) -> Result<(), S3Error> {
    let gone = call.change(|state| {
        let bucket = state.buckets.get_mut(&call.target.bucket).ok_or_else(S3Error::no_such_bucket)?;
        Ok(bucket.objects.remove(key))
    })?;
    if let Some(object) = gone {
        call.context.objects.remove(&object.pieces);
    }
    Ok(())
}

#[derive(Debug, Deserialize)]
struct Delete {
    #[serde(rename = "Object", default)]
    objects: Vec<Named>,
    #[serde(rename = "Quiet", default)]
    is_quiet: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Named {
    key: String,
    version_id: Option<String>,
}

pub(super) async fn delete_many(call: &Call<'_>, body: Incoming) -> Answer {
    call.bucket()?;
    let document = body::document(call, body).await?;
    let wanted: Delete = quick_xml::de::from_reader(document.as_ref()).map_err(S3Error::malformed_xml)?;
    if wanted.objects.is_empty() || wanted.objects.len() > MOST_DELETED {
        return Err(S3Error::malformed_xml(format!("1 to {MOST_DELETED} objects can be named")));
    }
    if wanted.objects.iter().any(|one| one.version_id.is_some()) {
        return Err(S3Error::not_implemented("versions of objects"));
    }
    let mut outcomes = Vec::new();
    for one in wanted.objects {
        let is_allowed = call.demand(&call.asked("DeleteObject", Some(&one.key))).is_ok();
        if is_allowed {
            remove(call, &one.key)?;
        }
        outcomes.push((one.key, is_allowed));
    }
    call.document("DeleteResult", |xml| {
        for (key, is_deleted) in outcomes {
            if !is_deleted {
                xml.nest("Error", |xml| {
                    xml.text("Key", &key);
                    xml.text("Code", "AccessDenied");
                    xml.text("Message", "Access Denied");
                });
            } else if !wanted.is_quiet {
                xml.nest("Deleted", |xml| xml.text("Key", &key));
            }
        }
    })
}
