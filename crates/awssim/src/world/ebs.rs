//! The world as the EBS direct APIs see it.

use std::time::{Duration, UNIX_EPOCH};

use super::identity::Caller;
use super::policy::Asked;
use super::resource::{Marks, Snapshot, SnapshotStep};
use super::{KeyRefusal, State, Via, World, new_id};
use crate::ebs::{Backend, EbsSnapshot, SnapshotState, Start, Started};
use crate::faults::{Faults, Refusal};
use crate::server::Context;
use crate::store::BlockStore;

impl Backend for Context {
    type Caller = Caller;

    fn store(&self) -> &BlockStore {
        &self.store
    }

    fn faults(&self) -> &Faults {
        &self.faults
    }

    fn account<'a>(&self, caller: &'a Caller) -> &'a str {
        &caller.account
    }

    fn snapshot(
        &self,
        caller: &Caller,
        region: &str,
        id: &str,
        action: &str,
    ) -> Result<EbsSnapshot, Refusal> {
        let now = self.world.now_ms();
        let state = self.world.read();
        let writes = matches!(action, "PutSnapshotBlock" | "CompleteSnapshot");
        let found = if writes {
            state.own_snapshot(&caller.account, region, id)
        } else {
            state.usable_snapshot(&caller.account, region, id)
        };
        let snapshot = found.map_err(|_| {
            let message = format!("The snapshot '{id}' does not exist.");
            Refusal::new(404, "ResourceNotFoundException", Some("SNAPSHOT_NOT_FOUND"), message)
        })?;
        let mut asked = Asked::new(format!("ebs:{action}"), format!("arn:aws:ec2:{region}::snapshot/{id}"));
        for (key, value) in &snapshot.tags {
            asked = asked.with(&format!("aws:ResourceTag/{key}"), value);
        }
        demand(caller, &asked)?;
        if snapshot.marks.outpost.is_some() {
            let message = format!("The snapshot '{id}' is a local snapshot on an Outpost.");
            return Err(Refusal::new(400, "ValidationException", Some("INVALID_SNAPSHOT_ID"), message));
        }
        if let Some(key) = &snapshot.kms_key {
            let uses: &[&str] = match action {
                "GetSnapshotBlock" | "ListSnapshotBlocks" | "ListChangedBlocks" => &["Decrypt"],
                "PutSnapshotBlock" => &["GenerateDataKey"],
                // StartSnapshot asks about its own key; CompleteSnapshot needs none.
                _ => &[],
            };
            if !uses.is_empty() {
                state.use_key(caller, key, uses, Via::Ebs, now).map_err(key_refused)?;
            }
        }
        let progress = match snapshot.state(now) {
            "completed" => SnapshotState::Completed,
            "pending" => SnapshotState::Pending,
            _ => SnapshotState::Error,
        };
        Ok(EbsSnapshot {
            volume_size_gib: snapshot.size_gib,
            state: progress,
            start_time: UNIX_EPOCH + Duration::from_millis(snapshot.started_ms),
        })
    }

    fn start(&self, caller: &Caller, region: &str, start: &Start) -> Result<Started, Refusal> {
        let mut asked = Asked::new("ebs:StartSnapshot", format!("arn:aws:ec2:{region}::snapshot/*"));
        for tag in &start.tags {
            asked = asked.with(&format!("aws:RequestTag/{}", tag.key), &tag.value);
        }
        demand(caller, &asked)?;
        let now = self.world.now_ms();
        let most_pending = self.faults.quotas().pending_snapshots;
        self.world.change(|state| {
            let scope = format!("{}/{region}/StartSnapshot", caller.account);
            let fingerprint = format!("{start:?}");
            let token = start.client_token.as_deref();
            let before = state.by_token(&scope, token, &fingerprint).map_err(|_| {
                let message = "The client token was used with other parameters.";
                Refusal::new(409, "ConflictException", None, message)
            })?;
            if let Some(snapshot) = before.and_then(|id| state.snapshots.get(&id)) {
                return Ok(started(snapshot));
            }
            let is_pending = |one: &&Snapshot| {
                one.account == caller.account && one.region == region && one.step == SnapshotStep::Started
            };
            if state.snapshots.values().filter(is_pending).count() >= most_pending {
                let message = format!(
                    "You have reached the limit of {most_pending} pending snapshots for this account."
                );
                return Err(Refusal::new(400, "ConcurrentLimitExceededException", None, message));
            }
            let kms_key = key_of_new(state, caller, region, start, now)?;
            let snapshot = Snapshot {
                id: new_id("snap"),
                account: caller.account.clone(),
                region: region.to_owned(),
                volume: "vol-ffffffff".to_owned(),
                size_gib: start.volume_size,
                encrypted: kms_key.is_some(),
                kms_key,
                description: start.description.clone().unwrap_or_default(),
                tags: start.tags.iter().map(|tag| (tag.key.clone(), tag.value.clone())).collect(),
                started_ms: now,
                ready_ms: now,
                step: SnapshotStep::Started,
                status_message: None,
                shared_with: Vec::new(),
                marks: Marks::default(),
            };
            let answer = started(&snapshot);
            state.remember_token(&scope, token, &snapshot.id, &fingerprint);
            state.snapshots.insert(snapshot.id.clone(), snapshot);
            Ok(answer)
        })
    }

    fn complete(&self, caller: &Caller, region: &str, id: &str) -> Result<(), Refusal> {
        self.snapshot(caller, region, id, "CompleteSnapshot")?;
        let ready = self.world.now_ms() + World::STATE_DELAY_MS;
        self.world.change(|state| {
            if let Some(snapshot) =
                state.snapshots.get_mut(id).filter(|one| one.step == SnapshotStep::Started)
            {
                snapshot.step = SnapshotStep::Completed;
                snapshot.ready_ms = ready;
            }
        });
        Ok(())
    }

    fn fail(&self, id: &str) {
        self.world.change(|state| {
            if let Some(snapshot) =
                state.snapshots.get_mut(id).filter(|one| one.step == SnapshotStep::Started)
            {
                snapshot.step = SnapshotStep::Failed;
            }
        });
    }
}

/// The ARN of the key that a started snapshot gets, if it is encrypted: the one named, else the parent's, else the
/// account's default. The caller has to be allowed to use it.
fn key_of_new(
    state: &mut State,
    caller: &Caller,
    region: &str,
    start: &Start,
    now: u64,
) -> Result<Option<String>, Refusal> {
    let by_default = state.encrypts_by_default(&caller.account, region);
    let parent = start.parent_snapshot_id.as_ref().and_then(|id| state.snapshots.get(id));
    let parent_key = parent.and_then(|parent| parent.kms_key.clone());
    let would_be_plain = parent.is_some_and(|parent| !parent.encrypted) || start.encrypted == Some(false);
    if by_default && would_be_plain {
        let message = "The snapshot or its parent would not be encrypted, and encryption by default is on.";
        return Err(Refusal::new(400, "ValidationException", Some("INVALID_PARAMETER_VALUE"), message));
    }
    if parent_key.is_none() && !start.encrypted.unwrap_or(by_default) {
        return Ok(None);
    }
    let key = match (&start.kms_key_arn, parent_key) {
        (Some(named), _) => {
            let found = state.find_key(&caller.account, region, named, now);
            found.ok_or_else(|| key_refused(KeyRefusal::NotFound { key: named.clone() }))?
        }
        (None, Some(of_parent)) => of_parent,
        (None, None) => state.default_key(&caller.account, region, now),
    };
    let uses = ["DescribeKey", "GenerateDataKeyWithoutPlaintext"];
    state.use_key(caller, &key, &uses, Via::Ebs, now).map_err(key_refused)?;
    Ok(Some(key))
}

/// The trouble with a key, as the EBS direct APIs answer it.
fn key_refused(refusal: KeyRefusal) -> Refusal {
    let message = refusal.to_string();
    match refusal {
        KeyRefusal::Denied { .. } => {
            Refusal::new(403, "AccessDeniedException", Some("DEPENDENCY_ACCESS_DENIED"), message)
        }
        KeyRefusal::NotFound { .. } | KeyRefusal::Disabled { .. } | KeyRefusal::PendingDeletion { .. } => {
            Refusal::new(400, "ValidationException", Some("INVALID_CUSTOMER_KEY"), message)
        }
    }
}

fn demand(caller: &Caller, asked: &Asked) -> Result<(), Refusal> {
    if caller.may(asked) {
        return Ok(());
    }
    Err(Refusal::new(403, "AccessDeniedException", Some("UNAUTHORIZED_ACCOUNT"), caller.denied(asked)))
}

fn started(snapshot: &Snapshot) -> Started {
    Started {
        id: snapshot.id.clone(),
        owner: snapshot.account.clone(),
        start_time: UNIX_EPOCH + Duration::from_millis(snapshot.started_ms),
        kms_key_arn: snapshot.kms_key.clone(),
    }
}
