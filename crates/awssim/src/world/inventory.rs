//! What is alive in an account, for tests that nothing is left behind; and resources that set-up registers directly.

use std::collections::BTreeMap;

use super::World;
use super::resource::{Marks, Snapshot, SnapshotStep, Tags};

impl World {
    /// Ids of every live resource of an account, by kind; of all accounts when none is named. Objects of S3, uploads
    /// in parts that were not ended, and imports that are not over are among them.
    #[must_use]
    pub fn inventory(&self, account: Option<&str>) -> BTreeMap<&'static str, Vec<String>> {
        let now = self.now_ms();
        let state = self.read();
        let is_asked = |owner: &str| account.is_none_or(|account| account == owner);
        let mut kinds: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
        kinds.insert(
            "volumes",
            state.volumes.values().filter(|one| is_asked(&one.account)).map(|one| one.id.clone()).collect(),
        );
        kinds.insert(
            "snapshots",
            state.snapshots.values().filter(|one| is_asked(&one.account)).map(|one| one.id.clone()).collect(),
        );
        kinds.insert(
            "images",
            state.images.values().filter(|one| is_asked(&one.account)).map(|one| one.id.clone()).collect(),
        );
        let is_alive = |one: &&super::Instance| is_asked(&one.account) && one.state(now).0 != 48;
        kinds.insert(
            "instances",
            state.instances.values().filter(is_alive).map(|one| one.id.clone()).collect(),
        );
        let buckets = state.buckets.iter().filter(|(_, one)| is_asked(&one.account));
        let objects =
            buckets.flat_map(|(name, one)| one.objects.keys().map(move |key| format!("{name}/{key}")));
        kinds.insert("s3_objects", objects.collect());
        let uploads = state.uploads.iter().filter(|(_, one)| is_asked(&one.account));
        kinds.insert(
            "s3_uploads",
            uploads.map(|(id, one)| format!("{}/{}?uploadId={id}", one.bucket, one.key)).collect(),
        );
        let is_active = |one: &&super::ImportTask| is_asked(&one.account) && one.step.is_alive();
        kinds.insert(
            "import_tasks",
            state.imports.values().filter(is_active).map(|one| one.id.clone()).collect(),
        );
        kinds
    }

    /// Registers a completed snapshot whose blocks the store has already.
    pub fn register_snapshot(&self, account: &str, region: &str, id: &str, size_gib: u64) {
        let now = self.now_ms();
        self.change(|state| {
            state.add_account(account);
            let snapshot = Snapshot {
                id: id.to_owned(),
                account: account.to_owned(),
                region: region.to_owned(),
                volume: "vol-ffffffff".to_owned(),
                size_gib,
                encrypted: false,
                kms_key: None,
                description: String::new(),
                tags: Tags::new(),
                started_ms: now,
                ready_ms: now,
                step: SnapshotStep::Completed,
                status_message: None,
                shared_with: Vec::new(),
                marks: Marks::default(),
            };
            state.snapshots.insert(id.to_owned(), snapshot);
        });
    }
}
