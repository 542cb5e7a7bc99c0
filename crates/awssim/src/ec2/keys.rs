//! Key pairs by name: CreateKeyPair, DescribeKeyPairs, DeleteKeyPair. Nothing here can log in anywhere, so no key is
//! made.

use std::collections::BTreeMap;

use super::Call;
use super::filter::{Filters, one};
use crate::faults::Refusal;
use crate::server::form::ec2_error;
use crate::world::{KeyPair, State};

/// What an account without any key pair in a region names is taken as it is: instances that set-up places have names
/// of keys, and most tests have no other use for them.
pub(super) fn check(state: &State, account: &str, region: &str, name: Option<&str>) -> Result<(), Refusal> {
    let mut ours = state.key_pairs.values().filter(|one| is_of(one, account, region)).peekable();
    match name {
        Some(name) if ours.peek().is_some() && !ours.any(|one| one.name == name) => Err(missing(name)),
        _ => Ok(()),
    }
}

fn is_of(pair: &KeyPair, account: &str, region: &str) -> bool {
    pair.account == account && pair.region == region
}

fn missing(name: &str) -> Refusal {
    ec2_error("InvalidKeyPair.NotFound", format!("The key pair '{name}' does not exist"))
}

pub(super) fn create(call: &Call<'_>) -> Result<String, Refusal> {
    let name = call.form.required("KeyName")?;
    call.permit(&call.asked(&format!("arn:aws:ec2:{}:{}:key-pair/{name}", call.region, call.account())))?;
    let key = format!("{}/{}/{name}", call.account(), call.region);
    if call.context.world.read().key_pairs.contains_key(&key) {
        return Err(ec2_error("InvalidKeyPair.Duplicate", format!("The keypair '{name}' already exists.")));
    }
    call.context.world.add_key_pair(call.account(), call.region, name);
    let pair = call.context.world.read().key_pairs.get(&key).cloned().ok_or_else(|| missing(name))?;
    Ok(call.reply(|xml| {
        xml.text("keyName", name);
        xml.text("keyPairId", &pair.id);
        xml.text("keyMaterial", "the simulator makes no keys");
    }))
}

pub(super) fn describe(call: &Call<'_>) -> Result<String, Refusal> {
    call.permit_any()?;
    let (filters, names) = (Filters::of(call), call.form.list("KeyName"));
    let mut found = Vec::new();
    {
        let state = call.context.world.read();
        for pair in state.key_pairs.values().filter(|one| is_of(one, call.account(), call.region)) {
            let passes = filters.pass(&BTreeMap::new(), |name| match name {
                "key-name" => one(&pair.name),
                "key-pair-id" => one(&pair.id),
                _ => None,
            })?;
            if passes && (names.is_empty() || names.contains(&pair.name)) {
                found.push(pair.clone());
            }
        }
    }
    if let Some(name) = names.iter().find(|name| !found.iter().any(|one| one.name == **name)) {
        return Err(missing(name));
    }
    Ok(call.reply(|xml| {
        xml.list("keySet", &found, |xml, pair| {
            xml.text("keyPairId", &pair.id);
            xml.text("keyName", &pair.name);
            xml.text("keyType", "rsa");
        });
    }))
}

pub(super) fn delete(call: &Call<'_>) -> Result<String, Refusal> {
    let name = call.form.required("KeyName")?;
    call.permit(&call.asked(&format!("arn:aws:ec2:{}:{}:key-pair/{name}", call.region, call.account())))?;
    let key = format!("{}/{}/{name}", call.account(), call.region);
    call.context.world.change(|state| state.key_pairs.remove(&key));
    Ok(call.done())
}
