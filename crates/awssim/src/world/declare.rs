//! What no call of AWS makes and a test or an operator says: that an instance is this machine, that a key pair exists,
//! what a resource is marked with.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use super::resource::Marks;
use super::{KeyPair, World, new_id};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewAccessNode {
    account: String,
    region: String,
    instance: String,
    device_dir: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewKeyPair {
    account: String,
    region: String,
    name: String,
}

#[derive(Deserialize)]
struct NewMarks {
    id: String,
    #[serde(flatten)]
    marks: serde_json::Map<String, Value>,
}

impl World {
    /// Declares that the instance is the machine that the simulator runs on: volumes attached to it from now on appear
    /// as block devices, with links in `device_dir`, which is made when it is not there. Volumes that are attached
    /// already do not appear. Needs root and `losetup` when a volume is attached.
    ///
    /// # Errors
    /// When there is no such instance, or the folder cannot be had.
    pub fn add_access_node(
        &self,
        account: &str,
        region: &str,
        instance: &str,
        device_dir: &Path,
    ) -> Result<(), String> {
        self.read().instance(account, region, instance).map_err(|refusal| refusal.message)?;
        std::fs::create_dir_all(device_dir).map_err(|error| format!("{}: {error}", device_dir.display()))?;
        let device_dir =
            device_dir.canonicalize().map_err(|error| format!("{}: {error}", device_dir.display()))?;
        self.change(|state| state.access_nodes.insert(instance.to_owned(), device_dir));
        Ok(())
    }

    /// Declares a key pair, once for each name. While an account has none in a region, RunInstances takes any name.
    pub fn add_key_pair(&self, account: &str, region: &str, name: &str) {
        let pair = KeyPair {
            id: new_id("key"),
            account: account.to_owned(),
            region: region.to_owned(),
            name: name.to_owned(),
        };
        self.change(|state| {
            state.key_pairs.entry(format!("{account}/{region}/{name}")).or_insert(pair);
        });
    }

    /// Marks a volume, a snapshot, an instance or a subnet, in place of what it was marked with.
    ///
    /// # Errors
    /// When there is no resource of that id.
    pub fn mark(&self, id: &str, marks: Marks) -> Result<(), String> {
        self.change(|state| {
            let place = match id.split('-').next() {
                Some("vol") => state.volumes.get_mut(id).map(|one| &mut one.marks),
                Some("snap") => state.snapshots.get_mut(id).map(|one| &mut one.marks),
                Some("subnet") => state.subnets.get_mut(id).map(|one| &mut one.marks),
                _ => state.instances.get_mut(id).map(|one| &mut one.marks),
            };
            *place.ok_or_else(|| format!("there is no volume, snapshot, instance or subnet {id}"))? = marks;
            Ok(())
        })
    }

    /// The admin endpoint's ways to the above.
    pub(super) fn declare(&self, kind: &str, description: Value) -> Result<Value, String> {
        let wrong = |error: serde_json::Error| error.to_string();
        match kind {
            "access-nodes" => {
                let new: NewAccessNode = serde_json::from_value(description).map_err(wrong)?;
                self.add_access_node(&new.account, &new.region, &new.instance, &new.device_dir)?;
            }
            "key-pairs" => {
                let new: NewKeyPair = serde_json::from_value(description).map_err(wrong)?;
                self.add_key_pair(&new.account, &new.region, &new.name);
            }
            "marks" => {
                let NewMarks { id, marks } = serde_json::from_value(description).map_err(wrong)?;
                self.mark(&id, serde_json::from_value(Value::Object(marks)).map_err(wrong)?)?;
            }
            other => return Err(format!("{other} cannot be declared")),
        }
        Ok(json!({ "status": "ok" }))
    }
}
