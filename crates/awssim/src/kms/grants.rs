//! Grants: permissions on one key for one principal. Those that EC2 makes for itself when it uses a key are not
//! recorded, only demanded.

use serde_json::{Value, json};

use super::{Call, error, invalid, seconds};
use crate::faults::Refusal;
use crate::world::kms::Grant;
use crate::world::{policy, random_text};

/// What a grant may allow.
const OPERATIONS: &[&str] = &[
    "Decrypt",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyWithoutPlaintext",
    "ReEncryptFrom",
    "ReEncryptTo",
    "CreateGrant",
    "RetireGrant",
    "DescribeKey",
];

pub(super) fn create(call: &Call<'_>) -> Result<Value, Refusal> {
    let grantee = call.required("GranteePrincipal")?;
    if !grantee.starts_with("arn:aws:") {
        return Err(error("InvalidArnException", format!("{grantee} is no ARN of a principal")));
    }
    let operations = call.texts("Operations");
    if let Some(other) = operations.iter().find(|one| !OPERATIONS.contains(&one.as_str())) {
        return Err(invalid(format!("Operation {other} cannot be granted on a symmetric key")));
    }
    if operations.is_empty() {
        return Err(invalid("Operations must not be empty"));
    }
    let key = call.usable_key("KeyId", "CreateGrant")?;
    call.end_dry_run()?;
    let grant = Grant {
        id: hex::encode(rand::random::<[u8; 32]>()),
        token: random_text(64),
        key: key.arn,
        name: call.text("Name").map(str::to_owned),
        grantee: grantee.to_owned(),
        retiring: call.text("RetiringPrincipal").map(str::to_owned),
        issuer: format!("arn:aws:iam::{}:root", call.account()),
        operations,
        constraints: call.parameters.get("Constraints").cloned(),
        created_ms: call.now_ms(),
    };
    let answer = json!({ "GrantId": grant.id, "GrantToken": grant.token });
    call.context.world.change(|state| state.kms_grants.insert(grant.id.clone(), grant));
    Ok(answer)
}

pub(super) fn list(call: &Call<'_>) -> Result<Value, Refusal> {
    let key = call.key("KeyId", "ListGrants")?;
    let (id, grantee) = (call.text("GrantId"), call.text("GranteePrincipal"));
    let state = call.context.world.read();
    let asked = state.kms_grants.values().filter(|grant| {
        grant.key == key.arn
            && id.is_none_or(|id| id == grant.id)
            && grantee.is_none_or(|grantee| grantee == grant.grantee)
    });
    call.page("Grants", asked.map(|grant| (grant.id.clone(), entry(grant))).collect())
}

fn entry(grant: &Grant) -> Value {
    let mut fields = serde_json::Map::new();
    let mut add = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            fields.insert(name.to_owned(), value);
        }
    };
    add("KeyId", Some(json!(grant.key)));
    add("GrantId", Some(json!(grant.id)));
    add("Name", grant.name.as_ref().map(|name| json!(name)));
    add("CreationDate", Some(seconds(grant.created_ms)));
    add("GranteePrincipal", Some(json!(grant.grantee)));
    add("RetiringPrincipal", grant.retiring.as_ref().map(|who| json!(who)));
    add("IssuingAccount", Some(json!(grant.issuer)));
    add("Operations", Some(json!(grant.operations)));
    add("Constraints", grant.constraints.clone());
    Value::Object(fields)
}

pub(super) fn revoke(call: &Call<'_>) -> Result<Value, Refusal> {
    let key = call.key("KeyId", "RevokeGrant")?;
    let id = call.required("GrantId")?;
    if call.context.world.read().kms_grants.get(id).is_none_or(|grant| grant.key != key.arn) {
        return Err(no_grant(id));
    }
    call.end_dry_run()?;
    call.context.world.change(|state| state.kms_grants.remove(id));
    Ok(Value::Null)
}

/// By the retiring principal, by the grantee where the grant lets it, or by whoever the key's policy lets.
pub(super) fn retire(call: &Call<'_>) -> Result<Value, Refusal> {
    let (token, id) = (call.text("GrantToken"), call.text("GrantId"));
    if token.is_none() && id.is_none() {
        return Err(invalid("Either GrantToken or KeyId and GrantId must be given"));
    }
    let found = {
        let state = call.context.world.read();
        state.kms_grants.values().find(|one| id == Some(&*one.id) || token == Some(&*one.token)).cloned()
    };
    let grant = found.ok_or_else(|| no_grant(id.or(token).unwrap_or_default()))?;
    let is_caller = |who: &String| policy::is_principal(who, &call.caller.arn);
    let lets_grantee = is_caller(&grant.grantee) && grant.operations.iter().any(|one| one == "RetireGrant");
    if !lets_grantee && !grant.retiring.as_ref().is_some_and(is_caller) {
        call.key_named(&grant.key, "RetireGrant")?;
    }
    call.end_dry_run()?;
    call.context.world.change(|state| state.kms_grants.remove(&grant.id));
    Ok(Value::Null)
}

fn no_grant(id: &str) -> Refusal {
    error("NotFoundException", format!("Grant {id} does not exist"))
}
