//! What exists: accounts with their users, roles and sessions, and their EC2 resources. One lock, held for moments
//! and never over the copying of blocks; a JSON file keeps everything over restarts.

mod at_rest;
mod bucket;
mod declare;
mod ebs;
mod identity;
mod import;
mod inventory;
pub(crate) mod kms;
mod operations;
mod place;
pub(crate) mod policy;
mod resource;
mod state;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::faults::{Faults, Refusal};

pub use at_rest::AtRest;
pub use bucket::CreateBucketError;
pub(crate) use bucket::{Object, Part, Piece, Upload};
pub use identity::{AccessKey, Caller};
pub(crate) use identity::{ActiveKey, Session, random_text};
pub(crate) use import::{ImageFormat, ImportStep, ImportTask};
pub use kms::KeyState;
pub(crate) use kms::{KeyRefusal, Via};
pub use place::Placed;
pub(crate) use policy::Asked;
pub use resource::{
    Attachment, Image, Instance, Interface, Mapping, Marks, Snapshot, SnapshotStep, StateReason, Subnet,
    Volume,
};
pub(crate) use state::{KeyPair, REGIONS, State};

/// Accounts and their resources.
#[derive(Debug)]
pub struct World {
    state: Mutex<State>,
    path: PathBuf,
    is_changed: AtomicBool,
    faults: Arc<Faults>,
}

impl World {
    /// How long a resource is on its way: enough to be seen, not enough to be waited for.
    pub(crate) const STATE_DELAY_MS: u64 = 5;

    /// Reads the file, or begins with nothing.
    pub(crate) fn open(path: PathBuf, faults: Arc<Faults>) -> Result<Self, String> {
        let state = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| error.to_string())?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => State::default(),
            Err(error) => return Err(error.to_string()),
        };
        Ok(Self { state: Mutex::new(state), path, is_changed: AtomicBool::new(false), faults })
    }

    /// Reads under the lock.
    pub(crate) fn read(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes under the lock; the file follows.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.read());
        self.is_changed.store(true, Ordering::Release);
        result
    }

    /// Milliseconds since 1970 by the simulator's clock.
    pub(crate) fn now_ms(&self) -> u64 {
        let now = self.faults.clock().now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
    }

    /// The key of a request, alive now.
    pub(crate) fn access_key(&self, id: &str, token: Option<&str>) -> Result<ActiveKey, Refusal> {
        let now = self.now_ms();
        self.read().access_key(id, token, now)
    }

    /// Writes the file if anything has changed since it was written.
    pub(crate) fn save_if_changed(&self) {
        if self.is_changed.swap(false, Ordering::AcqRel) {
            self.save();
        }
    }

    /// Writes the file.
    pub(crate) fn save(&self) {
        let bytes = serde_json::to_vec(&*self.read());
        let written = bytes.map_err(std::io::Error::other).and_then(|bytes| {
            let draft = self.path.with_extension("draft");
            std::fs::write(&draft, bytes)?;
            std::fs::rename(&draft, &self.path)
        });
        if let Err(error) = written {
            tracing::error!(path = %self.path.display(), %error, "the world could not be written down");
        }
    }
}

/// A new resource id: the prefix and seventeen hexadecimal digits.
pub(crate) fn new_id(prefix: &str) -> String {
    let bits = rand::random::<u128>() >> 60;
    format!("{prefix}-{bits:017x}")
}
