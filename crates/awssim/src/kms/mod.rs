//! KMS in its JSON protocol: keys, aliases, grants, and data keys. Each call asks the key's policy (see
//! [`crate::world::kms`]); the calls that use a key honour `DryRun`.

mod aliases;
mod data;
mod grants;
mod keys;

use serde_json::Value;

use crate::faults::Refusal;
use crate::server::Context;
use crate::world::kms::KmsKey;
use crate::world::{Asked, Caller, KeyRefusal, Via};

/// Items of a page when no limit is given.
const DEFAULT_LIMIT: u64 = 100;
/// Most items of a page.
const MAX_LIMIT: u64 = 1_000;

/// One call with all that its answer depends on.
struct Call<'a> {
    context: &'a Context,
    caller: &'a Caller,
    region: &'a str,
    parameters: Value,
}

/// Answers a call; a call that answers nothing answers an empty text.
pub(crate) fn call(
    context: &Context,
    caller: &Caller,
    region: &str,
    action: &str,
    body: &[u8],
) -> Result<String, Refusal> {
    let parameters: Value = serde_json::from_slice(body)
        .map_err(|parse| error("SerializationException", format!("The body is no JSON: {parse}")))?;
    let call = Call { context, caller, region, parameters };
    let answer = match action {
        "CreateKey" => keys::create(&call)?,
        "DescribeKey" => keys::describe(&call)?,
        "ListKeys" => keys::list(&call)?,
        "EnableKey" => keys::enable(&call)?,
        "DisableKey" => keys::disable(&call)?,
        "ScheduleKeyDeletion" => keys::schedule_deletion(&call)?,
        "CancelKeyDeletion" => keys::cancel_deletion(&call)?,
        "GetKeyPolicy" => keys::policy(&call)?,
        "PutKeyPolicy" => keys::put_policy(&call)?,
        "CreateAlias" => aliases::create(&call)?,
        "ListAliases" => aliases::list(&call)?,
        "CreateGrant" => grants::create(&call)?,
        "ListGrants" => grants::list(&call)?,
        "RevokeGrant" => grants::revoke(&call)?,
        "RetireGrant" => grants::retire(&call)?,
        "GenerateDataKey" => data::generate(&call, true)?,
        "GenerateDataKeyWithoutPlaintext" => data::generate(&call, false)?,
        "Decrypt" => data::decrypt(&call)?,
        "ReEncrypt" => data::re_encrypt(&call)?,
        other => return Err(unknown_operation(other)),
    };
    Ok(if answer.is_null() { String::new() } else { answer.to_string() })
}

/// The refusal of a call that is not simulated.
pub(crate) fn unknown_operation(action: &str) -> Refusal {
    error("UnknownOperationException", format!("The operation {action:?} is not simulated."))
}

/// An error of KMS.
fn error(code: &str, message: impl Into<String>) -> Refusal {
    let status = if code == "DryRunOperationException" { 412 } else { 400 };
    Refusal::new(status, code, None, message)
}

fn invalid(message: impl Into<String>) -> Refusal {
    error("ValidationException", message)
}

/// The trouble with a key, as KMS answers it.
#[allow(clippy::needless_pass_by_value, reason = "the shape of map_err")]
fn refused(refusal: KeyRefusal) -> Refusal {
    let code = match &refusal {
        KeyRefusal::NotFound { .. } => "NotFoundException",
        KeyRefusal::Denied { .. } => "AccessDeniedException",
        KeyRefusal::Disabled { .. } => "DisabledException",
        KeyRefusal::PendingDeletion { .. } => "KMSInvalidStateException",
    };
    error(code, refusal.to_string())
}

/// Seconds since 1970, as the protocol writes times.
fn seconds(ms: u64) -> Value {
    let whole = ms / 1_000;
    serde_json::from_str(&format!("{whole}.{:03}", ms % 1_000)).unwrap_or(Value::Null)
}

impl Call<'_> {
    fn account(&self) -> &str {
        &self.caller.account
    }

    fn now_ms(&self) -> u64 {
        self.context.world.now_ms()
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).and_then(Value::as_str)
    }

    fn required(&self, name: &str) -> Result<&str, Refusal> {
        self.text(name).filter(|text| !text.is_empty()).ok_or_else(|| {
            invalid(format!("Value null at '{name}' failed to satisfy constraint: Member must not be null"))
        })
    }

    fn flag(&self, name: &str) -> bool {
        self.parameters.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.parameters.get(name).and_then(Value::as_u64)
    }

    fn texts(&self, name: &str) -> Vec<String> {
        let list = self.parameters.get(name).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// The key that a parameter names, if the caller may do `action` with it. Its state is not looked at.
    fn key(&self, parameter: &str, action: &str) -> Result<KmsKey, Refusal> {
        self.key_named(self.required(parameter)?, action)
    }

    fn key_named(&self, reference: &str, action: &str) -> Result<KmsKey, Refusal> {
        let now = self.now_ms();
        let found = self.context.world.change(|state| {
            let arn = state.find_key(self.account(), self.region, reference, now);
            let key = arn.and_then(|arn| state.kms_key(&arn, now).cloned());
            let key = key.ok_or_else(|| KeyRefusal::NotFound { key: reference.to_owned() })?;
            state.permit_key(self.caller, &key, action, Via::Direct)?;
            Ok(key)
        });
        found.map_err(refused)
    }

    /// [`Self::key`], which also has to be enabled.
    fn usable_key(&self, parameter: &str, action: &str) -> Result<KmsKey, Refusal> {
        let key = self.key(parameter, action)?;
        key.usable().map_err(refused)?;
        Ok(key)
    }

    /// Demands a permission that is not about a key that exists.
    fn permit(&self, action: &str, resource: &str) -> Result<(), Refusal> {
        if self.caller.may(&Asked::new(format!("kms:{action}"), resource)) {
            return Ok(());
        }
        let reason = format!("because no identity-based policy allows the kms:{action} action");
        let (user, action, key) = (self.caller.arn.clone(), action.to_owned(), resource.to_owned());
        Err(refused(KeyRefusal::Denied { user, action, key, reason }))
    }

    /// The end of a call with DryRun that would have worked.
    fn end_dry_run(&self) -> Result<(), Refusal> {
        if self.flag("DryRun") {
            let message = "The request would have succeeded, but the DryRun option is set.";
            return Err(error("DryRunOperationException", message));
        }
        Ok(())
    }

    /// One page of items sorted by id, as `{name: […], "Truncated": …, "NextMarker": …}`.
    fn page(&self, name: &str, mut items: Vec<(String, Value)>) -> Result<Value, Refusal> {
        let limit = self.number("Limit").unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(invalid(format!("Limit must be between 1 and {MAX_LIMIT}, not {limit}")));
        }
        if let Some(marker) = self.text("Marker") {
            let bytes = hex::decode(marker).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let after = bytes.ok_or_else(|| error("InvalidMarkerException", "The marker is not valid"))?;
            items.retain(|(id, _)| *id > after);
        }
        items.sort_by(|a, b| a.0.cmp(&b.0));
        let is_truncated = u64::try_from(items.len()).is_ok_and(|n| n > limit);
        items.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let next = items.last().filter(|_| is_truncated).map(|(id, _)| hex::encode(id));
        let mut page = serde_json::Map::new();
        page.insert(name.to_owned(), items.into_iter().map(|(_, item)| item).collect());
        page.insert("Truncated".to_owned(), is_truncated.into());
        if let Some(next) = next {
            page.insert("NextMarker".to_owned(), next.into());
        }
        Ok(Value::Object(page))
    }
}
