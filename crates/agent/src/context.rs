//! What a handler works with: the granted task, the lease, the ledger, the process's budget and threads.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use snapferry_aws::ec2::{self, SnapshotPhase, SnapshotState};
use snapferry_aws::{Account, Clients, SessionPurpose, SessionScope};
use snapferry_media_agent::client::{MediaClient, Session};
use snapferry_service::TlsMaterial;
use snapferry_transfer::{ByteBudget, ErrorClass, TransferError, TransferProgress, WorkPool};
use snapferry_types::ledger::LedgerEntry;
use snapferry_types::spec::TaskSpec;
use snapferry_types::{AccountAccess, AccountId, Region, SnapshotId};
use snapferry_wire::v1;
use snapferry_wire::v1::record_request::Step;

use crate::config::{ImportConfig, Prices};
use crate::handler::HotAddNode;
use crate::images::Images;
use crate::lease::LeaseClient;
use crate::ledger::TaskLedger;
use crate::making::Making;
use crate::phases::Phases;
use crate::stop::Stop;

/// What all tasks of the process share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Bytes in flight.
    pub(crate) budget: ByteBudget,
    /// Threads that compress and seal.
    pub(crate) workers: WorkPool,
    /// Connections to AWS, and the governor of its quotas.
    pub(crate) clients: Clients,
    /// Certificates for MediaAgents.
    pub(crate) tls: Option<TlsMaterial>,
    /// Whether blocks are compressed before they are sealed.
    pub(crate) compress: bool,
    /// Folder that disk images are written below.
    pub(crate) image_dir: Option<PathBuf>,
    /// Which disk images tasks have begun here.
    pub(crate) images: Images,
    /// The node's region.
    pub(crate) region: Region,
    /// The node as an instance that volumes are attached to.
    pub(crate) hot_add: Option<HotAddNode>,
    /// How disk images are imported.
    pub(crate) import: Option<ImportConfig>,
    /// Key of what lies in the service account of encrypted volumes.
    pub(crate) transit_kms_key_id: Option<String>,
    /// Prices that the transport is chosen by.
    pub(crate) prices: Prices,
}

/// One attempt at one task.
#[derive(Debug)]
pub(crate) struct TaskContext {
    /// What to do.
    pub(crate) spec: TaskSpec,
    /// The way back.
    pub(crate) lease: LeaseClient,
    /// The AWS objects of the task.
    pub(crate) ledger: TaskLedger,
    /// Why and when to stop.
    pub(crate) stop: Stop,
    /// What all tasks share.
    pub(crate) shared: Arc<Shared>,
    /// What its volumes are making.
    pub(crate) making: Making,
    phases: Mutex<Phases>,
    bytes_stored: AtomicU64,
    session: OnceLock<Arc<Session>>,
    transfers: Mutex<Vec<Arc<TransferProgress>>>,
    accounts: Mutex<Vec<(SessionScope, Account)>>,
    checkpoint: Mutex<Vec<u8>>,
}

/// Something that a phase waits for.
#[derive(Debug)]
pub(crate) struct Awaiting<'a> {
    phases: &'a Mutex<Phases>,
    number: u64,
}

impl Awaiting<'_> {
    /// How far it is, in percent.
    pub(crate) fn is_at(&self, percent: u8) {
        lock(self.phases).is_at(self.number, percent);
    }
}

impl Drop for Awaiting<'_> {
    fn drop(&mut self) {
        lock(self.phases).ended(self.number);
    }
}

impl TaskContext {
    /// The context of a granted task.
    #[must_use]
    pub(crate) fn new(spec: TaskSpec, lease: LeaseClient, shared: Arc<Shared>) -> Self {
        let ledger = TaskLedger::new(lease.clone(), &spec);
        let checkpoint = Mutex::new(spec.checkpoint.clone());
        Self {
            spec,
            lease,
            ledger,
            stop: Stop::new(),
            shared,
            making: Making::default(),
            phases: Mutex::new(Phases::start()),
            bytes_stored: AtomicU64::new(0),
            session: OnceLock::new(),
            transfers: Mutex::default(),
            accounts: Mutex::default(),
            checkpoint,
        }
    }

    /// The last checkpoint that was recorded, by this attempt or an earlier one; empty when none was.
    #[must_use]
    pub(crate) fn checkpoint(&self) -> Vec<u8> {
        lock(&self.checkpoint).clone()
    }

    /// Names what is being done now.
    pub(crate) fn enter(&self, phase: &'static str) {
        tracing::info!(task = %self.spec.task, phase, "phase");
        lock(&self.phases).enter(phase);
    }

    /// Something begins that the phase waits for, until the answer is dropped.
    pub(crate) fn awaiting(&self) -> Awaiting<'_> {
        Awaiting { phases: &self.phases, number: lock(&self.phases).await_one() }
    }

    /// Waits until snapshots are completed, and lets the job see how far they are.
    ///
    /// # Errors
    /// [`TransferError`] with AWS's explanation when one ended in error; `Cancelled` when the task shall stop.
    pub(crate) async fn completed(
        &self,
        account: &Account,
        snapshots: &[SnapshotId],
    ) -> Result<Vec<SnapshotState>, TransferError> {
        let awaiting = self.awaiting();
        let tell = |states: &[SnapshotState]| {
            let of_pending = states.iter().filter(|state| state.phase != SnapshotPhase::Completed);
            awaiting.is_at(of_pending.map(|state| state.progress).min().unwrap_or(100));
        };
        Ok(ec2::wait_snapshots_completed(account, snapshots, tell, self.stop.token()).await?)
    }

    /// How long each phase took so far.
    #[must_use]
    pub(crate) fn phases(&self) -> Vec<v1::Phase> {
        lock(&self.phases).told()
    }

    /// Counts bytes that the library has more than before.
    pub(crate) fn count_stored(&self, bytes: u64) {
        self.bytes_stored.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counters for one more volume of the task.
    pub(crate) fn new_transfer(&self) -> Arc<TransferProgress> {
        let transfer = Arc::new(TransferProgress::default());
        lock(&self.transfers).push(Arc::clone(&transfer));
        transfer
    }

    /// The figures of the attempt so far, over all its volumes and accounts.
    #[must_use]
    pub(crate) fn progress(&self) -> v1::Progress {
        let phases = lock(&self.phases);
        let mut sum = v1::Progress {
            phase: phases.name().to_owned(),
            phase_percent: phases.percent().map(u32::from),
            bytes_stored: self.bytes_stored.load(Ordering::Relaxed),
            ..v1::Progress::default()
        };
        drop(phases);
        for transfer in lock(&self.transfers).iter().map(|transfer| transfer.snapshot()) {
            sum.blocks_total += transfer.volume_blocks;
            sum.blocks_done += transfer.position;
            sum.bytes_read += transfer.bytes_read;
            sum.bytes_sent += transfer.bytes_sent;
            sum.blocks_deduplicated += transfer.blocks_deduplicated;
            sum.blocks_zero += transfer.blocks_zero;
        }
        for calls in lock(&self.accounts).iter().map(|(_, account)| account.calls().figures()) {
            sum.aws_calls += calls.total();
            sum.throttled += calls.throttles;
        }
        sum
    }

    /// Signs in to the tenant's account, narrowed to the operation.
    ///
    /// # Errors
    /// [`TransferError`] that names role, account and cause.
    pub(crate) async fn tenant(&self, scope: SessionScope) -> Result<Account, TransferError> {
        self.account(&self.spec.tenant_access, scope).await
    }

    /// Signs in to the service account.
    ///
    /// # Errors
    /// [`TransferError`] that names role, account and cause.
    pub(crate) async fn service(&self, scope: SessionScope) -> Result<Account, TransferError> {
        self.account(self.service_access()?, scope).await
    }

    /// Signs in to the service account in another region.
    ///
    /// # Errors
    /// [`TransferError`] that names role, account and cause.
    pub(crate) async fn service_in(
        &self,
        region: &Region,
        scope: SessionScope,
    ) -> Result<Account, TransferError> {
        let access = AccountAccess { region: region.clone(), ..self.service_access()?.clone() };
        self.account(&access, scope).await
    }

    fn service_access(&self) -> Result<&AccountAccess, TransferError> {
        self.spec.service_access.as_ref().ok_or_else(|| {
            TransferError::new(ErrorClass::Invalid, "this operation needs the service account's access")
        })
    }

    /// Signs in to the account and region that an object of the ledger is in.
    ///
    /// # Errors
    /// [`TransferError`]; `Invalid` when the grant has no access to that account.
    pub(crate) async fn account_of(
        &self,
        entry: &LedgerEntry,
        scope: SessionScope,
    ) -> Result<Account, TransferError> {
        self.account_in(&entry.account, &entry.region, scope).await.unwrap_or_else(|| {
            let (kind, account) = (entry.kind.as_str(), &entry.account);
            let text =
                format!("ledger entry {}: a {kind} in {account}, to which the task has no access", entry.id);
            Err(TransferError::new(ErrorClass::Invalid, text))
        })
    }

    /// Signs in to an account and region; nothing where the task has no access to that account.
    pub(crate) async fn account_in(
        &self,
        id: &AccountId,
        region: &Region,
        scope: SessionScope,
    ) -> Option<Result<Account, TransferError>> {
        let known = [Some(&self.spec.tenant_access), self.spec.service_access.as_ref()];
        let access = known.into_iter().flatten().find(|access| access.account == *id)?;
        let access = AccountAccess { region: region.clone(), ..access.clone() };
        Some(self.account(&access, scope).await)
    }

    /// Signs in to the tenant's account in another region.
    ///
    /// # Errors
    /// [`TransferError`] that names role, account and cause.
    pub(crate) async fn tenant_in(
        &self,
        region: &Region,
        scope: SessionScope,
    ) -> Result<Account, TransferError> {
        let access = AccountAccess { region: region.clone(), ..self.spec.tenant_access.clone() };
        self.account(&access, scope).await
    }

    /// One session for each account, region and scope: credentials and their renewal are shared.
    async fn account(&self, access: &AccountAccess, scope: SessionScope) -> Result<Account, TransferError> {
        let is_same = |(of, account): &&(SessionScope, Account)| {
            *of == scope && *account.account() == access.account && *account.region() == access.region
        };
        if let Some((_, account)) = lock(&self.accounts).iter().find(is_same) {
            return Ok(account.clone());
        }
        let purpose = SessionPurpose::task(self.spec.task, scope);
        let shared = &self.shared;
        let account =
            Account::open_verified(&shared.clients, access, purpose, shared.region.as_str()).await?;
        // Two that open the same at a time have a session each; both are counted.
        lock(&self.accounts).push((scope, account.clone()));
        Ok(account)
    }

    /// Connects to the MediaAgent of the task.
    ///
    /// # Errors
    /// [`TransferError`] that names the endpoint.
    pub(crate) async fn media_agent(&self) -> Result<MediaClient, TransferError> {
        let media_agent = self.spec.media_agent.as_ref().ok_or_else(|| {
            TransferError::new(ErrorClass::Internal, "the task was granted without a MediaAgent")
        })?;
        MediaClient::connect(&media_agent.endpoint, self.shared.tls.as_ref()).await
    }

    /// Keeps the open upload session, so that a clean-up can abandon it.
    pub(crate) fn remember_session(&self, session: &Arc<Session>) {
        let _first_stays = self.session.set(Arc::clone(session));
    }

    /// Abandons the open upload session; what fails here expires in the library.
    pub(crate) async fn abandon_session(&self) {
        let Some(session) = self.session.get() else { return };
        if let Err(error) = session.abandon().await {
            tracing::warn!(task = %self.spec.task, %error, "the session is left to expire");
        }
    }

    /// A sentence for the job's history.
    ///
    /// # Errors
    /// [`TransferError`] of the record call.
    pub(crate) async fn note(&self, warning: bool, text: impl Into<String>) -> Result<(), TransferError> {
        let text = text.into();
        tracing::info!(task = %self.spec.task, warning, note = %text);
        self.record(Step::Note(v1::Note { warning, text })).await
    }

    /// Records that a recovery point is sealed; from then on it is the catalogue's, and no clean-up of this task takes
    /// what it consists of.
    ///
    /// # Errors
    /// [`TransferError`] of the record call.
    pub(crate) async fn sealed(&self, sealed: v1::SealedRecoveryPoint) -> Result<(), TransferError> {
        self.record(Step::Sealed(sealed)).await?;
        self.ledger.kept().await;
        Ok(())
    }

    /// Records a step that commits.
    ///
    /// # Errors
    /// [`TransferError`]; `StaleFence` when the task has another owner.
    pub(crate) async fn record(&self, step: Step) -> Result<(), TransferError> {
        let checkpoint = match &step {
            Step::Checkpoint(bytes) => Some(bytes.to_vec()),
            _ => None,
        };
        self.lease.record(self.spec.task, self.spec.fence, step).await?;
        if let Some(checkpoint) = checkpoint {
            *lock(&self.checkpoint) = checkpoint;
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
