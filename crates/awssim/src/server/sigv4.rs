//! Signature version 4, checked as AWS checks it: in the header or in the query of a presigned URL, with the scope's
//! date, region and service, within a quarter of an hour of our clock. The body's hash is checked where the client
//! signed one; `UNSIGNED-PAYLOAD` is taken as it is.

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
    /// The hash that the client signed; the body has to have it.
    payload_hash: Option<String>,
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
            payload_hash: (payload.len() == 64).then(|| payload.clone()),
            date: date.to_owned(),
            time,
            signature,
            canonical: String::new(),
        };
        signed.canonical = canonical_request(parts, query, is_presigned, &signed_headers, &payload);
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
        let Some(signed) = &self.payload_hash else { return Ok(()) };
        if *signed == hex::encode(digest::digest(&digest::SHA256, body)) {
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
        let scope = format!("{}/{}/{}/aws4_request", self.date, self.region, self.service);
        let hash = hex::encode(digest::digest(&digest::SHA256, self.canonical.as_bytes()));
        let to_sign = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{hash}", self.time);
        let key = keys.key(secret, &self.date, &self.region, &self.service);
        let given = hex::decode(&self.signature).unwrap_or_default();
        hmac::verify(&key, to_sign.as_bytes(), &given).map_err(|_| {
            Refusal::new(
                403,
                "SignatureDoesNotMatch",
                None,
                "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method.",
            )
        })
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

fn canonical_request(
    parts: &Parts,
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
    // The path of EC2, STS and EBS calls is signed with its escapes escaped again; none of ours has any but in ids.
    let path: Vec<String> = parts.uri.path().split('/').map(encode).collect();
    let mut canonical = format!("{}\n{}\n{}\n", parts.method, path.join("/"), pairs.join("&"));
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

fn decode_strict(text: &str) -> String {
    decode(&text.replace('+', "%2B"))
}

fn encode(text: &str) -> String {
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
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(parse_time("19700102T000001Z"), Some(86_401));
        assert_eq!(parse_time("yesterday"), None);
    }
}
