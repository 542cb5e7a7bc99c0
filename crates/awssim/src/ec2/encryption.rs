//! What is encrypted and with which key, for volumes and copies of snapshots; whether the caller may use that key;
//! and the account's defaults. As at AWS a key is looked at after the call has been answered: one that cannot be
//! used makes what was asked for fail, not the call.

use super::Call;
use crate::faults::Refusal;
use crate::server::form::ec2_error;
use crate::world::kms::lookup::{EBS_ALIAS, full_arn};
use crate::world::{Caller, KeyRefusal, Snapshot, State, Via};

/// What EBS does with the key of something new.
const WITH_NEW: &[&str] = &["DescribeKey", "GenerateDataKeyWithoutPlaintext", "CreateGrant"];
/// What EBS does with the key of what is read.
const WITH_SOURCE: &[&str] = &["DescribeKey", "Decrypt", "CreateGrant"];
/// What EC2 does with the key of a volume that it attaches.
const TO_ATTACH: &[&str] = &["Decrypt", "CreateGrant"];

/// How something new is to be encrypted.
#[derive(Debug)]
pub(super) struct Encryption {
    pub(super) encrypted: bool,
    /// The key's ARN, whether or not there is such a key.
    pub(super) key: Option<String>,
    /// Why it will fail, if it will.
    pub(super) refusal: Option<KeyRefusal>,
}

/// Decides on the encryption of a new volume or of a copy: `encrypted` and `key` as they were asked for, `source`
/// what it is made of.
pub(super) fn plan(
    call: &Call<'_>,
    encrypted: Option<bool>,
    key: Option<&str>,
    source: Option<&Snapshot>,
) -> Result<Encryption, Refusal> {
    call.context.world.change(|state| plan_for(call.caller, state, call, encrypted, key, source))
}

/// [`plan`], where somebody else than the caller is to use the key.
pub(super) fn plan_for(
    user: &Caller,
    state: &mut State,
    call: &Call<'_>,
    encrypted: Option<bool>,
    key: Option<&str>,
    source: Option<&Snapshot>,
) -> Result<Encryption, Refusal> {
    let (account, region, now) = (call.account(), call.region, call.now_ms());
    let source = source.filter(|one| one.encrypted);
    let is_encrypted =
        encrypted == Some(true) || source.is_some() || state.encrypts_by_default(account, region);
    if !is_encrypted {
        return match key {
            None => Ok(Encryption { encrypted: false, key: None, refusal: None }),
            Some(_) => Err(ec2_error(
                "InvalidParameterDependency",
                "The parameter KmsKeyId requires the parameter Encrypted to be set.",
            )),
        };
    }
    let is_own = |one: &&Snapshot| one.account == account && one.region == region;
    let key = match (key, source.filter(is_own).and_then(|one| one.kms_key.clone())) {
        (Some(key), _) => {
            state.find_key(account, region, key, now).unwrap_or_else(|| full_arn(account, region, key))
        }
        (None, Some(of_source)) => of_source,
        (None, None) => state.default_key(account, region, now),
    };
    let source_key = source.and_then(|one| one.kms_key.as_deref());
    let refusal = check(user, call.region, state, &key, source_key, now).err();
    Ok(Encryption { encrypted: true, key: Some(key), refusal })
}

fn check(
    user: &Caller,
    region: &str,
    state: &State,
    key: &str,
    source_key: Option<&str>,
    now: u64,
) -> Result<(), KeyRefusal> {
    if !key.starts_with(&format!("arn:aws:kms:{region}:")) {
        return Err(KeyRefusal::NotFound { key: key.to_owned() });
    }
    state.use_key(user, key, WITH_NEW, Via::Ebs, now)?;
    let Some(source_key) = source_key else { return Ok(()) };
    state.use_key(user, source_key, WITH_SOURCE, Via::Ebs, now)?;
    if source_key != key {
        state.use_key(user, source_key, &["ReEncryptFrom"], Via::Ebs, now)?;
        state.use_key(user, key, &["ReEncryptTo"], Via::Ebs, now)?;
    }
    Ok(())
}

/// Whether the caller may attach a volume with this key.
pub(super) fn check_attach(call: &Call<'_>, state: &State, key: Option<&str>) -> Result<(), KeyRefusal> {
    let Some(key) = key else { return Ok(()) };
    state.use_key(call.caller, key, TO_ATTACH, Via::Ebs, call.now_ms())
}

pub(super) fn by_default(call: &Call<'_>) -> Result<String, Refusal> {
    call.permit_any()?;
    let flag = call.context.world.read().encrypts_by_default(call.account(), call.region);
    Ok(call.reply(|xml| {
        xml.text("ebsEncryptionByDefault", flag);
        xml.text("sseType", if flag { "sse-ebs" } else { "none" });
    }))
}

pub(super) fn set_by_default(call: &Call<'_>, flag: bool) -> Result<String, Refusal> {
    call.permit_any()?;
    call.context.world.encrypt_by_default(call.account(), call.region, flag);
    Ok(call.reply(|xml| xml.text("ebsEncryptionByDefault", flag)))
}

pub(super) fn default_key(call: &Call<'_>) -> Result<String, Refusal> {
    call.permit_any()?;
    let state = call.context.world.read();
    let chosen = state.accounts.get(call.account()).and_then(|one| one.default_keys.get(call.region));
    Ok(call.reply(|xml| xml.text("kmsKeyId", chosen.map_or(EBS_ALIAS, String::as_str))))
}

/// An unknown key is taken, as at AWS; what is made with it fails.
pub(super) fn set_default_key(call: &Call<'_>) -> Result<String, Refusal> {
    let key = call.form.required("KmsKeyId")?;
    call.permit_any()?;
    let (account, region, now) = (call.account(), call.region, call.now_ms());
    let arn = call.context.world.change(|state| {
        let arn = state.find_key(account, region, key, now);
        let arn = arn.unwrap_or_else(|| full_arn(account, region, key));
        let of_account = state.accounts.entry(account.to_owned()).or_default();
        of_account.default_keys.insert(region.to_owned(), arn.clone());
        arn
    });
    Ok(call.reply(|xml| xml.text("kmsKeyId", arn)))
}

pub(super) fn reset_default_key(call: &Call<'_>) -> Result<String, Refusal> {
    call.permit_any()?;
    call.context.world.change(|state| {
        state.accounts.entry(call.account().to_owned()).or_default().default_keys.remove(call.region)
    });
    Ok(call.reply(|xml| xml.text("kmsKeyId", EBS_ALIAS)))
}
