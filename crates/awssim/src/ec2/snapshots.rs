//! CreateSnapshot, CreateSnapshots, DescribeSnapshots, DeleteSnapshot, CopySnapshot.

use std::collections::BTreeMap;

use super::filter::{Filters, one};
use super::{Call, codes, encryption, page, store_error, tags, time};
use crate::faults::Refusal;
use crate::server::form::ec2_error;
use crate::server::xml::Xml;
use crate::world::{Marks, Snapshot, SnapshotStep, Volume, World, new_id};

/// Snapshots of one volume that may be pending at a time.
const MAX_PENDING_PER_VOLUME: usize = 5;

pub(super) fn create(call: &Call<'_>) -> Result<String, Refusal> {
    let id = call.form.required("VolumeId")?;
    let volume = call.context.world.read().volume(call.account(), call.region, id)?.clone();
    let tags = tags::requested(call.form, "snapshot")?;
    call.permit(&call.asked_of("volume", id, &volume.tags))?;
    let mut taken = take(call, &[(volume, tags)])?;
    let Some(snapshot) = taken.pop() else { return Err(ec2_error("InternalError", "No snapshot was made")) };
    let now = call.now_ms();
    Ok(call.reply(|xml| write(xml, &snapshot, now, "status")))
}

pub(super) fn create_of_instance(call: &Call<'_>) -> Result<String, Refusal> {
    let form = call.form;
    let specification = form.below("InstanceSpecification");
    let id = specification.required("InstanceId")?;
    let requested = tags::requested(form, "snapshot")?;
    let copies_tags = match form.text("CopyTagsFromSource") {
        None => false,
        Some("volume") => true,
        Some(other) => {
            return Err(ec2_error(
                "InvalidParameterValue",
                format!("Value ({other}) for parameter CopyTagsFromSource is invalid. Expected: 'volume'."),
            ));
        }
    };
    let excluded = specification.list("ExcludeDataVolumeId");
    let (instance, volumes) = {
        let state = call.context.world.read();
        let instance = state.instance(call.account(), call.region, id)?.clone();
        let attached = |volume: &&Volume| volume.attachment.as_ref().is_some_and(|at| at.instance == id);
        (instance, state.volumes.values().filter(attached).cloned().collect::<Vec<_>>())
    };
    let is_root =
        |volume: &Volume| volume.attachment.as_ref().is_some_and(|at| at.device == instance.root_device);
    if let Some(root) = volumes.iter().find(|volume| is_root(volume) && excluded.contains(&volume.id)) {
        return Err(ec2_error(
            "InvalidParameterValue",
            format!("{} is the root volume; use ExcludeBootVolume", root.id),
        ));
    }
    call.permit(&call.asked_of("instance", id, &instance.tags))?;
    let chosen: Vec<(Volume, BTreeMap<String, String>)> = volumes
        .into_iter()
        .filter(|volume| !(specification.flag("ExcludeBootVolume") && is_root(volume)))
        .filter(|volume| !excluded.contains(&volume.id))
        .map(|volume| {
            let mut tags = if copies_tags { volume.tags.clone() } else { BTreeMap::new() };
            tags.extend(requested.clone());
            (volume, tags)
        })
        .collect();
    if chosen.is_empty() {
        return Err(ec2_error(
            "InvalidParameterValue",
            format!("The instance '{id}' has no volumes to take snapshots of"),
        ));
    }
    let taken = take(call, &chosen)?;
    let now = call.now_ms();
    Ok(call.reply(|xml| xml.list("snapshotSet", &taken, |xml, one| write(xml, one, now, "state"))))
}

/// Takes snapshots of all volumes as of one moment.
fn take(call: &Call<'_>, volumes: &[(Volume, BTreeMap<String, String>)]) -> Result<Vec<Snapshot>, Refusal> {
    let world = &call.context.world;
    let now = call.now_ms();
    let outpost = call.form.text("OutpostArn").map(str::to_owned);
    {
        let state = world.read();
        for (volume, _) in volumes {
            check_source(volume, outpost.as_ref(), now)?;
            let pending =
                state.snapshots.values().filter(|one| one.volume == volume.id && one.state(now) == "pending");
            if pending.count() >= MAX_PENDING_PER_VOLUME {
                return Err(ec2_error(
                    "ConcurrentSnapshotLimitExceeded",
                    format!(
                        "Maximum allowed in-progress snapshots for a single volume exceeded: {}",
                        volume.id
                    ),
                ));
            }
        }
    }
    let snapshots: Vec<Snapshot> = volumes
        .iter()
        .map(|(volume, tags)| Snapshot {
            id: new_id("snap"),
            account: call.account().to_owned(),
            region: call.region.to_owned(),
            volume: volume.id.clone(),
            size_gib: volume.size_gib,
            encrypted: volume.encrypted,
            kms_key: volume.kms_key.clone(),
            description: call.form.text("Description").unwrap_or_default().to_owned(),
            tags: tags.clone(),
            started_ms: now,
            ready_ms: now + World::STATE_DELAY_MS,
            step: SnapshotStep::Taken,
            status_message: None,
            shared_with: Vec::new(),
            marks: Marks { outpost: outpost.clone(), ..codes::inherited(&volume.marks) },
        })
        .collect();
    let pairs: Vec<(&str, &str)> =
        snapshots.iter().map(|one| (one.volume.as_str(), one.id.as_str())).collect();
    call.context.store.snapshot_volumes(&pairs).map_err(|error| store_error(&error))?;
    world.change(|state| {
        for snapshot in &snapshots {
            state.snapshots.insert(snapshot.id.clone(), snapshot.clone());
        }
    });
    Ok(snapshots)
}

/// Whether a snapshot can be taken of this volume, in the region or, where one is named, on an Outpost.
fn check_source(volume: &Volume, outpost: Option<&String>, now: u64) -> Result<(), Refusal> {
    let state = volume.state(now);
    if !matches!(state, "available" | "in-use") {
        return Err(ec2_error("IncorrectState", format!("The volume '{}' is '{state}'.", volume.id)));
    }
    if outpost.is_some() && volume.marks.outpost.as_ref() != outpost {
        return Err(ec2_error(
            "InvalidParameterValue",
            format!("The volume '{}' is not on the Outpost {}", volume.id, outpost.map_or("", |arn| arn)),
        ));
    }
    Ok(())
}

fn write(xml: &mut Xml, snapshot: &Snapshot, now: u64, state_tag: &str) {
    let state = snapshot.state(now);
    xml.text("snapshotId", &snapshot.id);
    xml.text("volumeId", &snapshot.volume);
    xml.text(state_tag, state);
    if state == "error" {
        let message = snapshot.status_message.as_deref();
        xml.text("statusMessage", message.unwrap_or("The snapshot was not completed in time"));
    }
    xml.text("startTime", time(snapshot.started_ms));
    xml.text("progress", format!("{}%", snapshot.progress(now)));
    xml.text("ownerId", &snapshot.account);
    xml.text("volumeSize", snapshot.size_gib);
    xml.text("description", &snapshot.description);
    xml.text("encrypted", snapshot.encrypted);
    xml.maybe("kmsKeyId", snapshot.kms_key.as_deref());
    xml.maybe("outpostArn", snapshot.marks.outpost.as_deref());
    xml.text("storageTier", "standard");
    tags::write(xml, &snapshot.tags);
}

pub(super) fn describe(call: &Call<'_>) -> Result<String, Refusal> {
    call.permit_any()?;
    let now = call.now_ms();
    let filters = Filters::of(call);
    let ids = call.form.list("SnapshotId");
    let owners = call.form.list("Owner");
    let mut found = Vec::new();
    {
        let state = call.context.world.read();
        for id in &ids {
            state.usable_snapshot(call.account(), call.region, id)?;
        }
        for snapshot in state.snapshots.values().filter(|one| one.region == call.region) {
            let is_own = snapshot.account == call.account();
            let is_visible = is_own || snapshot.shared_with.iter().any(|with| with == call.account());
            let is_owner_asked = owners.is_empty()
                || owners.iter().any(|owner| (owner == "self" && is_own) || *owner == snapshot.account);
            if !is_visible || !is_owner_asked || !(ids.is_empty() || ids.contains(&snapshot.id)) {
                continue;
            }
            let passes = filters.pass(&snapshot.tags, |name| match name {
                "snapshot-id" => one(&snapshot.id),
                "volume-id" => one(&snapshot.volume),
                "status" => one(snapshot.state(now)),
                "progress" => one(format!("{}%", snapshot.progress(now))),
                "owner-id" => one(&snapshot.account),
                "volume-size" => one(snapshot.size_gib),
                "description" => one(&snapshot.description),
                "encrypted" => one(snapshot.encrypted),
                "start-time" => one(time(snapshot.started_ms)),
                _ => None,
            })?;
            if passes {
                found.push(snapshot.clone());
            }
        }
    }
    let (items, next) = page::cut(call, found, |one| one.id.as_str())?;
    Ok(call.reply(|xml| {
        xml.list("snapshotSet", &items, |xml, one| write(xml, one, now, "status"));
        xml.maybe("nextToken", next);
    }))
}

pub(super) fn delete(call: &Call<'_>) -> Result<String, Refusal> {
    let id = call.form.required("SnapshotId")?;
    let snapshot = call.context.world.read().own_snapshot(call.account(), call.region, id)?.clone();
    call.permit(&call.asked_of("snapshot", id, &snapshot.tags))?;
    call.context.world.change(|state| {
        let holder = state
            .images
            .values()
            .find(|image| image.mappings.iter().any(|mapping| mapping.snapshot.as_deref() == Some(id)));
        if let Some(image) = holder {
            return Err(ec2_error(
                "InvalidSnapshot.InUse",
                format!("The snapshot {id} is currently in use by {}", image.id),
            ));
        }
        state.snapshots.remove(id);
        Ok(())
    })?;
    if call.context.store.has_snapshot(id) {
        call.context.store.delete_snapshot(id).map_err(|error| store_error(&error))?;
    }
    Ok(call.done())
}

pub(super) fn copy(call: &Call<'_>) -> Result<String, Refusal> {
    let form = call.form;
    let (id, from) = (form.required("SourceSnapshotId")?, form.required("SourceRegion")?);
    let source = call.context.world.read().usable_snapshot(call.account(), from, id)?.clone();
    call.permit(&call.asked_of("snapshot", id, &source.tags))?;
    let now = call.now_ms();
    if source.state(now) != "completed" {
        return Err(ec2_error("IncorrectState", format!("The snapshot {id} is not completed")));
    }
    if source.marks.outpost.is_some() {
        let message = format!("The snapshot {id} is local to an Outpost and cannot be copied");
        return Err(ec2_error("UnsupportedOperation", message));
    }
    let tags = tags::requested(form, "snapshot")?;
    let encryption =
        encryption::plan(call, form.maybe_flag("Encrypted"), form.text("KmsKeyId"), Some(&source))?;
    let fails = encryption.refusal.is_some();
    let copy = Snapshot {
        id: new_id("snap"),
        account: call.account().to_owned(),
        region: call.region.to_owned(),
        volume: "vol-ffffffff".to_owned(),
        encrypted: encryption.encrypted,
        kms_key: encryption.key,
        description: form.text("Description").unwrap_or_default().to_owned(),
        tags,
        started_ms: now,
        ready_ms: now + call.context.faults.behaviour().copy_millis,
        step: if fails { SnapshotStep::Failed } else { SnapshotStep::Copied },
        // AWS says no more, whatever is wrong with the key.
        status_message: fails.then(|| "Given key ID is not accessible".to_owned()),
        shared_with: Vec::new(),
        marks: codes::inherited(&source.marks),
        size_gib: source.size_gib,
    };
    if !fails {
        call.context.store.copy_snapshot(id, &copy.id).map_err(|error| store_error(&error))?;
    }
    let new = copy.id.clone();
    if let Err(refusal) = add_copy(call, copy, now) {
        if !fails {
            call.context.store.delete_snapshot(&new).map_err(|error| store_error(&error))?;
        }
        return Err(refusal);
    }
    Ok(call.reply(|xml| xml.text("snapshotId", new)))
}

/// Puts the copy there, unless the account has as many under way in this region as it may have.
fn add_copy(call: &Call<'_>, copy: Snapshot, now: u64) -> Result<(), Refusal> {
    let most = call.context.faults.quotas().snapshot_copies;
    call.context.world.change(|state| {
        let is_under_way = |one: &&Snapshot| {
            one.account == copy.account
                && one.region == copy.region
                && one.step == SnapshotStep::Copied
                && one.state(now) == "pending"
        };
        if state.snapshots.values().filter(is_under_way).count() >= most {
            return Err(ec2_error(
                "ResourceLimitExceeded",
                format!(
                    "Too many snapshot copies in progress. The limit is {most} for this destination region."
                ),
            ));
        }
        state.snapshots.insert(copy.id.clone(), copy);
        Ok(())
    })
}
