//! Signature version 4, checked as AWS checks it: in the header or in the query of a presigned URL, with the scope's
//! date, region and service, within a quarter of an hour of our clock. The body's hash is checked where the client
//! signed one; `UNSIGNED-PAYLOAD` is taken as it is. S3's bodies in signed chunks go on with [`ChunkSigner`].

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::{digest, hmac};
use http::request::Parts;
use http::{HeaderMap, header};

use super::form::decode;
use crate::faults::Refusal;

/// How far a request's clock may be off, in seconds.
const MAX_SKEW_SECONDS: u64 = 15 * 60;

/// Signing keys kept; one a key, day, region and service.
const MAX_CACHED_KEYS: usize = 4_096;

/// What a request says of its signer.
#[derive(Debug, Clone)]
pub(crate) struct Signed {
    pub(crate) access_key: String,
    pub(crate) token: Option<String>,
    pub(crate) region: String,
    pub(crate) service: String,
    /// What the client signed of the body: a hash, which the body has to have, or one of S3's words.
    content: String,
    date: String,
    time: String,
    signature: String,
    canonical: String,
}

/// Signing keys by (secret, date, region, service).
#[derive(Debug, Default)]
pub(crate) struct KeyCache(Mutex<HashMap<String, hmac::Key>>);

fn incomplete(message: impl Into<String>) -> Refusal {
    Refusal::new(400, "IncompleteSignature", None, message)
}

impl Signed {
    /// Reads the signature of a request.
    pub(crate) fn of(parts: &Parts) -> Result<Self, Refusal> {
        let query = parts.uri.query().unwrap_or_default();
        let header = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let is_presigned = header.is_none() && query.contains("X-Amz-Signature=");
        let (credential, signed_headers, signature) = match header {
            Some(text) => from_header(text)?,
            None if is_presigned => from_query(query)?,
            None => {
                return Err(Refusal::new(
                    403,
                    "MissingAuthenticationToken",
                    None,
                    "Missing Authentication Token",
                ));
            }
        };
        let mut scope = credential.rsplitn(5, '/');
        let (Some("aws4_request"), Some(service), Some(region), Some(date), Some(access_key)) =
            (scope.next(), scope.next(), scope.next(), scope.next(), scope.next())
        else {
            return Err(incomplete("Credential must have the form key/date/region/service/aws4_request"));
        };
        let from_request = |name: &str, in_query: &str| {
            if is_presigned { query_value(query, in_query) } else { header_value(&parts.headers, name) }
        };
        let time = from_request("x-amz-date", "X-Amz-Date").ok_or_else(|| {
            incomplete("Authorization header requires existence of either 'X-Amz-Date' or a 'Date' header")
        })?;
        let content_hash = header_value(&parts.headers, "x-amz-content-sha256");
        let payload = match (&content_hash, is_presigned) {
            (Some(hash), _) => hash.clone(),
            (None, true) => "UNSIGNED-PAYLOAD".to_owned(),
            (None, false) => String::new(),
        };
        let mut signed = Self {
            access_key: access_key.to_owned(),
            token: from_request("x-amz-security-token", "X-Amz-Security-Token"),
            region: region.to_owned(),
            service: service.to_owned(),
            content: payload.clone(),
            date: date.to_owned(),
            time,
            signature,
            canonical: String::new(),
        };
        let is_s3 = service == "s3";
        let path = if is_s3 { encoded_once(parts.uri.path()) } else { encoded_twice(parts.uri.path()) };
        signed.canonical = canonical_request(parts, &path, query, is_presigned, &signed_headers, &payload);
        Ok(signed)
    }

    /// Whether the body's hash is needed before the signature can be checked: the client signed it without naming
    /// it in a header (the query protocols of older clients).
    fn needs_body(&self) -> bool {
        self.canonical.ends_with('\n')
    }

    /// Adds the body's hash where it is needed.
    pub(crate) fn with_body(&mut self, body: &[u8]) {
        if self.needs_body() {
            self.canonical.push_str(&hex::encode(digest::digest(&digest::SHA256, body)));
        }
    }

    /// Checks the body against the hash that was signed, where one was.
    pub(crate) fn check_body(&self, body: &[u8]) -> Result<(), Refusal> {
        if self.content.len() != 64 {
            return Ok(());
        }
        self.check_hash(digest::digest(&digest::SHA256, body).as_ref())
    }

    /// What the client signed of the body: empty, a hash in hexadecimal, or one of S3's words for what it did not.
    pub(crate) fn content(&self) -> &str {
        &self.content
    }

    /// Checks the hash of a body against the one that was signed.
    pub(crate) fn check_hash(&self, sha256: &[u8]) -> Result<(), Refusal> {
        if self.content == hex::encode(sha256) {
            return Ok(());
        }
        Err(Refusal::new(
            400,
            "XAmzContentSHA256Mismatch",
            None,
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
        ))
    }

    /// Checks time and signature under the secret of the access key.
    pub(crate) fn verify(&self, secret: &str, now_seconds: u64, keys: &KeyCache) -> Result<(), Refusal> {
        let at = parse_time(&self.time).ok_or_else(|| {
            incomplete(format!("Date must be in ISO-8601 'basic format'. Got '{}'", self.time))
        })?;
        if at.abs_diff(now_seconds) > MAX_SKEW_SECONDS {
            return Err(Refusal::new(
                403,
                "SignatureDoesNotMatch",
                None,
                format!(
                    "Signature expired or not yet current: {} is more than 15 minutes from the server's time",
                    self.time
                ),
            ));
        }
        if !self.time.starts_with(&self.date) {
            return Err(incomplete("The date in the credential scope does not match the request's date"));
        }
        let scope = self.scope();
        let hash = hex::encode(digest::digest(&digest::SHA256, self.canonical.as_bytes()));
        let to_sign = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{hash}", self.time);
        let key = keys.key(secret, &self.date, &self.region, &self.service);
        let given = hex::decode(&self.signature).unwrap_or_default();
        hmac::verify(&key, to_sign.as_bytes(), &given).map_err(|_| mismatch())
    }

    fn scope(&self) -> String {
        format!("{}/{}/{}/aws4_request", self.date, self.region, self.service)
    }

    /// What checks the signatures of the chunks of the body.
    pub(crate) fn chunk_signer(&self, secret: &str, keys: &KeyCache) -> ChunkSigner {
        ChunkSigner {
            key: keys.key(secret, &self.date, &self.region, &self.service),
            time: self.time.clone(),
            scope: self.scope(),
            previous: self.signature.clone(),
        }
    }
}

fn mismatch() -> Refusal {
    Refusal::new(
        403,
        "SignatureDoesNotMatch",
        None,
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method.",
    )
}

/// Checks the signatures of a body in chunks: each signs the one before it, the first signs the request's.
#[derive(Debug, Clone)]
pub(crate) struct ChunkSigner {
    key: hmac::Key,
    time: String,
    scope: String,
    previous: String,
}

impl ChunkSigner {
    /// The next chunk's hash against its signature.
    pub(crate) fn check_chunk(&mut self, sha256: &[u8], signature: &str) -> Result<(), Refusal> {
        let of_nothing = hex::encode(digest::digest(&digest::SHA256, b""));
        let to_sign = format!(
            "AWS4-HMAC-SHA256-PAYLOAD\n{}\n{}\n{}\n{of_nothing}\n{}",
            self.time,
            self.scope,
            self.previous,
            hex::encode(sha256)
        );
        self.check(&to_sign, signature)
    }

    /// The trailer, as `name:value` and a line feed for each, against its signature.
    pub(crate) fn check_trailer(&mut self, trailer: &str, signature: &str) -> Result<(), Refusal> {
        let hash = hex::encode(digest::digest(&digest::SHA256, trailer.as_bytes()));
        let to_sign =
            format!("AWS4-HMAC-SHA256-TRAILER\n{}\n{}\n{}\n{hash}", self.time, self.scope, self.previous);
        self.check(&to_sign, signature)
    }

    fn check(&mut self, to_sign: &str, signature: &str) -> Result<(), Refusal> {
        let given = hex::decode(signature).unwrap_or_default();
        hmac::verify(&self.key, to_sign.as_bytes(), &given).map_err(|_| mismatch())?;
        self.previous = signature.to_owned();
        Ok(())
    }
}

impl KeyCache {
    fn key(&self, secret: &str, date: &str, region: &str, service: &str) -> hmac::Key {
        let name = format!("{secret}\n{date}\n{region}\n{service}");
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = keys.get(&name) {
            return key.clone();
        }
        let mut bytes = format!("AWS4{secret}").into_bytes();
        for part in [date, region, service, "aws4_request"] {
            let key = hmac::Key::new(hmac::HMAC_SHA256, &bytes);
            bytes = hmac::sign(&key, part.as_bytes()).as_ref().to_vec();
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, &bytes);
        if keys.len() >= MAX_CACHED_KEYS {
            keys.clear();
        }
        keys.insert(name, key.clone());
        key
    }
}

fn from_header(text: &str) -> Result<(String, String, String), Refusal> {
    let rest = text
        .strip_prefix("AWS4-HMAC-SHA256")
        .ok_or_else(|| incomplete("Authorization must begin with AWS4-HMAC-SHA256"))?;
    let field = |name: &str| {
        rest.split(',')
            .filter_map(|part| part.trim().split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.to_owned())
            .ok_or_else(|| incomplete(format!("Authorization header requires '{name}' parameter.")))
    };
    Ok((field("Credential")?, field("SignedHeaders")?, field("Signature")?))
}

fn from_query(query: &str) -> Result<(String, String, String), Refusal> {
    let field =
        |name: &str| query_value(query, name).ok_or_else(|| incomplete(format!("The query needs {name}")));
    Ok((field("X-Amz-Credential")?, field("X-Amz-SignedHeaders")?, field("X-Amz-Signature")?))
}

fn query_value(query: &str, name: &str) -> Option<String> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, v)| decode(v))
}

fn header_value(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// The path of EC2, STS and EBS calls is signed with its escapes escaped again; none of ours has any but in ids.
fn encoded_twice(path: &str) -> String {
    path.split('/').map(encode).collect::<Vec<_>>().join("/")
}

/// S3's is signed as it is sent, with one spelling of every character.
fn encoded_once(path: &str) -> String {
    path.split('/').map(|segment| encode(&decode_strict(segment))).collect::<Vec<_>>().join("/")
}

fn canonical_request(
    parts: &Parts,
    path: &str,
    query: &str,
    is_presigned: bool,
    signed_headers: &str,
    payload: &str,
) -> String {
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .filter(|(name, _)| !(is_presigned && *name == "X-Amz-Signature"))
        .map(|(name, value)| (encode(&decode_strict(name)), encode(&decode_strict(value))))
        .collect();
    pairs.sort();
    let pairs: Vec<String> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut canonical = format!("{}\n{path}\n{}\n", parts.method, pairs.join("&"));
    for name in signed_headers.split(';') {
        let values: Vec<String> = parts
            .headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .map(|value| value.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        canonical.push_str(&format!("{name}:{}\n", values.join(",")));
    }
    canonical.push_str(&format!("\n{signed_headers}\n{payload}"));
    canonical
}

/// Percent-decoding in which `+` is a plus.
pub(crate) fn decode_strict(text: &str) -> String {
    decode(&text.replace('+', "%2B"))
}

/// Percent-encoding as signatures want it.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Seconds since 1970 of `20260102T030405Z`.
fn parse_time(text: &str) -> Option<u64> {
    let civil = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?;
    let at = jiff::tz::TimeZone::UTC.to_timestamp(civil).ok()?;
    u64::try_from(at.as_second()).ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(parse_time("19700102T000001Z"), Some(86_401));
        assert_eq!(parse_time("yesterday"), None);
    }

    /// The example of AWS's documentation "Signature calculations for the authorization header: transferring payload
    /// in multiple chunks".
    pub(crate) fn documented_signer() -> ChunkSigner {
        let signed = Signed {
            access_key: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            token: None,
            region: "us-east-1".to_owned(),
            service: "s3".to_owned(),
            content: "STREAMING-AWS4-HMAC-SHA256-PAYLOAD".to_owned(),
            date: "20130524".to_owned(),
            time: "20130524T000000Z".to_owned(),
            signature: "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9".to_owned(),
            canonical: String::new(),
        };
        signed.chunk_signer("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", &KeyCache::default())
    }

    #[test]
    fn chunks_are_signed_as_documented() {
        let mut signer = documented_signer();
        let hash = |length: usize| digest::digest(&digest::SHA256, &vec![b'a'; length]);
        let chunks = [
            (65_536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"),
            (1_024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"),
            (0, "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"),
        ];
        for (length, signature) in chunks {
            assert_eq!(signer.check_chunk(hash(length).as_ref(), signature), Ok(()), "{length}");
        }
        assert!(signer.check_chunk(hash(0).as_ref(), chunks[0].1).is_err());
    }

    #[test]
    fn an_s3_path_is_encoded_once() {
        assert_eq!(encoded_once("/b/a%20b/c+d(1)"), "/b/a%20b/c%2Bd%281%29");
        assert_eq!(encoded_twice("/b/a%20b"), "/b/a%2520b");
    }
}
