//! STS: AssumeRole and GetCallerIdentity.

use serde_json::Value;

use crate::faults::Refusal;
use crate::server::Context;
use crate::server::form::Form;
use crate::server::xml::Xml;
use crate::world::{Asked, Caller, Session, policy, random_text};

const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// A chained role lives one hour at most, whatever is asked for.
const CHAINED_MAX_SECONDS: u64 = 3_600;

/// Answers a call.
pub(crate) fn call(context: &Context, caller: &Caller, action: &str, form: &Form) -> Result<String, Refusal> {
    match action {
        "GetCallerIdentity" => Ok(identity(caller)),
        "AssumeRole" => assume_role(context, caller, form),
        other => Err(Refusal::new(400, "InvalidAction", None, format!("Could not find operation {other}"))),
    }
}

fn identity(caller: &Caller) -> String {
    Xml::document("GetCallerIdentityResponse", NAMESPACE, |xml| {
        xml.nest("GetCallerIdentityResult", |xml| {
            xml.text("Arn", &caller.arn);
            xml.text("UserId", &caller.access_key);
            xml.text("Account", &caller.account);
        });
        xml.nest("ResponseMetadata", |xml| xml.text("RequestId", format!("{:032x}", rand::random::<u128>())));
    })
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(400, "ValidationError", None, message)
}

fn assume_role(context: &Context, caller: &Caller, form: &Form) -> Result<String, Refusal> {
    let need = |name: &str| form.text(name).ok_or_else(|| invalid(format!("{name} is required")));
    let role_arn = need("RoleArn")?;
    let session_name = need("RoleSessionName")?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_=,.@-".contains(c);
    if !(2..=64).contains(&session_name.len()) || !session_name.chars().all(is_name) {
        return Err(invalid("RoleSessionName must have 2 to 64 characters of [\\w+=,.@-]"));
    }
    let policy = form
        .text("Policy")
        .map(serde_json::from_str::<Value>)
        .transpose()
        .map_err(|error| Refusal::new(400, "MalformedPolicyDocument", None, error.to_string()))?;
    let mut asked = Asked::new("sts:AssumeRole", role_arn);
    if let Some(id) = form.text("ExternalId") {
        asked = asked.with("sts:ExternalId", id);
    }
    let denied = || {
        let message = format!(
            "User: {} is not authorized to perform: sts:AssumeRole on resource: {role_arn}",
            caller.arn
        );
        Refusal::new(403, "AccessDenied", None, message)
    };
    let role = context.world.read().roles.get(role_arn).cloned().ok_or_else(denied)?;
    if !policy::trusts(&role.trust, &caller.account, &caller.arn, &asked) || !caller.may(&asked) {
        return Err(denied());
    }
    let wanted = u64::from(form.number("DurationSeconds")?.unwrap_or(3_600));
    if wanted < 900 || wanted > role.max_session_seconds {
        return Err(invalid(
            "The requested DurationSeconds exceeds the MaxSessionDuration set for this role, or is below 900",
        ));
    }
    if caller.is_session && wanted > CHAINED_MAX_SECONDS {
        return Err(invalid(
            "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining",
        ));
    }
    let cap = context.faults.session_ttl_cap().map_or(wanted, |cap| cap.as_secs());
    let lifetime = wanted.min(cap);
    let access_key = format!("ASIA{}", random_text(16));
    let session = Session {
        secret: random_text(40),
        token: random_text(120),
        role_arn: role_arn.to_owned(),
        arn: format!("arn:aws:sts::{}:assumed-role/{}/{session_name}", role.account, role.name),
        policy,
        expires_ms: context.world.now_ms() + lifetime * 1_000,
    };
    let answer = reply(&access_key, &session);
    context.world.change(|state| state.sessions.insert(access_key, session));
    Ok(answer)
}

fn reply(access_key: &str, session: &Session) -> String {
    let expires =
        i64::try_from(session.expires_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    Xml::document("AssumeRoleResponse", NAMESPACE, |xml| {
        xml.nest("AssumeRoleResult", |xml| {
            xml.nest("AssumedRoleUser", |xml| {
                xml.text("Arn", &session.arn);
                xml.text("AssumedRoleId", format!("{access_key}:session"));
            });
            xml.nest("Credentials", |xml| {
                xml.text("AccessKeyId", access_key);
                xml.text("SecretAccessKey", &session.secret);
                xml.text("SessionToken", &session.token);
                xml.maybe("Expiration", expires.map(|at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()));
            });
        });
        xml.nest("ResponseMetadata", |xml| xml.text("RequestId", format!("{:032x}", rand::random::<u128>())));
    })
}
