//! CreateAlias, ListAliases.

use serde_json::{Value, json};

use super::{Call, error, refused, seconds};
use crate::faults::Refusal;
use crate::world::kms::Alias;
use crate::world::{KeyRefusal, KeyState};

pub(super) fn create(call: &Call<'_>) -> Result<Value, Refusal> {
    let name = call.required("AliasName")?;
    let is_valid = name.strip_prefix("alias/").is_some_and(|rest| {
        let is_fit = |c: char| c.is_ascii_alphanumeric() || "/_-:".contains(c);
        !rest.is_empty() && name.len() <= 256 && rest.chars().all(is_fit)
    });
    if !is_valid || name.starts_with("alias/aws/") {
        let message = "An alias begins with alias/, but not with alias/aws/, and has 256 characters of [a-zA-Z0-9:/_-] at most";
        return Err(error("InvalidAliasNameException", message));
    }
    let alias = format!("arn:aws:kms:{}:{}:{name}", call.region, call.account());
    call.permit("CreateAlias", &alias)?;
    let key = call.key("TargetKeyId", "CreateAlias")?;
    if key.account != call.account() {
        let message = "An alias and its key must be of the same account and region";
        return Err(error("NotFoundException", message));
    }
    if key.state == KeyState::PendingDeletion {
        return Err(refused(KeyRefusal::PendingDeletion { key: key.arn }));
    }
    let created_ms = call.now_ms();
    call.context.world.change(|state| {
        if state.kms_aliases.contains_key(&alias) {
            let message = format!("An alias with the name {alias} already exists");
            return Err(error("AlreadyExistsException", message));
        }
        state.kms_aliases.insert(alias, Alias { target: key.arn, created_ms });
        Ok(Value::Null)
    })
}

pub(super) fn list(call: &Call<'_>) -> Result<Value, Refusal> {
    call.permit("ListAliases", "*")?;
    let of_key = match call.text("KeyId") {
        None => None,
        Some(_) => Some(call.key("KeyId", "ListAliases")?.arn),
    };
    let prefix = format!("arn:aws:kms:{}:{}:", call.region, call.account());
    let state = call.context.world.read();
    let ours = state.kms_aliases.iter().filter_map(|(arn, alias)| {
        let name = arn.strip_prefix(&prefix)?;
        if of_key.as_ref().is_some_and(|of_key| *of_key != alias.target) {
            return None;
        }
        let item = json!({
            "AliasName": name,
            "AliasArn": arn,
            "TargetKeyId": alias.target.rsplit('/').next(),
            "CreationDate": seconds(alias.created_ms),
            "LastUpdatedDate": seconds(alias.created_ms),
        });
        Some((name.to_owned(), item))
    });
    call.page("Aliases", ours.collect())
}
