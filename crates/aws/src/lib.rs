//! The only crate that knows AWS. An [`Account`] is credentials for one account and region, renewed as they age;
//! on it stand the EC2 steps of a backup and a restore ([`ec2`]), keys ([`kms`]), disk images in S3 ([`s3`]), the
//! questions asked beforehand ([`preflight`]) and the two ends of the data plane
//! ([`EbsSnapshotSource`], [`EbsSnapshotTarget`]). All accounts of a process share their connections and the
//! [`Governor`], which keeps every account and every snapshot just below its quota.
//!
//! Nothing here knows tasks, leases or the scheduler: callers record what is made, and pass the tags that let it be
//! found again.

pub mod calls;
mod denial;
pub mod ebs;
pub mod ec2;
pub mod error;
mod key_trouble;
pub mod kms;
pub mod preflight;
pub mod quota;
pub mod s3;
pub mod session;

pub use calls::{CallCounter, CallFigures};
pub use ebs::{EbsSnapshotSource, EbsSnapshotTarget, NewSnapshot, ReadFigures, start_snapshot};
pub use error::{AwsError, ThrottleScope};
pub use key_trouble::{KeyTrouble, demands_a_service, key_trouble};
pub use kms::{KeyInfo, KeyManager, KeyState, KeyUse, describe_key, key_policy, key_probe};
pub use preflight::{Denied, Preflight, Probe};
pub use quota::{Direction, Governor, QuotaSettings};
pub use s3::S3;
pub use session::{Account, Clients, SessionPurpose, SessionScope};
