//! Tags: put on what we make, and the way to find it again after a lost reply.

use aws_sdk_ec2::types::{Filter, ResourceType, Tag as Ec2Tag, TagSpecification};
use snapferry_types::LedgerId;
use snapferry_types::aws::Tag;
use snapferry_types::ledger::{ObjectKind, TAG_LEDGER};

use crate::ec2::paging::all_pages;
use crate::error::{Asked, AwsError};
use crate::session::Account;

/// AWS takes 50 tags on a resource; `aws:` tags do not count and cannot be set.
const MAX_TAGS: usize = 50;

/// Puts tags on an object; those that only AWS sets (`aws:…`) are left out.
///
/// # Errors
/// [`AwsError`].
pub async fn create_tags(account: &Account, object_id: &str, tags: &[Tag]) -> Result<(), AwsError> {
    let asked = Asked::new("ec2:CreateTags", "resource", object_id);
    let tags = settable(tags);
    if tags.is_empty() {
        return Ok(());
    }
    account
        .call(|| async {
            let call = account.ec2().create_tags().resources(object_id).set_tags(Some(tags.clone()));
            call.send().await.map_err(|error| asked.sort(&error))
        })
        .await
        .map(|_| ())
}

/// Ids of the objects that carry the ledger entry's tag, in no order; empty when nothing was made. Instances that
/// are terminated are left out.
///
/// # Errors
/// [`AwsError`].
pub async fn find_by_ledger_tag(
    account: &Account,
    kind: ObjectKind,
    entry: LedgerId,
) -> Result<Vec<String>, AwsError> {
    let value = entry.to_string();
    let filter = Filter::builder().name(format!("tag:{TAG_LEDGER}")).values(&value).build();
    match kind {
        ObjectKind::Snapshot => snapshots(account, &value, filter).await,
        ObjectKind::Volume => volumes(account, &value, filter).await,
        ObjectKind::Image => images(account, &value, filter).await,
        ObjectKind::Instance => instances(account, &value, filter).await,
        // These are in the ledger by name before they are made.
        ObjectKind::Share | ObjectKind::ImportTask | ObjectKind::S3Object => Ok(Vec::new()),
    }
}

async fn snapshots(account: &Account, entry: &str, filter: Filter) -> Result<Vec<String>, AwsError> {
    let asked = Asked::new("ec2:DescribeSnapshots", "ledger entry", entry);
    all_pages(asked, async |token: Option<String>| {
        let reply = account
            .call(|| async {
                let call = account.ec2().describe_snapshots().owner_ids("self").filters(filter.clone());
                call.set_next_token(token.clone()).send().await.map_err(|error| asked.sort(&error))
            })
            .await?;
        let found = reply.snapshots.unwrap_or_default();
        Ok((found.into_iter().filter_map(|snapshot| snapshot.snapshot_id).collect(), reply.next_token))
    })
    .await
}

async fn volumes(account: &Account, entry: &str, filter: Filter) -> Result<Vec<String>, AwsError> {
    let asked = Asked::new("ec2:DescribeVolumes", "ledger entry", entry);
    all_pages(asked, async |token: Option<String>| {
        let reply = account
            .call(|| async {
                let call = account.ec2().describe_volumes().filters(filter.clone());
                call.set_next_token(token.clone()).send().await.map_err(|error| asked.sort(&error))
            })
            .await?;
        let found = reply.volumes.unwrap_or_default();
        Ok((found.into_iter().filter_map(|volume| volume.volume_id).collect(), reply.next_token))
    })
    .await
}

async fn images(account: &Account, entry: &str, filter: Filter) -> Result<Vec<String>, AwsError> {
    let asked = Asked::new("ec2:DescribeImages", "ledger entry", entry);
    all_pages(asked, async |token: Option<String>| {
        let reply = account
            .call(|| async {
                let call = account.ec2().describe_images().owners("self").filters(filter.clone());
                call.set_next_token(token.clone()).send().await.map_err(|error| asked.sort(&error))
            })
            .await?;
        let found = reply.images.unwrap_or_default();
        Ok((found.into_iter().filter_map(|image| image.image_id).collect(), reply.next_token))
    })
    .await
}

async fn instances(account: &Account, entry: &str, filter: Filter) -> Result<Vec<String>, AwsError> {
    let asked = Asked::new("ec2:DescribeInstances", "ledger entry", entry);
    all_pages(asked, async |token: Option<String>| {
        let reply = account
            .call(|| async {
                let call = account.ec2().describe_instances().filters(filter.clone());
                call.set_next_token(token.clone()).send().await.map_err(|error| asked.sort(&error))
            })
            .await?;
        let found = reply.reservations.unwrap_or_default().into_iter();
        let found = found.flat_map(|reservation| reservation.instances.unwrap_or_default());
        let alive = found.filter(|instance| {
            let name = instance.state.as_ref().and_then(|state| state.name.as_ref());
            !name.is_some_and(|name| matches!(name.as_str(), "terminated" | "shutting-down"))
        });
        Ok((alive.filter_map(|instance| instance.instance_id).collect(), reply.next_token))
    })
    .await
}

/// Tags as EC2 takes them, without those that only AWS sets, and no more than a resource can have.
pub(super) fn settable(tags: &[Tag]) -> Vec<Ec2Tag> {
    tags.iter()
        .filter(|tag| tag.is_settable())
        .take(MAX_TAGS)
        .map(|tag| Ec2Tag::builder().key(&tag.key).value(&tag.value).build())
        .collect()
}

/// Tags of a resource that a call is about to make.
pub(super) fn specification(kind: ResourceType, tags: &[Tag]) -> Option<Vec<TagSpecification>> {
    let tags = settable(tags);
    if tags.is_empty() {
        return None;
    }
    Some(vec![TagSpecification::builder().resource_type(kind).set_tags(Some(tags)).build()])
}

/// Tags as EC2 tells them.
pub(super) fn told(tags: Option<Vec<Ec2Tag>>) -> Vec<Tag> {
    let tags = tags.unwrap_or_default().into_iter();
    tags.filter_map(|tag| Some(Tag::new(tag.key?, tag.value.unwrap_or_default()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_that_only_aws_sets_are_left_out() {
        let tags = [Tag::new("Name", "web"), Tag::new("aws:autoscaling:groupName", "asg")];
        let set = settable(&tags);
        assert_eq!(set.len(), 1);
        assert_eq!(set[0].key(), Some("Name"));
        assert!(specification(ResourceType::Volume, &tags[1..]).is_none());
    }
}
