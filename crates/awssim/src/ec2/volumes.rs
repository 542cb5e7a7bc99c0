//! CreateVolume, DescribeVolumes, DeleteVolume.

use super::filter::{Filters, maybe, one};
use super::mapping::{self, Performance};
use super::{Call, codes, encryption, page, store_error, tags, time};
use crate::faults::Refusal;
use crate::server::form::ec2_error;
use crate::server::xml::Xml;
use crate::world::{KeyRefusal, Marks, Volume, World, new_id};

const GIB: u64 = 1 << 30;

/// What a volume is to be.
pub(super) struct NewVolume {
    pub(super) zone: String,
    pub(super) size_gib: Option<u64>,
    pub(super) kind: String,
    pub(super) iops: Option<u32>,
    pub(super) throughput: Option<u32>,
    pub(super) encrypted: Option<bool>,
    pub(super) kms_key: Option<String>,
    pub(super) snapshot: Option<String>,
    pub(super) outpost: Option<String>,
    pub(super) tags: std::collections::BTreeMap<String, String>,
}

pub(super) fn create(call: &Call<'_>) -> Result<String, Refusal> {
    let form = call.form;
    let zone = form.required("AvailabilityZone")?.to_owned();
    if !zone.strip_prefix(call.region).is_some_and(|letter| matches!(letter, "a" | "b" | "c")) {
        return Err(ec2_error("InvalidZone.NotFound", format!("The zone '{zone}' does not exist.")));
    }
    let new = NewVolume {
        zone,
        size_gib: form.number("Size")?.map(u64::from),
        kind: form.text("VolumeType").unwrap_or("gp2").to_owned(),
        iops: form.number("Iops")?,
        throughput: form.number("Throughput")?,
        encrypted: form.maybe_flag("Encrypted"),
        kms_key: form.text("KmsKeyId").map(str::to_owned),
        snapshot: form.text("SnapshotId").map(str::to_owned),
        outpost: form.text("OutpostArn").map(str::to_owned),
        tags: tags::requested(form, "volume")?,
    };
    call.permit(&call.asked(&format!("arn:aws:ec2:{}:{}:volume/*", call.region, call.account())))?;
    let (scope, fingerprint, token) = (call.token_scope(), form.fingerprint(), form.text("ClientToken"));
    let before = call.context.world.read().by_token(&scope, token, &fingerprint)?;
    let volume = match before.and_then(|id| call.context.world.read().volumes.get(&id).cloned()) {
        Some(volume) => volume,
        None => {
            let (volume, _) = make(call, new)?;
            call.context.world.change(|state| {
                state.remember_token(&scope, token, &volume.id, &fingerprint);
            });
            volume
        }
    };
    let now = call.now_ms();
    Ok(call.reply(|xml| write(xml, &volume, now)))
}

/// Makes the volume, content and all. One whose key cannot be used is made without content, to end in the state
/// `error`; why is answered with it.
pub(super) fn make(call: &Call<'_>, new: NewVolume) -> Result<(Volume, Option<KeyRefusal>), Refusal> {
    let world = &call.context.world;
    let source = match &new.snapshot {
        None => None,
        Some(id) => {
            let now = call.now_ms();
            let snapshot = world.read().usable_snapshot(call.account(), call.region, id)?.clone();
            if snapshot.state(now) != "completed" {
                return Err(ec2_error(
                    "IncorrectState",
                    format!("Snapshot is in invalid state - {}", snapshot.state(now)),
                ));
            }
            if snapshot.marks.outpost.is_some() && snapshot.marks.outpost != new.outpost {
                return Err(ec2_error(
                    "UnsupportedOperation",
                    format!("The snapshot '{id}' is local to an Outpost; the volume must be on it"),
                ));
            }
            Some(snapshot)
        }
    };
    let least = source.as_ref().map(|snapshot| snapshot.size_gib);
    let size_gib = new.size_gib.or(least).ok_or_else(|| {
        ec2_error("MissingParameter", "The request must contain the parameter size/snapshot")
    })?;
    if least.is_some_and(|least| size_gib < least) {
        return Err(ec2_error(
            "InvalidParameterValue",
            format!(
                "Volume of size {size_gib}GiB is smaller than snapshot '{}', expect size >= {}GiB",
                new.snapshot.as_deref().unwrap_or_default(),
                least.unwrap_or_default()
            ),
        ));
    }
    let performance = Performance { iops: new.iops, throughput: new.throughput };
    let performance = mapping::check_performance(&new.kind, size_gib, performance)?;
    let encryption = encryption::plan(call, new.encrypted, new.kms_key.as_deref(), source.as_ref())?;
    let now = call.now_ms();
    let volume = Volume {
        id: new_id("vol"),
        account: call.account().to_owned(),
        region: call.region.to_owned(),
        zone: new.zone,
        size_gib,
        kind: new.kind,
        iops: performance.iops,
        throughput: performance.throughput,
        encrypted: encryption.encrypted,
        kms_key: encryption.key,
        snapshot: new.snapshot.clone(),
        tags: new.tags,
        created_ms: now,
        ready_ms: now + World::STATE_DELAY_MS,
        attachment: None,
        marks: Marks {
            outpost: new.outpost,
            is_failed: encryption.refusal.is_some(),
            ..source.as_ref().map(|snapshot| codes::inherited(&snapshot.marks)).unwrap_or_default()
        },
    };
    let store = &call.context.store;
    match new.snapshot.as_ref().filter(|_| !volume.marks.is_failed) {
        Some(snapshot) => store.create_volume_from_snapshot(&volume.id, snapshot, size_gib * GIB),
        None => store.create_volume(&volume.id, size_gib * GIB),
    }
    .map_err(|error| store_error(&error))?;
    world.change(|state| state.volumes.insert(volume.id.clone(), volume.clone()));
    Ok((volume, encryption.refusal))
}

/// The fields of a volume.
fn write(xml: &mut Xml, volume: &Volume, now: u64) {
    xml.text("volumeId", &volume.id);
    xml.text("size", volume.size_gib);
    xml.text("snapshotId", volume.snapshot.as_deref().unwrap_or_default());
    xml.text("availabilityZone", &volume.zone);
    xml.text("status", volume.state(now));
    xml.text("createTime", time(volume.created_ms));
    xml.text("volumeType", &volume.kind);
    xml.maybe("iops", volume.iops);
    xml.maybe("throughput", volume.throughput);
    xml.text("encrypted", volume.encrypted);
    xml.maybe("kmsKeyId", volume.kms_key.as_deref());
    xml.maybe("outpostArn", volume.marks.outpost.as_deref());
    xml.text("multiAttachEnabled", false);
    xml.list("attachmentSet", volume.attachment.iter(), |xml, attachment| {
        xml.text("volumeId", &volume.id);
        xml.text("instanceId", &attachment.instance);
        xml.text("device", &attachment.device);
        xml.text("status", attachment.state(now));
        xml.text("attachTime", time(attachment.since_ms));
        xml.text("deleteOnTermination", attachment.delete_on_termination);
    });
    tags::write(xml, &volume.tags);
}

pub(super) fn describe(call: &Call<'_>) -> Result<String, Refusal> {
    call.permit_any()?;
    let now = call.now_ms();
    let filters = Filters::of(call);
    let ids = call.form.list("VolumeId");
    let mut found = Vec::new();
    {
        let state_now = call.context.world.read();
        for id in &ids {
            state_now.volume(call.account(), call.region, id)?;
        }
        for volume in state_now.volumes.values() {
            let is_ours = volume.account == call.account() && volume.region == call.region;
            if !is_ours || !(ids.is_empty() || ids.contains(&volume.id)) {
                continue;
            }
            let attachment = volume.attachment.as_ref();
            let passes = filters.pass(&volume.tags, |name| match name {
                "volume-id" => one(&volume.id),
                "status" => one(volume.state(now)),
                "availability-zone" => one(&volume.zone),
                "size" => one(volume.size_gib),
                "volume-type" => one(&volume.kind),
                "encrypted" => one(volume.encrypted),
                "snapshot-id" => maybe(volume.snapshot.as_ref()),
                "attachment.instance-id" => maybe(attachment.map(|at| &at.instance)),
                "attachment.device" => maybe(attachment.map(|at| &at.device)),
                "attachment.status" => Some(attachment.iter().map(|at| at.state(now).to_owned()).collect()),
                _ => None,
            })?;
            if passes {
                found.push(volume.clone());
            }
        }
    }
    let (items, next) = page::cut(call, found, |one| one.id.as_str())?;
    Ok(call.reply(|xml| {
        xml.list("volumeSet", &items, |xml, volume| write(xml, volume, now));
        xml.maybe("nextToken", next);
    }))
}

pub(super) fn delete(call: &Call<'_>) -> Result<String, Refusal> {
    let id = call.form.required("VolumeId")?;
    let volume = call.context.world.read().volume(call.account(), call.region, id)?.clone();
    call.permit(&call.asked_of("volume", id, &volume.tags))?;
    if let Some(attachment) = &volume.attachment {
        return Err(ec2_error(
            "VolumeInUse",
            format!("Volume {id} is currently attached to {}", attachment.instance),
        ));
    }
    remove(call, id)?;
    Ok(call.done())
}

/// Removes a volume and its content.
pub(super) fn remove(call: &Call<'_>, id: &str) -> Result<(), Refusal> {
    call.context.world.change(|state| state.volumes.remove(id));
    call.context.store.delete_volume(id).map_err(|error| store_error(&error))
}
