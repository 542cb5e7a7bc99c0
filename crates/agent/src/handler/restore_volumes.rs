//! From staged snapshots to detached volumes, with type, IOPS, throughput, encryption and tags as they were.
//!
//! Runs twice: CreateVolume has a client token, so the repeat answers the same volume; one that an earlier attempt has
//! attached already is taken as it is.

use std::sync::Arc;

use snapferry_aws::Account;
use snapferry_aws::ec2::{self, NewVolume};
use snapferry_transfer::TransferError;
use snapferry_types::VolumeId;
use snapferry_types::aws::Tag;
use snapferry_types::instance::VolumeConfig;
use snapferry_types::ledger::{LedgerEntry, ObjectKind, Purpose};

use super::objects;
use super::objects::parse_one;
use super::stage::Staged;
use crate::context::TaskContext;

/// A volume that was made.
#[derive(Debug, Clone)]
pub(super) struct Restored {
    /// The volume that was backed up, as it was.
    pub(super) config: VolumeConfig,
    /// The new one.
    pub(super) volume: VolumeId,
}

/// Makes a volume of each snapshot, in their order, and waits for them.
///
/// # Errors
/// [`TransferError`] that names the snapshot or the volume.
pub(super) async fn run(
    context: &Arc<TaskContext>,
    account: &Account,
    staged: &[Staged],
    availability_zone: &str,
    extra_tags: &[Tag],
) -> Result<Vec<Restored>, TransferError> {
    context.enter("create volumes");
    let mut volumes = Vec::with_capacity(staged.len());
    for one in staged {
        let label = one.config.volume_id.as_str();
        let create = |entry: LedgerEntry| {
            let mut tags = context.ledger.tags(&entry);
            tags.extend(restored_tags(&one.config.tags, extra_tags));
            let request = NewVolume {
                snapshot: Some(one.snapshot.clone()),
                availability_zone: availability_zone.to_owned(),
                size_gib: Some(one.config.size_gib),
                volume_type: one.config.volume_type.clone(),
                iops: one.config.iops,
                throughput_mibps: one.config.throughput_mibps,
                encrypted: one.config.encrypted,
                kms_key_id: one.config.kms_key_id.clone(),
                client_token: entry.id.to_string(),
                tags,
            };
            async move {
                say_dropped(context, label, &request.tags).await?;
                Ok(vec![ec2::create_volume(account, &request).await?.into()])
            }
        };
        let what = (ObjectKind::Volume, Purpose::RestoreResult, label);
        let entry = objects::ensure(context, account, what, create).await?;
        volumes.push(Restored { config: one.config.clone(), volume: parse_one(&entry)? });
    }
    for Restored { volume, config } in &volumes {
        let is_attached = ec2::volume_state(account, volume).await.is_ok_and(|state| state == "in-use");
        if !is_attached {
            let waited = ec2::wait_volume_available(account, volume, context.stop.token()).await;
            waited.map_err(|error| TransferError::from(error).context(made_of(config)))?;
        }
    }
    Ok(volumes)
}

/// What a volume is made of, for errors.
fn made_of(config: &VolumeConfig) -> String {
    let key = config.kms_key_id.as_ref().filter(|_| config.encrypted);
    let key = key.map(|key| format!(" under key {key}")).unwrap_or_default();
    format!("make a volume of the content of {}{key}", config.volume_id)
}

/// Tells the user which tags there is no room for.
pub(super) async fn say_dropped(context: &TaskContext, of: &str, tags: &[Tag]) -> Result<(), TransferError> {
    let dropped = ec2::fit_tags(tags).dropped;
    if dropped.is_empty() {
        return Ok(());
    }
    let keys: Vec<&str> = dropped.iter().map(|tag| tag.key.as_str()).collect();
    let text = format!("of the tags of {of} AWS has no room for {}: they do not come back", keys.join(", "));
    context.note(true, text).await
}

/// The tags that come back: those the user may set, the extra ones over them. What was itself restored carries our
/// ownership tags; they stay behind, or the new object would be taken for the old one's.
pub(super) fn restored_tags(original: &[Tag], extra: &[Tag]) -> Vec<Tag> {
    let is_replaced = |tag: &&Tag| extra.iter().any(|one| one.key == tag.key);
    let comes_back = |tag: &&Tag| tag.is_settable() && !tag.is_ownership() && !is_replaced(tag);
    original.iter().filter(comes_back).chain(extra).cloned().collect()
}
