//! What AWS refuses or fails, sorted by what happens next. Codes that the service models do not name (such as the
//! account throttle of EBS) are known by their text. Each message names the thing, the cause and the way out.

use std::error::Error as StdError;

use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::display::DisplayErrorContext;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use snapferry_transfer::{ErrorClass, TransferError};
use thiserror::Error;

use crate::denial::named_in;

/// Whose quota a throttle speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ThrottleScope {
    /// The account's, in the region.
    Account,
    /// That of the one snapshot.
    Resource,
}

/// An AWS call that did not do what was asked: read it after "failed to".
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AwsError {
    /// The named thing does not exist, or not for this account.
    #[error(
        "{what} {id} does not exist in this account and region (or is not shared with it); check the id and the region"
    )]
    NotFound {
        /// Kind of thing: `instance`, `snapshot`, …
        what: &'static str,
        /// Its id as asked for.
        id: String,
    },
    /// A permission is missing.
    #[error(
        "{action} on {resource} is denied: {message}; allow {action} in the role's or user's policy (deploy/iam has policies to start from)"
    )]
    AccessDenied {
        /// IAM action such as `ec2:CreateSnapshots`.
        action: String,
        /// What it was asked on.
        resource: String,
        /// AWS's own words.
        message: String,
    },
    /// The role cannot be assumed.
    #[error(
        "role {role_arn} cannot be assumed: {message}; check the role's trust policy, the principal it names, and the external id"
    )]
    RoleRefused {
        /// The role.
        role_arn: String,
        /// AWS's own words.
        message: String,
    },
    /// The access key itself is refused.
    #[error(
        "the access key is refused ({code}: {message}); check the key pair, that it is active, and the clock of this machine"
    )]
    BadCredentials {
        /// AWS's code.
        code: String,
        /// AWS's own words.
        message: String,
    },
    /// The credentials belong to another account.
    #[error(
        "the credentials belong to account {found}, not to {expected}; correct the hypervisor's account id or its credentials"
    )]
    WrongAccount {
        /// As registered.
        expected: String,
        /// As GetCallerIdentity answers.
        found: String,
    },
    /// Too many requests; slower is the way out, and the governor takes it.
    #[error("{action} on {resource} is throttled by AWS ({scope:?} quota)")]
    Throttled {
        /// IAM action.
        action: String,
        /// What it was asked on.
        resource: String,
        /// Whose quota.
        scope: ThrottleScope,
    },
    /// A service quota or a capacity is used up.
    #[error(
        "{action} on {resource} exceeds a quota or a capacity ({code}: {message}); wait for others to end or ask AWS for more"
    )]
    QuotaExceeded {
        /// IAM action.
        action: String,
        /// What it was asked on.
        resource: String,
        /// AWS's code.
        code: String,
        /// AWS's own words.
        message: String,
    },
    /// The request cannot be done as it is.
    #[error("{action} on {resource} is refused ({code}: {message})")]
    Invalid {
        /// IAM action.
        action: String,
        /// What it was asked on.
        resource: String,
        /// AWS's code, with the reason where it gives one.
        code: String,
        /// AWS's own words.
        message: String,
    },
    /// The thing is in a state in which this cannot be done yet.
    #[error("{action} on {resource} must wait ({code}: {message})")]
    Busy {
        /// IAM action.
        action: String,
        /// What it was asked on.
        resource: String,
        /// AWS's code.
        code: String,
        /// AWS's own words.
        message: String,
    },
    /// The two snapshots are not of one volume, so AWS cannot tell their difference: read in full.
    #[error("snapshot {snapshot} has no lineage with base {base}; the volume must be read in full")]
    Unrelated {
        /// The base.
        base: String,
        /// The snapshot to read.
        snapshot: String,
    },
    /// The base snapshot is gone: read in full.
    #[error("base snapshot {base} does not exist any more; the volume must be read in full")]
    BaseGone {
        /// The base.
        base: String,
    },
    /// A page or block token is too old; the listing resumes without it.
    #[error("a listing token of snapshot {snapshot} is expired or invalid")]
    TokenExpired {
        /// The snapshot.
        snapshot: String,
    },
    /// The session's credentials ran out; they are renewed.
    #[error(
        "the credentials expired during {action} and could not be renewed in time; the next attempt signs in anew"
    )]
    Expired {
        /// IAM action.
        action: String,
    },
    /// The far side cannot be reached, hung, or failed.
    #[error(
        "{action} on {resource}: AWS cannot be reached or failed: {cause}; check that the region is right, and the network path to its endpoint, or try again later"
    )]
    Unavailable {
        /// IAM action.
        action: String,
        /// What it was asked on.
        resource: String,
        /// The chain of causes.
        cause: String,
    },
    /// There is no such region, or it is not enabled.
    #[error(
        "AWS has no region {region}, or account {account} has not enabled it; register the account with regions that `aws ec2 describe-regions` lists for it"
    )]
    NoSuchRegion {
        /// As registered.
        region: String,
        /// The account that was asked.
        account: String,
    },
    /// The object went into a state that it never leaves.
    #[error("{what} {id} ended as {state}: {message}")]
    Failed {
        /// Kind of thing.
        what: &'static str,
        /// Its id.
        id: String,
        /// AWS's word.
        state: String,
        /// AWS's explanation.
        message: String,
    },
    /// It did not happen in the time it may take.
    #[error("{what} {id} is still {state} after {seconds} s; the next attempt looks again")]
    TooSlow {
        /// Kind of thing.
        what: &'static str,
        /// Its id.
        id: String,
        /// Last state seen.
        state: String,
        /// How long it was watched.
        seconds: u64,
    },
    /// Bytes did not match their checksum, also when read again.
    #[error(
        "block {index} of snapshot {snapshot} does not match its checksum ({detail}), also when read again; nothing of it was stored"
    )]
    Corrupt {
        /// The snapshot.
        snapshot: String,
        /// Index of the block.
        index: u32,
        /// What differed.
        detail: String,
    },
    /// A reply without something that it must have.
    #[error("the reply of {action} on {resource} lacks {lacks}; the endpoint may not be AWS")]
    BadReply {
        /// IAM action.
        action: String,
        /// What it was asked on.
        resource: String,
        /// The missing or malformed part.
        lacks: String,
    },
    /// The bucket is in another region than what needs it.
    #[error("bucket {bucket} is in {found}; ImportSnapshot in {needed} needs one there")]
    BucketElsewhere {
        /// The bucket.
        bucket: String,
        /// Its region.
        found: String,
        /// Where it would have to be.
        needed: String,
    },
    /// A local file cannot be read, or is not what it was.
    #[error("{path} cannot be read: {cause}")]
    File {
        /// The file.
        path: String,
        /// The cause.
        cause: String,
    },
    /// The work was told to stop.
    #[error("the work was told to stop")]
    Cancelled,
}

impl AwsError {
    /// The class that jobs and metrics show, and that decides on retry.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound { .. } | Self::BaseGone { .. } => ErrorClass::NotFound,
            Self::AccessDenied { .. }
            | Self::RoleRefused { .. }
            | Self::BadCredentials { .. }
            | Self::WrongAccount { .. } => ErrorClass::AccessDenied,
            Self::Throttled { .. } | Self::QuotaExceeded { .. } => ErrorClass::Throttled,
            Self::Invalid { .. }
            | Self::Unrelated { .. }
            | Self::Failed { .. }
            | Self::NoSuchRegion { .. }
            | Self::BucketElsewhere { .. }
            | Self::File { .. } => ErrorClass::Invalid,
            Self::Busy { .. }
            | Self::TokenExpired { .. }
            | Self::Expired { .. }
            | Self::Unavailable { .. }
            | Self::TooSlow { .. }
            | Self::BadReply { .. } => ErrorClass::Unavailable,
            Self::Corrupt { .. } => ErrorClass::Corrupt,
            Self::Cancelled => ErrorClass::Cancelled,
        }
    }

    /// Whether a later attempt may succeed without anybody changing anything.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        self.class().retryable()
    }

    /// Whether the incremental is impossible and the volume has to be read in full.
    #[must_use]
    pub const fn needs_full_read(&self) -> bool {
        matches!(self, Self::Unrelated { .. } | Self::BaseGone { .. })
    }

    /// Whether the object is simply not there.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

impl From<AwsError> for TransferError {
    fn from(error: AwsError) -> Self {
        Self::new(error.class(), error.to_string())
    }
}

/// What was asked, for messages: an IAM action and the thing it was asked on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) action: &'static str,
    pub(crate) what: &'static str,
    pub(crate) id: &'a str,
}

impl<'a> Asked<'a> {
    pub(crate) const fn new(action: &'static str, what: &'static str, id: &'a str) -> Self {
        Self { action, what, id }
    }

    fn resource(&self) -> String {
        if self.id.is_empty() { self.what.to_owned() } else { format!("{} {}", self.what, self.id) }
    }

    pub(crate) fn unavailable(&self, cause: impl Into<String>) -> AwsError {
        AwsError::Unavailable {
            action: self.action.to_owned(),
            resource: self.resource(),
            cause: cause.into(),
        }
    }

    pub(crate) fn lacks(&self, what: impl Into<String>) -> AwsError {
        AwsError::BadReply { action: self.action.to_owned(), resource: self.resource(), lacks: what.into() }
    }

    pub(crate) fn invalid(&self, code: &str, message: impl Into<String>) -> AwsError {
        AwsError::Invalid {
            action: self.action.to_owned(),
            resource: self.resource(),
            code: code.to_owned(),
            message: message.into(),
        }
    }

    /// A denial. AWS's message may name another action than the one asked for: making a thing with tags also needs
    /// CreateTags, and reading an encrypted one needs its key.
    fn denied(&self, message: &str) -> AwsError {
        let (action, resource) = match named_in(message) {
            Some((action, resource)) if action != self.action => {
                (action, resource.map_or_else(|| self.resource(), ToOwned::to_owned))
            }
            _ => (self.action, self.resource()),
        };
        AwsError::AccessDenied { action: action.to_owned(), resource, message: message.to_owned() }
    }

    /// Sorts an SDK error.
    pub(crate) fn sort<E, R>(&self, error: &SdkError<E, R>) -> AwsError
    where
        E: ProvideErrorMetadata + StdError + 'static,
        R: std::fmt::Debug + StatusOf,
    {
        match error {
            SdkError::ServiceError(context) => {
                let meta = context.err().meta();
                let status = context.raw().status_of();
                match meta.code() {
                    Some(code) => self.sort_code(code, meta.message().unwrap_or("no message"), status),
                    None => self.sort_code("", meta.message().unwrap_or("no message"), status),
                }
            }
            SdkError::TimeoutError(_) => self.unavailable("no answer in time"),
            other => self.unavailable(DisplayErrorContext(other).to_string()),
        }
    }

    /// Sorts by AWS's code, or by the HTTP status where the code says nothing.
    pub(crate) fn sort_code(&self, code: &str, message: &str, status: u16) -> AwsError {
        let (action, resource) = (self.action.to_owned(), self.resource());
        let (code_text, message_text) = (code.to_owned(), message.to_owned());
        match code {
            "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException" | "OptInRequired" => {
                self.denied(message)
            }
            "AuthFailure"
            | "InvalidClientTokenId"
            | "SignatureDoesNotMatch"
            | "UnrecognizedClientException"
            | "InvalidSignatureException"
            | "IncompleteSignature"
            | "InvalidAccessKeyId"
            | "MissingAuthenticationToken" => {
                AwsError::BadCredentials { code: code_text, message: message_text }
            }
            "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" => AwsError::Expired { action },
            "RequestThrottledException" => {
                AwsError::Throttled { action, resource, scope: ThrottleScope::Resource }
            }
            "ThrottlingException"
            | "Throttling"
            | "ThrottledException"
            | "RequestLimitExceeded"
            | "RequestThrottled"
            | "TooManyRequestsException"
            | "SlowDown" => AwsError::Throttled { action, resource, scope: ThrottleScope::Account },
            "ResourceNotFoundException"
            | "NotFoundException"
            | "NoSuchBucket"
            | "NoSuchKey"
            | "NoSuchUpload" => AwsError::NotFound { what: self.what, id: self.id.to_owned() },
            "ServiceQuotaExceededException"
            | "ConcurrentLimitExceededException"
            | "InsufficientInstanceCapacity"
            | "InsufficientCapacity"
            | "InsufficientVolumeCapacity"
            | "SnapshotCreationPerVolumeRateExceeded" => {
                AwsError::QuotaExceeded { action, resource, code: code_text, message: message_text }
            }
            "IncorrectState"
            | "IncorrectInstanceState"
            | "IncorrectSnapshotState"
            | "VolumeInUse"
            | "InvalidSnapshot.InUse"
            | "ConflictException"
            | "ResourceInUse"
            | "DependencyViolation" => {
                AwsError::Busy { action, resource, code: code_text, message: message_text }
            }
            "InternalError"
            | "InternalFailure"
            | "InternalServerException"
            | "KMSInternalException"
            | "KeyUnavailableException"
            | "DependencyTimeoutException"
            | "Unavailable"
            | "ServiceUnavailable"
            | "RequestTimeout"
            | "RequestTimeoutException" => self.unavailable(format!("{code}: {message}")),
            _ if code.ends_with(".NotFound")
                || code == "InvalidAMIID.Unavailable"
                || code.starts_with("InvalidConversionTaskId") =>
            {
                AwsError::NotFound { what: self.what, id: self.id.to_owned() }
            }
            _ if code.ends_with("LimitExceeded") => {
                AwsError::QuotaExceeded { action, resource, code: code_text, message: message_text }
            }
            _ if status >= 500 => self.unavailable(format!("HTTP {status} {code}: {message}")),
            _ if status == 429 => AwsError::Throttled { action, resource, scope: ThrottleScope::Account },
            _ if status == 403 && code.is_empty() => self.denied(message),
            _ => AwsError::Invalid {
                action,
                resource,
                code: if code.is_empty() { format!("HTTP {status}") } else { code_text },
                message: message_text,
            },
        }
    }
}

/// The HTTP status of a raw reply.
pub(crate) trait StatusOf {
    fn status_of(&self) -> u16;
}

impl StatusOf for aws_smithy_runtime_api::client::orchestrator::HttpResponse {
    fn status_of(&self) -> u16 {
        self.status().as_u16()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked<'_> = Asked::new("ec2:DeleteSnapshot", "snapshot", "snap-1");

    #[test]
    fn every_code_finds_its_class() {
        let class = |code: &str, status| ASKED.sort_code(code, "words", status).class();
        assert_eq!(class("InvalidSnapshot.NotFound", 400), ErrorClass::NotFound);
        assert_eq!(class("UnauthorizedOperation", 403), ErrorClass::AccessDenied);
        assert_eq!(class("AuthFailure", 401), ErrorClass::AccessDenied);
        assert_eq!(class("RequestLimitExceeded", 503), ErrorClass::Throttled);
        assert_eq!(class("VolumeLimitExceeded", 400), ErrorClass::Throttled);
        assert_eq!(class("IncorrectState", 400), ErrorClass::Unavailable);
        assert_eq!(class("ExpiredTokenException", 400), ErrorClass::Unavailable);
        assert_eq!(class("InvalidParameterValue", 400), ErrorClass::Invalid);
        assert_eq!(class("", 502), ErrorClass::Unavailable);
        assert_eq!(class("SomethingNew", 500), ErrorClass::Unavailable);
    }

    #[test]
    fn the_two_throttles_of_ebs_are_told_apart() {
        let scope = |code| match ASKED.sort_code(code, "", 400) {
            AwsError::Throttled { scope, .. } => scope,
            other => panic!("{other}"),
        };
        assert_eq!(scope("ThrottlingException"), ThrottleScope::Account);
        assert_eq!(scope("RequestThrottledException"), ThrottleScope::Resource);
    }

    #[test]
    fn a_denial_names_the_action_and_the_thing() {
        let text = ASKED.sort_code("UnauthorizedOperation", "You are not authorized", 403).to_string();
        assert!(text.contains("ec2:DeleteSnapshot") && text.contains("snapshot snap-1"), "{text}");
    }
}
