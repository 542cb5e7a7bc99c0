//! CreateBucket, HeadBucket, GetBucketLocation, DeleteBucket, ListBuckets.

use bytes::Bytes;
use http::Response;
use hyper::body::Incoming;
use serde::Deserialize;

use super::error::S3Error;
use super::{Answer, Call, body, time};
use crate::world::{Asked, CreateBucketError};

/// The region whose buckets have no location constraint, and whose endpoint makes buckets anywhere.
const FIRST_REGION: &str = "us-east-1";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Configuration {
    location_constraint: Option<String>,
}

pub(super) async fn create(call: &Call<'_>, body: Incoming) -> Answer {
    call.demand(&call.asked("CreateBucket", None))?;
    let document = body::document(call, body).await?;
    let configuration: Configuration = if document.is_empty() {
        Configuration::default()
    } else {
        quick_xml::de::from_reader(document.as_ref()).map_err(S3Error::malformed_xml)?
    };
    let signed_for = call.signed.region.as_str();
    let region = match configuration.location_constraint.as_deref() {
        None | Some("") if signed_for == FIRST_REGION => FIRST_REGION,
        Some(region) if region == signed_for || signed_for == FIRST_REGION => region,
        other => {
            let constraint = other.unwrap_or("unspecified");
            return Err(S3Error::new(
                400,
                "IllegalLocationConstraintException",
                format!(
                    "The {constraint} location constraint is incompatible for the region specific endpoint this request was sent to."
                ),
            ));
        }
    };
    let name = &call.target.bucket;
    call.context.world.create_bucket(&call.caller.account, region, name).map_err(|error| match error {
        CreateBucketError::BadName(_) => {
            S3Error::new(400, "InvalidBucketName", "The specified bucket is not valid.")
        }
        CreateBucketError::Owned(_) => S3Error::new(
            409,
            "BucketAlreadyOwnedByYou",
            "Your previous request to create the named bucket succeeded and you already own it.",
        ),
        CreateBucketError::Taken(_) => S3Error::new(
            409,
            "BucketAlreadyExists",
            "The requested bucket name is not available. The bucket namespace is shared by all users of the system. Please select a different name and try again.",
        ),
    })?;
    call.reply(Response::builder().header("location", format!("/{name}")), Bytes::new())
}

pub(super) fn head(call: &Call<'_>) -> Answer {
    call.permit_bucket("ListBucket")?;
    call.reply(Response::builder().header("x-amz-bucket-region", &call.signed.region), Bytes::new())
}

pub(super) fn location(call: &Call<'_>) -> Answer {
    // This one call tells where a bucket is whatever region it was signed for.
    let region = {
        let state = call.context.world.read();
        let bucket = state.buckets.get(&call.target.bucket).ok_or_else(S3Error::no_such_bucket)?;
        if bucket.account != call.caller.account {
            return Err(S3Error::access_denied("Access Denied"));
        }
        bucket.region.clone()
    };
    call.demand(&call.asked("GetBucketLocation", None))?;
    let text = if region == FIRST_REGION { String::new() } else { region };
    // The document's root has the text itself.
    call.document("LocationConstraint", |xml| xml.inner_text(&text))
}

pub(super) fn delete(call: &Call<'_>) -> Answer {
    call.permit_bucket("DeleteBucket")?;
    let name = &call.target.bucket;
    let pieces = call.change(|state| {
        if state.buckets.get(name).is_some_and(|bucket| !bucket.objects.is_empty()) {
            let message = "The bucket you tried to delete is not empty";
            return Err(S3Error::new(409, "BucketNotEmpty", message));
        }
        state.buckets.remove(name);
        // Uploads that were not ended go with the bucket.
        let ids: Vec<String> =
            state.uploads.iter().filter(|(_, one)| one.bucket == *name).map(|(id, _)| id.clone()).collect();
        let gone = ids.iter().filter_map(|id| state.uploads.remove(id));
        Ok(gone.flat_map(|upload| upload.parts.into_values().map(|part| part.piece)).collect::<Vec<_>>())
    })?;
    call.context.objects.remove(&pieces);
    call.done(204)
}

pub(super) fn list(call: &Call<'_>) -> Answer {
    call.demand(&Asked::new("s3:ListAllMyBuckets", "*"))?;
    let account = &call.caller.account;
    let prefix = call.target.text("prefix").unwrap_or_default();
    let found: Vec<(String, String, u64)> = {
        let state = call.context.world.read();
        let own =
            state.buckets.iter().filter(|(name, one)| one.account == *account && name.starts_with(prefix));
        own.map(|(name, one)| (name.clone(), one.region.clone(), one.created_ms)).collect()
    };
    call.document("ListAllMyBucketsResult", |xml| {
        xml.nest("Owner", |xml| xml.text("ID", account));
        xml.nest("Buckets", |xml| {
            for (name, region, created_ms) in found {
                xml.nest("Bucket", |xml| {
                    xml.text("Name", name);
                    xml.text("BucketRegion", region);
                    xml.text("CreationDate", time(created_ms));
                });
            }
        });
    })
}
