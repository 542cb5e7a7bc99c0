//! A bucket: where it is, and what is removed from it.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AwsAuthorizer};
use object_store::client::{HttpClient, HttpConnector, HttpRequestBody, HttpResponse};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStoreExt as _, RetryConfig};
use snapferry_types::Region;

use crate::error::{Asked, AwsError};
use crate::s3::connection::{ChainCredentials, Connector};
use crate::s3::refusal::{between, code_and_message, sort};
use crate::session::{Account, is_this_machine};

/// S3 tells a bucket's region in every answer, also in a refusal.
const REGION_HEADER: &str = "x-amz-bucket-region";
/// Listings of unfinished uploads of one key that are believed; each has up to 1,000.
const MAX_LISTINGS: u32 = 100;
/// Repeats of a request by the store, which must not outlive the credentials it is signed with.
const MAX_RETRIES: usize = 6;
const RETRY_TIMEOUT: Duration = Duration::from_secs(180);

/// A bucket, used with an account's credentials.
#[derive(Debug, Clone)]
pub struct S3 {
    pub(super) account: Account,
    pub(super) bucket: String,
    pub(super) store: Arc<AmazonS3>,
    http: HttpClient,
    /// The bucket's URL, with the bucket in the path.
    url: String,
}

impl S3 {
    /// A bucket in the account's region. Nothing is asked of it yet.
    ///
    /// # Errors
    /// [`AwsError::Invalid`] for a name or an endpoint that cannot be used.
    pub fn open(account: &Account, bucket: &str) -> Result<Self, AwsError> {
        Self::open_under(account, bucket, None)
    }

    /// [`S3::open`], with a key of KMS that what is uploaded is encrypted under; the bucket's own default without one.
    ///
    /// # Errors
    /// See [`S3::open`].
    pub fn open_under(account: &Account, bucket: &str, kms_key_id: Option<&str>) -> Result<Self, AwsError> {
        let asked = Asked::new("s3:ListBucket", "bucket", bucket);
        let endpoint = account.s3_endpoint_url();
        let connector = || Connector { is_this_machine: endpoint.is_some_and(is_this_machine) };
        let builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(account.region().as_str())
            .with_credentials(Arc::new(ChainCredentials(account.clone())))
            .with_http_connector(connector())
            .with_disable_bulk_delete(true)
            // The certificate of S3 covers one label before its own name.
            .with_virtual_hosted_style_request(endpoint.is_none() && !bucket.contains('.'))
            .with_retry(RetryConfig {
                max_retries: MAX_RETRIES,
                retry_timeout: RETRY_TIMEOUT,
                ..RetryConfig::default()
            });
        let builder = match kms_key_id {
            Some(key) => builder.with_sse_kms_encryption(key),
            None => builder,
        };
        let builder = match endpoint {
            Some(url) => builder.with_endpoint(url).with_allow_http(url.starts_with("http://")),
            None => builder,
        };
        let unusable = |error: object_store::Error| asked.invalid("InvalidBucket", error.to_string());
        let host = endpoint
            .map_or_else(|| format!("https://s3.{}.amazonaws.com", account.region()), ToOwned::to_owned);
        Ok(Self {
            account: account.clone(),
            bucket: bucket.to_owned(),
            store: Arc::new(builder.build().map_err(unusable)?),
            http: connector().connect(&ClientOptions::new()).map_err(unusable)?,
            url: format!("{}/{bucket}", host.trim_end_matches('/')),
        })
    }

    /// The bucket's name.
    #[must_use]
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The region that the bucket is in, also when the account may do nothing else with it.
    ///
    /// # Errors
    /// [`AwsError::NotFound`] naming it, …
    pub async fn bucket_region(&self) -> Result<Region, AwsError> {
        let asked = Asked::new("s3:ListBucket", "bucket", &self.bucket);
        let reply = self
            .account
            .call(|| async {
                self.account.calls().count_call("HeadBucket");
                self.signed(&asked, http::Method::HEAD, &self.url).await
            })
            .await?;
        let status = reply.status().as_u16();
        if status == 404 {
            return Err(AwsError::NotFound { what: "bucket", id: self.bucket.clone() });
        }
        let told = reply.headers().get(REGION_HEADER).and_then(|value| value.to_str().ok());
        match told {
            Some(region) => region.parse().map_err(|error| asked.lacks(format!("a region: {error}"))),
            None if status < 400 => Err(asked.lacks(REGION_HEADER)),
            None => Err(asked.sort_code("", "S3 does not say where the bucket is", status)),
        }
    }

    /// Checks that the bucket is where ImportSnapshot can read it.
    ///
    /// # Errors
    /// [`AwsError::BucketElsewhere`] naming both regions; see [`Self::bucket_region`].
    pub async fn check_region(&self, needed: &Region) -> Result<(), AwsError> {
        let found = self.bucket_region().await?;
        if found == *needed {
            return Ok(());
        }
        Err(AwsError::BucketElsewhere {
            bucket: self.bucket.clone(),
            found: found.to_string(),
            needed: needed.to_string(),
        })
    }

    /// Deletes an object; one that is gone is done, and a bucket that is gone too.
    ///
    /// # Errors
    /// [`AwsError`].
    pub async fn delete(&self, key: &str) -> Result<(), AwsError> {
        let name = self.name_of(key);
        let asked = Asked::new("s3:DeleteObject", "object", &name);
        let path = path_of(&asked, key)?;
        let deleted = self
            .account
            .call(|| async {
                self.account.calls().count_call("DeleteObject");
                self.store.delete(&path).await.map_err(|error| sort(&asked, &error))
            })
            .await;
        match deleted {
            Ok(()) | Err(AwsError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether an object exists.
    ///
    /// # Errors
    /// [`AwsError`].
    pub async fn exists(&self, key: &str) -> Result<bool, AwsError> {
        let name = self.name_of(key);
        let asked = Asked::new("s3:GetObject", "object", &name);
        let path = path_of(&asked, key)?;
        let looked = self
            .account
            .call(|| async {
                self.account.calls().count_call("HeadObject");
                self.store.head(&path).await.map_err(|error| sort(&asked, &error))
            })
            .await;
        match looked {
            Ok(_) => Ok(true),
            Err(AwsError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes what unfinished uploads of an object have left: a process that was killed could not abort its own.
    /// Gives their number. An upload at work ends too.
    ///
    /// # Errors
    /// [`AwsError`].
    pub async fn abort_uploads(&self, key: &str) -> Result<u32, AwsError> {
        let name = self.name_of(key);
        let asked = Asked::new("s3:ListBucketMultipartUploads", "object", &name);
        let path = path_of(&asked, key)?;
        let url = format!("{}?prefix={}&uploads=", self.url, in_query(key));
        let mut n_aborted = 0;
        for _ in 0..MAX_LISTINGS {
            let listing = self.account.call(|| self.listing(&asked, &url)).await?;
            let ids = upload_ids(&listing, key);
            if ids.is_empty() {
                return Ok(n_aborted);
            }
            for id in ids {
                self.abort(&path, &id).await?;
                n_aborted += 1;
            }
        }
        Err(asked.lacks(format!("an end after {MAX_LISTINGS} listings")))
    }

    /// Aborts one upload; one that is gone is done.
    pub(super) async fn abort(&self, path: &Path, id: &String) -> Result<(), AwsError> {
        let name = self.name_of(path.as_ref());
        let asked = Asked::new("s3:AbortMultipartUpload", "object", &name);
        let aborted = self
            .account
            .call(|| async {
                self.account.calls().count_call("AbortMultipartUpload");
                self.store.abort_multipart(path, id).await.map_err(|error| sort(&asked, &error))
            })
            .await;
        match aborted {
            Ok(()) | Err(AwsError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// How messages name an object.
    pub(super) fn name_of(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.bucket)
    }

    async fn listing(&self, asked: &Asked<'_>, url: &str) -> Result<String, AwsError> {
        self.account.calls().count_call("ListMultipartUploads");
        let reply = self.signed(asked, http::Method::GET, url).await?;
        let status = reply.status().as_u16();
        let body = reply.into_body().bytes().await.map_err(|error| asked.unavailable(error.to_string()))?;
        let text = String::from_utf8_lossy(&body).into_owned();
        if (200..300).contains(&status) {
            return Ok(text);
        }
        let (code, message) = code_and_message(&text);
        match (code, status) {
            // Nothing is left in a bucket that is gone.
            (Some("NoSuchBucket"), _) | (None, 404) => Ok(String::new()),
            _ => Err(asked.sort_code(code.unwrap_or_default(), message.unwrap_or("no message"), status)),
        }
    }

    /// Sends a request that the store has no call for.
    async fn signed(
        &self,
        asked: &Asked<'_>,
        method: http::Method,
        url: &str,
    ) -> Result<HttpResponse, AwsError> {
        let credential = ChainCredentials::now(&self.account).await?;
        let request = http::Request::builder().method(method).uri(url).body(HttpRequestBody::empty());
        let mut request = request.map_err(|error| asked.invalid("InvalidUrl", error.to_string()))?;
        AwsAuthorizer::new(&credential, "s3", self.account.region().as_str())
            .try_authorize(&mut request, None)
            .map_err(|error| asked.unavailable(error.to_string()))?;
        self.http.execute(request).await.map_err(|error| asked.unavailable(error.to_string()))
    }
}

/// A key as the store names it; those that it would have to write otherwise are refused, since ImportSnapshot and the
/// ledger name the object too.
pub(super) fn path_of(asked: &Asked<'_>, key: &str) -> Result<Path, AwsError> {
    let path = Path::parse(key).map_err(|error| asked.invalid("InvalidKey", error.to_string()))?;
    if path.as_ref() == key && !key.is_empty() {
        return Ok(path);
    }
    Err(asked.invalid("InvalidKey", "a key is letters, digits and single slashes between them"))
}

fn in_query(key: &str) -> String {
    let mut text = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// Ids of the uploads of exactly this key in a listing.
fn upload_ids(listing: &str, key: &str) -> Vec<String> {
    let uploads = listing.split("<Upload>").skip(1);
    uploads
        .filter(|upload| between(upload, "<Key>", "</Key>").is_some_and(|found| found == key))
        .filter_map(|upload| between(upload, "<UploadId>", "</UploadId>").map(ToOwned::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_uploads_of_the_very_key_are_found() {
        let listing = "<ListMultipartUploadsResult><Prefix>a/b</Prefix>\
            <Upload><Key>a/b</Key><UploadId>one</UploadId></Upload>\
            <Upload><Key>a/bc</Key><UploadId>two</UploadId></Upload>\
            <Upload><UploadId>three</UploadId><Key>a/b</Key></Upload></ListMultipartUploadsResult>";
        assert_eq!(upload_ids(listing, "a/b"), ["one", "three"]);
        assert!(upload_ids("<ListMultipartUploadsResult/>", "a/b").is_empty());
    }

    #[test]
    fn a_key_is_taken_only_as_it_is_written() {
        let asked = Asked::new("s3:PutObject", "object", "x");
        assert_eq!(path_of(&asked, "snapferry/01J/disk.vmdk").unwrap().as_ref(), "snapferry/01J/disk.vmdk");
        assert!(path_of(&asked, "/leading").is_err() && path_of(&asked, "").is_err());
        assert_eq!(in_query("a/b c"), "a%2Fb%20c");
    }
}
