//! Reading the query protocol's parameters: `Filter.1.Value.2=x` and the like.

use std::collections::BTreeMap;

use crate::faults::Refusal;

/// Parameters of one call.
#[derive(Debug, Default, Clone)]
pub(crate) struct Form(BTreeMap<String, String>);

impl Form {
    /// Parses `application/x-www-form-urlencoded`.
    pub(crate) fn parse(body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Self(pairs.collect())
    }

    /// A parameter that is not empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Whether a parameter is there, empty or not.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A parameter that has to be there.
    pub(crate) fn required(&self, name: &str) -> Result<&str, Refusal> {
        self.text(name).ok_or_else(|| {
            ec2_error("MissingParameter", format!("The request must contain the parameter {name}"))
        })
    }

    /// A number.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u32>, Refusal> {
        self.text(name).map(str::parse).transpose().map_err(|_| {
            ec2_error(
                "InvalidParameterValue",
                format!("Value for parameter {name} is invalid. Expected an integer."),
            )
        })
    }

    /// A switch.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.text(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// A switch that may be absent.
    pub(crate) fn maybe_flag(&self, name: &str) -> Option<bool> {
        self.text(name).map(|value| value.eq_ignore_ascii_case("true"))
    }

    /// `name.1`, `name.2`, … in order.
    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        self.indexes(name)
            .into_iter()
            .filter_map(|n| self.text(&format!("{name}.{n}")).map(str::to_owned))
            .collect()
    }

    /// `name.1.…`, `name.2.…` as forms of their own, in order.
    pub(crate) fn structures(&self, name: &str) -> Vec<Self> {
        self.indexes(name).into_iter().map(|n| self.below(&format!("{name}.{n}"))).collect()
    }

    /// `name.…` as a form of its own.
    pub(crate) fn below(&self, name: &str) -> Self {
        let prefix = format!("{name}.");
        let inner = self.0.iter().filter_map(|(key, value)| {
            key.strip_prefix(&prefix).map(|rest| (rest.to_owned(), value.clone()))
        });
        Self(inner.collect())
    }

    /// What the parameters come to, for comparing a repeat with the first call; `ClientToken` and `DryRun` left out.
    pub(crate) fn fingerprint(&self) -> String {
        let kept = self.0.iter().filter(|(key, _)| !matches!(key.as_str(), "ClientToken" | "DryRun"));
        kept.map(|(key, value)| format!("{key}={value}\n")).collect()
    }

    fn indexes(&self, name: &str) -> Vec<u32> {
        let prefix = format!("{name}.");
        let mut indexes: Vec<u32> = self
            .0
            .keys()
            .filter_map(|key| key.strip_prefix(&prefix)?.split('.').next()?.parse().ok())
            .collect();
        indexes.sort_unstable();
        indexes.dedup();
        indexes
    }
}

/// An error of the EC2 query protocol.
pub(crate) fn ec2_error(code: &str, message: impl Into<String>) -> Refusal {
    let status = match code {
        "UnauthorizedOperation" | "OptInRequired" => 403,
        "DryRunOperation" => 412,
        "InternalError" => 500,
        "RequestLimitExceeded" | "Unavailable" => 503,
        _ => 400,
    };
    Refusal::new(status, code, None, message)
}

/// Percent-decoding with `+` for a space.
pub(crate) fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        match (first, tail) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) => {
                let pair = [*high, *low];
                match std::str::from_utf8(&pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
                    Some(byte) => {
                        bytes.push(byte);
                        rest = after;
                    }
                    None => bytes.push(b'%'),
                }
            }
            _ => bytes.push(first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_structures_are_read_in_order() {
        let form = Form::parse(b"A.10=x&A.2=y&T.1.Tag.1.Key=k&T.1.Tag.1.Value=a%20b+c&E=");
        assert_eq!(form.list("A"), ["y", "x"]);
        let tag = form.structures("T").remove(0).structures("Tag").remove(0);
        assert_eq!(tag.text("Value"), Some("a b c"));
        assert_eq!(form.text("E"), None);
        assert!(form.required("B").is_err());
    }
}
