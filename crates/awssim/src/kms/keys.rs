//! Making keys, looking at them, their states and policies.

use serde_json::{Value, json};

use super::{Call, error, invalid, refused, seconds};
use crate::faults::Refusal;
use crate::world::kms::{KeyManager, KmsKey, NewKey, default_policy};
use crate::world::{KeyRefusal, KeyState, Via};

pub(super) fn create(call: &Call<'_>) -> Result<Value, Refusal> {
    call.permit("CreateKey", "*")?;
    for (name, only) in [
        ("KeySpec", "SYMMETRIC_DEFAULT"),
        ("CustomerMasterKeySpec", "SYMMETRIC_DEFAULT"),
        ("KeyUsage", "ENCRYPT_DECRYPT"),
        ("Origin", "AWS_KMS"),
    ] {
        if let Some(other) = call.text(name).filter(|given| *given != only) {
            let message = format!("{name} {other} is not simulated; EBS takes symmetric keys of KMS only");
            return Err(error("UnsupportedOperationException", message));
        }
    }
    let given = call.parameters.get("Tags").and_then(Value::as_array);
    let tags = given.into_iter().flatten().filter_map(|tag| {
        let text = |name: &str| tag.get(name).and_then(Value::as_str).map(str::to_owned);
        Some((text("TagKey")?, text("TagValue")?))
    });
    let policy = match call.text("Policy") {
        None => default_policy(call.account()),
        Some(text) => parse_policy(text)?,
    };
    let new = NewKey {
        account: call.account(),
        region: call.region,
        manager: KeyManager::Customer,
        policy,
        description: call.text("Description").unwrap_or_default(),
        tags: tags.collect(),
    };
    let now = call.now_ms();
    call.context.world.change(|state| {
        let arn = state.add_key(new, now);
        let key = state.kms_key(&arn, now).cloned();
        let key = key.ok_or_else(|| error("KMSInternalException", "The key was not made"))?;
        let checked = check_lockout(call, state, &key);
        if checked.is_err() {
            state.kms_keys.remove(&arn);
        }
        checked.map(|()| json!({ "KeyMetadata": metadata(&key) }))
    })
}

/// A policy document's text.
fn parse_policy(text: &str) -> Result<Value, Refusal> {
    let malformed = |why: String| error("MalformedPolicyDocumentException", why);
    let policy: Value = serde_json::from_str(text).map_err(|parse| malformed(parse.to_string()))?;
    if policy.get("Statement").is_none() {
        return Err(malformed("The policy has no Statement".to_owned()));
    }
    Ok(policy)
}

/// A policy must not lock out whoever sets it, unless that is wanted.
fn check_lockout(call: &Call<'_>, state: &crate::world::State, key: &KmsKey) -> Result<(), Refusal> {
    let may_change = state.permit_key(call.caller, key, "PutKeyPolicy", Via::Direct).is_ok();
    if may_change || call.flag("BypassPolicyLockoutSafetyCheck") {
        return Ok(());
    }
    let message = "The new key policy will not allow you to update the key policy in the future.";
    Err(error("MalformedPolicyDocumentException", message))
}

fn metadata(key: &KmsKey) -> Value {
    let mut fields = json!({
        "AWSAccountId": key.account,
        "KeyId": key.id,
        "Arn": key.arn,
        "CreationDate": seconds(key.created_ms),
        "Enabled": key.state == KeyState::Enabled,
        "Description": key.description,
        "KeyUsage": "ENCRYPT_DECRYPT",
        "KeyState": key.state.name(),
        "Origin": "AWS_KMS",
        "KeyManager": match key.manager { KeyManager::Aws => "AWS", KeyManager::Customer => "CUSTOMER" },
        "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
        "KeySpec": "SYMMETRIC_DEFAULT",
        "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
        "MultiRegion": false,
    });
    if let (Some(fields), Some(at)) = (fields.as_object_mut(), key.deletion_ms) {
        fields.insert("DeletionDate".to_owned(), seconds(at));
    }
    fields
}

pub(super) fn describe(call: &Call<'_>) -> Result<Value, Refusal> {
    Ok(json!({ "KeyMetadata": metadata(&call.key("KeyId", "DescribeKey")?) }))
}

pub(super) fn list(call: &Call<'_>) -> Result<Value, Refusal> {
    call.permit("ListKeys", "*")?;
    let now = call.now_ms();
    let state = call.context.world.read();
    let ours = state.kms_keys.values().filter(|key| {
        key.account == call.account() && key.region == call.region && state.kms_key(&key.arn, now).is_some()
    });
    let items = ours.map(|key| (key.id.clone(), json!({ "KeyId": key.id, "KeyArn": key.arn })));
    call.page("Keys", items.collect())
}

fn set_state(call: &Call<'_>, key: &KmsKey, state: KeyState, days: u64) -> Option<u64> {
    let now = call.now_ms();
    call.context.world.change(|world| {
        world.change_key(&key.arn, now, |key| key.set_state(state, now, days));
        world.kms_key(&key.arn, now).and_then(|key| key.deletion_ms)
    })
}

/// A key whose deletion is not pending.
fn staying(call: &Call<'_>, action: &str) -> Result<KmsKey, Refusal> {
    let key = call.key("KeyId", action)?;
    if key.state == KeyState::PendingDeletion {
        return Err(refused(KeyRefusal::PendingDeletion { key: key.arn }));
    }
    Ok(key)
}

pub(super) fn enable(call: &Call<'_>) -> Result<Value, Refusal> {
    set_state(call, &staying(call, "EnableKey")?, KeyState::Enabled, 0);
    Ok(Value::Null)
}

pub(super) fn disable(call: &Call<'_>) -> Result<Value, Refusal> {
    set_state(call, &staying(call, "DisableKey")?, KeyState::Disabled, 0);
    Ok(Value::Null)
}

pub(super) fn schedule_deletion(call: &Call<'_>) -> Result<Value, Refusal> {
    let days = call.number("PendingWindowInDays").unwrap_or(30);
    if !(7..=30).contains(&days) {
        return Err(invalid(format!("PendingWindowInDays must be between 7 and 30, not {days}")));
    }
    let key = staying(call, "ScheduleKeyDeletion")?;
    let at = set_state(call, &key, KeyState::PendingDeletion, days).unwrap_or_default();
    Ok(json!({
        "KeyId": key.arn,
        "DeletionDate": seconds(at),
        "KeyState": "PendingDeletion",
        "PendingWindowInDays": days,
    }))
}

pub(super) fn cancel_deletion(call: &Call<'_>) -> Result<Value, Refusal> {
    let key = call.key("KeyId", "CancelKeyDeletion")?;
    if key.state != KeyState::PendingDeletion {
        let message = format!("{} is not pending deletion.", key.arn);
        return Err(error("KMSInvalidStateException", message));
    }
    set_state(call, &key, KeyState::Disabled, 0);
    Ok(json!({ "KeyId": key.arn }))
}

fn check_policy_name(call: &Call<'_>) -> Result<(), Refusal> {
    match call.text("PolicyName") {
        None | Some("default") => Ok(()),
        Some(other) => Err(error("NotFoundException", format!("No such policy exists: {other}"))),
    }
}

pub(super) fn policy(call: &Call<'_>) -> Result<Value, Refusal> {
    refuse_alias(call)?;
    let key = call.key("KeyId", "GetKeyPolicy")?;
    check_policy_name(call)?;
    Ok(json!({ "Policy": key.policy.to_string(), "PolicyName": "default" }))
}

/// A key's policy is asked for by id or ARN, never by alias.
fn refuse_alias(call: &Call<'_>) -> Result<(), Refusal> {
    let key = call.required("KeyId")?;
    if key.starts_with("alias/") || key.contains(":alias/") {
        return Err(error("NotFoundException", format!("Invalid keyId '{key}'")));
    }
    Ok(())
}

pub(super) fn put_policy(call: &Call<'_>) -> Result<Value, Refusal> {
    refuse_alias(call)?;
    let mut key = call.key("KeyId", "PutKeyPolicy")?;
    check_policy_name(call)?;
    key.policy = parse_policy(call.required("Policy")?)?;
    let now = call.now_ms();
    call.context.world.change(|state| {
        check_lockout(call, state, &key)?;
        state.change_key(&key.arn, now, |have| have.policy = key.policy.clone());
        Ok(Value::Null)
    })
}
