//! What lies in an account, with the key that each thing is encrypted under, and what is or was attached to an instance:
//! for tests that look while something is under way.

use super::World;
use super::resource::Volume;

/// S3's header of the key that an object is encrypted under.
const OBJECT_KEY: &str = "x-amz-server-side-encryption-aws-kms-key-id";

/// A thing with bytes in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AtRest {
    /// `volume`, `snapshot`, `import`, `s3_object`, `s3_upload`.
    pub kind: &'static str,
    /// Its id; `bucket/key` in S3.
    pub id: String,
    /// The key that it is encrypted under; nothing when it is in plain.
    pub key: Option<String>,
}

impl World {
    /// Everything of an account that has bytes in it, uploads that were not ended and imports at work among them.
    #[must_use]
    pub fn at_rest(&self, account: &str) -> Vec<AtRest> {
        let state = self.read();
        let mut found = Vec::new();
        for one in state.volumes.values().filter(|one| one.account == account) {
            found.push(AtRest { kind: "volume", id: one.id.clone(), key: one.kms_key.clone() });
        }
        for one in state.snapshots.values().filter(|one| one.account == account) {
            found.push(AtRest { kind: "snapshot", id: one.id.clone(), key: one.kms_key.clone() });
        }
        for one in state.imports.values().filter(|one| one.account == account && one.step.is_alive()) {
            found.push(AtRest { kind: "import", id: one.id.clone(), key: one.kms_key.clone() });
        }
        for (name, bucket) in state.buckets.iter().filter(|(_, one)| one.account == account) {
            for (key, object) in &bucket.objects {
                let under = object.headers.get(OBJECT_KEY).cloned();
                found.push(AtRest { kind: "s3_object", id: format!("{name}/{key}"), key: under });
            }
        }
        for upload in state.uploads.values().filter(|one| one.account == account) {
            let under = upload.headers.get(OBJECT_KEY).cloned();
            let id = format!("{}/{}", upload.bucket, upload.key);
            found.push(AtRest { kind: "s3_upload", id, key: under });
        }
        found
    }

    /// The volumes of an account.
    #[must_use]
    pub fn volumes(&self, account: &str) -> Vec<Volume> {
        let state = self.read();
        state.volumes.values().filter(|one| one.account == account).cloned().collect()
    }

    /// The volumes that are attached to an instance, those on their way among them.
    #[must_use]
    pub fn attached_to(&self, instance: &str) -> Vec<String> {
        let state = self.read();
        let is_here = |one: &&Volume| one.attachment.as_ref().is_some_and(|at| at.instance == instance);
        state.volumes.values().filter(is_here).map(|one| one.id.clone()).collect()
    }

    /// The most volumes that AttachVolume has ever brought an instance to at the same time, those that it had from the
    /// start among them; 0 when nothing was ever attached.
    #[must_use]
    pub fn most_attached(&self, instance: &str) -> usize {
        self.read().most_attached.get(instance).copied().unwrap_or(0)
    }
}
