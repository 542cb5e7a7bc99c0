//! ModifySnapshotAttribute and DescribeSnapshotAttribute, for createVolumePermission.

use super::Call;
use crate::faults::Refusal;
use crate::server::form::ec2_error;
use crate::world::kms::KeyManager;

pub(super) fn modify(call: &Call<'_>) -> Result<String, Refusal> {
    let form = call.form;
    let id = form.required("SnapshotId")?;
    let snapshot = call.context.world.read().own_snapshot(call.account(), call.region, id)?.clone();
    call.permit(&call.asked_of("snapshot", id, &snapshot.tags))?;
    let (mut add, mut remove) = (Vec::new(), Vec::new());
    let permission = form.below("CreateVolumePermission");
    add.extend(permission.structures("Add").iter().filter_map(|one| one.text("UserId").map(str::to_owned)));
    remove.extend(
        permission.structures("Remove").iter().filter_map(|one| one.text("UserId").map(str::to_owned)),
    );
    match form.text("OperationType") {
        Some("add") => add.extend(form.list("UserId")),
        Some("remove") => remove.extend(form.list("UserId")),
        _ => {}
    }
    if add.iter().any(|user| user.len() != 12 || !user.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err(ec2_error("InvalidParameterValue", "UserId must be an account id of twelve digits"));
    }
    let is_managed = snapshot.kms_key.as_deref().is_some_and(|key| {
        let state = call.context.world.read();
        state.kms_key(key, call.now_ms()).is_some_and(|key| key.manager == KeyManager::Aws)
    });
    if !add.is_empty() && is_managed {
        return Err(ec2_error(
            "InvalidParameter",
            "Encrypted snapshots with EBS default key cannot be shared",
        ));
    }
    call.context.world.change(|state| {
        if let Some(snapshot) = state.snapshots.get_mut(id) {
            snapshot.shared_with.retain(|user| !remove.contains(user));
            for user in add {
                if !snapshot.shared_with.contains(&user) {
                    snapshot.shared_with.push(user);
                }
            }
        }
    });
    Ok(call.done())
}

pub(super) fn describe(call: &Call<'_>) -> Result<String, Refusal> {
    let id = call.form.required("SnapshotId")?;
    let snapshot = call.context.world.read().own_snapshot(call.account(), call.region, id)?.clone();
    call.permit(&call.asked_of("snapshot", id, &snapshot.tags))?;
    Ok(call.reply(|xml| {
        xml.text("snapshotId", id);
        if call.form.text("Attribute") == Some("productCodes") {
            return super::codes::write(xml, &snapshot.marks);
        }
        xml.list("createVolumePermission", &snapshot.shared_with, |xml, user| xml.text("userId", user));
    }))
}
