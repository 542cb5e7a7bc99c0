//! Tags: in requests, on resources, and their own calls.

use std::collections::BTreeMap;

use super::filter::{Filters, one};
use super::{Call, page};
use crate::faults::Refusal;
use crate::server::form::{Form, ec2_error};
use crate::server::xml::Xml;

/// `TagSpecification.N` for one type of resource, checked.
pub(super) fn requested(form: &Form, resource_type: &str) -> Result<BTreeMap<String, String>, Refusal> {
    let specifications = form.structures("TagSpecification");
    let of_type = specifications.iter().filter(|one| one.text("ResourceType") == Some(resource_type));
    let tags = without_repeats(of_type.flat_map(|one| pairs(one, "Tag")))?;
    check(&tags)?;
    Ok(tags)
}

/// Every tag that the request sets, for policies.
pub(super) fn all_requested(form: &Form) -> Vec<(String, String)> {
    let specified = form.structures("TagSpecification");
    specified.iter().flat_map(|one| pairs(one, "Tag")).chain(pairs(form, "Tag")).collect()
}

/// Tags as a request has them.
pub(super) fn pairs(form: &Form, name: &str) -> Vec<(String, String)> {
    let tags = form.structures(name).into_iter();
    tags.filter_map(|tag| {
        tag.text("Key").map(|key| (key.to_owned(), tag.text("Value").unwrap_or_default().to_owned()))
    })
    .collect()
}

fn without_repeats(
    pairs: impl IntoIterator<Item = (String, String)>,
) -> Result<BTreeMap<String, String>, Refusal> {
    let mut tags = BTreeMap::new();
    for (key, value) in pairs {
        if tags.contains_key(&key) {
            let message = format!("Duplicate tag key '{key}' specified.");
            return Err(ec2_error("InvalidParameterValue", message));
        }
        tags.insert(key, value);
    }
    Ok(tags)
}

fn check(tags: &BTreeMap<String, String>) -> Result<(), Refusal> {
    if tags.len() > 50 {
        return Err(ec2_error("TagLimitExceeded", "The maximum number of tags for a resource is 50"));
    }
    for (key, value) in tags {
        if key.to_lowercase().starts_with("aws:") {
            let message = "Tag keys starting with 'aws:' are reserved for internal use";
            return Err(ec2_error("InvalidParameterValue", message));
        }
        if key.chars().count() > 128 || value.chars().count() > 256 {
            return Err(ec2_error(
                "InvalidParameterValue",
                format!("The tag {key} is too long: keys have up to 128 characters, values up to 256"),
            ));
        }
    }
    Ok(())
}

/// `tagSet`.
pub(super) fn write(xml: &mut Xml, tags: &BTreeMap<String, String>) {
    if tags.is_empty() {
        return;
    }
    xml.list("tagSet", tags, |xml, (key, value)| {
        xml.text("key", key);
        xml.text("value", value);
    });
}

pub(super) fn create(call: &Call<'_>) -> Result<String, Refusal> {
    let tags = without_repeats(pairs(call.form, "Tag"))?;
    check(&tags)?;
    change(call, |have| {
        have.extend(tags.clone());
        check(have)
    })
}

pub(super) fn delete(call: &Call<'_>) -> Result<String, Refusal> {
    let named = call.form.structures("Tag");
    change(call, |have| {
        if named.is_empty() {
            have.clear();
        }
        for tag in &named {
            let key = tag.text("Key").unwrap_or_default();
            if tag.text("Value").is_none_or(|value| have.get(key).is_some_and(|has| has == value)) {
                have.remove(key);
            }
        }
        Ok(())
    })
}

fn change(
    call: &Call<'_>,
    mut change: impl FnMut(&mut BTreeMap<String, String>) -> Result<(), Refusal>,
) -> Result<String, Refusal> {
    let ids = call.form.list("ResourceId");
    if ids.is_empty() {
        return Err(ec2_error("MissingParameter", "The request must contain the parameter resourceIdSet"));
    }
    let (account, region) = (call.account().to_owned(), call.region);
    let missing = |id: &str| ec2_error("InvalidID", format!("The ID '{id}' is not valid"));
    for id in &ids {
        let tags = call.context.world.change(|state| state.tags_mut(&account, region, id).cloned());
        let tags = tags.ok_or_else(|| missing(id))?;
        call.permit(&call.asked_of(kind_of(id), id, &tags))?;
    }
    call.context.world.change(|state| {
        // All resources or none.
        let mut changed = Vec::with_capacity(ids.len());
        for id in &ids {
            let mut tags = state.tags_mut(&account, region, id).cloned().ok_or_else(|| missing(id))?;
            change(&mut tags)?;
            changed.push((id, tags));
        }
        for (id, tags) in changed {
            if let Some(have) = state.tags_mut(&account, region, id) {
                *have = tags;
            }
        }
        Ok(())
    })?;
    Ok(call.done())
}

fn kind_of(id: &str) -> &'static str {
    match id.split('-').next() {
        Some("vol") => "volume",
        Some("snap") => "snapshot",
        Some("ami") => "image",
        Some("i") => "instance",
        Some("import") => "import-snapshot-task",
        _ => "resource",
    }
}

pub(super) fn describe(call: &Call<'_>) -> Result<String, Refusal> {
    call.permit_any()?;
    let filters = Filters::of(call);
    let mut found: Vec<(String, String, String)> = Vec::new();
    {
        let state = call.context.world.read();
        let mut add = |id: &String, account: &String, region: &String, tags: &BTreeMap<String, String>| {
            if account == call.account() && region == call.region {
                found.extend(tags.iter().map(|(key, value)| (id.clone(), key.clone(), value.clone())));
            }
        };
        state.volumes.values().for_each(|one| add(&one.id, &one.account, &one.region, &one.tags));
        state.snapshots.values().for_each(|one| add(&one.id, &one.account, &one.region, &one.tags));
        state.images.values().for_each(|one| add(&one.id, &one.account, &one.region, &one.tags));
        state.instances.values().for_each(|one| add(&one.id, &one.account, &one.region, &one.tags));
        state.imports.values().for_each(|one| add(&one.id, &one.account, &one.region, &one.tags));
    }
    let mut kept = Vec::new();
    for (id, key, value) in found {
        let tags = BTreeMap::from([(key.clone(), value.clone())]);
        let passes = filters.pass(&tags, |name| match name {
            "resource-id" => one(&id),
            "resource-type" => one(kind_of(&id)),
            "key" => one(&key),
            "value" => one(&value),
            _ => None,
        })?;
        if passes {
            kept.push((format!("{id}/{key}"), id, key, value));
        }
    }
    kept.sort();
    let (items, next) = page::cut(call, kept, |one| one.0.as_str())?;
    Ok(call.reply(|xml| {
        xml.list("tagSet", items, |xml, (_, id, key, value)| {
            xml.text("resourceId", &id);
            xml.text("resourceType", kind_of(&id));
            xml.text("key", key);
            xml.text("value", value);
        });
        xml.maybe("nextToken", next);
    }))
}
