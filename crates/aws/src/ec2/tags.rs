//! Tags: put on what we make, and the way to find it again after a lost reply.

use aws_sdk_ec2::types::{Filter, ResourceType, Tag as Ec2Tag, TagSpecification};
use snapferry_types::LedgerId;
use snapferry_types::aws::Tag;
use snapferry_types::ledger::{ObjectKind, TAG_DEPLOYMENT, TAG_LEDGER, TAG_PURPOSE, TAG_TASK};

use crate::ec2::imports::find_import_by_ledger_tag;
use crate::ec2::paging::all_pages;
use crate::error::{Asked, AwsError};
use crate::session::Account;

/// AWS takes 50 tags on a resource; `aws:` tags do not count and cannot be set.
const MAX_TAGS: usize = 50;

/// Tags that a resource can have, and those there is no room for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FittedTags {
    /// At most 50, in the order given.
    pub kept: Vec<Tag>,
    /// The rest. Every step that makes something leaves out the same ones: tell the user before it is called.
    pub dropped: Vec<Tag>,
}

/// Parts tags into those that fit on a resource and those that do not. Ours, by which an object is found again, always
/// fit, then the `Name`, then the others in their order. Tags that only AWS sets (`aws:…`) are in neither part.
#[must_use]
pub fn fit_tags(tags: &[Tag]) -> FittedTags {
    let settable: Vec<&Tag> = tags.iter().filter(|tag| tag.is_settable()).collect();
    let mut room = MAX_TAGS.saturating_sub(settable.iter().filter(|tag| must_fit(tag)).count());
    let mut fitted = FittedTags::default();
    for tag in settable {
        if must_fit(tag) {
            fitted.kept.push(tag.clone());
        } else if room > 0 {
            room -= 1;
            fitted.kept.push(tag.clone());
        } else {
            fitted.dropped.push(tag.clone());
        }
    }
    fitted
}

fn must_fit(tag: &Tag) -> bool {
    matches!(tag.key.as_str(), TAG_DEPLOYMENT | TAG_TASK | TAG_PURPOSE | TAG_LEDGER | "Name")
}

/// Puts tags on an object; those that only AWS sets (`aws:…`) are left out. Gives back the tags there was no room for,
/// which are to be told to the user.
///
/// # Errors
/// [`AwsError`].
pub async fn create_tags(account: &Account, object_id: &str, tags: &[Tag]) -> Result<Vec<Tag>, AwsError> {
    let asked = Asked::new("ec2:CreateTags", "resource", object_id);
    let FittedTags { kept, dropped } = fit_tags(tags);
    if kept.is_empty() {
        return Ok(dropped);
    }
    let kept = to_ec2(&kept);
    account
        .call(|| async {
            let call = account.ec2().create_tags().resources(object_id).set_tags(Some(kept.clone()));
            call.send().await.map_err(|error| asked.sort(&error))
        })
        .await
        .map(|_| dropped)
}

/// Takes tags off an object, whatever their values; an object or a tag that is not there is done.
///
/// # Errors
/// [`AwsError`].
pub async fn delete_tags(account: &Account, object_id: &str, keys: &[&str]) -> Result<(), AwsError> {
    let asked = Asked::new("ec2:DeleteTags", "resource", object_id);
    if keys.is_empty() {
        return Ok(());
    }
    let tags: Vec<Ec2Tag> = keys.iter().map(|key| Ec2Tag::builder().key(*key).build()).collect();
    let deleted = account
        .call(|| async {
            let call = account.ec2().delete_tags().resources(object_id).set_tags(Some(tags.clone()));
            call.send().await.map_err(|error| asked.sort(&error))
        })
        .await;
    match deleted {
        Ok(_) | Err(AwsError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
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
        ObjectKind::ImportTask => {
            let found = find_import_by_ledger_tag(account, entry).await?;
            Ok(found.into_iter().map(|import| import.task).collect())
        }
        // These are in the ledger by name before they are made.
        ObjectKind::Share | ObjectKind::S3Object => Ok(Vec::new()),
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

/// Tags as EC2 takes them.
pub(crate) fn to_ec2(tags: &[Tag]) -> Vec<Ec2Tag> {
    tags.iter().map(|tag| Ec2Tag::builder().key(&tag.key).value(&tag.value).build()).collect()
}

/// Tags of a resource that a call is about to make: those that [`fit_tags`] keeps.
pub(crate) fn specification(kind: ResourceType, tags: &[Tag]) -> Option<Vec<TagSpecification>> {
    let FittedTags { kept, dropped } = fit_tags(tags);
    if !dropped.is_empty() {
        let keys = dropped.iter().map(|tag| tag.key.as_str()).collect::<Vec<_>>().join(", ");
        tracing::warn!(kind = kind.as_str(), %keys, "a resource takes {MAX_TAGS} tags; these are left out");
    }
    if kept.is_empty() {
        return None;
    }
    Some(vec![TagSpecification::builder().resource_type(kind).set_tags(Some(to_ec2(&kept))).build()])
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
        let fitted = fit_tags(&tags);
        assert_eq!((fitted.kept.as_slice(), fitted.dropped.as_slice()), (&tags[..1], &[][..]));
        assert!(specification(ResourceType::Volume, &tags[1..]).is_none());
    }

    #[test]
    fn ours_always_fit_and_what_does_not_is_named() {
        let mut tags: Vec<Tag> = (0..50).map(|n| Tag::new(format!("user-{n:02}"), "x")).collect();
        tags.push(Tag::new("Name", "web"));
        tags.push(Tag::new(TAG_LEDGER, "entry"));
        let fitted = fit_tags(&tags);
        assert_eq!(fitted.kept.len(), MAX_TAGS);
        assert!(fitted.kept.contains(&Tag::new(TAG_LEDGER, "entry")));
        let dropped: Vec<&str> = fitted.dropped.iter().map(|tag| tag.key.as_str()).collect();
        assert_eq!(dropped, ["user-48", "user-49"]);
        let specified = specification(ResourceType::Volume, &tags).unwrap();
        assert_eq!(specified[0].tags().len(), MAX_TAGS);
    }
}
