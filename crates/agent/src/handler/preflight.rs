//! What a task will need of AWS is asked about before it makes anything: EC2 calls with DryRun, keys by KMS. What is
//! missing ends the task at once, for good; the message names the permission, on what, for which account, and the way
//! out. Only what AWS says clearly counts: a question without an answer is left to the call itself. A key may deny us and
//! allow EC2 on our behalf; where its policy says so, or cannot be read, the job is told and the task goes on.
//!
//! Runs twice: nothing is made. A task that has something in its ledger is past the questions, but for those of a
//! transport that is not chosen yet.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use snapferry_aws::{
    Account, AwsError, Denied, KeyTrouble, KeyUse, Preflight as DryRuns, Probe, SessionScope,
    demands_a_service, ec2, key_policy, key_trouble,
};
use snapferry_transfer::{ErrorClass, TransferError, boxed};
use snapferry_types::instance::VolumeConfig;
use snapferry_types::ledger::{Purpose, ownership_tags};
use snapferry_types::{AccountId, LedgerId, SnapshotId};

use crate::context::TaskContext;

/// Questions that are asked together.
#[derive(Debug)]
pub(super) struct Preflight<'a> {
    context: &'a TaskContext,
    questions: Vec<Question>,
    asks_late: bool,
}

#[derive(Debug)]
enum Question {
    Call {
        account: Account,
        probe: Probe,
        /// Kind of the resource that stands for one which is not made yet: a denial about it says nothing.
        stand_in: Option<&'static str>,
    },
    Key {
        account: Account,
        key: String,
        key_use: KeyUse,
        /// Whose key it is, such as `vol-1`.
        of: String,
        /// What to do when it cannot be used.
        way_out: String,
    },
}

/// The answer to a question that did not go well.
enum Found {
    /// This is missing.
    Missing(TransferError),
    /// This may be missing.
    Doubt(String),
}

impl<'a> Preflight<'a> {
    /// No questions yet.
    pub(super) const fn new(context: &'a TaskContext) -> Self {
        Self { context, questions: Vec::new(), asks_late: false }
    }

    /// Questions of which a choice depends, whatever the task has made already.
    pub(super) const fn for_a_choice(context: &'a TaskContext) -> Self {
        Self { context, questions: Vec::new(), asks_late: true }
    }

    /// Whether the task has made something already: nothing is asked any more.
    pub(super) fn is_late(&self) -> bool {
        !self.asks_late && !self.context.spec.objects.is_empty()
    }

    /// Whether the account may make a call, on the very things that it will be about.
    pub(super) fn call(&mut self, account: &Account, probe: Probe) {
        self.questions.push(Question::Call { account: account.clone(), probe, stand_in: None });
    }

    /// [`Self::call`], where the resource of a kind (`volume`, `image`) stands for one that is not made yet. Policies may
    /// tell the two apart by their tags, so a denial about that one does not count.
    pub(super) fn call_with(&mut self, account: &Account, probe: Probe, stand_in: &'static str) {
        let stand_in = Some(stand_in);
        self.questions.push(Question::Call { account: account.clone(), probe, stand_in });
    }

    /// Whether the account may use a key so.
    pub(super) fn key(
        &mut self,
        account: &Account,
        (key, key_use): (&str, KeyUse),
        of: impl ToString,
        way_out: impl Into<String>,
    ) {
        self.questions.push(Question::Key {
            account: account.clone(),
            key: key.to_owned(),
            key_use,
            of: of.to_string(),
            way_out: way_out.into(),
        });
    }

    /// Asks all at once; the job is told of what may be missing.
    ///
    /// # Errors
    /// [`TransferError`] of a class that is not tried again, with everything that is missing.
    pub(super) async fn run(self) -> Result<(), TransferError> {
        let context = self.context;
        let doubts = self.doubts().await.map_err(|error| match error.class {
            ErrorClass::Cancelled => error,
            _ => error.context("the preflight found what is missing, and nothing was made"),
        });
        for doubt in doubts? {
            context.note(true, doubt).await?;
        }
        Ok(())
    }

    /// [`Self::run`], which answers what may be missing.
    ///
    /// # Errors
    /// The same.
    pub(super) async fn doubts(self) -> Result<BTreeSet<String>, TransferError> {
        if self.is_late() || self.questions.is_empty() {
            return Ok(BTreeSet::new());
        }
        let spec = &self.context.spec;
        let tags = ownership_tags(&spec.deployment, spec.task, Purpose::Transport, LedgerId::generate());
        let dry_runs = DryRuns::new(tags);
        let mut asked = Vec::with_capacity(self.questions.len());
        for question in &self.questions {
            asked.push(self.answer(&dry_runs, question));
        }
        let (mut missing, mut doubts) = (Vec::new(), BTreeSet::new());
        for found in join_all(asked).await.into_iter().flatten() {
            match found {
                Found::Missing(error) => missing.push(error),
                Found::Doubt(text) => drop(doubts.insert(text)),
            }
        }
        self.context.stop.check()?;
        all_of(&missing)?;
        Ok(doubts)
    }

    async fn answer(&self, dry_runs: &DryRuns, question: &Question) -> Option<Found> {
        match question {
            Question::Call { account, probe, stand_in } => {
                let denied = boxed(|| dry_runs.check(account, std::slice::from_ref(probe))).await;
                let denied = without_verdict(denied, probe)?.into_iter().next()?;
                if stand_in.is_some_and(|kind| denied.is_on(kind)) {
                    tracing::debug!(?denied, "a denial about what only stands in");
                    return None;
                }
                Some(Found::Missing(self.denial(account, &denied)))
            }
            Question::Key { account, key, key_use, of, way_out } => {
                let trouble = without_verdict(boxed(|| key_trouble(account, key, *key_use)).await, key)??;
                let class = match &trouble {
                    KeyTrouble::Denied { by_policy_of, .. } => {
                        if let Some((owner, arn)) = by_policy_of
                            && let Some(why) = self.may_be_allowed_through_ec2(account, owner, arn).await
                        {
                            let text = format!(
                                "{of}: {trouble}; EC2 may be allowed to on the account's behalf: {why}. The task goes \
                                 on; should it fail at this key, this is why"
                            );
                            return Some(Found::Doubt(text));
                        }
                        ErrorClass::AccessDenied
                    }
                    KeyTrouble::Elsewhere { .. }
                    | KeyTrouble::Missing { .. }
                    | KeyTrouble::Unusable { .. } => ErrorClass::Invalid,
                };
                Some(Found::Missing(TransferError::new(class, format!("{of}: {trouble}: {way_out}"))))
            }
        }
    }

    /// Why a denial of the key to us does not say that it is denied to EC2 on our behalf; nothing where it says that.
    async fn may_be_allowed_through_ec2(
        &self,
        account: &Account,
        owner: &AccountId,
        arn: &str,
    ) -> Option<&'static str> {
        const UNREADABLE: &str = "the key's policy, which would tell, cannot be read (kms:GetKeyPolicy)";
        let owner = if owner == account.account() {
            account.clone()
        } else {
            match self.context.account_in(owner, account.region(), SessionScope::Discover).await {
                Some(Ok(owner)) => owner,
                Some(Err(_)) | None => return Some(UNREADABLE),
            }
        };
        match key_policy(&owner, arn).await {
            Ok(policy) if demands_a_service(&policy) => Some("the key's policy tells services apart"),
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(arn, %error, "the key's policy cannot be read");
                Some(UNREADABLE)
            }
        }
    }

    fn denial(&self, account: &Account, denied: &Denied) -> TransferError {
        let Denied { action, resource, message } = denied;
        let service = self.context.spec.service_access.as_ref();
        let is_service = service.is_some_and(|service| service.account == *account.account());
        let whose = if is_service { "the service account" } else { "the tenant's account" };
        let message = format!(
            "{whose} {} lacks {action} on {resource}: allow it in the policy of its role or user (deploy/iam has \
             policies to start from); AWS says: {message}",
            account.account()
        );
        TransferError::new(ErrorClass::AccessDenied, message)
    }
}

/// What AWS said; nothing where it gave no verdict.
fn without_verdict<T>(answer: Result<T, AwsError>, asked: impl std::fmt::Debug) -> Option<T> {
    answer.inspect_err(|error| tracing::debug!(?asked, %error, "the preflight has no verdict")).ok()
}

/// One error of all that is missing.
fn all_of(missing: &[TransferError]) -> Result<(), TransferError> {
    let Some(first) = missing.first() else { return Ok(()) };
    let mut messages: Vec<&str> = Vec::with_capacity(missing.len());
    for one in missing {
        if !messages.contains(&one.message.as_str()) {
            messages.push(&one.message);
        }
    }
    Err(TransferError::new(first.class, messages.join("; and ")))
}

/// The keys of encrypted volumes, each with the names of its volumes.
pub(super) fn keys_of(volumes: &[VolumeConfig]) -> BTreeMap<&str, String> {
    let mut keys: BTreeMap<&str, String> = BTreeMap::new();
    for volume in volumes.iter().filter(|volume| volume.encrypted) {
        if let Some(key) = &volume.kms_key_id {
            let names = keys.entry(key.as_str()).or_default();
            if !names.is_empty() {
                names.push_str(", ");
            }
            names.push_str(volume.volume_id.as_str());
        }
    }
    keys
}

/// A snapshot of ours in the account, which stands for one that is not made yet; often there is none.
pub(super) async fn stand_in(account: &Account) -> Option<SnapshotId> {
    without_verdict(ec2::one_of_ours(account).await, "a snapshot of ours").flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_missing_is_told_at_once() {
        assert_eq!(all_of(&[]), Ok(()));
        let missing = |message: &str| TransferError::new(ErrorClass::AccessDenied, message);
        let errors = [missing("no a"), missing("no b"), missing("no a")];
        let error = all_of(&errors).unwrap_err();
        assert_eq!((error.class, error.retryable()), (ErrorClass::AccessDenied, false));
        assert_eq!(error.message, "no a; and no b");
    }

    #[test]
    fn a_key_is_asked_about_once() {
        let volume = |id: &str, encrypted: bool, key: Option<&str>| -> VolumeConfig {
            serde_json::from_value(serde_json::json!({
                "volume_id": id, "device_name": "/dev/sdf", "size_gib": 1, "volume_type": "gp3",
                "encrypted": encrypted, "kms_key_id": key,
            }))
            .unwrap()
        };
        let volumes = [
            volume("vol-1", true, Some("k")),
            volume("vol-2", true, Some("k")),
            volume("vol-3", false, None),
            volume("vol-4", true, None),
        ];
        let keys: Vec<(&str, String)> = keys_of(&volumes).into_iter().collect();
        assert_eq!(keys, [("k", "vol-1, vol-2".to_owned())]);
    }
}
