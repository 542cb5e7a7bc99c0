//! IAM policies, evaluated: an explicit deny wins, then an allow is needed, and a narrowed session needs one in its
//! session policy too.

use std::collections::BTreeMap;

use serde_json::Value;

use super::identity::Caller;
use crate::faults::Refusal;

/// What is asked, as policies see it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    /// `ec2:CreateSnapshots`.
    pub(crate) action: String,
    /// ARN, or `*`.
    pub(crate) resource: String,
    /// Condition keys in lower case with their values.
    pub(crate) context: BTreeMap<String, Vec<String>>,
}

impl Asked {
    /// Of a resource.
    pub(crate) fn new(action: impl Into<String>, resource: impl Into<String>) -> Self {
        Self { action: action.into(), resource: resource.into(), context: BTreeMap::new() }
    }

    /// With a condition key.
    pub(crate) fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.context.entry(key.to_lowercase()).or_default().push(value.into());
        self
    }
}

impl Caller {
    /// Whether the caller's policies allow it.
    pub(crate) fn may(&self, asked: &Asked) -> bool {
        let mut asked = asked.clone();
        asked.context.entry("aws:principalarn".to_owned()).or_default().push(self.arn.clone());
        self.own_verdict(&asked) == Some(true) && self.is_within_session(&asked)
    }

    /// What the caller's own policies say: see [`evaluate`].
    pub(crate) fn own_verdict(&self, asked: &Asked) -> Option<bool> {
        evaluate(&self.policies, asked)
    }

    /// Whether the session policy allows it, where the session was narrowed.
    pub(crate) fn is_within_session(&self, asked: &Asked) -> bool {
        self.session_policy
            .as_ref()
            .is_none_or(|policy| evaluate(std::slice::from_ref(policy), asked) == Some(true))
    }

    /// [`Self::may`], or the refusal in EC2's words.
    pub(crate) fn demand(&self, asked: &Asked) -> Result<(), Refusal> {
        if self.may(asked) {
            return Ok(());
        }
        Err(Refusal::new(403, "UnauthorizedOperation", None, self.denied(asked)))
    }

    /// AWS's sentence about a denied call.
    pub(crate) fn denied(&self, asked: &Asked) -> String {
        format!(
            "You are not authorized to perform this operation. User: {} is not authorized to perform: {} on resource: {} because no identity-based policy allows the {} action",
            self.arn, asked.action, asked.resource, asked.action
        )
    }
}

/// `Some(true)` allowed, `Some(false)` denied by a statement, `None` not spoken of.
pub(crate) fn evaluate(policies: &[Value], asked: &Asked) -> Option<bool> {
    let mut verdict = None;
    for statement in policies.iter().flat_map(statements) {
        if !applies(statement, asked) {
            continue;
        }
        match statement.get("Effect").and_then(Value::as_str) {
            Some("Deny") => return Some(false),
            Some("Allow") => verdict = Some(true),
            _ => {}
        }
    }
    verdict
}

/// Whether a trust policy lets a principal do it.
pub(crate) fn trusts(trust: &Value, account: &str, arn: &str, asked: &Asked) -> bool {
    matches!(resource_says(trust, account, arn, asked), Said::Allowed | Said::Delegated)
}

/// What the policy of a resource says of a principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    /// A statement denies it.
    Denied,
    /// A statement names the principal, or anyone.
    Allowed,
    /// A statement names the principal's account, whose own policies are to decide.
    Delegated,
    /// No statement is about it.
    Nothing,
}

/// Evaluates the policy of a resource for a principal of an account.
pub(crate) fn resource_says(policy: &Value, account: &str, arn: &str, asked: &Asked) -> Said {
    let mut said = Said::Nothing;
    for statement in statements(policy) {
        let named = named_in(statement, account, arn);
        if named == Said::Nothing || !applies(statement, asked) {
            continue;
        }
        match statement.get("Effect").and_then(Value::as_str) {
            Some("Deny") => return Said::Denied,
            Some("Allow") if said != Said::Allowed => said = named,
            _ => {}
        }
    }
    said
}

/// How a statement names a principal: itself or anyone, by its account, or not at all.
fn named_in(statement: &Value, account: &str, arn: &str) -> Said {
    let principal = statement.get("Principal").unwrap_or(&Value::Null);
    let principals = strings(principal.get("AWS").unwrap_or(principal));
    if principals.iter().any(|who| who == "*" || is_principal(who, arn)) {
        return Said::Allowed;
    }
    let root = format!("arn:aws:iam::{account}:root");
    if principals.iter().any(|who| who == account || *who == root) { Said::Delegated } else { Said::Nothing }
}

/// Whether a policy or a grant that names `who` means the caller with this ARN, or the role of its session.
pub(crate) fn is_principal(who: &str, arn: &str) -> bool {
    who == arn || role_of_session(arn).as_deref() == Some(who)
}

/// `arn:aws:sts::A:assumed-role/R/S` is the role `arn:aws:iam::A:role/R`.
fn role_of_session(arn: &str) -> Option<String> {
    let rest = arn.strip_prefix("arn:aws:sts::")?;
    let (account, rest) = rest.split_once(":assumed-role/")?;
    let role = rest.split('/').next()?;
    Some(format!("arn:aws:iam::{account}:role/{role}"))
}

fn statements(policy: &Value) -> Vec<&Value> {
    match policy.get("Statement") {
        Some(Value::Array(list)) => list.iter().collect(),
        Some(one) => vec![one],
        None => Vec::new(),
    }
}

fn applies(statement: &Value, asked: &Asked) -> bool {
    action_matches(statement, &asked.action)
        && resource_matches(statement, &asked.resource)
        && conditions_hold(statement, asked)
}

fn action_matches(statement: &Value, action: &str) -> bool {
    let matches =
        |list: &Value| strings(list).iter().any(|one| like(&one.to_lowercase(), &action.to_lowercase()));
    match (statement.get("Action"), statement.get("NotAction")) {
        (Some(list), _) => matches(list),
        (None, Some(list)) => !matches(list),
        (None, None) => false,
    }
}

fn resource_matches(statement: &Value, resource: &str) -> bool {
    let matches = |list: &Value| strings(list).iter().any(|one| like(one, resource));
    match (statement.get("Resource"), statement.get("NotResource")) {
        (Some(list), _) => matches(list),
        (None, Some(list)) => !matches(list),
        (None, None) => true,
    }
}

fn conditions_hold(statement: &Value, asked: &Asked) -> bool {
    let Some(Value::Object(operators)) = statement.get("Condition") else { return true };
    operators.iter().all(|(operator, keys)| {
        let Value::Object(keys) = keys else { return false };
        keys.iter().all(|(key, wanted)| {
            let have = asked.context.get(&key.to_lowercase());
            condition_holds(operator, have, &strings(wanted))
        })
    })
}

fn condition_holds(operator: &str, have: Option<&Vec<String>>, wanted: &[String]) -> bool {
    let (base, if_exists) = match operator.strip_suffix("IfExists") {
        Some(base) => (base, true),
        None => (operator, false),
    };
    let (set, base) = match base.split_once(':') {
        Some((set, base)) => (set, base),
        None => ("", base),
    };
    if base == "Null" {
        let must_be_absent = wanted.iter().any(|value| value == "true");
        return have.is_none() == must_be_absent;
    }
    let negated = base.contains("Not");
    let Some(have) = have else { return if_exists || negated || set == "ForAllValues" };
    let one = |value: &String| {
        wanted.iter().any(|wanted| match base {
            "StringEquals" | "ArnEquals" | "StringNotEquals" | "ArnNotEquals" => wanted == value,
            "StringEqualsIgnoreCase" | "Bool" => wanted.eq_ignore_ascii_case(value),
            "StringLike" | "ArnLike" | "StringNotLike" | "ArnNotLike" => like(wanted, value),
            _ => false,
        })
    };
    match set {
        "ForAllValues" => have.iter().all(|value| one(value) != negated),
        "ForAnyValue" => have.iter().any(|value| one(value) != negated),
        _ => have.iter().any(one) != negated,
    }
}

fn strings(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Bool(flag) => vec![flag.to_string()],
        Value::Number(number) => vec![number.to_string()],
        Value::Array(list) => list.iter().flat_map(strings).collect(),
        Value::Null | Value::Object(_) => Vec::new(),
    }
}

/// Whether a trust policy lets one of AWS's services do it, such as `vmie.amazonaws.com`.
pub(crate) fn trusts_service(trust: &Value, service: &str, asked: &Asked) -> bool {
    let is_named = |statement: &&Value| {
        let services = statement.get("Principal").and_then(|principal| principal.get("Service"));
        strings(services.unwrap_or(&Value::Null)).iter().any(|who| who == service)
    };
    let about: Vec<Value> = statements(trust).into_iter().filter(is_named).cloned().collect();
    evaluate(&[serde_json::json!({ "Statement": about })], asked) == Some(true)
}

/// `*` stands for anything, `?` for one character.
pub(crate) fn like(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == '?' || Some(&c) == text.get(t) => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    p = at + 1;
                    t = from + 1;
                    star = Some((at, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|c| *c == '*'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn verdict(statements: Value, asked: &Asked) -> Option<bool> {
        evaluate(&[json!({ "Statement": statements })], asked)
    }

    #[test]
    fn patterns_match_as_iam_does() {
        assert!(like("ec2:Describe*", "ec2:DescribeVolumes"));
        assert!(like("arn:aws:ec2:*:*:volume/vol-?", "arn:aws:ec2:eu-west-1:1:volume/vol-1"));
        assert!(!like("ec2:Create?", "ec2:CreateTags"));
        assert!(like("*", ""));
    }

    #[test]
    fn a_service_is_trusted_by_its_name_alone() {
        let trust = json!({ "Statement": [{ "Effect": "Allow", "Action": "sts:AssumeRole",
            "Principal": { "Service": "vmie.amazonaws.com" },
            "Condition": { "StringEquals": { "sts:Externalid": "vmimport" } } }] });
        let asked = Asked::new("sts:AssumeRole", "*").with("sts:ExternalId", "vmimport");
        assert!(trusts_service(&trust, "vmie.amazonaws.com", &asked));
        assert!(!trusts_service(&trust, "ec2.amazonaws.com", &asked));
        assert!(!trusts_service(&trust, "vmie.amazonaws.com", &Asked::new("sts:AssumeRole", "*")));
        assert!(!trusts(&trust, "111122223333", "arn:aws:iam::111122223333:user/u", &asked));
    }

    #[test]
    fn deny_wins_and_silence_is_no() {
        let asked = Asked::new("ec2:DeleteSnapshot", "arn:aws:ec2:r::snapshot/snap-1");
        let allow = json!({ "Effect": "Allow", "Action": "ec2:*", "Resource": "*" });
        let deny = json!({ "Effect": "Deny", "Action": "ec2:Delete*", "Resource": "*" });
        assert_eq!(verdict(json!([allow]), &asked), Some(true));
        assert_eq!(verdict(json!([allow, deny]), &asked), Some(false));
        assert_eq!(verdict(json!([]), &asked), None);
    }

    #[test]
    fn tag_conditions_are_looked_at() {
        let statement = json!([{ "Effect": "Allow", "Action": "ec2:DeleteVolume", "Resource": "*",
            "Condition": { "StringEquals": { "aws:ResourceTag/owner": "us" } } }]);
        let asked = Asked::new("ec2:DeleteVolume", "*");
        assert_eq!(verdict(statement.clone(), &asked), None);
        assert_eq!(
            verdict(statement.clone(), &asked.clone().with("aws:ResourceTag/owner", "us")),
            Some(true)
        );
        assert_eq!(verdict(statement, &asked.with("aws:ResourceTag/owner", "them")), None);
    }

    #[test]
    fn of_a_set_every_value_counts_or_one_does() {
        let statement = |operator: &str| {
            json!([{ "Effect": "Allow", "Action": "ec2:CreateTags", "Resource": "*",
                "Condition": { operator: { "aws:TagKeys": ["ours:*"] } } }])
        };
        let asked = |keys: &[&str]| {
            let asked = Asked::new("ec2:CreateTags", "*");
            keys.iter().fold(asked, |asked, key| asked.with("aws:TagKeys", *key))
        };
        let of = |operator: &str, keys: &[&str]| verdict(statement(operator), &asked(keys)) == Some(true);
        assert!(of("ForAllValues:StringLike", &["ours:a", "ours:b"]));
        assert!(!of("ForAllValues:StringLike", &["ours:a", "Name"]));
        assert!(of("ForAllValues:StringNotLike", &["Name", "team"]));
        assert!(!of("ForAllValues:StringNotLike", &["Name", "ours:a"]), "one of ours among them");
        assert!(of("ForAnyValue:StringNotLike", &["Name", "ours:a"]));
        assert!(!of("ForAnyValue:StringNotLike", &["ours:a"]));
    }

    #[test]
    fn a_trust_policy_asks_for_the_external_id() {
        let trust = json!({ "Statement": [{ "Effect": "Allow", "Action": "sts:AssumeRole",
            "Principal": { "AWS": "arn:aws:iam::111122223333:root" },
            "Condition": { "StringEquals": { "sts:ExternalId": "secret" } } }] });
        let asked = Asked::new("sts:AssumeRole", "*");
        let user = "arn:aws:iam::111122223333:user/u";
        assert!(!trusts(&trust, "111122223333", user, &asked));
        assert!(trusts(&trust, "111122223333", user, &asked.clone().with("sts:ExternalId", "secret")));
        assert!(!trusts(&trust, "444455556666", user, &asked.with("sts:ExternalId", "secret")));
    }

    #[test]
    fn a_policy_of_a_resource_names_or_delegates() {
        let says = |principal: Value| {
            let policy = json!({ "Statement": [{ "Effect": "Allow", "Action": "kms:De*", "Resource": "*",
                "Principal": principal }] });
            let session = "arn:aws:sts::111122223333:assumed-role/backup/s";
            resource_says(
                &policy,
                "111122223333",
                session,
                &Asked::new("kms:Decrypt", "arn:aws:kms:r:a:key/k"),
            )
        };
        assert_eq!(says(json!("*")), Said::Allowed);
        assert_eq!(says(json!({ "AWS": "arn:aws:iam::111122223333:role/backup" })), Said::Allowed);
        assert_eq!(says(json!({ "AWS": ["444455556666", "111122223333"] })), Said::Delegated);
        assert_eq!(says(json!({ "AWS": "arn:aws:iam::444455556666:root" })), Said::Nothing);
        assert_eq!(says(json!({ "Service": "ec2.amazonaws.com" })), Said::Nothing);
    }
}
