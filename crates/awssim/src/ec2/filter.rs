//! Filters of the describe calls: `Filter.1.Name`, `Filter.1.Value.1`, with wildcards; all must hold, any value
//! of one is enough.

use std::collections::BTreeMap;

use super::Call;
use crate::faults::Refusal;
use crate::server::form::ec2_error;
use crate::world::policy::like;

/// The filters of a call.
pub(super) struct Filters(Vec<(String, Vec<String>)>);

impl Filters {
    /// Reads them.
    pub(super) fn of(call: &Call<'_>) -> Self {
        Self::named(call, "Filter")
    }

    /// Reads them from the parameter of this name.
    pub(super) fn named(call: &Call<'_>, name: &str) -> Self {
        let filters = call.form.structures(name).into_iter().filter_map(|filter| {
            let values = filter.list("Value");
            filter.text("Name").map(|name| (name.to_owned(), values))
        });
        Self(filters.collect())
    }

    /// Whether a resource with these fields and tags passes. `field` answers the values of a named field, or `None`
    /// for a name that this kind of resource does not have, which is an error as in AWS.
    pub(super) fn pass(
        &self,
        tags: &BTreeMap<String, String>,
        field: impl Fn(&str) -> Option<Vec<String>>,
    ) -> Result<bool, Refusal> {
        for (name, wanted) in &self.0 {
            let have = match name.split_once(':') {
                Some(("tag", key)) => tags.get(key).cloned().into_iter().collect(),
                _ if name == "tag-key" => tags.keys().cloned().collect(),
                _ => field(name).ok_or_else(|| {
                    ec2_error("InvalidParameterValue", format!("The filter '{name}' is invalid"))
                })?,
            };
            if !have.iter().any(|value| wanted.iter().any(|pattern| like(pattern, value))) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A field with one value.
#[allow(clippy::unnecessary_wraps, reason = "the shape of a filter's answer")]
pub(super) fn one(value: impl ToString) -> Option<Vec<String>> {
    Some(vec![value.to_string()])
}

/// A field that may be absent.
pub(super) fn maybe(value: Option<&String>) -> Option<Vec<String>> {
    Some(value.cloned().into_iter().collect())
}
