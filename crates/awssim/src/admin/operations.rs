//! What the admin endpoint needs from the rest of the simulator.

use serde::Deserialize;
use serde_json::{Value, json};

use super::AdminError;
use crate::ebs::Backend;
use crate::store::SyntheticSpec;

/// Set-up and looking around, done by the world. Errors are texts for the operator.
pub trait Operations: Backend {
    /// Makes an account with an administrator; answers its credentials.
    ///
    /// # Errors
    /// What is wrong with the description.
    fn create_account(&self, description: Value) -> Result<Value, String>;

    /// Makes a user; answers its credentials.
    ///
    /// # Errors
    /// What is wrong with the description.
    fn create_user(&self, description: Value) -> Result<Value, String>;

    /// Makes a role; answers its ARN.
    ///
    /// # Errors
    /// What is wrong with the description.
    fn create_role(&self, description: Value) -> Result<Value, String>;

    /// Declares something that no call of AWS makes: `access-nodes`, `key-pairs`, `marks`.
    ///
    /// # Errors
    /// What is wrong with the description.
    fn declare(&self, kind: &str, _description: Value) -> Result<Value, String> {
        Err(format!("this world has no {kind}"))
    }

    /// Makes a KMS key; answers its ARN.
    ///
    /// # Errors
    /// What is wrong with the description.
    fn create_key(&self, description: Value) -> Result<Value, String>;

    /// Changes the state or the policy of a KMS key.
    ///
    /// # Errors
    /// What is wrong with the description, or that there is no such key.
    fn change_key(&self, description: Value) -> Result<(), String>;

    /// Registers a completed snapshot of an account and answers its id; its blocks come after.
    ///
    /// # Errors
    /// When the account is unknown or the id is taken.
    fn register_snapshot(&self, new: &NewSynthetic) -> Result<String, String>;

    /// Takes a registration back.
    fn forget_snapshot(&self, snapshot_id: &str);

    /// Every live resource of an account: lists of ids by kind.
    ///
    /// # Errors
    /// When the account is unknown.
    fn inventory(&self, account: &str) -> Result<Value, String>;
}

/// A synthetic snapshot to make.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewSynthetic {
    /// The account it belongs to.
    pub account: String,
    /// The region it is in.
    pub region: String,
    /// Its id; one is made when not given.
    #[serde(default)]
    pub snapshot_id: Option<String>,
    /// Its content.
    pub content: SyntheticSpec,
}

/// Registers the snapshot and describes its content, or does neither.
pub(super) fn synthetic<O: Operations>(ctx: &O, new: &NewSynthetic) -> Result<Value, AdminError> {
    let id = ctx.register_snapshot(new).map_err(AdminError::bad_request)?;
    if let Err(error) = ctx.store().create_synthetic(&id, &new.content) {
        ctx.forget_snapshot(&id);
        return Err(error.into());
    }
    Ok(json!({ "snapshot_id": id }))
}
