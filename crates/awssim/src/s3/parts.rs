//! ListMultipartUploads and ListParts.

use super::error::S3Error;
use super::multipart::find;
use super::{Answer, Call, quoted, time};

/// Lines on a page.
const MOST_LINES: usize = 1_000;

pub(super) fn uploads(call: &Call<'_>) -> Answer {
    call.permit_bucket("ListBucketMultipartUploads")?;
    let target = call.target;
    if target.text("delimiter").is_some() {
        return Err(S3Error::not_implemented("a delimiter in listings of uploads"));
    }
    let prefix = target.text("prefix").unwrap_or_default();
    let key_marker = target.text("key-marker");
    let id_marker = target.text("upload-id-marker");
    let most = target.limit("max-uploads", MOST_LINES)?;
    let mut found: Vec<(String, String, u64)> = {
        let state = call.context.world.read();
        let here = state.uploads.iter().filter(|(_, one)| one.bucket == target.bucket);
        here.map(|(id, one)| (one.key.clone(), id.clone(), one.started_ms)).collect()
    };
    found.sort();
    found.retain(|(key, id, _)| {
        let is_after = match (key_marker, id_marker) {
            (None, _) => true,
            (Some(marker), None) => key.as_str() > marker,
            (Some(marker), Some(after)) => (key.as_str(), id.as_str()) > (marker, after),
        };
        is_after && key.starts_with(prefix)
    });
    let has_more = found.len() > most && most > 0;
    found.truncate(most);
    call.document("ListMultipartUploadsResult", |xml| {
        xml.text("Bucket", &target.bucket);
        xml.text("KeyMarker", key_marker.unwrap_or_default());
        xml.text("UploadIdMarker", id_marker.unwrap_or_default());
        xml.text("Prefix", prefix);
        if let Some((key, id, _)) = found.last().filter(|_| has_more) {
            xml.text("NextKeyMarker", key);
            xml.text("NextUploadIdMarker", id);
        }
        xml.text("MaxUploads", most);
        xml.text("IsTruncated", has_more);
        for (key, id, started_ms) in &found {
            xml.nest("Upload", |xml| {
                xml.text("Key", key);
                xml.text("UploadId", id);
                xml.text("StorageClass", "STANDARD");
                xml.text("Initiated", time(*started_ms));
            });
        }
    })
}

pub(super) fn list(call: &Call<'_>) -> Answer {
    call.permit_object("ListMultipartUploadParts")?;
    let target = call.target;
    let after: u32 = target.text("part-number-marker").and_then(|text| text.parse().ok()).unwrap_or(0);
    let most = target.limit("max-parts", MOST_LINES)?;
    let (id, mut parts) = {
        let state = call.context.world.read();
        let (id, upload) = find(call, &state)?;
        let parts = upload.parts.range(after.saturating_add(1)..);
        (id.clone(), parts.map(|(number, part)| (*number, part.clone())).collect::<Vec<_>>())
    };
    let has_more = parts.len() > most && most > 0;
    parts.truncate(most);
    call.document("ListPartsResult", |xml| {
        xml.text("Bucket", &target.bucket);
        xml.text("Key", &target.key);
        xml.text("UploadId", &id);
        xml.text("PartNumberMarker", after);
        xml.maybe("NextPartNumberMarker", parts.last().filter(|_| has_more).map(|(number, _)| number));
        xml.text("MaxParts", most);
        xml.text("IsTruncated", has_more);
        xml.text("StorageClass", "STANDARD");
        for (number, part) in &parts {
            xml.nest("Part", |xml| {
                xml.text("PartNumber", number);
                xml.text("LastModified", time(part.modified_ms));
                xml.text("ETag", quoted(&part.etag));
                xml.text("Size", part.piece.size_bytes);
            });
        }
    })
}
