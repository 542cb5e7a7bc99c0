//! Copies of snapshots: into another region, or under another key. The copy is always asked for where it will be.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sdk_ec2::config::retry::RetryConfig;
use aws_sdk_ec2::types::ResourceType;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4;
use snapferry_types::aws::Tag;
use snapferry_types::{Region, SnapshotId};

use crate::ec2::snapshots::parsed;
use crate::ec2::tags::specification;
use crate::error::{Asked, AwsError};
use crate::session::Account;

/// AWS uses the signed request within this time.
const PRESIGNED_FOR: Duration = Duration::from_secs(3_600);

/// A snapshot to be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCopy {
    /// Where the snapshot is.
    pub source_region: Region,
    /// The snapshot: own, or shared with the account.
    pub snapshot: SnapshotId,
    /// For people.
    pub description: String,
    /// Encrypts the copy of a plain snapshot. That of an encrypted one always is.
    pub encrypted: bool,
    /// Key of the copy, in the region of the copy; the account's default when absent.
    pub kms_key_id: Option<String>,
    /// Tags from the start; those of the snapshot do not come along.
    pub tags: Vec<Tag>,
}

/// Starts a copy into the account's region; wait with [`wait_snapshots_completed`](super::wait_snapshots_completed),
/// which also finds what AWS does not say here: a key that cannot be used. The call has no client token: `tags` must
/// have the ledger's tag, and after an error that is [`AwsError::retryable`] look with
/// [`find_by_ledger_tag`](super::find_by_ledger_tag) before repeating it.
///
/// # Errors
/// [`AwsError`].
pub async fn copy_snapshot(account: &Account, new: &NewCopy) -> Result<SnapshotId, AwsError> {
    let asked = Asked::new("ec2:CopySnapshot", "snapshot", new.snapshot.as_str());
    let reply = account
        .call_without_token(|| async {
            let presigned = presigned_url(account, &asked, new).await?;
            let call = account.ec2().copy_snapshot().source_region(new.source_region.as_str());
            let call = call.source_snapshot_id(new.snapshot.as_str()).description(&new.description);
            let call = call.set_encrypted((new.encrypted || new.kms_key_id.is_some()).then_some(true));
            let call = call.set_kms_key_id(new.kms_key_id.clone());
            let call = call.set_presigned_url(presigned).destination_region(account.region().as_str());
            let call = call.set_tag_specifications(specification(ResourceType::Snapshot, &new.tags));
            let once = aws_sdk_ec2::config::Builder::new().retry_config(RetryConfig::disabled());
            call.customize().config_override(once).send().await.map_err(|error| asked.sort(&error))
        })
        .await?;
    let id = reply.snapshot_id.ok_or_else(|| asked.lacks("SnapshotId"))?;
    parsed(&asked, &id)
}

/// The same request signed for the source's region, which AWS demands for encrypted snapshots of another region. The
/// SDK does not make it.
async fn presigned_url(
    account: &Account,
    asked: &Asked<'_>,
    new: &NewCopy,
) -> Result<Option<String>, AwsError> {
    if new.source_region == *account.region() {
        return Ok(None);
    }
    let credentials = account.credentials().await?;
    let endpoint = account.endpoint_url().map_or_else(|| endpoint_of(&new.source_region), ToOwned::to_owned);
    let url = request_url(&endpoint, account.region(), new);
    presign(&url, &new.source_region, credentials, SystemTime::now()).map(Some).map_err(|error| {
        asked.unavailable(format!("the request for {} is not signed: {error}", new.source_region))
    })
}

fn endpoint_of(region: &Region) -> String {
    let suffix = if region.as_str().starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    format!("https://ec2.{region}.{suffix}")
}

fn request_url(endpoint: &str, destination: &Region, new: &NewCopy) -> String {
    let mut url = format!(
        "{}/?Action=CopySnapshot&Version=2016-11-15&SourceRegion={}&SourceSnapshotId={}&DestinationRegion={}",
        endpoint.trim_end_matches('/'),
        new.source_region,
        new.snapshot,
        destination
    );
    if new.encrypted || new.kms_key_id.is_some() {
        url.push_str("&Encrypted=true");
    }
    if let Some(key) = &new.kms_key_id {
        url.push_str("&KmsKeyId=");
        url.push_str(&key.replace(':', "%3A").replace('/', "%2F"));
    }
    url
}

fn presign(
    url: &str,
    region: &Region,
    credentials: Credentials,
    now: SystemTime,
) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let identity = credentials.into();
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(PRESIGNED_FOR);
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region.as_str())
        .name("ec2")
        .time(now)
        .settings(settings)
        .build()?
        .into();
    let request = SignableRequest::new("GET", url, std::iter::empty(), SignableBody::Bytes(&[]))?;
    let (instructions, _) = sign(request, &params)?.into_parts();
    let mut request = http::Request::builder().uri(url).body(())?;
    instructions.apply_to_request_http1x(&mut request);
    Ok(request.uri().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_from_another_region_carries_a_request_signed_there() {
        let new = NewCopy {
            source_region: "eu-west-1".parse().unwrap(),
            snapshot: "snap-1a".parse().unwrap(),
            description: String::new(),
            encrypted: false,
            kms_key_id: Some("arn:aws:kms:eu-central-1:111122223333:key/1".to_owned()),
            tags: Vec::new(),
        };
        let destination = "eu-central-1".parse().unwrap();
        let url = request_url(&endpoint_of(&new.source_region), &destination, &new);
        let credentials = Credentials::new("AKIAEXAMPLE", "secret", Some("token".to_owned()), None, "test");
        let signed = presign(&url, &new.source_region, credentials, SystemTime::UNIX_EPOCH).unwrap();
        assert!(signed.starts_with("https://ec2.eu-west-1.amazonaws.com/?Action=CopySnapshot"), "{signed}");
        for part in [
            "DestinationRegion=eu-central-1",
            "Encrypted=true",
            "KmsKeyId=arn%3Aaws%3Akms%3Aeu-central-1%3A111122223333%3Akey%2F1",
            "eu-west-1%2Fec2%2Faws4_request",
            "X-Amz-Expires=3600",
            "X-Amz-Security-Token=token",
            "X-Amz-Signature=",
        ] {
            assert!(signed.contains(part), "{part} in {signed}");
        }
        assert!(!signed.contains("secret"));
    }
}
