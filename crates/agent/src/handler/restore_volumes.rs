//! From staged snapshots to detached volumes, with type, IOPS, throughput, encryption and tags as they were.
//!
//! Runs twice: CreateVolume has a client token, so the repeat answers the same volume.

use std::sync::Arc;

use snapferry_aws::Account;
use snapferry_aws::ec2::{self, NewVolume};
use snapferry_transfer::TransferError;
use snapferry_types::VolumeId;
use snapferry_types::aws::Tag;
use snapferry_types::ledger::{LedgerEntry, ObjectKind, Purpose};
use snapferry_wire::v1;

use super::objects::parse_one;
use super::stage::Staged;
use super::{made, objects};
use crate::context::TaskContext;

pub(super) async fn run(
    context: &Arc<TaskContext>,
    account: &Account,
    staged: &[Staged],
    availability_zone: &str,
    extra_tags: &[Tag],
) -> Result<Vec<v1::Made>, TransferError> {
    context.enter("create volumes");
    let mut results = Vec::with_capacity(staged.len());
    for one in staged {
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
            async move { Ok(vec![ec2::create_volume(account, &request).await?.into()]) }
        };
        let label = one.config.volume_id.as_str();
        let what = (ObjectKind::Volume, Purpose::RestoreResult, label);
        let entry = objects::ensure(context, account, what, create).await?;
        let volume: VolumeId = parse_one(&entry)?;
        ec2::wait_volume_available(account, &volume, context.stop.token()).await?;
        results.push(made("volume", volume, label));
    }
    Ok(results)
}

/// The tags that come back: those the user may set, the extra ones over them. What was itself restored carries our
/// ownership tags; they stay behind, or the new object would be taken for the old one's.
pub(super) fn restored_tags(original: &[Tag], extra: &[Tag]) -> Vec<Tag> {
    let is_replaced = |tag: &&Tag| extra.iter().any(|one| one.key == tag.key);
    let comes_back = |tag: &&Tag| tag.is_settable() && !tag.is_ownership() && !is_replaced(tag);
    original.iter().filter(comes_back).chain(extra).cloned().collect()
}
