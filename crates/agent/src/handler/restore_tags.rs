//! Tags of an instance that is restored in place: those that it had at the backup come back, those that it got since stay.
//!
//! Runs twice: setting a tag again changes nothing.

use serde::{Deserialize, Serialize};
use snapferry_aws::{Account, ec2};
use snapferry_transfer::TransferError;
use snapferry_types::InstanceId;
use snapferry_types::aws::Tag;

use crate::context::TaskContext;

/// A tag that the instance does not have now, or with another value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TagBack {
    key: String,
    value: String,
    /// The value now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    was: Option<String>,
}

/// What has to be set, so that all tags of then are on the instance again.
pub(super) fn to_bring_back(then: &[Tag], now: &[Tag]) -> Vec<TagBack> {
    let wanted = then.iter().filter(|tag| tag.is_settable() && !tag.is_ownership());
    wanted
        .filter(|tag| !now.contains(tag))
        .map(|tag| TagBack {
            key: tag.key.clone(),
            value: tag.value.clone(),
            was: now.iter().find(|one| one.key == tag.key).map(|one| one.value.clone()),
        })
        .collect()
}

/// Sets them, and tells what they were. That it is not allowed to is told as well: the restore itself is done.
///
/// # Errors
/// [`TransferError`] that another attempt may not meet.
pub(super) async fn bring_back(
    context: &TaskContext,
    account: &Account,
    instance: &InstanceId,
    tags: &[TagBack],
) -> Result<(), TransferError> {
    if tags.is_empty() {
        return Ok(());
    }
    context.enter("set tags");
    let wanted: Vec<Tag> = tags.iter().map(|tag| Tag::new(&tag.key, &tag.value)).collect();
    let done = ec2::create_tags(account, instance.as_str(), &wanted).await.map_err(TransferError::from);
    let what = tags.iter().map(told).collect::<Vec<_>>().join(", ");
    match done {
        Err(error) if error.retryable() => Err(error),
        Err(error) => {
            let text = format!("tags of {instance} are not as in the recovery point: {what}; {error}");
            context.note(true, text).await
        }
        Ok(_) => {
            context
                .note(false, format!("tags of {instance} are as in the recovery point again: {what}"))
                .await
        }
    }
}

fn told(tag: &TagBack) -> String {
    match &tag.was {
        Some(was) => format!("{} (is {:?}, was {was:?})", tag.key, tag.value),
        None => format!("{} (is {:?}, was gone)", tag.key, tag.value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_or_different_comes_back_and_nothing_of_ours_or_of_aws() {
        let then =
            [("Name", "web"), ("stage", "test"), ("gone", "1"), ("aws:x", "y"), ("snapferry:task", "t")];
        let now = [("Name", "web"), ("stage", "prod"), ("new", "2")];
        let tags =
            |all: &[(&str, &str)]| all.iter().map(|(key, value)| Tag::new(*key, *value)).collect::<Vec<_>>();
        let back = to_bring_back(&tags(&then), &tags(&now));
        let told: Vec<String> = back.iter().map(told).collect();
        assert_eq!(told, [r#"stage (is "test", was "prod")"#, r#"gone (is "1", was gone)"#]);
    }
}
