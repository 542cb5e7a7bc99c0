//! Which call a request is, and of what: path-style addresses, `/bucket/key`.

use http::Method;
use http::request::Parts;

use super::error::S3Error;
use crate::server::sigv4::decode_strict;

/// Longest key, in bytes.
const MOST_KEY_BYTES: usize = 1_024;

/// Parts of S3 that a request can ask for and that are not here: answering as if they were not asked for would lie.
const NOT_HERE: [&str; 26] = [
    "accelerate",
    "acl",
    "analytics",
    "attributes",
    "cors",
    "encryption",
    "intelligent-tiering",
    "inventory",
    "legal-hold",
    "lifecycle",
    "logging",
    "metrics",
    "notification",
    "object-lock",
    "ownershipControls",
    "policy",
    "publicAccessBlock",
    "replication",
    "requestPayment",
    "restore",
    "retention",
    "select",
    "tagging",
    "versionId",
    "versioning",
    "versions",
];

/// A call of S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    ListBuckets,
    CreateBucket,
    HeadBucket,
    GetBucketLocation,
    DeleteBucket,
    ListObjectsV2,
    ListMultipartUploads,
    DeleteObjects,
    PutObject,
    GetObject,
    HeadObject,
    DeleteObject,
    CreateMultipartUpload,
    UploadPart,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    ListParts,
}

impl Operation {
    /// Its name in the API, for fault rules and counters.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::ListBuckets => "ListBuckets",
            Self::CreateBucket => "CreateBucket",
            Self::HeadBucket => "HeadBucket",
            Self::GetBucketLocation => "GetBucketLocation",
            Self::DeleteBucket => "DeleteBucket",
            Self::ListObjectsV2 => "ListObjectsV2",
            Self::ListMultipartUploads => "ListMultipartUploads",
            Self::DeleteObjects => "DeleteObjects",
            Self::PutObject => "PutObject",
            Self::GetObject => "GetObject",
            Self::HeadObject => "HeadObject",
            Self::DeleteObject => "DeleteObject",
            Self::CreateMultipartUpload => "CreateMultipartUpload",
            Self::UploadPart => "UploadPart",
            Self::CompleteMultipartUpload => "CompleteMultipartUpload",
            Self::AbortMultipartUpload => "AbortMultipartUpload",
            Self::ListParts => "ListParts",
        }
    }
}

/// What a request is about.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) operation: Operation,
    /// Empty for ListBuckets.
    pub(super) bucket: String,
    /// Empty for a bucket's calls.
    pub(super) key: String,
    query: Vec<(String, String)>,
}

impl Target {
    /// Reads the request's line.
    pub(super) fn of(parts: &Parts) -> Result<Self, S3Error> {
        let path = parts.uri.path().trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let (bucket, key) = (decode_strict(bucket), decode_strict(key));
        let pairs = parts.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let query: Vec<(String, String)> = pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (decode_strict(name), decode_strict(value)))
            .collect();
        if key.len() > MOST_KEY_BYTES {
            return Err(S3Error::new(400, "KeyTooLongError", "Your key is too long"));
        }
        if let Some((name, _)) = query.iter().find(|(name, _)| NOT_HERE.contains(&name.as_str())) {
            return Err(S3Error::not_implemented(&format!("?{name}")));
        }
        if parts.headers.contains_key("x-amz-copy-source") {
            return Err(S3Error::not_implemented("x-amz-copy-source"));
        }
        let has = |name: &str| query.iter().any(|(have, _)| have == name);
        let operation = match (&parts.method, bucket.is_empty(), key.is_empty()) {
            (&Method::GET, true, true) => Operation::ListBuckets,
            (&Method::PUT, false, true) => Operation::CreateBucket,
            (&Method::HEAD, false, true) => Operation::HeadBucket,
            (&Method::DELETE, false, true) => Operation::DeleteBucket,
            (&Method::GET, false, true) if has("location") => Operation::GetBucketLocation,
            (&Method::GET, false, true) if has("uploads") => Operation::ListMultipartUploads,
            (&Method::GET, false, true) if query.iter().any(|(n, v)| n == "list-type" && v == "2") => {
                Operation::ListObjectsV2
            }
            (&Method::POST, false, true) if has("delete") => Operation::DeleteObjects,
            (&Method::PUT, false, false) if has("uploadId") => Operation::UploadPart,
            (&Method::PUT, false, false) => Operation::PutObject,
            (&Method::GET, false, false) if has("uploadId") => Operation::ListParts,
            (&Method::GET, false, false) => Operation::GetObject,
            (&Method::HEAD, false, false) => Operation::HeadObject,
            (&Method::DELETE, false, false) if has("uploadId") => Operation::AbortMultipartUpload,
            (&Method::DELETE, false, false) => Operation::DeleteObject,
            (&Method::POST, false, false) if has("uploads") => Operation::CreateMultipartUpload,
            (&Method::POST, false, false) if has("uploadId") => Operation::CompleteMultipartUpload,
            (method, ..) => return Err(S3Error::not_implemented(&format!("{method} {}", parts.uri))),
        };
        Ok(Self { operation, bucket, key, query })
    }

    /// A parameter that is there and not empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(have, _)| have == name).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }

    /// A number, at most `most`, which it also is when it is absent.
    pub(super) fn limit(&self, name: &str, most: usize) -> Result<usize, S3Error> {
        let Some(text) = self.text(name) else { return Ok(most) };
        let number: usize = text.parse().map_err(|_| {
            S3Error::invalid_argument(format!("Provided {name} not an integer or not within range"))
        })?;
        Ok(number.min(most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(method: Method, uri: &str) -> Result<Target, S3Error> {
        Target::of(&http::Request::builder().method(method).uri(uri).body(()).unwrap().into_parts().0)
    }

    #[test]
    fn requests_are_told_apart() {
        let cases = [
            (Method::GET, "/", Operation::ListBuckets),
            (Method::PUT, "/b", Operation::CreateBucket),
            (Method::PUT, "/b/", Operation::CreateBucket),
            (Method::GET, "/b?location", Operation::GetBucketLocation),
            (Method::GET, "/b?list-type=2&prefix=a", Operation::ListObjectsV2),
            (Method::POST, "/b?delete", Operation::DeleteObjects),
            (Method::PUT, "/b/k?x-id=PutObject", Operation::PutObject),
            (Method::PUT, "/b/k?partNumber=1&uploadId=u", Operation::UploadPart),
            (Method::POST, "/b/k?uploads", Operation::CreateMultipartUpload),
            (Method::DELETE, "/b/k?uploadId=u", Operation::AbortMultipartUpload),
        ];
        for (method, uri, operation) in cases {
            assert_eq!(target(method, uri).unwrap().operation, operation, "{uri}");
        }
        let got = target(Method::GET, "/b/a%20b/c+d%2Be").unwrap();
        assert_eq!((got.bucket.as_str(), got.key.as_str()), ("b", "a b/c+d+e"));
    }

    #[test]
    fn what_is_not_here_is_said() {
        assert!(target(Method::PUT, "/b/k?acl").is_err());
        assert!(target(Method::GET, "/b?versions").is_err());
        assert!(target(Method::GET, "/b").is_err());
        assert!(target(Method::GET, &format!("/b/{}", "k".repeat(1_025))).is_err());
    }
}
