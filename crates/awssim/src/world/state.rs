//! The whole state, as it is written down.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::bucket::{Bucket, Upload};
use super::identity::{Key, Role, Session, User};
use super::import::ImportTask;
use super::kms::{Alias, Grant, KmsKey};
use super::new_id;
use super::resource::{Image, Instance, Marks, Snapshot, Subnet, Tags, Volume};
use crate::faults::Refusal;
use crate::server::form::ec2_error;

/// Regions that every account has.
pub(crate) const REGIONS: [&str; 6] =
    ["eu-central-1", "eu-west-1", "us-east-1", "us-east-2", "us-west-2", "ap-southeast-2"];

/// Everything.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct State {
    pub(crate) accounts: BTreeMap<String, AccountState>,
    pub(crate) keys: BTreeMap<String, Key>,
    pub(crate) users: BTreeMap<String, User>,
    pub(crate) roles: BTreeMap<String, Role>,
    pub(crate) sessions: BTreeMap<String, Session>,
    pub(crate) volumes: BTreeMap<String, Volume>,
    pub(crate) snapshots: BTreeMap<String, Snapshot>,
    pub(crate) images: BTreeMap<String, Image>,
    pub(crate) instances: BTreeMap<String, Instance>,
    pub(crate) subnets: BTreeMap<String, Subnet>,
    pub(crate) groups: BTreeMap<String, SecurityGroup>,
    pub(crate) key_pairs: BTreeMap<String, KeyPair>,
    /// Instances that this machine stands for → where their block devices appear.
    pub(crate) access_nodes: BTreeMap<String, PathBuf>,
    /// By instance: the most volumes that it ever had at the same time.
    pub(crate) most_attached: BTreeMap<String, usize>,
    /// By ARN.
    pub(crate) kms_keys: BTreeMap<String, KmsKey>,
    /// By the alias's ARN.
    pub(crate) kms_aliases: BTreeMap<String, Alias>,
    /// By id.
    pub(crate) kms_grants: BTreeMap<String, Grant>,
    /// By name.
    pub(crate) buckets: BTreeMap<String, Bucket>,
    /// By upload id.
    pub(crate) uploads: BTreeMap<String, Upload>,
    pub(crate) imports: BTreeMap<String, ImportTask>,
    /// `account/region/action/token` → what it made, and of what parameters.
    pub(crate) tokens: BTreeMap<String, (String, String)>,
}

/// An account.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct AccountState {
    /// Regions in which new volumes and snapshots are encrypted unasked.
    pub(crate) encrypted_regions: BTreeSet<String>,
    /// By region: the key that EBS takes when none is named, where it is not the AWS managed one.
    pub(crate) default_keys: BTreeMap<String, String>,
}

/// A security group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SecurityGroup {
    pub(crate) id: String,
    pub(crate) account: String,
    pub(crate) region: String,
    pub(crate) vpc: String,
    pub(crate) name: String,
}

/// A key pair; the key itself is nobody's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct KeyPair {
    pub(crate) id: String,
    pub(crate) account: String,
    pub(crate) region: String,
    pub(crate) name: String,
}

impl State {
    /// Makes the account with its default networks, unless it is there.
    pub(crate) fn add_account(&mut self, account: &str) {
        if self.accounts.contains_key(account) {
            return;
        }
        self.accounts.insert(account.to_owned(), AccountState::default());
        for region in REGIONS {
            let vpc = new_id("vpc");
            for (index, letter) in ["a", "b", "c"].iter().enumerate() {
                let id = new_id("subnet");
                let subnet = Subnet {
                    id: id.clone(),
                    account: account.to_owned(),
                    region: region.to_owned(),
                    zone: format!("{region}{letter}"),
                    vpc: vpc.clone(),
                    prefix: format!("10.0.{index}"),
                    last_host: 9,
                    marks: Marks::default(),
                };
                self.subnets.insert(id, subnet);
            }
            let id = new_id("sg");
            let group = SecurityGroup {
                id: id.clone(),
                account: account.to_owned(),
                region: region.to_owned(),
                vpc,
                name: "default".to_owned(),
            };
            self.groups.insert(id, group);
        }
    }

    /// The account's volume, or AWS's words for having none.
    pub(crate) fn volume(&self, account: &str, region: &str, id: &str) -> Result<&Volume, Refusal> {
        self.volumes
            .get(id)
            .filter(|one| one.account == account && one.region == region)
            .ok_or_else(|| not_found("vol-", id, "InvalidVolume.NotFound", "volume"))
    }

    /// The account's instance; terminated ones are found for a while, as in AWS.
    pub(crate) fn instance(&self, account: &str, region: &str, id: &str) -> Result<&Instance, Refusal> {
        let malformed = !id.starts_with("i-") || !id.bytes().skip(2).all(|byte| byte.is_ascii_hexdigit());
        if malformed {
            return Err(ec2_error("InvalidInstanceID.Malformed", format!("Invalid id: \"{id}\"")));
        }
        self.instances.get(id).filter(|one| one.account == account && one.region == region).ok_or_else(|| {
            ec2_error("InvalidInstanceID.NotFound", format!("The instance ID '{id}' does not exist"))
        })
    }

    /// A snapshot that the account owns.
    pub(crate) fn own_snapshot(&self, account: &str, region: &str, id: &str) -> Result<&Snapshot, Refusal> {
        self.snapshots
            .get(id)
            .filter(|one| one.account == account && one.region == region)
            .ok_or_else(|| not_found("snap-", id, "InvalidSnapshot.NotFound", "snapshot"))
    }

    /// A snapshot that the account owns or that is shared with it.
    pub(crate) fn usable_snapshot(
        &self,
        account: &str,
        region: &str,
        id: &str,
    ) -> Result<&Snapshot, Refusal> {
        self.snapshots
            .get(id)
            .filter(|one| one.region == region)
            .filter(|one| one.account == account || one.shared_with.iter().any(|with| with == account))
            .ok_or_else(|| not_found("snap-", id, "InvalidSnapshot.NotFound", "snapshot"))
    }

    /// The account's image.
    pub(crate) fn image(&self, account: &str, region: &str, id: &str) -> Result<&Image, Refusal> {
        self.images.get(id).filter(|one| one.account == account && one.region == region).ok_or_else(|| {
            ec2_error("InvalidAMIID.NotFound", format!("The image id '[{id}]' does not exist"))
        })
    }

    /// The tags of a resource of the account, for changing.
    pub(crate) fn tags_mut(&mut self, account: &str, region: &str, id: &str) -> Option<&mut Tags> {
        macro_rules! of {
            ($map:ident) => {
                if self.$map.get(id).is_some_and(|one| one.account == account && one.region == region) {
                    return self.$map.get_mut(id).map(|one| &mut one.tags);
                }
            };
        }
        of!(volumes);
        of!(snapshots);
        of!(images);
        of!(instances);
        of!(imports);
        None
    }

    /// What a client token made before: nothing, the same, or a conflict.
    pub(crate) fn by_token(
        &self,
        scope: &str,
        token: Option<&str>,
        fingerprint: &str,
    ) -> Result<Option<String>, Refusal> {
        let Some(token) = token else { return Ok(None) };
        match self.tokens.get(&format!("{scope}/{token}")) {
            None => Ok(None),
            Some((id, of)) if of == fingerprint => Ok(Some(id.clone())),
            Some(_) => Err(ec2_error(
                "IdempotentParameterMismatch",
                format!(
                    "Arguments on this idempotent request are inconsistent with arguments used in previous request(s) with the client token {token}"
                ),
            )),
        }
    }

    /// Remembers what a client token has made.
    pub(crate) fn remember_token(&mut self, scope: &str, token: Option<&str>, id: &str, fingerprint: &str) {
        if let Some(token) = token {
            self.tokens.insert(format!("{scope}/{token}"), (id.to_owned(), fingerprint.to_owned()));
        }
    }
}

fn not_found(prefix: &str, id: &str, code: &str, what: &str) -> Refusal {
    if id.starts_with(prefix) {
        return ec2_error(code, format!("The {what} '{id}' does not exist."));
    }
    ec2_error(
        "InvalidParameterValue",
        format!("Value ({id}) for parameter {what}Id is invalid. Expected: '{prefix}...'."),
    )
}
