//! The agent's hand on the ledger. Every AWS object is recorded before it is made, under an id that follows from
//! the task and a label, so that a repeated step finds its own earlier entry, and through the entry's tag the object
//! that an earlier attempt may have made.

use std::collections::BTreeMap;
use std::time::Duration;

use snapferry_aws::Account;
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_types::aws::Tag;
use snapferry_types::ledger::{LedgerEntry, LedgerState, ObjectKind, Purpose, ownership_tags};
use snapferry_types::spec::TaskSpec;
use snapferry_types::{Fence, LedgerId, TaskId};
use snapferry_wire::v1::record_request::Step;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::lease::LeaseClient;

/// Taking a share back is one call to AWS; a task that died in the middle is followed by another attempt or the reaper.
const TAKING_BACK: Duration = Duration::from_secs(60);
const TAKING_BACK_POLL: Duration = Duration::from_millis(500);

/// How often one step may make its object again after it was removed; each making has an entry of its own.
const MAX_MAKINGS: u32 = 100;

/// The ledger entries of one task.
#[derive(Debug)]
pub(crate) struct TaskLedger {
    lease: LeaseClient,
    task: TaskId,
    fence: Fence,
    deployment: String,
    entries: Mutex<BTreeMap<LedgerId, LedgerEntry>>,
}

impl TaskLedger {
    /// The ledger of a granted task, with what earlier attempts left in it.
    #[must_use]
    pub(crate) fn new(lease: LeaseClient, spec: &TaskSpec) -> Self {
        Self {
            lease,
            task: spec.task,
            fence: spec.fence,
            deployment: spec.deployment.clone(),
            entries: Mutex::new(spec.objects.iter().map(|entry| (entry.id, entry.clone())).collect()),
        }
    }

    /// Records that an object is about to be made in an account and region, unless that is recorded already; true with
    /// it when an earlier attempt may have made it. The label tells objects of the same kind and purpose within the
    /// task apart. What was removed is made under a new entry: an entry never comes back from gone.
    ///
    /// # Errors
    /// [`TransferError`] of the record call; nothing may be made then.
    pub(crate) async fn intend(
        &self,
        place: &Account,
        kind: ObjectKind,
        purpose: Purpose,
        label: &str,
    ) -> Result<(LedgerEntry, bool), TransferError> {
        self.intend_named(place, kind, purpose, label, Vec::new()).await
    }

    /// [`TaskLedger::intend`] for an object whose id is known before it is made: whoever cleans up finds it by its id.
    ///
    /// # Errors
    /// [`TransferError`] of the record call; nothing may be made then.
    pub(crate) async fn intend_named(
        &self,
        place: &Account,
        kind: ObjectKind,
        purpose: Purpose,
        label: &str,
        object_ids: Vec<String>,
    ) -> Result<(LedgerEntry, bool), TransferError> {
        for making in 0..MAX_MAKINGS {
            let id = entry_id(self.task, kind, purpose, label, making);
            let known = self.entries.lock().await.get(&id).cloned();
            match known {
                Some(entry) if entry.state == LedgerState::Gone => {}
                Some(entry) => return Ok((entry, true)),
                None => {
                    let entry = LedgerEntry {
                        id,
                        task: self.task,
                        kind,
                        purpose,
                        account: place.account().clone(),
                        region: place.region().clone(),
                        object_ids,
                        state: LedgerState::Intended,
                    };
                    self.record(entry.clone()).await?;
                    return Ok((entry, false));
                }
            }
        }
        let message = format!("{} {label} was made and removed {MAX_MAKINGS} times", kind.as_str());
        Err(TransferError::new(ErrorClass::Internal, message))
    }

    /// [`TaskLedger::intend_named`] for a share, which other tasks may have made, too; answers the entry, and whether
    /// others have. Waits while one of them takes it back.
    ///
    /// # Errors
    /// [`TransferError`] of the record call, or when the others take too long; nothing may be shared then.
    pub(crate) async fn intend_share(
        &self,
        place: &Account,
        purpose: Purpose,
        id: &str,
        stop: &CancellationToken,
    ) -> Result<(LedgerEntry, bool), TransferError> {
        let ids = vec![id.to_owned()];
        let (entry, _) = self.intend_named(place, ObjectKind::Share, purpose, id, ids).await?;
        let until = Instant::now() + TAKING_BACK;
        if entry.state != LedgerState::Intended {
            return Ok((entry, false));
        }
        loop {
            let step = Step::Ledger(entry.clone().into());
            let reply = self.lease.record(self.task, self.fence, step).await?;
            if !reply.being_taken_back {
                return Ok((entry, reply.shared_by_others));
            }
            if Instant::now() >= until {
                let text =
                    format!("share {id}: another task takes the same share back and does not end that");
                return Err(TransferError::new(ErrorClass::Unavailable, text));
            }
            tokio::select! {
                () = stop.cancelled() => return Err(TransferError::cancelled()),
                () = tokio::time::sleep(TAKING_BACK_POLL) => {}
            }
        }
    }

    /// Whether other tasks need a share that is to be taken back; its entry is gone then, and nothing is to be done in
    /// AWS. Otherwise whoever needs it from now on waits until this entry is gone.
    ///
    /// # Errors
    /// [`TransferError`] of the record call.
    pub(crate) async fn is_needed_elsewhere(&self, entry: &LedgerEntry) -> Result<bool, TransferError> {
        let step = Step::Release(entry.id.to_string());
        let reply = self.lease.record(self.task, self.fence, step).await?;
        if reply.shared_by_others && entry.task == self.task {
            let gone = LedgerEntry { state: LedgerState::Gone, ..entry.clone() };
            self.entries.lock().await.insert(gone.id, gone);
        }
        Ok(reply.shared_by_others)
    }

    /// The entry of an object that is there, if this task has one.
    pub(crate) async fn existing(
        &self,
        kind: ObjectKind,
        purpose: Purpose,
        label: &str,
    ) -> Option<LedgerEntry> {
        let entries = self.entries.lock().await;
        let ids = (0..MAX_MAKINGS).map(|making| entry_id(self.task, kind, purpose, label, making));
        let mut known = ids.map_while(|id| entries.get(&id));
        known.find(|entry| entry.state != LedgerState::Gone).cloned()
    }

    /// Records that the object exists.
    ///
    /// # Errors
    /// [`TransferError`] of the record call; the next attempt finds the object by its tag.
    pub(crate) async fn made(
        &self,
        entry: &LedgerEntry,
        object_ids: Vec<String>,
    ) -> Result<LedgerEntry, TransferError> {
        let entry = LedgerEntry { object_ids, state: LedgerState::Made, ..entry.clone() };
        self.record(entry.clone()).await?;
        Ok(entry)
    }

    /// Records a new state: handed over to the user, or gone. Entries of other tasks may be moved on too, when the
    /// grant named them as superseded.
    ///
    /// # Errors
    /// [`TransferError`] of the record call.
    pub(crate) async fn moved(&self, entry: &LedgerEntry, state: LedgerState) -> Result<(), TransferError> {
        self.record(LedgerEntry { state, ..entry.clone() }).await
    }

    /// Hands the results over to the user: from now on nobody cleans them up.
    ///
    /// # Errors
    /// [`TransferError`] of the record call.
    pub(crate) async fn hand_over(&self) -> Result<(), TransferError> {
        for entry in self.open_entries().await {
            if entry.purpose == Purpose::RestoreResult && entry.state == LedgerState::Made {
                self.moved(&entry, LedgerState::HandedOver).await?;
            }
        }
        Ok(())
    }

    /// The objects of a purpose that exist, whoever owns them by now.
    pub(crate) async fn all_of(&self, purpose: Purpose) -> Vec<LedgerEntry> {
        let entries = self.entries.lock().await;
        let is_there = |entry: &&LedgerEntry| entry.purpose == purpose && entry.state != LedgerState::Gone;
        entries.values().filter(is_there).cloned().collect()
    }

    /// The recovery point is in the catalogue, and the scheduler keeps what it consists of (or what is its base): from
    /// now on no clean-up of this task takes that.
    pub(crate) async fn kept(&self) {
        for entry in self.entries.lock().await.values_mut() {
            let is_kept = match entry.purpose {
                Purpose::BackupSource | Purpose::RecoveryPoint | Purpose::Vault => true,
                Purpose::RestoreStaging
                | Purpose::RestoreImage
                | Purpose::RestoreResult
                | Purpose::Transport => false,
            };
            if is_kept && entry.state == LedgerState::Made {
                entry.state = LedgerState::Kept;
            }
        }
    }

    /// Entries that are this task's to clean up.
    pub(crate) async fn open_entries(&self) -> Vec<LedgerEntry> {
        let entries = self.entries.lock().await;
        let open = |entry: &&LedgerEntry| match entry.state {
            LedgerState::Intended | LedgerState::Made => true,
            LedgerState::Kept | LedgerState::HandedOver | LedgerState::Gone => false,
        };
        entries.values().filter(open).cloned().collect()
    }

    /// The tags that say whose an object is.
    #[must_use]
    pub(crate) fn tags(&self, entry: &LedgerEntry) -> Vec<Tag> {
        ownership_tags(&self.deployment, self.task, entry.purpose, entry.id)
    }

    async fn record(&self, entry: LedgerEntry) -> Result<(), TransferError> {
        self.lease.record(self.task, self.fence, Step::Ledger(entry.clone().into())).await?;
        if entry.task == self.task {
            self.entries.lock().await.insert(entry.id, entry);
        }
        Ok(())
    }
}

/// The id of an entry follows from what it stands for: a repeated step has the same one.
#[must_use]
fn entry_id(task: TaskId, kind: ObjectKind, purpose: Purpose, label: &str, making: u32) -> LedgerId {
    let mut hasher = blake3::Hasher::new_derive_key("snapferry 2026 ledger entry id");
    hasher.update(&task.as_u128().to_le_bytes());
    for part in [kind.as_str(), purpose.as_str(), label] {
        hasher.update(part.as_bytes());
        hasher.update(&[0]);
    }
    if making > 0 {
        hasher.update(&making.to_le_bytes());
    }
    let mut bits = [0_u8; 16];
    hasher.finalize_xof().fill(&mut bits);
    LedgerId::from_u128(u128::from_le_bytes(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_step_has_the_same_entry_and_another_step_has_not() {
        let task = TaskId::from_u128(7);
        let id = |kind, label, making| entry_id(task, kind, Purpose::RestoreStaging, label, making);
        assert_eq!(id(ObjectKind::Snapshot, "vol-1", 0), id(ObjectKind::Snapshot, "vol-1", 0));
        assert_ne!(id(ObjectKind::Snapshot, "vol-1", 0), id(ObjectKind::Snapshot, "vol-2", 0));
        assert_ne!(id(ObjectKind::Snapshot, "vol-1", 0), id(ObjectKind::Volume, "vol-1", 0));
        assert_ne!(id(ObjectKind::Snapshot, "vol-1", 0), id(ObjectKind::Snapshot, "vol-1", 1));
    }
}
