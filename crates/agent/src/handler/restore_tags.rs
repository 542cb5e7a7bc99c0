//! Tags of an instance that is restored in place: those that it had at the backup come back, those that it got since stay.
//!
//! Runs twice: what differs is found out when it is set, so a second run sets nothing.

use std::fmt::Write as _;

use snapferry_aws::{Account, ec2};
use snapferry_transfer::TransferError;
use snapferry_types::aws::Tag;
use snapferry_types::catalogue::RecoveryPointMeta;
use snapferry_types::{InstanceId, VolumeId};

use super::restore_volumes::Restored;
use crate::context::TaskContext;

/// Tags that AWS takes on a resource; those of its own do not count.
const MAX_TAGS: usize = 50;

/// The tags to come back: all when the whole instance is restored, none when only some of its volumes are.
pub(super) fn wanted(meta: &RecoveryPointMeta, restored: &[Restored]) -> Vec<Tag> {
    let is_restored = |id: &VolumeId| restored.iter().any(|one| one.config.volume_id == *id);
    if !meta.volumes.iter().all(|volume| is_restored(&volume.volume_id)) {
        return Vec::new();
    }
    let tags = meta.instance.tags.iter().filter(|tag| tag.is_settable() && !tag.is_ownership());
    tags.cloned().collect()
}

/// Sets those that the instance has not, or with another value, and tells what they were. That it may not is told as
/// well: the restore itself is done.
///
/// # Errors
/// [`TransferError`] that another attempt may not meet.
pub(super) async fn bring_back(
    context: &TaskContext,
    account: &Account,
    instance: &InstanceId,
    wanted: &[Tag],
) -> Result<(), TransferError> {
    if wanted.is_empty() {
        return Ok(());
    }
    context.enter("set tags");
    let done = async {
        let now = ec2::describe_instance(account, instance).await?.config.tags;
        let back = Back::of(wanted, &now);
        ec2::create_tags(account, instance.as_str(), &back.tags).await?;
        Ok::<Back, TransferError>(back)
    };
    match done.await {
        Err(error) if error.retryable() => Err(error),
        Err(error) => {
            let text =
                format!("tags of {instance} are left as they are, not as in the recovery point: {error}");
            context.note(true, text).await
        }
        Ok(Back { told, .. }) if told.is_empty() => Ok(()),
        Ok(Back { told, no_room, .. }) => {
            let mut text =
                format!("tags of {instance} are as in the recovery point again: {}", told.join(", "));
            if !no_room.is_empty() {
                let _ = write!(text, "; it has no room for {}", no_room.join(", "));
            }
            context.note(!no_room.is_empty(), text).await
        }
    }
}

/// What is set.
#[derive(Debug, Default)]
struct Back {
    tags: Vec<Tag>,
    /// The same for people.
    told: Vec<String>,
    /// Keys that are too many.
    no_room: Vec<String>,
}

impl Back {
    fn of(wanted: &[Tag], now: &[Tag]) -> Self {
        let mut back = Self::default();
        let mut room = MAX_TAGS.saturating_sub(now.iter().filter(|tag| tag.is_settable()).count());
        let is_name = |tag: &&Tag| tag.key == "Name";
        let in_order = wanted.iter().filter(is_name).chain(wanted.iter().filter(|tag| !is_name(tag)));
        for tag in in_order.filter(|tag| !now.contains(tag)) {
            let (key, value) = (&tag.key, &tag.value);
            match now.iter().find(|one| one.key == *key) {
                Some(was) => back.told.push(format!("{key} (is {value:?}, was {:?})", was.value)),
                None if room == 0 => {
                    back.no_room.push(key.clone());
                    continue;
                }
                None => {
                    room -= 1;
                    back.told.push(format!("{key} (is {value:?}, was gone)"));
                }
            }
            back.tags.push(tag.clone());
        }
        back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(all: &[(&str, &str)]) -> Vec<Tag> {
        all.iter().map(|(key, value)| Tag::new(*key, *value)).collect()
    }

    #[test]
    fn what_is_gone_or_different_comes_back() {
        let then = tags(&[("stage", "test"), ("gone", "1"), ("same", "x"), ("Name", "web")]);
        let back = Back::of(&then, &tags(&[("stage", "prod"), ("same", "x"), ("new", "2")]));
        let told = [
            r#"Name (is "web", was gone)"#,
            r#"stage (is "test", was "prod")"#,
            r#"gone (is "1", was gone)"#,
        ];
        assert_eq!(back.told, told);
        assert_eq!(back.tags, tags(&[("Name", "web"), ("stage", "test"), ("gone", "1")]));
        assert!(Back::of(&then, &then).tags.is_empty());
    }

    #[test]
    fn no_more_come_back_than_there_is_room_for() {
        let mut now: Vec<Tag> = (0..48).map(|n| Tag::new(format!("new-{n}"), "")).collect();
        now.extend(tags(&[("stage", "prod"), ("aws:x", "y")]));
        let back = Back::of(&tags(&[("a", ""), ("b", ""), ("stage", "test"), ("Name", "web")]), &now);
        assert_eq!(back.tags, tags(&[("Name", "web"), ("stage", "test")]));
        assert_eq!(back.no_room, ["a", "b"]);
    }
}
