//! The two simulated accounts: the provider's service account and a tenant with a role that trusts it.

use awssim::World;
use serde_json::json;

pub(super) const SERVICE: &str = "111111111111";
pub(super) const TENANT: &str = "222222222222";
pub(super) const REGION: &str = "eu-central-1";
pub(super) const EXTERNAL_ID: &str = "demo-external-id";

/// What the stage signs in with.
pub(super) struct Keys {
    pub(super) service: awssim::world::AccessKey,
    pub(super) tenant_role: String,
}

/// Makes both accounts.
pub(super) fn make(world: &World) -> Keys {
    let service = world.create_user(SERVICE, "snapferry", Vec::new());
    world.create_account(TENANT);
    let trust = json!({ "Statement": [{
        "Effect": "Allow",
        "Action": "sts:AssumeRole",
        "Principal": { "AWS": format!("arn:aws:iam::{SERVICE}:root") },
        "Condition": { "StringEquals": { "sts:ExternalId": EXTERNAL_ID } },
    }] });
    let tenant_role = world.create_role(TENANT, "snapferry", trust, Vec::new());
    Keys { service, tenant_role }
}
