//! What the admin endpoint may ask of the world.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{KeyState, new_id};
use crate::admin::{NewSynthetic, Operations};
use crate::server::Context;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewAccount {
    account: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewUser {
    account: String,
    name: String,
    #[serde(default)]
    policies: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewRole {
    account: String,
    name: String,
    trust: Value,
    #[serde(default)]
    policies: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewKey {
    account: String,
    region: String,
    policy: Option<Value>,
    alias: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyChange {
    arn: String,
    state: Option<KeyState>,
    policy: Option<Value>,
}

impl Operations for Context {
    fn create_account(&self, description: Value) -> Result<Value, String> {
        let new: NewAccount = read(description)?;
        check_account(&new.account)?;
        let key = self.world.create_user(&new.account, "administrator", Vec::new());
        Ok(json!(key))
    }

    fn create_user(&self, description: Value) -> Result<Value, String> {
        let new: NewUser = read(description)?;
        check_account(&new.account)?;
        Ok(json!(self.world.create_user(&new.account, &new.name, new.policies)))
    }

    fn create_role(&self, description: Value) -> Result<Value, String> {
        let new: NewRole = read(description)?;
        check_account(&new.account)?;
        let arn = self.world.create_role(&new.account, &new.name, new.trust, new.policies);
        Ok(json!({ "arn": arn }))
    }

    fn declare(&self, kind: &str, description: Value) -> Result<Value, String> {
        self.world.declare(kind, description)
    }

    fn create_key(&self, description: Value) -> Result<Value, String> {
        let new: NewKey = read(description)?;
        check_account(&new.account)?;
        if let Some(alias) = new.alias.as_ref().filter(|alias| !alias.starts_with("alias/")) {
            return Err(format!("{alias:?} is no alias: it has to begin with alias/"));
        }
        let arn = self.world.create_key(&new.account, &new.region, new.policy);
        if let Some(alias) = &new.alias {
            self.world.name_key(&arn, alias);
        }
        Ok(json!({ "arn": arn }))
    }

    fn change_key(&self, description: Value) -> Result<(), String> {
        let change: KeyChange = read(description)?;
        if self.world.key_state(&change.arn).is_none() {
            return Err(format!("there is no key {}", change.arn));
        }
        if let Some(state) = change.state {
            self.world.set_key_state(&change.arn, state);
        }
        if let Some(policy) = change.policy {
            self.world.set_key_policy(&change.arn, policy);
        }
        Ok(())
    }

    fn register_snapshot(&self, new: &NewSynthetic) -> Result<String, String> {
        check_account(&new.account)?;
        let id = new.snapshot_id.clone().unwrap_or_else(|| new_id("snap"));
        if self.world.read().snapshots.contains_key(&id) {
            return Err(format!("there is a snapshot {id} already"));
        }
        self.world.register_snapshot(&new.account, &new.region, &id, new.content.volume_size_gib);
        Ok(id)
    }

    fn forget_snapshot(&self, snapshot_id: &str) {
        self.world.change(|state| state.snapshots.remove(snapshot_id));
    }

    fn inventory(&self, account: &str) -> Result<Value, String> {
        if !self.world.read().accounts.contains_key(account) {
            return Err(format!("there is no account {account}"));
        }
        Ok(json!(self.world.inventory(Some(account))))
    }
}

fn read<T: DeserializeOwned>(description: Value) -> Result<T, String> {
    serde_json::from_value(description).map_err(|error| error.to_string())
}

fn check_account(account: &str) -> Result<(), String> {
    if account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(());
    }
    Err(format!("{account:?} is no account id: twelve digits are expected"))
}
